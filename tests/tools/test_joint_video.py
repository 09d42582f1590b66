"""Joint networks in tools.video: one pass gives what two models give, for drawing, tracking, blurring and files."""

import json

import cv2
import numpy as np
import pytest

from backbone.errors import InputError
from tests.builders.exported import images
from tests.builders.joint import HEADS, make_joint, save_joint
from tools import video
from tools.joint.weights import split_file
from tools.predict import load
from tools.predicting.pairs import pairs, parts
from tools.streams.overlay import Drawing, draw


@pytest.fixture
def weights(tmp_path, randomise):
    """The files of a joint network and of its two single models, which a network of one size gives the same for."""
    joint = save_joint(tmp_path / "joint.safetensors", make_joint(randomise))
    singles = {name: tmp_path / f"{name}.safetensors" for name in HEADS}
    split_file(joint, singles)
    return joint, list(singles.values())


@pytest.fixture
def clip(tmp_path):
    """A folder of frames."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(images(3)):
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder


def run(paths, clip, output, *options):
    named = [part for path in paths for part in ("--weights", str(path))]
    common = ["--source", str(clip), "--output", str(output), "--engine", "torch", "--size", "64", "96"]
    assert video.main([*named, *common, "--score-threshold", "0.3", "--no-legend", *options]) == 0
    return {path.name: cv2.imread(str(path)) for path in sorted(output.glob("*.png"))}


@pytest.mark.parametrize(
    "options",
    [(), ("--view", "split"), ("--blur", "car"), ("--batch", "2"), ("--view", "panoptic")],
)
def test_a_joint_network_draws_what_its_two_models_draw(weights, clip, tmp_path, options):
    joint, singles = weights
    one = run([joint], clip, tmp_path / "one", *options)
    two = run(reversed(singles), clip, tmp_path / "two", *options)
    assert len(one) == 3 and one.keys() == two.keys()
    for name, image in one.items():
        assert np.array_equal(image, two[name]), name
    status = json.loads((tmp_path / "one" / "status.json").read_text())
    assert status["weights"] == [str(joint)] and status["engines"] == ["torch"]


def test_a_joint_network_saves_what_its_two_models_save(weights, clip, tmp_path):
    joint, singles = weights
    saved = {}
    for name, paths in (("one", [joint]), ("two", singles)):
        folder = tmp_path / f"{name}_files"
        options = ("--save", "labels,scores,panoptic,json,csv", "--save-to", str(folder))
        run(paths, clip, tmp_path / name, *options)
        saved[name] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        header = json.loads(saved[name].pop("predictions.json"))
        assert header["complete"] and list(header["models"]) == ["segmentation", "detection"]
    assert saved["one"] == saved["two"]
    assert {"detections.csv", "panoptic.json", "panoptic/0.png", "labels/2.png", "scores/1.png"} <= saved["one"].keys()


def test_objects_of_a_joint_network_are_tracked(weights, clip, tmp_path):
    pytest.importorskip("trackers")
    joint, _ = weights
    still = tmp_path / "still"
    still.mkdir()
    for number in range(6):
        cv2.imwrite(str(still / f"{number}.png"), images(1)[0])
    folder = tmp_path / "files"
    run([joint], still, tmp_path / "out", "--track", "--save", "json", "--save-to", str(folder))
    tracks = {row["track"] for row in json.loads((folder / "detections.json").read_text())}
    assert max(tracks) > 0


def test_pairs_come_with_areas_first_in_the_order_of_their_parts(weights):
    joint, (segmenter, detector) = weights
    predictors = [load(path, "torch", size=(64, 96), device="cpu") for path in (detector, joint, segmenter)]
    frame = images(1)[0]
    found = pairs(predictors, [predictor(frame) for predictor in predictors])
    assert [task for task, _ in found] == ["segmentation", "segmentation", "detection", "detection"]
    assert [part.task for part in parts(predictors)] == [task for task, _ in found]
    assert found[2][1].classes == parts(predictors)[2].classes and len(found[2][1].boxes) == len(found[3][1].boxes)
    assert np.array_equal(found[0][1].labels, found[1][1].labels)


def test_a_panoptic_view_shows_what_the_result_gives(weights):
    joint, _ = weights
    model = load(joint, "torch", device="cpu", score_threshold=0.3)
    frame = images(1)[0]
    result = model(frame)
    shown = draw(frame, pairs([model], [result]), Drawing(view="panoptic", score_threshold=0.3, legend=False), 0.0)
    assert np.array_equal(shown, result.panoptic().draw(frame))
    assert sum(segment.score is not None for segment in result.panoptic().segments) > 1
    fewer = draw(frame, pairs([model], [result]), Drawing(view="panoptic", score_threshold=0.99, legend=False), 0.0)
    assert not np.array_equal(shown, fewer)


def test_a_panoptic_view_wants_both_tasks(weights, clip, tmp_path):
    _, (segmenter, _) = weights
    with pytest.raises(InputError, match="--view panoptic: needs one segmenter and one detector"):
        run([segmenter], clip, tmp_path / "out", "--view", "panoptic")
