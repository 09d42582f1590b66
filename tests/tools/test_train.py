"""Training: a run leaves what it promises, resumes to the bit, and refuses what would ruin it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from backbone import InputError
from backbone.data.images import read_label
from seg.data.cityscapes import LABEL_ID_OF_TRAIN_ID, Cityscapes, find_images
from tests.builders.official import assert_official, old_name  # noqa: F401 - a fixture
from tests.builders.runs import ROOT, assert_equal, command, interrupted, log_of, whole_and_in_parts
from tools import eval_det, eval_seg, train_det, train_seg
from tools.io import model_file
from tools.predicting.models import load, load_model
from tools.run import checkpoint, segmentation


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_run_leaves_what_it_promises(finished, task):
    out = finished[task]
    names = {path.name for path in out.iterdir()}
    assert {"config.yaml", "log.csv", "last.pt", "best.safetensors", "curves.png"} <= names
    assert any(name.startswith("events.out") for name in names)
    assert not any(name.endswith(".part") for name in names)
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["name"] == "loss"] == [2, 4, 6]
    score = {"seg": "val/miou", "det": "val/AP"}[task]
    assert [int(row["step"]) for row in rows if row["name"] == score] == [3, 6]
    description = model_file.load_description(out / "best.safetensors")
    assert description["task"] == {"seg": "segmentation", "det": "detection"}[task]
    state = checkpoint.load_state(out / "last.pt")
    assert state["step"] == 6


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_at", [1, 3, 5])
@pytest.mark.parametrize("task", ["seg", "det"])
def test_an_interrupted_run_resumes_to_the_bit(finished, world, tmp_path, monkeypatch, task, stop_at, workers):
    main, arguments = command(task, world, tmp_path / "run")
    arguments = [*arguments, f"data.workers={workers}"]
    assert interrupted(main, arguments, stop_at, monkeypatch) == 128 + signal.SIGTERM
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == stop_at
    assert main([*arguments, "--resume"]) == 0
    states = [checkpoint.load_state(folder / "last.pt") for folder in (finished[task], tmp_path / "run")]
    for state in states:
        del state["config"]
    assert_equal(*states)
    assert_equal(*(log_of(folder) for folder in (finished[task], tmp_path / "run")))


def test_a_run_with_mixed_images_and_sizes_resumes_to_the_bit(world, tmp_path, monkeypatch):
    own = ["augment.mosaic=0.5", "augment.mixup=0.5", "augment.input_scale=[0.5,1.0]", "augment.strength=ssd"]
    own += ["run.steps=4", "run.eval_every=9", "model.resize=letterbox"]
    whole_and_in_parts("det", own, world, tmp_path, monkeypatch)


def test_a_run_is_never_overwritten_nor_resumed_with_another_config(finished, world):
    main, arguments = command("seg", world, finished["seg"])
    with pytest.raises(InputError, match="holds a run already"):
        main(arguments)
    with pytest.raises(InputError, match=r"was made with run\.steps=6, now 7"):
        main([*arguments, "run.steps=7", "--resume"])
    main, arguments = command("seg", world, finished["seg"] / "elsewhere")
    with pytest.raises(InputError, match="nothing to resume"):
        main([*arguments, "--resume"])


def test_initial_weights_come_from_a_backbone_or_a_whole_model(finished, world, tmp_path):
    source = finished["seg"] / "best.safetensors"
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, f"weights={source}", "optim.lr=0", "run.steps=1", "optim.ema=0"]) == 0
    with safe_open(source, "pt") as old, safe_open(tmp_path / "run" / "best.safetensors", "pt") as new:
        assert torch.equal(old.get_tensor("head.gate.weight"), new.get_tensor("head.gate.weight"))


def test_a_segmenter_is_scored_the_same_by_model_and_by_files(finished, world, tmp_path):
    weights, data = str(finished["seg"] / "best.safetensors"), str(world / "cityscapes")
    predictions = str(tmp_path / "predictions")
    assert (
        eval_seg.main(
            ["--weights", weights, "--data", data, "--out", str(tmp_path / "a"), "--save-predictions", predictions]
        )
        == 0
    )
    assert eval_seg.main(["--predictions", predictions, "--data", data, "--out", str(tmp_path / "b")]) == 0
    reports = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab"]
    assert reports[0].pop("source") != reports[1].pop("source")
    assert reports[0].pop("engine") == "torch"  # files were made by nobody knows what
    assert reports[0] == reports[1]
    files = sorted(path.name for path in Path(predictions).iterdir())
    assert files == [path.name.replace("_leftImg8bit", "_pred_labelIds") for path in find_images(Path(data), "val")]
    assert reports[0]["cityscapes"].keys() >= {"miou", "miiou", "category_miou", "category_miiou", "iiou"}
    assert reports[0]["images"] == 5 and 0 <= reports[0]["miou"] <= 1 and reports[0]["iou"]["train"] is None
    next(Path(predictions).glob("*.png")).unlink()
    with pytest.raises(InputError, match="one prediction per image"):
        eval_seg.main(["--predictions", predictions, "--data", data])


def test_predictions_for_the_test_split_are_written_and_not_scored(finished, world, tmp_path, capsys):
    for folder in ("leftImg8bit", "gtFine"):
        shutil.copytree(world / "cityscapes" / folder / "val", tmp_path / folder / "test")
    for path in (tmp_path / "gtFine").rglob("*_labelIds.png"):
        Image.fromarray(np.full((96, 192), 3, np.uint8)).save(path)
    arguments = ["--weights", str(finished["seg"] / "best.safetensors"), "--data", str(tmp_path), "--split", "test"]
    with pytest.raises(InputError, match="its labels are dummies"):
        eval_seg.main([*arguments, "--out", str(tmp_path / "out")])
    predictions = tmp_path / "predictions"
    assert eval_seg.main([*arguments, "--out", str(tmp_path / "out"), "--save-predictions", str(predictions)]) == 0
    assert "not scored" in capsys.readouterr().out
    assert len(list(predictions.glob("*.png"))) == 5 and not (tmp_path / "out").exists()
    assert set(np.unique(read_label(next(predictions.glob("*.png"))))) <= set(LABEL_ID_OF_TRAIN_ID[:19])


def test_a_detector_is_scored_the_same_by_model_and_by_files(finished, world, tmp_path):
    weights, data = str(finished["det"] / "best.safetensors"), str(world / "coco")
    results = str(tmp_path / "results.json")
    assert (
        eval_det.main(
            ["--weights", weights, "--data", data, "--out", str(tmp_path / "a"), "--save-predictions", results]
        )
        == 0
    )
    assert eval_det.main(["--results", results, "--data", data, "--out", str(tmp_path / "b")]) == 0
    reports = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab"]
    assert reports[0].pop("source") != reports[1].pop("source")
    assert reports[0].pop("engine") == "torch"  # files were made by nobody knows what
    assert reports[0] == reports[1]
    assert reports[0]["images"] == 5 and "AP50" in reports[0] and "car" in reports[0]["per_class"]


def test_detections_for_the_test_split_are_written_and_not_scored(finished, world, tmp_path, capsys):
    data = tmp_path / "coco"
    (data / "annotations").mkdir(parents=True)
    content = json.loads((world / "coco" / "annotations" / "instances_val2017.json").read_text())
    del content["annotations"]
    (data / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    (data / "test2017").symlink_to(world / "coco" / "val2017")
    arguments = ["--data", str(data), "--split", "test-dev2017"]
    weights = ["--weights", str(finished["det"] / "best.safetensors"), "--out", str(tmp_path), "--name", "mine"]
    assert eval_det.main([*weights, *arguments]) == 0
    assert "not scored" in capsys.readouterr().out and not (tmp_path / "metrics.json").exists()
    results = tmp_path / "detections_test-dev2017_mine_results.json"
    rows = json.loads(results.read_text())
    assert rows and all(row.keys() == {"image_id", "category_id", "bbox", "score"} for row in rows)
    assert {row["image_id"] for row in rows} <= {row["id"] for row in content["images"]}
    with pytest.raises(InputError, match=r"has no boxes to score against; upload .*mine_results\.json"):
        eval_det.main(["--results", str(results), *arguments])


def test_three_lines_predict_for_both_tasks(finished):
    frame = np.random.default_rng(0).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    for task in ("seg", "det"):
        model = load(finished[task] / "best.safetensors", engine="auto")
        result = model(frame)
        assert result.draw(frame).shape == frame.shape
    assert load(finished["seg"] / "best.safetensors")(frame).labels.shape == (70, 110)


def test_weights_of_another_task_or_kind_are_refused(finished, world, tmp_path):
    seg_weights, det_weights = (str(finished[task] / "best.safetensors") for task in ("seg", "det"))
    with pytest.raises(InputError, match="is a model for detection, not for segmentation"):
        eval_seg.main(["--weights", det_weights, "--data", str(world / "cityscapes")])
    with pytest.raises(InputError, match="is a model for segmentation, not for detection"):
        eval_det.main(["--weights", seg_weights, "--data", str(world / "coco")])
    with pytest.raises(InputError, match="no such weights file"):
        load(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a safetensors file"):
        load(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="engine 'warp' unknown"):
        load(seg_weights, engine="warp")


@pytest.mark.parametrize("options", [["run.precision=bf16"], ["run.channels_last=false", "optim.clip=0.1"]])
def test_what_is_kept_is_the_average_and_scores_as_the_run_said(world, tmp_path, options):
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "optim.ema=0.5", *options]) == 0
    description = model_file.load_description(tmp_path / "run" / "best.safetensors")
    data = str(world / "cityscapes")
    assert eval_seg.main(["--weights", str(tmp_path / "run" / "best.safetensors"), "--data", data]) == 0
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["miou"] == description["metrics"]["miou"]
    raw = checkpoint.load_state(tmp_path / "run" / "last.pt")["model"]
    with safe_open(tmp_path / "run" / "best.safetensors", "pt") as kept:
        assert not torch.equal(kept.get_tensor("head.gate.weight"), raw["head.gate.weight"])


def test_two_processes_train_and_score_like_one(finished, world, tmp_path, together):
    """Five images do not divide by two: each must count exactly once."""
    weights, data = str(finished["seg"] / "best.safetensors"), str(world / "cityscapes")
    arguments = ["--weights", weights, "--data", data, "--workers", "0"]
    slid = [*arguments, "--window", "64", "100", "--scales", "0.75", "1", "--flip"]
    files = ["--data", data, "--report", "--predictions", str(tmp_path / "files")]
    boxes = ["--weights", str(finished["det"] / "best.safetensors"), "--data", str(world / "coco"), "--workers", "0"]
    lines = {
        "whole": [eval_seg, *arguments, "--report", "--save-predictions", str(tmp_path / "files")],
        "slid": [eval_seg, *slid],
        "files": [eval_seg, *files],
        "boxes": [eval_det, *boxes],
    }
    for name, (tool, *line) in lines.items():
        assert tool.main([*line, "--out", str(tmp_path / "one" / name)]) == 0
    shutil.rmtree(tmp_path / "files")
    train, own = command("seg", world, tmp_path / "run")

    def all_of_them():
        for name, (tool, *line) in lines.items():
            assert tool.main([*line, "--out", str(tmp_path / "two" / name)]) == 0
        assert train([*own, "run.steps=2"]) == 0

    said = together(2, all_of_them)
    assert "2 processes" in said and said.count("on 5 images") == 4  # not two, each alone
    for name in lines:
        for path in (tmp_path / "one" / name).iterdir():  # metrics.json, report.html
            assert path.read_text() == (tmp_path / "two" / name / path.name).read_text()
    whole, slid = (json.loads((tmp_path / "two" / name / "metrics.json").read_text()) for name in ("whole", "slid"))
    assert whole["cityscapes"]["miiou"] >= 0 and "windows of 64x100" in slid["protocol"]
    assert_official(whole["cityscapes"], Cityscapes(world / "cityscapes", "val"), tmp_path / "files")
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 2
    trained = tmp_path / "run" / "best.safetensors"  # the statistics of all processes' norms are those on disk
    assert eval_seg.main(["--weights", str(trained), "--data", data, "--workers", "0"]) == 0
    score = json.loads((tmp_path / "run" / "metrics.json").read_text())["miou"]
    assert score == model_file.load_description(trained)["metrics"]["miou"]


KILLER = """
import os, signal
from tools import train_seg
from tools.run import loop
from tools.run.schedule import learning_rate
restarts, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
def rate(optim, step, steps):
    if step == 4 and (restarts, rank) == ("0", "1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return learning_rate(optim, step, steps)
loop.learning_rate = rate
raise SystemExit(train_seg.main(ARGUMENTS))
"""


@pytest.mark.slow
def test_processes_that_torchrun_starts_again_go_on_by_themselves(world, tmp_path):
    arguments = [*command("seg", world, tmp_path / "run")[1], "run.save_every=3", "run.samples=0"]
    (tmp_path / "all.py").write_text(KILLER.replace("ARGUMENTS", repr(arguments)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    # With the store of the round before, torch 2.14's Gloo sometimes reaches for processes that are gone, and hangs.
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    line = [*torchrun, "--max-restarts", "1", str(tmp_path / "all.py")]
    run = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "SIGKILL" in run.stderr.upper() or "-9" in run.stderr
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 6
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "log.csv").read_text().splitlines() if ",loss," in line]
    assert steps == ["2", "4", "6"]


def test_processes_of_a_host_on_which_none_had_died_go_on_too(world, tmp_path, together):
    main, arguments = command("seg", world, tmp_path / "run")
    arguments = [*arguments, "run.steps=2", "run.samples=0"]

    def start_twice():
        assert main(arguments) == 0
        # As torchrun counts, on a host each.
        os.environ["TORCHELASTIC_RESTART_COUNT"] = os.environ["RANK"]
        assert main(arguments) == 0

    assert together(2, start_twice).count("2 processes") == 2
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 2


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "cityscapes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_starts(world, tmp_path, monkeypatch, path):
    monkeypatch.setattr(segmentation, "evaluate_model", lambda *_, **__: Evaluation({"miou": 0.0}))
    own = ["run.steps=1", "run.batch=2", "data.workers=0", "data.val_limit=1", "run.precision='no'"]
    if "weights:" not in path.read_text():
        own.append("model.width=0.35")
    own += ["augment.crop_hw=[64,64]", f"data.root={world / 'cityscapes'}", f"run.out={tmp_path / 'run'}"]
    assert train_seg.main([str(path), *own]) == 0
    load(tmp_path / "run" / "best.safetensors")


class Evaluation(NamedTuple):
    """What stands in for an evaluation."""

    metrics: dict[str, float]


def test_a_run_with_every_loss_and_an_auxiliary_head_logs_each(world, tmp_path):
    main, arguments = command("seg", world, tmp_path / "run")
    own = ["model.head=fpn", "model.auxiliary=true", "model.head_channels=32", "loss={ohem: 1}"]
    own += ["loss.dice=0.5", "loss.lovasz=0.1", "loss_settings.balanced=true", "loss_settings.min_kept=50"]
    assert main([*arguments, *own, "run.steps=2", "run.log_every=1"]) == 0
    names = {line.split(",")[1] for line in (tmp_path / "run" / "log.csv").read_text().splitlines()}
    assert names >= {"ohem_loss", "dice_loss", "lovasz_loss", "auxiliary_loss"} and "cross_entropy_loss" not in names
    model, _ = load_model(tmp_path / "run" / "best.safetensors")
    assert model.auxiliary is not None and model.stride == 4


# Table 6's other rows differ from ssdlite_large in the backbone alone.
RECIPES = [
    "finetune_pico",
    "finetune_ssdlite",
    "mmdetection_v2",
    "paddle_large",
    "paddle_small",
    "pico_large",
    "small_set",
    "ssdlite_fpn_large",
    "ssdlite_large",
    "ssdlite_mobilenet_v2_035",
    "ssdlite_small",
    "torchvision_large",
]


@pytest.mark.filterwarnings("ignore:there are no detections")  # after one step
@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_of_detection_recipe_takes_a_step(world, tmp_path, name):
    small = ["model.image_size=[64,64]", "run.steps=1", "run.batch=2", "data.workers=0"]
    if not name.startswith("finetune_"):  # whose weights have a width
        small.append("model.width=0.35")
    own = [f"data.root={world / 'coco'}", f"run.out={tmp_path / 'run'}", "run.precision=no", "optim.ema=0"]
    assert train_det.main([str(ROOT / "configs" / "coco" / f"{name}.yaml"), *small, *own]) == 0
    assert (tmp_path / "run" / "best.safetensors").exists()
