"""Panoptic segmentation from areas and boxes, its files, and panoptic quality against hand-worked cases."""

import json

import numpy as np
import pytest
from PIL import Image

from backbone.errors import InputError
from det.predictor import DetectionResult
from seg.predictor import SegmentationResult
from tests.builders.joint import make_joint, save_joint
from tools import eval_panoptic, make_demo_data, predict
from tools.joint.panoptic import combine
from tools.predict import load
from tools.scoring.panoptic import Category, PanopticScores, Truth, frame_name, read_cityscapes, read_coco

CLASSES, COLORS = ["road", "car", "sky"], np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180]], np.uint8)
CATEGORIES = {1: Category("road", False), 2: Category("car", True)}


def areas(labels) -> SegmentationResult:
    return SegmentationResult(np.array(labels, np.uint8), CLASSES, COLORS)


def objects(*boxes) -> DetectionResult:
    """Boxes as (left, top, right, bottom, score, class)."""
    names = ["dog", "car"]
    return DetectionResult(
        np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4),
        np.array([box[4] for box in boxes], np.float32),
        np.array([names.index(box[5]) for box in boxes], int),
        names,
    )


def street() -> np.ndarray:
    """Sky over road, [40, 60], with a row of car from column 10 to 50 in rows 15 to 25."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:20] = 2
    labels[15:25, 10:50] = 1
    return labels


def test_a_thing_is_its_class_inside_its_box_and_the_better_box_has_what_two_share():
    result = combine(areas(street()), objects((10, 10, 32, 30, 0.6, "car"), (28, 10, 50, 30, 0.9, "car")))
    cars = [place for place, segment in enumerate(result.segments) if segment.score is not None]
    assert [result.segments[place].score for place in cars] == pytest.approx([0.9, 0.6])
    assert [result.segments[place].box for place in cars] == [(28, 15, 50, 25), (10, 15, 28, 25)]
    assert (result.places[15:25, 28:50] == cars[0]).all() and (result.places[15:25, 10:28] == cars[1]).all()
    assert [(s.label, s.area) for s in result.segments if s.score is None] == [(0, 20 * 60 - 200), (2, 20 * 60 - 200)]
    assert (result.places >= 0).all()


def test_what_no_box_holds_is_no_segment_and_boxes_without_their_class_make_none():
    result = combine(
        areas(street()), objects((10, 10, 30, 30, 0.9, "car"), (0, 30, 9, 39, 0.8, "car"), (30, 10, 50, 30, 0.7, "dog"))
    )
    assert [segment.label for segment in result.segments] == [1, 0, 2]
    assert (result.places[15:25, 30:50] == -1).all() and result.segments[0].area == 200


def test_a_box_on_a_thing_that_a_better_box_has_makes_none():
    result = combine(areas(street()), objects((10, 10, 30, 30, 0.9, "car"), (12, 12, 33, 30, 0.5, "car")))
    assert sum(segment.score is not None for segment in result.segments) == 1


def test_small_areas_are_dropped():
    labels = np.zeros((64, 64), np.uint8)
    labels[0, :3] = 2  # of 4096 pixels
    labels[40:43, 40:45] = 1
    result = combine(areas(labels), objects((40, 40, 45, 43, 0.9, "car")))
    assert [segment.label for segment in result.segments] == [0]
    assert result.places[0, 0] == result.places[41, 41] == -1


def test_each_segment_has_a_color_of_its_own_that_is_its_id():
    labels = np.ones((40, 400), np.uint8)
    labels[30:] = 0
    result = combine(areas(labels), objects(*((10 * n, 0, 10 * n + 10, 30, 0.9 - n / 100, "car") for n in range(40))))
    colors = [segment.color for segment in result.segments]
    assert len(set(colors)) == len(colors) == 41 and (0, 0, 0) not in colors
    assert colors[0] == tuple(COLORS[1]) and colors[-1] == tuple(COLORS[0])
    assert np.array_equal(result.colored()[0, 15], colors[1])
    drawn = result.draw(np.zeros((40, 400, 3), np.uint8), opacity=1.0)
    assert np.array_equal(drawn[35, 5], COLORS[0][::-1])  # BGR
    assert np.array_equal(drawn[0, 15], (255, 255, 255))  # the outline of a thing


def test_classes_that_only_one_head_knows_make_no_thing():
    other = DetectionResult(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), ["dog", "cat"])
    with pytest.raises(InputError, match="no class is known to both heads; areas are road, car, sky; boxes are dog"):
        combine(areas(street()), other)


def quality(truth, true, predicted, found, categories=CATEGORIES):
    scores = PanopticScores(categories)
    scores.add(np.array(truth), true, np.array(predicted), found)
    return scores.result()


def test_quality_of_a_case_worked_by_hand():
    """A row of 20 pixels: a road of 8 found whole, a car of 6 of which 5 are found and one too many, a car missed."""
    truth = [[1] * 8 + [2] * 6 + [3] * 6]
    found = [[1] * 8 + [0] + [2] * 6 + [0] * 5]
    result = quality(truth, {1: Truth(1), 2: Truth(2), 3: Truth(2)}, found, {1: 1, 2: 2})
    iou = 5 / 7
    assert result["categories"]["road"]["PQ"] == 100
    car = result["categories"]["car"]
    assert (car["matched"], car["extra"], car["missed"]) == (1, 0, 1)
    assert car["SQ"] == pytest.approx(100 * iou) and car["RQ"] == pytest.approx(100 / 1.5)
    assert car["PQ"] == pytest.approx(100 * iou / 1.5)
    assert result["PQ"] == pytest.approx((100 + car["PQ"]) / 2)
    assert result["PQ_things"] == car["PQ"] and result["PQ_stuff"] == 100


def test_half_is_not_enough_for_a_match():
    result = quality([[1] * 4 + [2] * 4], {1: Truth(1), 2: Truth(2)}, [[1] * 4 + [2] * 2 + [0] * 2], {1: 1, 2: 2})
    assert {key: result["categories"]["car"][key] for key in ("matched", "extra", "missed")} == {
        "matched": 0, "extra": 1, "missed": 1,
    }  # fmt: skip


def test_what_lies_in_a_group_or_in_the_unknown_is_no_mistake():
    truth = [[7] * 10 + [0] * 10 + [1] * 10]
    true = {7: Truth(2, is_group=True), 1: Truth(1)}
    found = [[2] * 5 + [3] * 5 + [4] * 10 + [5] * 4 + [1] * 6]
    result = quality(truth, true, found, {1: 1, 2: 2, 3: 2, 4: 2, 5: 2})
    assert result["categories"]["car"]["extra"] == 1  # on the road
    assert result["categories"]["car"]["missed"] == 0  # a group is not to be found


def test_pixels_of_the_unknown_do_not_lower_an_iou():
    result = quality([[2] * 6 + [0] * 6], {2: Truth(2)}, [[2] * 12], {2: 2})
    assert result["categories"]["car"]["PQ"] == 100


def test_several_segments_of_a_category_without_things_are_one():
    result = quality([[1] * 10], {1: Truth(1)}, [[1] * 4 + [2] * 6], {1: 1, 2: 1})
    assert result["categories"]["road"] == {"PQ": 100, "SQ": 100, "RQ": 100, "matched": 1, "extra": 0, "missed": 0}


def test_the_same_number_may_be_of_another_category():
    result = quality([[1] * 10], {1: Truth(1)}, [[1] * 10], {1: 2})
    assert result["PQ"] == 0 and result["categories"]["road"]["missed"] == result["categories"]["car"]["extra"] == 1


def test_names_of_an_images_files_have_one_key():
    names = ("a/aachen_000000_000019_leftImg8bit.png", "aachen_000000_000019_gtFine_instanceIds.png")
    assert {frame_name(name) for name in names} == {"aachen_000000_000019"}
    assert frame_name("x/street.final.jpg") == "x/street.final"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("panoptic") / "world"
    options = ["--train", "1", "--val", "3", "--clip-frames", "1", "--height", "96", "--width", "192"]
    make_demo_data.main(["--out", str(out), *options])
    return out


def test_the_truth_of_cityscapes_folders_is_perfect_against_itself(world):
    truth, categories = read_cityscapes(world / "cityscapes", "val")
    scores = PanopticScores(categories)
    for image in truth.values():
        ids = image.read()
        scores.add(ids, image.segments, ids, {n: s.category for n, s in image.segments.items() if not s.is_group})
    result = scores.result()
    assert len(truth) == 3 and result["PQ_things"] == result["PQ_stuff"] == 100
    assert {name for name, row in categories.items() if row.is_thing} == {24, 25, 26, 27, 28, 31, 32, 33}


def test_saved_files_are_cocos_and_are_scored(world, tmp_path, randomise, capsys):
    weights = save_joint(tmp_path / "joint.safetensors", make_joint(randomise))
    source, out = world / "cityscapes" / "leftImg8bit" / "val", tmp_path / "found"
    common = ["--weights", str(weights), "--source", str(source), "--engine", "torch", "--device", "cpu"]
    assert predict.main([*common, "--output", str(out), "--save", "panoptic,labels", "--score-threshold", "0.5"]) == 0
    images, categories = read_coco(out / "panoptic.json", lambda entry: entry["file_name"])
    assert categories == {0: ("road", False), 1: ("car", True), 2: ("tree", False), 3: ("sky", False)}
    assert len(images) == 3
    import cv2

    for name, image in images.items():
        want = load(weights, "torch", device="cpu", score_threshold=0.5)(cv2.imread(str(source / name))).panoptic()
        ids = image.read()
        assert {n: s.category for n, s in image.segments.items()} == {
            r + 256 * g + 65536 * b: s.label for s in want.segments for r, g, b in [s.color]
        }
        for place, segment in enumerate(want.segments):
            number = segment.color[0] + 256 * segment.color[1] + 65536 * segment.color[2]
            assert np.array_equal(ids == number, want.places == place)
    # The file against itself, as a truth.
    assert eval_panoptic.main(["--results", str(out / "panoptic.json"), "--truth", str(out / "panoptic.json")]) == 0
    scores = json.loads((out / "metrics.json").read_text())
    assert scores["PQ"] == 100 and scores["images"] == 3 and "stuff" in capsys.readouterr().out


def test_what_cannot_be_scored_is_told_in_one_line(world, tmp_path):
    folder = tmp_path / "panoptic"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    results = tmp_path / "panoptic.json"

    def write(images=("a",), segments=()):
        entries = [{"image_id": 1, "file_name": f"{name}.png", "segments_info": list(segments)} for name in images]
        results.write_text(json.dumps({"annotations": entries, "categories": [{"id": 1, "name": "a", "isthing": 1}]}))

    def refused(*options):
        with pytest.raises(InputError) as caught:
            eval_panoptic.main(["--results", str(results), *options])
        return str(caught.value)

    write()
    data = ["--data", str(world / "cityscapes")]
    assert "has no image moosfeld_000000_000019" in refused(*data)
    assert "*_gtFine_instanceIds.png" in refused("--data", str(tmp_path))
    results.write_text("[]")
    assert "is no panoptic json" in refused(*data)
    assert "give --data or --truth" in refused()


def test_saving_wants_both_tasks(world, tmp_path, randomise):
    network = make_joint(randomise, segmentation={"head": "lraspp", "num_classes": 4})
    weights = save_joint(tmp_path / "joint.safetensors", network)
    source = str(world / "cityscapes" / "leftImg8bit" / "val")
    options = ["--source", source, "--output", str(tmp_path / "out"), "--save", "panoptic", "--engine", "torch"]
    with pytest.raises(InputError, match="--save panoptic: is made by a model for detection"):
        predict.main(["--weights", str(weights), *options])
