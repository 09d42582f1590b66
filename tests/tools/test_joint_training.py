"""Training of a joint network: its data, its steps, exact resuming, processes, kept heads, and what is refused."""

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

import det
from backbone.errors import InputError
from backbone.inference import normalise
from seg.loss import LOSSES
from tests.builders.runs import assert_equal, command, interrupted, log_of
from tools import convert_annotations, eval_det, eval_joint, eval_seg, split, train_joint, train_seg
from tools.io import model_file
from tools.joint import weights
from tools.joint.data import JointDataset, shares
from tools.joint.gradients import GradientComparison
from tools.joint.network import create
from tools.joint.training import combined, make_task
from tools.predicting.models import load_model
from tools.run import checkpoint
from tools.run.config import JointConfig, Run, load
from tools.run.loading import Substituting
from tools.run.pretrained import settle

BOTH_SIZES = ["segmentation.augment.crop_hw=[96,128]"]
"""Both heads' images have one size, and pass the backbone as one batch."""


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    """The folder of an uninterrupted joint run."""
    out = tmp_path_factory.mktemp("joint") / "run"
    main, arguments = command("joint", world, out)
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def parts(trained) -> Path:
    """The folder with the single models of that run."""
    assert split.main([str(trained / "best.safetensors"), str(trained.parent / "parts")]) == 0
    return trained.parent / "parts"


def names_in_log(out: Path) -> dict[str, list[int]]:
    """The steps of each row's name."""
    steps: dict[str, list[int]] = {}
    with (out / "log.csv").open() as file:
        for row in csv.DictReader(file):
            steps.setdefault(row["name"], []).append(int(row["step"]))
    return steps


def test_a_run_logs_both_losses_the_comparison_and_both_scores(trained):
    rows = names_in_log(trained)
    for name in ("cross_entropy_loss", "class_loss", "box_loss"):
        assert rows[name] == [2, 4, 6]
    for name in ("gradient/segmentation", "gradient/detection", "gradient/cosine"):
        assert rows[name] == [2, 4, 6]
    for name in ("val/score", "val/miou", "val/AP"):
        assert rows[name] == [3, 6]
    description = model_file.load_description(trained / "best.safetensors")
    assert description["task"] == "joint" and description["metrics"]["score"] is not None
    assert (
        description["heads"]["detection"]["score"] == "softmax"
        and len(description["heads"]["detection"]["classes"]) == 4
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_resumes_to_the_bit(trained, world, tmp_path, monkeypatch, workers):
    main, arguments = command("joint", world, tmp_path / "run")
    arguments = [*arguments, f"data.workers={workers}"]
    assert interrupted(main, arguments, 3, monkeypatch) == 128 + signal.SIGTERM
    assert main([*arguments, "--resume"]) == 0
    states = [checkpoint.load_state(folder / "last.pt") for folder in (trained, tmp_path / "run")]
    for state in states:
        del state["config"]
    assert_equal(*states)
    assert_equal(*(log_of(folder) for folder in (trained, tmp_path / "run")))


def test_a_step_of_both_heads_has_the_losses_of_the_single_models(trained, parts, world, tmp_path):
    """With images of two sizes each batch passes the backbone alone, as in a single model's step."""
    _, arguments = command("joint", world, tmp_path)
    config = settle(load(JointConfig, Path(arguments[0]), [*arguments[1:], "detection.weight=1"])).config
    accelerator = Accelerator(cpu=True)
    task = make_task(config, accelerator)
    task.load_weights(str(trained / "best.safetensors"))
    dataset = task.train_set
    assert isinstance(dataset, JointDataset)
    keys = next(iter(dataset.order(config.run, start=0, process=0, num_processes=1)))
    batch = task.collate([dataset[key] for key in keys])
    found = task.loss(task.model.train(), batch)

    segmenter, described = load_model(parts / "segmentation.safetensors")
    images = normalise(batch.segmentation.image, described["mean"], described["std"])
    logits = segmenter.train()(images)
    assert found["cross_entropy_loss"].item() == pytest.approx(
        LOSSES["cross_entropy"](logits, batch.segmentation.labels).item(), rel=1e-4
    )
    detector, described = load_model(parts / "detection.safetensors")
    assert isinstance(detector, det.Detector)
    raw = detector.train()(normalise(batch.detection.images, described["mean"], described["std"]))
    expected = det.make_loss(detector)(raw, detector.anchors, batch.detection.targets)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4)


def test_batches_of_one_size_and_switched_off_heads_train_too(world, tmp_path):
    main, arguments = command("joint", world, tmp_path / "same")
    few = ["run.steps=2", "run.eval_every=2"]
    assert main([*arguments, *few, *BOTH_SIZES, "run.batch=6", "detection.batch=2"]) == 0
    main, arguments = command("joint", world, tmp_path / "one")
    assert main([*arguments, *few, "model.heads=[detection]", "best={AP: 1}"]) == 0
    rows = names_in_log(tmp_path / "one")
    assert "class_loss" in rows and "cross_entropy_loss" not in rows and "val/miou" not in rows
    assert list(model_file.load_description(tmp_path / "one" / "best.safetensors")["heads"]) == ["detection"]


def test_a_joint_network_is_scored_like_its_single_models(trained, parts, world, tmp_path, capsys):
    seg_data, det_data = str(world / "cityscapes"), str(world / "coco")
    both = ["--weights", str(trained / "best.safetensors"), "--segmentation", seg_data, "--detection", det_data]
    assert eval_joint.main([*both, "--out", str(tmp_path / "both"), "--report"]) == 0
    text = capsys.readouterr().out
    assert "IoU per class" in text and "AP50" in text and "mIoU" in text
    one, other = (
        ["--weights", str(parts / "segmentation.safetensors")],
        ["--weights", str(parts / "detection.safetensors")],
    )
    assert eval_seg.main([*one, "--data", seg_data, "--out", str(tmp_path / "seg")]) == 0
    assert eval_det.main([*other, "--data", det_data, "--out", str(tmp_path / "det")]) == 0
    found, seg_found, det_found = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("both", "seg", "det")
    )
    for head, single in (("segmentation", seg_found), ("detection", det_found)):
        same = found[head].keys() & single.keys()
        assert {"protocol", "images", "split"} < same and len(same) > 5
        assert all(found[head][key] == single[key] for key in same)
    page = (tmp_path / "both" / "report.html").read_text()
    assert "Segmentation metrics" in page and "Detection metrics" in page


def test_a_head_of_weight_0_keeps_every_output_while_another_is_added(parts, world, tmp_path):
    source = parts / "segmentation.safetensors"
    main, arguments = command("joint", world, tmp_path / "run")
    added = ["segmentation.weight=0", f"weights={source}", "run.freeze=body", "segmentation.data.root=nowhere"]
    assert main([*arguments, *added, "run.steps=3"]) == 0
    assert main([*arguments, *added, "run.steps=4", "--resume", "--extend"]) == 0
    network, description = weights.load(tmp_path / "run" / "best.safetensors")
    old, _ = load_model(source)
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        assert torch.equal(network.eval()(images)["segmentation"], old.eval()(images))
    before, after = load_file(source), load_file(tmp_path / "run" / "best.safetensors")
    for name, value in before.items():
        assert torch.equal(value, after[name.replace("head.", "segmentation.", 1)])
    assert description["heads"]["segmentation"]["classes"] == model_file.load_description(source)["classes"]


def test_two_processes_train_and_score_like_one(trained, world, tmp_path, together):
    """Five images do not divide by two: each must count exactly once. Both kinds of step are trained."""
    data = ["--segmentation", str(world / "cityscapes"), "--detection", str(world / "coco")]
    scored = ["--weights", str(trained / "best.safetensors"), *data, "--workers", "0"]
    assert eval_joint.main([*scored, "--out", str(tmp_path / "one")]) == 0
    few = ["run.steps=2", "run.batch=8"]
    in_parts = [*few, *BOTH_SIZES, "run.batch=16", "run.accumulate=2"]
    train = [command("joint", world, tmp_path / name)[1] for name in ("apart", "same")]

    def all_of_them():
        assert eval_joint.main([*scored, "--out", str(tmp_path / "two")]) == 0
        assert train_joint.main([*train[0], *few]) == 0
        assert train_joint.main([*train[1], *in_parts]) == 0

    assert together(2, all_of_them).count("2 processes") == 2
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one == two
    for name in ("apart", "same"):
        assert checkpoint.load_state(tmp_path / name / "last.pt")["step"] == 2


def test_boxes_of_cityscapes_are_those_of_the_converter(world, tmp_path):
    main, arguments = command("joint", world, tmp_path / "run")
    root = world / "cityscapes"
    boxes = ["detection.data.layout=cityscapes", f"detection.data.root={root}"]
    boxes += ["detection.data.train_split=train", "detection.data.val_split=val"]
    assert main([*arguments, *boxes, "run.steps=1"]) == 0
    assert convert_annotations.main(["cityscapes", str(root / "gtFine" / "val"), str(tmp_path / "val.json")]) == 0
    assert json.loads((tmp_path / "run" / "boxes_val.json").read_text()) == json.loads(
        (tmp_path / "val.json").read_text()
    )
    weights_file = ["--weights", str(tmp_path / "run" / "best.safetensors"), "--out", str(tmp_path / "scored")]
    assert eval_joint.main([*weights_file, "--detection", str(root), "--boxes", "cityscapes"]) == 0
    scored = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert list(scored["detection"]["per_class"]) == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]


class Numbers:
    """A data set of a kind, whose item says which key was asked for; odd indices are damaged if so told."""

    def __init__(self, kind: str, size: int, damaged: bool = False) -> None:
        self.kind, self.size, self.damaged = kind, size, damaged

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[str, int, int]:
        if self.damaged and key[1] % 2:
            raise InputError(f"{self.kind} {key[1]}: damaged")
        return (self.kind, *key)


def test_every_step_has_a_batch_of_each_data_set_and_each_keeps_its_own_epochs():
    dataset = JointDataset(
        {"segmentation": Numbers("a", 5), "detection": Numbers("b", 3)}, {"segmentation": 2, "detection": 1}
    )
    run = Run(steps=6, batch=3)
    steps = list(dataset.order(run, start=0, process=0, num_processes=1))
    items = [[dataset[key] for key in step] for step in steps]
    assert all([item[0] for item in step] == ["a", "a", "b"] for step in items)
    for kind, size in (("a", 5), ("b", 3)):
        seen = [item[1:] for step in items for item in step if item[0] == kind]
        assert sorted(number for epoch, number in seen if epoch == 0) == list(range(size))
    assert list(dataset.order(run, start=4, process=0, num_processes=1)) == steps[4:]


def test_a_damaged_image_is_replaced_by_one_of_its_own_data_set():
    dataset = JointDataset(
        {"segmentation": Numbers("a", 6, damaged=True), "detection": Numbers("b", 50)},
        {"segmentation": 1, "detection": 1},
    )
    replaced = Substituting(dataset, 0, skip=True)
    assert [replaced[0, index][0][0] for index in range(8)] == ["a"] * 6 + ["b"] * 2


def test_shares_of_the_batch():
    assert shares(Run(batch=8), ["segmentation", "detection"], None, 1) == {"segmentation": 4, "detection": 4}
    assert shares(Run(batch=8), ["segmentation", "detection"], 2, 1) == {"segmentation": 6, "detection": 2}
    assert shares(Run(batch=8), ["detection"], None, 1) == {"detection": 8}
    for batch, detection, processes in ((8, 8, 1), (8, 9, 1), (8, None, 4), (3, None, 1)):
        with pytest.raises(InputError, match=r"run\.batch"):
            shares(Run(batch=batch), ["segmentation", "detection"], detection, processes)


def test_the_comparison_tells_equal_and_opposite_pulls():
    torch.manual_seed(0)
    heads = {"segmentation": {"num_classes": 2}, "detection": {"num_classes": 2, "image_size": 64}}
    network = create("mobilenet_v3_small", heads=heads, width=0.35)
    comparison = GradientComparison(network, 3)
    value = network(torch.randn(2, 3, 64, 64))["segmentation"].square().mean()
    comparison.before_step(0)
    comparison.look({"segmentation": value, "detection": value})
    assert comparison.measured() == {}  # not yet a third step
    comparison.before_step(2)
    comparison.look({"segmentation": value, "detection": -2 * value})
    found = comparison.measured()
    assert found["gradient/cosine"] == pytest.approx(-1, abs=1e-4)
    assert found["gradient/detection"] == pytest.approx(2 * found["gradient/segmentation"], rel=1e-4)
    assert comparison.measured() == {}


def test_best_is_a_mean_of_the_metrics_that_there_are():
    metrics = {"miou": 0.6, "AP": 0.3}
    assert combined(metrics, {"miou": 1, "AP": 1}) == pytest.approx(0.45)
    assert combined(metrics, {"miou": 0, "AP": 1}) == pytest.approx(0.3)
    assert combined({"AP": 0.3}, {"miou": 5, "AP": 1}) == pytest.approx(0.3)


def refusal(call: Callable[[list[str]], int], arguments: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        call(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_input_is_refused_in_one_line(trained, parts, finished, world, tmp_path):
    _, arguments = command("joint", world, tmp_path / "run")

    def train(*own: str) -> str:
        return refusal(train_joint.main, [*arguments, *own])

    assert "99.out" in train("detection.model.taps=[9.expand,99.out]")
    assert "deeplabv3 takes output stride 16 or 8" in train("segmentation.model.head=deeplabv3")
    assert "cityscapes" in train(f"detection.data.root={world / 'cityscapes'}")  # no boxes there
    assert "leftImg8bit" in train(f"segmentation.data.root={world / 'coco'}")  # no masks there
    assert "must be a Cityscapes tree" in train("detection.data.layout=cityscapes")
    assert "nothing learns" in train("segmentation.weight=0", "detection.weight=0")
    assert "give weights too" in train("segmentation.weight=0")
    assert "each once" in train("model.heads=[detection,detection]")
    assert "model.heads is 'depth'" in train("model.heads=[depth]")
    assert "rates no head that learns" in train("best={AP: 1}", "model.heads=[segmentation]")
    joint, segmenter = trained / "best.safetensors", finished["seg"] / "best.safetensors"
    assert "has no detection head to keep" in train("detection.weight=0", f"weights={segmenter}")
    assert "train it with model.output_stride=32" in train("segmentation.weight=0", f"weights={segmenter}")

    data = ["--segmentation", str(world / "cityscapes"), "--detection", str(world / "coco")]
    assert "not a joint network" in refusal(eval_joint.main, ["--weights", str(segmenter), *data])
    assert "not a joint network" in refusal(split.main, [str(segmenter), str(tmp_path)])
    assert "other classes" in refusal(eval_joint.main, ["--weights", str(joint), *garden(tmp_path)])
    _, single = command("seg", world, tmp_path / "single")
    assert "tools.split" in refusal(train_seg.main, [*single, f"weights={joint}"])
    assert "tools.split" in refusal(eval_seg.main, ["--weights", str(joint), "--data", str(world / "cityscapes")])


def garden(folder: Path) -> list[str]:
    """One's own data with two classes, as options of eval_joint."""
    for kind in ("images", "masks"):
        (folder / kind / "val").mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "images" / "val" / "a.png")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "masks" / "val" / "a.png")
    (folder / "classes.yaml").write_text("classes: [{name: grass, id: 0}, {name: path, id: 1}]\n")
    return ["--segmentation", str(folder), "--classes", str(folder / "classes.yaml")]
