"""tools.predict: what files hold, that killed runs end with the same ones, and what is refused."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import det
from backbone.data.images import read_label
from backbone.errors import InputError
from seg.data.cityscapes import LABEL_ID_OF_TRAIN_ID, NAMES
from tests.builders.commands import ROOT
from tests.builders.exported import DESCRIPTIONS, make_model, save
from tools import predict, video
from tools.predict import load
from tools.predicting.items import find_images, name_images
from tools.predicting.journal import Journal, read_records

ALL = "overlay,labels,color,scores,json,csv"


@pytest.fixture
def weights(tmp_path, randomise):
    """Files of a segmenter and a detector."""
    models = {task: make_model(task, randomise) for task in ("segmentation", "detection")}
    with torch.no_grad():  # as unsure as it is, all scores would be one class's share
        for layer in (models["segmentation"].head.classify_low, models["segmentation"].head.classify_high):
            layer.weight *= 1000
            layer.bias *= 1000
    return {task: save(tmp_path, task, model) for task, model in models.items()}


def write_images(folder: Path, count: int = 6) -> Path:
    """Noise of two sizes, in two folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        size_hw = (64, 96) if number % 3 else (48, 80)
        path = folder / ("east" if number % 2 else "west") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC))
    return folder


def arguments(weights, source, output, *more):
    files = [part for path in weights.values() for part in ("--weights", path)]
    common = ["--source", source, "--output", output, "--engine", "torch", "--device", "cpu"]
    return [str(part) for part in (*files, *common, *more)]


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_hold_what_the_predictors_say(tmp_path, weights):
    source, out = write_images(tmp_path / "images"), tmp_path / "out"
    assert predict.main(arguments(weights, source, out, "--save", ALL, "--batch", "4", "--score-threshold", "0.6")) == 0
    segmenter = load(weights["segmentation"], "torch", device="cpu", scores=True)
    detector = load(weights["detection"], "torch", device="cpu", score_threshold=0.6)
    boxes = 0
    with open(out / "detections.csv", newline="") as file:
        table = list(csv.DictReader(file))
    results = det.read_results(out / "detections.json")
    for name in ("east/1", "west/0"):
        image = cv2.imread(str(source / f"{name}.png"))
        want = segmenter(image)
        assert np.array_equal(read_label(out / "labels" / f"{name}.png"), want.labels)
        with Image.open(out / "color" / f"{name}.png") as color:
            assert color.mode == "P" and np.array_equal(np.asarray(color), want.labels)
            assert np.array_equal(np.asarray(color.convert("RGB")), want.colors[want.labels])
        scores = cv2.imread(str(out / "scores" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.abs(scores / 255 - want.scores).max() < 0.003 and scores.std() > 1
        found = detector(image)
        assert np.array_equal(cv2.imread(str(out / "overlay" / f"{name}.png")), found.draw(want.draw(image)))
        rows = [row for row in table if row["image"] == f"{name}.png"]
        listed = [row for row in results if row["file_name"] == f"{name}.png"]
        boxes += len(found.boxes)
        for row, entry, box, score, label in zip(rows, listed, found.boxes, found.scores, found.labels, strict=True):
            x, y, width, height = entry["bbox"]
            assert np.allclose([x, y, x + width, y + height], box, atol=0.02)
            assert np.allclose([float(row[edge]) for edge in ("x0", "y0", "x1", "y1")], box, atol=0.01)
            assert entry["image_id"] == int(name[-1]) and entry["category_id"] == 1 + label
            assert row["class"] == found.classes[label] and float(row["score"]) == pytest.approx(float(score), abs=1e-4)
    assert boxes > 2
    header = json.loads((out / "predictions.json").read_text())
    assert header["complete"] and header["images"] == 6
    assert header["models"]["detection"]["classes"] == DESCRIPTIONS["detection"]["classes"]


def test_cityscapes_classes_are_written_as_its_label_ids():
    from tools.predicting.files import label_ids

    colors = np.arange(57, dtype=np.uint8).reshape(19, 3)
    stored = label_ids(NAMES, colors)
    assert np.array_equal(stored.ids, LABEL_ID_OF_TRAIN_ID) and stored.ids[13] == 26
    assert stored.palette[3 * 26 : 3 * 27] == colors[13].tolist()


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_files_of_an_uninterrupted_one(tmp_path, weights):
    source = write_images(tmp_path / "images", 16)
    options = ("--save", ALL, "--batch", "3")
    assert predict.main(arguments(weights, source, tmp_path / "whole", *options)) == 0
    killed = tmp_path / "killed"
    slow = (
        "import os, time\n"
        "from tools.predicting.files import ImageFiles\n"
        "write = ImageFiles.write\n"
        "def slowed(*arguments):\n    time.sleep(0.05)\n    return write(*arguments)\n"
        "ImageFiles.write = slowed\n"
        "import sys\nfrom tools.predict import main\nmain(sys.argv[1:])\n"
    )
    for lines in (3, 9):
        child = subprocess.Popen(
            [sys.executable, "-c", slow, *arguments(weights, source, killed, *options)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        while child.poll() is None and len(read_records(killed / "journal.jsonl")) < lines:
            time.sleep(0.005)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    (killed / "labels" / ".left.png.part").write_bytes(b"half")  # what a kill while a file is written leaves
    (killed / ".lock").unlink(missing_ok=True)
    done_before = (killed / "labels/east/1.png").stat().st_mtime_ns
    assert predict.main(arguments(weights, source, killed, *options)) == 0
    assert content(killed) == content(tmp_path / "whole")
    assert (killed / "labels/east/1.png").stat().st_mtime_ns == done_before


@pytest.mark.slow
def test_workers_of_a_cluster_write_the_same_files_though_one_is_killed(tmp_path, weights):
    pytest.importorskip("ray")
    source = write_images(tmp_path / "images", 160)
    options = ("--save", ALL, "--batch", "3")
    assert predict.main(arguments(weights, source, tmp_path / "whole", *options)) == 0
    shared = tmp_path / "shared"
    command = [*arguments(weights, source, shared, *options), "--ray", "local", "--ray-workers", "2"]
    child = subprocess.Popen([sys.executable, "-m", "tools.predict", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    killed = None
    while child.poll() is None:
        begun = list((shared / "shards").glob("*.jsonl"))
        if killed is None and any(path.stat().st_size for path in begun):
            # Only below our own child: other clusters may run on this machine.
            for process in psutil.Process(child.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::MapWorker"):
                        process.kill()
                        killed = process.pid
                        break
        time.sleep(0.02)
    assert child.returncode == 0 and killed is not None
    assert content(shared) == content(tmp_path / "whole")


def test_half_a_line_does_not_count_and_missing_files_are_made_again(tmp_path, weights):
    source, out = write_images(tmp_path / "images"), tmp_path / "out"
    run = arguments(weights, source, out, "--save", ALL)
    assert predict.main(run) == 0
    whole = content(out)
    journal = out / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    (out / "labels/east/1.png").unlink()
    untouched = (out / "labels/east/3.png").stat().st_mtime_ns
    assert len(read_records(journal)) == 5
    assert predict.main(run) == 0
    assert content(out) == whole and (out / "labels/east/3.png").stat().st_mtime_ns == untouched


def test_a_line_after_half_a_line_is_whole(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key":"a","stem":"a"}\n{"key":"b","st')
    journal = Journal(path)
    journal.append({"key": "c", "stem": "c"})
    journal.close()
    assert list(read_records(path)) == ["a", "c"]


def test_changed_settings_are_refused_and_overwrite_begins_anew(tmp_path, weights, randomise):
    source, out = write_images(tmp_path / "images"), tmp_path / "out"
    run = arguments(weights, source, out, "--save", "labels,csv")
    assert predict.main(run) == 0
    (out / "labels" / "mine.txt").write_text("of the user")
    before = content(out)
    other = write_images(tmp_path / "others", 2)
    for changed in (["--size", "64"], ["--score-threshold", "0.5"], ["--source", str(other)]):
        with pytest.raises(InputError, match=f"{changed[0][2:].replace('-', ' ')}.*--overwrite"):
            predict.main([*run, *changed])
    assert content(out) == before
    save(weights["segmentation"].parent, "segmentation", make_model("segmentation", lambda model: model.eval()))
    with pytest.raises(InputError, match=r"weights .* not .*--overwrite"):
        predict.main(run)
    assert predict.main([*run, "--source", str(other), "--overwrite"]) == 0
    labels = {name for name in content(out) if name.startswith("labels")}
    assert labels == {"labels/mine.txt", "labels/west/0.png", "labels/east/1.png"}


def test_a_damaged_image_ends_the_run_or_is_told_and_passed_over(tmp_path, weights, capsys):
    source, out = write_images(tmp_path / "images"), tmp_path / "out"
    bad = source / "east" / "3.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:200])
    run = arguments(weights, source, out, "--save", "labels,json")
    with pytest.raises(InputError, match=r"3\.png.*--skip-damaged"):
        predict.main(run)
    assert predict.main([*run, "--skip-damaged"]) == 0
    assert "1 damaged" in capsys.readouterr().out
    assert str(bad) in (out / "damaged.txt").read_text()
    assert not (out / "labels/east/3.png").exists() and (out / "labels/east/5.png").exists()
    bad.write_bytes(good)
    assert predict.main(run) == 0
    assert (out / "labels/east/3.png").exists() and not (out / "damaged.txt").exists()


def test_names_mirror_folders_and_equal_stems_stay_apart(tmp_path):
    names = ["a.jpg", "a.png", "A.bmp", "sub/a.jpg", "b.png", "b.png.jpg", "c.jpg"]
    items = name_images([tmp_path / name for name in names], tmp_path)
    assert [item.stem for item in items[:4]] == ["a.jpg", "a.png", "A.bmp", "sub/a"]
    assert len({item.stem.casefold() for item in items}) == len(names)
    assert [item.image_id for item in items] == list(range(1, 8))
    numbered = name_images([tmp_path / "000139.jpg", tmp_path / "x" / "285.jpg"], tmp_path)
    assert [item.image_id for item in numbered] == [139, 285]
    elsewhere = name_images([tmp_path / "p" / "a.jpg", tmp_path / "q" / "a.jpg"], tmp_path / "lists")
    assert [item.stem for item in elsewhere] == ["p/a", "q/a"]


def test_a_list_and_a_glob_name_images(tmp_path):
    source = write_images(tmp_path / "images")
    listed = tmp_path / "lists" / "some.txt"
    listed.parent.mkdir()
    listed.write_text("../images/west/2.png\n\n../images/east/1.png\n")
    assert [item.name for item in find_images(str(listed))] == ["west/2.png", "east/1.png"]
    assert [item.name for item in find_images(f"{source}/*/2.png")] == ["west/2.png"]
    listed.write_text("a.png\na.png\n")
    with pytest.raises(InputError, match="twice"):
        find_images(str(listed))


def test_what_cannot_be_done_is_refused(tmp_path, weights):
    source = write_images(tmp_path / "images", 2)
    one = {"segmentation": weights["segmentation"]}
    for given, output, more, message in (
        (one, "out", ["--save", "json"], "--save json.*detection"),
        ({**one, "again": weights["segmentation"]}, "out", [], "two models are for segmentation"),
        (one, "images/found", [], "lies in the source"),
        (one, "out", ["--source", "rtsp://192.0.2.7/live"], "tools.video"),
        (one, "out", ["--source", str(tmp_path / "none.jpg")], "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            predict.main(arguments(given, source, tmp_path / output, *more))
    (tmp_path / "foreign" / "labels").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no predictions\.json"):
        predict.main(arguments(one, source, tmp_path / "foreign"))
    for wrong in (["--batch", "0"], ["--score-threshold", "2"], ["--size", "1", "2", "3"], ["--ray-workers", "2"]):
        with pytest.raises(InputError, match=wrong[0]):
            predict.parse(arguments(one, source, "out", *wrong))


def test_a_video_gives_the_same_files_by_both_commands_and_resumes(world, tmp_path, weights):
    clip = world / "street.mp4"
    out, seen = tmp_path / "out", tmp_path / "seen"
    run = arguments(weights, clip, out, "--save", "labels,json,csv", "--score-threshold", "0.6")
    assert predict.main(run) == 0
    whole = content(out)
    (out / "labels/000002.png").unlink()
    assert predict.main(run) == 0
    assert content(out) == whole
    shared = [part for part in run if part not in ("--output", str(out))]
    assert video.main([*shared, "--save-to", str(seen)]) == 0
    now = content(seen)
    assert {name: now[name] for name in whole if name != "predictions.json"} == {
        name: data for name, data in whole.items() if name != "predictions.json"
    }
    rows = json.loads(whole["detections.json"])
    assert rows[-1]["frame"] == 5 and rows[-1]["time"] == pytest.approx(5 / 24, abs=0.001)
    with pytest.raises(InputError, match="--overwrite"):
        video.main([*shared, "--save-to", str(seen)])
    with pytest.raises(InputError, match="--save-to"):
        video.parse(["--weights", "x", "--source", "y", "--output", "z.mp4", "--save", "labels"])
