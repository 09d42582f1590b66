"""tools.publish: a folder that the hub reads, that says what it knows, and that predicts as the run's own file does."""

import io
import json
import os
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt

import backbone
import seg
from backbone.errors import InputError
from backbone.weights import names
from tests.builders import loopback
from tests.builders.commands import run_fresh
from tools import eval_det, eval_seg, predict, publish
from tools.io.model_file import load_description, load_tensors, save_model
from tools.publishing.card import escape, slug

EVALUATIONS = {"seg": (eval_seg, "cityscapes"), "det": (eval_det, "coco")}
PIPELINES = {"seg": "image-segmentation", "det": "object-detection"}


@pytest.fixture(scope="module")
def scored(finished, world, tmp_path_factory) -> dict[str, Path]:
    """A copy of the run of each task, evaluated."""
    runs = {}
    for task, (tool, data) in EVALUATIONS.items():
        runs[task] = shutil.copytree(finished[task], tmp_path_factory.mktemp("scored") / task)
        weights = str(runs[task] / "best.safetensors")
        assert tool.main(["--weights", weights, "--data", str(world / data), "--workers", "0", "--report"]) == 0
    return runs


@pytest.fixture
def frame(world) -> np.ndarray:
    return cv2.imread(str(next((world / "coco/val2017").glob("*.jpg"))))


def make(weights: Path, out: Path, *options: str) -> tuple[str, str]:
    """(what the command prints, README.md) of a folder that it makes."""
    with redirect_stdout(io.StringIO()) as printed:
        assert publish.main(["--weights", str(weights), str(out), *map(str, options)]) == 0
    return printed.getvalue(), (out / "README.md").read_text(encoding="utf-8")


def write_segmenter(path: Path, classes: list[str]) -> Path:
    """A file of a small segmenter with fresh weights."""
    arguments = {"backbone": "mobilenet_v3_small", "num_classes": len(classes)}
    colors = [(9 * number, 0, 0) for number in range(len(classes))]
    description = {"task": "segmentation", "model": arguments, "classes": classes, "colors": colors}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, seg.create("lraspp", **arguments), description | {"mean": [0.5] * 3, "std": [0.5] * 3})
    return path


def assert_same_result(one, other) -> None:
    for field in one._fields:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("task", ["seg", "det"])
def test_the_hub_reads_the_card(scored, tmp_path, task):
    weights = scored[task] / "best.safetensors"
    _, text = make(weights, tmp_path / "out", "--licence", "apache-2.0", "--name", "jane/streets")
    metadata = metadata_load(tmp_path / "out/README.md")
    card = ModelCard.load(tmp_path / "out/README.md")
    data = EVALUATIONS[task][1]
    assert metadata["pipeline_tag"] == PIPELINES[task] and metadata["library_name"] == "taproot"
    assert metadata["license"] == "apache-2.0" and metadata["datasets"] == [data]
    assert metadata["tags"] == ["taproot", {"seg": "lraspp", "det": "ssdlite"}[task], "mobilenet_v3_small"]
    name, results = model_index_to_eval_results(metadata["model-index"])
    metrics = json.loads((scored[task] / "metrics.json").read_text())
    found = {result.metric_name: result.metric_value for result in results}
    key = {"seg": "miou", "det": "AP"}[task]
    assert name == "streets" and found[{"seg": "mIoU", "det": "AP"}[task]] == round(metrics[key], 4)
    assert {(result.task_type, result.dataset_name) for result in results} == {(PIPELINES[task], data)}
    assert card.data.eval_results is not None and card.text.strip().startswith("# streets")
    assert 'load("hub/jane/streets")' in text and str(metrics["images"]) in text


def test_the_folder_has_what_the_run_has_and_no_paths_of_this_machine(scored, tmp_path, world):
    run, out = scored["seg"], tmp_path / "out"
    photo = next((world / "coco/val2017").glob("*.jpg"))
    printed, text = make(run / "best.safetensors", out, "--image", photo, "--report", run / "report.html")
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "model.safetensors", "config.json", "config.yaml", "report.html", "example.jpg")
    }
    assert cv2.imread(str(out / "example.jpg")).shape == cv2.imread(str(photo)).shape
    assert json.loads((out / "config.json").read_text())["classes"][0] == "road"
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["data"]["root"] == "cityscapes" and settings["run"]["steps"] == 6
    for name in ("README.md", "config.json", "config.yaml"):
        assert str(world.parent) not in (out / name).read_text() and str(run.parent) not in (out / name).read_text()
    assert "![" in text and "`report.html`" in text
    command = printed.splitlines()[-1]
    assert command == f"hf upload OWNER/lraspp-mobilenet_v3_small-cityscapes {out}"
    assert "the licence (--licence)" in printed and "OWNER for your account" in printed


def test_a_folder_lacks_what_was_not_given_and_overwriting_leaves_nothing_stale(scored, tmp_path, world):
    run, out = scored["det"], tmp_path / "out"
    photo = next((world / "coco/val2017").glob("*.jpg"))
    make(run / "best.safetensors", out, "--image", photo, "--report", run / "report.html")
    (out / "notes.txt").write_text("mine")
    _, text = make(run / "best.safetensors", out, "--overwrite")
    names_there = {path.name for path in out.iterdir()}
    assert names_there == {"README.md", "model.safetensors", "config.json", "config.yaml", "notes.txt"}
    assert "example.jpg" not in text and "report.html" not in text


@pytest.mark.parametrize("task", ["seg", "det"])
def test_the_folder_and_its_name_on_the_hub_predict_as_the_run(scored, tmp_path, frame, monkeypatch, capsys, task):
    weights, out = scored[task] / "best.safetensors", tmp_path / "out"
    make(weights, out, "--licence", "mit", "--data-terms", "For study\nonly.\x1b[31m")
    for name, tensor in load_tensors(weights).items():
        assert torch.equal(tensor, load_tensors(out / "model.safetensors")[name])
    own = predict.load(weights, score_threshold=0.0)(frame)
    assert_same_result(own, predict.load(out, score_threshold=0.0)(frame))

    loopback.only_loopback(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with loopback.serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for revision in ("main", "v1"):
            for path in out.iterdir():
                server.hub_file("jane/streets", revision, path.name, path.read_bytes())
        capsys.readouterr()
        assert_same_result(own, predict.load("hub/jane/streets", score_threshold=0.0)(frame))
        assert capsys.readouterr().err.splitlines()[-1] == "hub/jane/streets: licence mit; For study only.[31m"
        assert_same_result(own, predict.load("hub/jane/streets@v1", score_threshold=0.0)(frame))
        again = tmp_path / "again"
        make(Path("hub/jane/streets"), again, "--name", "joe/streets")
        assert {path.rpartition("/")[2] for path in server.asked} == {"model.safetensors"}
    described = load_description(again / "model.safetensors")
    assert described["licence"] == "mit" and "For study" in (again / "README.md").read_text()


def test_a_classifier_is_published_too(tmp_path):
    arguments = {"name": "mobilenet_v3_small", "num_classes": 3, "width": 1.0}
    model = backbone.classifier(**arguments).eval()
    description = {"task": "classification", "model": arguments, "classes": ["a", "b", "c"]}
    description |= {"mean": [0.4] * 3, "std": [0.2] * 3, "size": 64, "crop_pct": 0.9, "interpolation": "bicubic"}
    save_model(tmp_path / "run/best.safetensors", model, description)
    metrics = {"task": "classification", "source": str(tmp_path / "run/best.safetensors"), "protocol": "central crops"}
    metrics |= {"split": "val", "images": 9, "top1": 0.5, "top5": 1.0, "top1_per_class": {"a": 0.5, "c": 0.25}}
    (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))
    _, text = make(tmp_path / "run/best.safetensors", tmp_path / "out", "--data", "ImageNet-1k")
    metadata = metadata_load(tmp_path / "out/README.md")
    assert metadata["pipeline_tag"] == "image-classification" and metadata["tags"] == ["taproot", "mobilenet_v3_small"]
    assert [row["value"] for row in metadata["model-index"][0]["results"][0]["metrics"]] == [0.5, 1.0]
    assert "non-commercial research" in text and "| b | absent |" in text
    found = backbone.from_weights(tmp_path / "out/model.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(found.classifier.eval()(images), model(images))
    assert (found.size, found.crop_pct, found.interpolation) == (64, 0.9, "bicubic")


def test_without_an_evaluation_the_card_says_so(finished, tmp_path):
    _, text = make(finished["seg"] / "best.safetensors", tmp_path / "out")
    assert "model-index" not in metadata_load(tmp_path / "out/README.md")
    assert re.search(r"The best one during training gave mIoU \d+\.\d\d %", text)


def test_names_from_data_cannot_change_the_card(tmp_path):
    classes = [
        "a|b",
        "<script>alert(1)</script>",
        "`x` *y* [z](http://a)",
        "---\nlicense: mit",
        "![i](j)",
        "&lt;",
        "日本",
    ]
    weights = write_segmenter(tmp_path / "run/best.safetensors", classes)
    metrics = {"task": "segmentation", "source": str(weights), "protocol": "p | <b>", "split": "val: x #", "images": 2}
    metrics |= {"miou": 0.5, "pixel_accuracy": 0.5, "iou": dict.fromkeys(classes, 0.5)}
    (weights.parent / "metrics.json").write_text(json.dumps(metrics))
    data = "Our: 'garden' # <i>1"
    _, text = make(weights, tmp_path / "out", "--data", data, "--data-terms", "a *b* <script>", "--licence", "other")
    metadata = metadata_load(tmp_path / "out/README.md")
    dataset = metadata["model-index"][0]["results"][0]["dataset"]
    assert metadata["license"] == "other" and dataset["name"] == data and dataset["split"] == "val: x #"
    assert metadata["datasets"] == ["our-garden-i-1"]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("---\n", 2)[2])
    assert "<script" not in page and "<img" not in page and "<em>" not in page and "<a " not in page
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    assert sum("50.00" in row for row in rows) == len(classes) + 2
    assert all(row.count("<td") in (0, 2) for row in rows)
    assert "日本" in page and "&lt;script&gt;alert(1)" in page


def test_texts_become_identifiers_and_plain_markdown():
    assert slug("Our: Garden -- 2.0!") == "our-garden-2-0" and slug("日本") == "other"
    assert MarkdownIt().render(escape("a_b_c ~~d~~ \\ #")) == "<p>a_b_c ~~d~~ \\ #</p>\n"


def test_metrics_of_other_weights_are_refused(scored, tmp_path):
    weights = scored["seg"] / "best.safetensors"
    content = json.loads((scored["seg"] / "metrics.json").read_text())
    other = write_segmenter(tmp_path / "other/best.safetensors", ["x"])
    written = tmp_path / "metrics.json"
    for change, message in [
        ({"task": "detection"}, "is of detection"),
        ({"task": "cooking"}, "names no task"),
        ({"source": str(other)}, "other weights"),
        ({"source": str(tmp_path)}, "is of the predictions"),
        ({"source": "gone/best.safetensors"}, "not there to compare"),
        ({"source": None}, "lacks its source"),
        ({"iou": {"cup": 0.5}}, "the class 'cup'"),
        ({"miou": 62.1}, "no share from 0 to 1"),
        ({"miou": float("nan")}, "no share from 0 to 1"),
        ({"images": "many"}, "lacks the number"),
    ]:
        written.write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=message):
            make(weights, tmp_path / "out", "--metrics", written)
    written.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        make(weights, tmp_path / "out", "--metrics", written)
    assert not (tmp_path / "out").exists()


def test_metrics_follow_weights_that_were_moved_and_not_weights_that_were_trained_on(scored, tmp_path):
    moved = shutil.copytree(scored["seg"], tmp_path / "moved")
    make(moved / "best.safetensors", tmp_path / "copy")  # the same bytes
    content = json.loads((moved / "metrics.json").read_text())
    (moved / "metrics.json").write_text(json.dumps(content | {"source": "gone/best.safetensors"}))
    make(moved / "best.safetensors", tmp_path / "gone")
    (moved / "metrics.json").write_text(json.dumps(content | {"source": str(moved / "best.safetensors")}))
    newer = (moved / "metrics.json").stat().st_mtime + 60
    os.utime(moved / "best.safetensors", (newer, newer))
    with pytest.raises(InputError, match="is older than"):
        make(moved / "best.safetensors", tmp_path / "out")


def test_weights_that_training_began_with_are_named_with_their_terms(scored, tmp_path):
    run = shutil.copytree(scored["seg"], tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    for number, (initial, base, sentence) in enumerate(
        [
            ("efficientnet_lite0", None, "efficientnet\\_lite0: licence Apache-2.0; trained on ImageNet"),
            ("timm/mobilenetv3_small_100.lamb_in1k", "timm/mobilenetv3_small_100.lamb_in1k", "trained on ImageNet"),
            ("hub/jane/streets@v1", "jane/streets", "hub/jane/streets@v1: for licence and data see"),
            ("/home/jane/secret/best.safetensors", None, "weights best.safetensors."),
        ]
    ):
        (run / "config.yaml").write_text(yaml.safe_dump(settings | {"weights": initial}))
        _, text = make(run / "best.safetensors", tmp_path / str(number))
        assert sentence in text and "secret" not in text + (tmp_path / str(number) / "config.yaml").read_text()
        assert metadata_load(tmp_path / str(number) / "README.md").get("base_model") == base


def test_bad_input_is_refused_before_anything_is_written(scored, tmp_path):
    weights, out = scored["seg"] / "best.safetensors", tmp_path / "out"
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:5000])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    bare = tmp_path / "alone" / "best.safetensors"
    bare.parent.mkdir()
    shutil.copy(weights, bare)
    for source, place, options, message in [
        (tmp_path / "none.safetensors", out, [], "no such weights file"),
        (cut, out, [], "not a safetensors file"),
        (weights, tmp_path / "full", [], "is not empty"),
        (weights, tmp_path / "full", ["--overwrite"], "not of this command"),
        (weights, tmp_path / "full/file", [], "is a file"),
        (weights, weights.parent, ["--overwrite"], "which is read"),
        (weights, out, ["--image", tmp_path / "none.jpg"], "none.jpg"),
        (weights, out, ["--report", tmp_path / "none.html"], "no such file"),
        (bare, out, ["--metrics", scored["seg"] / "metrics.json"], "name it with --data"),
        (weights, out, ["--licence", "Apache 2"], "--licence Apache 2"),
        (weights, out, ["--name", "a/b/c"], "--name a/b/c"),
        (weights, out, ["--name", "jane/a--b"], "--name jane/a--b"),
        (weights, out, ["--data", " "], "--data: is empty"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            make(source, place, *options)
    bare.with_name("config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config.yaml: cannot be read"):
        make(bare, out)
    assert not out.exists()
    with pytest.raises(InputError, match=r"has no model.safetensors"):
        predict.load(tmp_path / "full")


def test_help_and_refusals_need_no_torch():
    for arguments, code, message in [
        (["publish", "--help"], 0, "--licence"),
        (["publish", "--weights", "a", "b", "--name", "-"], 2, "--name -"),
    ]:
        ended, output, errors, imported = run_fresh(*arguments)
        assert (ended, imported) == (code, set()) and message in output + errors


def test_terms_of_a_damaged_file_are_not_known(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"short")
    assert names.terms("hub/jane/streets", tmp_path / "model.safetensors") == names.UNKNOWN_TERMS
