"""The official Cityscapes protocol: the official scripts are the reference for metrics, file names and polygons."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from PIL import Image

import seg.data.dataset
from backbone import InputError
from backbone.data.images import read_label
from seg.data.cityscapes import CLASSES, LABEL_ID_OF_NAME, Cityscapes
from seg.data.polygons import draw_polygons
from tests.builders.official import assert_official, official_scores, old_name  # noqa: F401 - a fixture
from tools import eval_seg
from tools.run.processes import make_accelerator
from tools.scoring import segmentation
from tools.scoring.segmentation import Counts, evaluate_files

NUM_IMAGES = 5
SIZE_HW = (40, 64)


def make_set(root: Path, seed: int, classes: list[int], predicted: list[int]) -> None:
    """Images, label ids, instance ids and predictions at random; a third of each map is right."""
    random = np.random.default_rng(seed)
    for number in range(NUM_IMAGES):
        name = f"city_{number:06d}_000019"
        coarse = random.choice(classes, (SIZE_HW[0] // 4, SIZE_HW[1] // 4)).astype(np.int32)
        labels = coarse.repeat(4, 0).repeat(4, 1)
        things = (coarse >= 24) & (random.random(coarse.shape) < 0.8)  # the rest of the things are groups
        instances = np.where(things, coarse * 1000 + random.integers(0, 5, coarse.shape), coarse)
        guess = np.where(random.random(SIZE_HW) < 0.3, labels, random.choice(predicted, SIZE_HW))
        for folder, ending, values in (
            ("gtFine/val/city", "_gtFine_labelIds.png", labels.astype(np.uint8)),
            ("gtFine/val/city", "_gtFine_instanceIds.png", instances.repeat(4, 0).repeat(4, 1).astype(np.uint16)),
            ("leftImg8bit/val/city", "_leftImg8bit.png", np.zeros((*SIZE_HW, 3), np.uint8)),
            ("predictions", "_pred.png", guess.astype(np.uint8)),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / folder / (name + ending))


EVERY = [row.label_id for row in CLASSES]
SOME = [0, 3, 7, 8, 11, 17, 24, 26, 29, 33]  # road, sidewalk, building, pole, person, car, caravan, bicycle, ignored
CASES = {
    "everything": (EVERY, EVERY),
    "classes absent from the labels": (SOME, EVERY),
    "classes absent from the predictions": (EVERY, SOME),
    "classes absent from both": (SOME, SOME),
    "no things": ([0, 7, 8, 21, 23], EVERY),
    "caravans and trailers predicted": (EVERY, [7, 26, 29, 30]),
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_equal_the_official_evaluation(tmp_path, case):
    make_set(tmp_path, sum(map(ord, case)), *CASES[case])
    dataset = Cityscapes(tmp_path, "val")
    assert_official(evaluate_files(tmp_path / "predictions", dataset).official, dataset, tmp_path / "predictions")


def test_metrics_equal_the_official_evaluation_of_polygons_with_plates_and_ignored_regions(tmp_path):
    """Ours draws the polygons; the reference's labels and instances are drawn by the official scripts."""
    make_set(tmp_path, 3, EVERY, EVERY)
    (tmp_path / "official").mkdir()
    names = ["road", "car", "person", "caravan", "bicyclegroup", "sky", "license plate", "out of roi", "ego vehicle"]
    for number, path in enumerate(sorted((tmp_path / "gtFine" / "val" / "city").glob("*_labelIds.png"))):
        random = np.random.default_rng(number)
        objects = [{"label": "rectification border", "polygon": [[0, 0], [63, 0], [63, 2], [0, 2]]}]
        for name in [*names, *random.choice(names, 4)]:
            left, top = random.integers(0, 50), random.integers(0, 30)
            corners = [[left, top], [left + 18, top], [left + 15, top + 14.5], [left, top + 12]]
            objects.append({"label": str(name), "polygon": np.array(corners, float).tolist()})
        file = polygons(Path(str(path).replace("labelIds.png", "polygons.json")), *objects)
        path.unlink()
        json2labelImg(str(file), str(tmp_path / "official" / path.name))
        instances = path.name.replace("labelIds", "instanceIds")
        annotation = Annotation()
        annotation.fromJsonFile(str(file))
        drawn = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
        Image.fromarray(drawn).save(path.with_name(instances))
        shutil.copy(path.with_name(instances), tmp_path / "official" / instances)
    dataset = Cityscapes(tmp_path, "val")
    assert dataset.labels[0].suffix == ".json" and dataset.instances is not None
    ours = evaluate_files(tmp_path / "predictions", dataset).official
    dataset.labels = [tmp_path / "official" / path.name for path in dataset.labels]
    assert_official(ours, dataset, tmp_path / "predictions")


def test_parts_in_any_order_give_the_same_metrics_to_the_last_digit(tmp_path, monkeypatch):
    make_set(tmp_path, 0, EVERY, EVERY)
    dataset = Cityscapes(tmp_path, "val")
    whole = evaluate_files(tmp_path / "predictions", dataset, num_worst=3)
    files = dataset.find_predictions(tmp_path / "predictions")
    parts = [Counts(dataset, instances=True, num_worst=3) for _ in range(2)]
    for number in (4, 1, 0, 3, 2):
        parts[number % 2].add(number, dataset[number].labels.numpy(), read_label(files[number]))
    other = parts[1].confusion, parts[1].instances, parts[1].worst
    monkeypatch.setattr(segmentation, "gather_parts", lambda accelerator, own: [own, other])
    together = parts[0].result(accelerator=True)
    assert together.official == whole.official and together.worst == whole.worst


def make_cities(root: Path) -> None:
    """Two cities with a frame of one name, and one with a frame of its own."""
    for value, (city, name) in enumerate([("hill", "000001"), ("shore", "000001"), ("shore", "000002")], start=7):
        for folder, ending, image in (
            ("gtFine", "_gtFine_labelIds.png", np.full(SIZE_HW, value, np.uint8)),
            ("leftImg8bit", "_leftImg8bit.png", np.full((*SIZE_HW, 3), value, np.uint8)),
        ):
            (root / folder / "val" / city).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / folder / "val" / city / (name + ending))


def test_frames_of_one_name_in_two_cities_have_predictions_of_their_own(tmp_path):
    make_cities(tmp_path)
    dataset, folder = Cityscapes(tmp_path, "val"), tmp_path / "predictions"
    names = [dataset.prediction_name(number) for number in range(3)]
    assert list(map(str, names)) == [
        "hill/000001_pred_labelIds.png",
        "shore/000001_pred_labelIds.png",
        "000002_pred_labelIds.png",  # flat, as Cityscapes' server takes it
    ]
    for name, label in zip(names, dataset.labels, strict=True):
        segmentation.save_mask(folder / name, read_label(label))
    assert dataset.find_predictions(folder) == [folder / name for name in names]
    assert evaluate_files(folder, dataset).metrics["pixel_accuracy"] == 1
    (folder / names[1]).rename(folder / names[1].name)
    with pytest.raises(InputError, match=r"0 files shore/000001\*\.png; there must be one prediction per image"):
        evaluate_files(folder, dataset)


def test_a_model_saves_predictions_of_both_cities(tmp_path):
    class Bright(torch.nn.Module):
        def forward(self, images):
            classes = torch.arange(19).view(1, -1, 1, 1)
            return -(images[:, :1] * 255 - 7 - classes).abs()

    make_cities(tmp_path)
    dataset = Cityscapes(tmp_path, "val")
    accelerator = make_accelerator()
    whole = {"device": accelerator.device, "inference": segmentation.WHOLE_IMAGES}
    label = segmentation.model_labels(Bright(), mean=[0.0] * 3, std=[1.0] * 3, **whole)
    found = segmentation.evaluate(label, dataset, accelerator=accelerator, workers=0, save_to=tmp_path / "predictions")
    scored = evaluate_files(tmp_path / "predictions", dataset)
    assert (found.confusion == scored.confusion).all()
    assert scored.metrics["iou/road"] == scored.metrics["iou/sidewalk"] == 1


def test_what_reads_labels_alone_decodes_no_image(tmp_path, monkeypatch):
    make_set(tmp_path, 0, EVERY, EVERY)
    expected = Cityscapes(tmp_path, "val").label_counts()
    assert sum(expected) > 0

    def refuse(*_):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(seg.data.dataset, "read_image", refuse)
    dataset = Cityscapes(tmp_path, "val")
    assert dataset.label_counts() == expected and dataset.has_labelled_pixels()
    evaluate_files(tmp_path / "predictions", dataset)


def test_without_instance_files_there_is_no_iiou(tmp_path):
    make_set(tmp_path, 0, EVERY, EVERY)
    next(tmp_path.glob("gtFine/val/*/*instanceIds.png")).unlink()
    ours = evaluate_files(tmp_path / "predictions", Cityscapes(tmp_path, "val")).official
    theirs = official_scores(
        sorted(tmp_path.glob("gtFine/val/*/*labelIds.png")), tmp_path / "predictions", instances=False
    )
    assert "miiou" not in ours
    assert ours["category_miou"] == pytest.approx(theirs["averageScoreCategories"], abs=1e-12)


def test_an_instance_of_a_class_without_instances_is_named(tmp_path):
    make_set(tmp_path, 0, EVERY, EVERY)
    path = sorted(tmp_path.glob("gtFine/val/*/*instanceIds.png"))[0]
    Image.fromarray(np.full(SIZE_HW, 7001, np.uint16)).save(path)
    with pytest.raises(InputError, match=r"instanceIds.png: id 7001 is not of a class with instances"):
        evaluate_files(tmp_path / "predictions", Cityscapes(tmp_path, "val"))
    Image.fromarray(np.full((10, 10), 26001, np.uint16)).save(path)
    with pytest.raises(InputError, match=r"instanceIds\.png: is 10x10, its labels 64x40"):
        evaluate_files(tmp_path / "predictions", Cityscapes(tmp_path, "val"))


def test_the_metrics_are_written_and_printed(tmp_path, capsys):
    make_set(tmp_path, 0, EVERY, EVERY)
    assert eval_seg.main(["--predictions", str(tmp_path / "predictions"), "--data", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "predictions" / "metrics.json").read_text())["cityscapes"]
    assert report["category_iou"].keys() == {"flat", "construction", "object", "nature", "sky", "human", "vehicle"}
    assert report["category_iiou"].keys() == {"human", "vehicle"} and report["iiou"].keys() >= {"car", "bicycle"}
    assert f"category_miiou {report['category_miiou']:.4f}" in capsys.readouterr().out


def test_the_labels_of_the_test_split_are_not_scored(tmp_path):
    make_set(tmp_path, 0, [0, 1, 3], EVERY)
    for folder in ("leftImg8bit", "gtFine"):
        shutil.move(tmp_path / folder / "val", tmp_path / folder / "test")
    with pytest.raises(InputError, match=r"no pixel of split test counts, its labels are dummies"):
        eval_seg.main(["--predictions", str(tmp_path / "predictions"), "--data", str(tmp_path), "--split", "test"])


def test_polygons_are_drawn_as_the_official_script_draws_them(world, tmp_path):
    files = sorted((world / "cityscapes" / "gtFine").rglob("*_polygons.json"))
    assert len(files) == 13
    for source in files:
        objects = json.loads(source.read_text())["objects"]
        drawable = [item for item in objects if len(item["polygon"]) > 1]  # the script fails on single points
        path = polygons(tmp_path / "a_polygons.json", *drawable, height=96, width=192)
        json2labelImg(str(path), str(tmp_path / "official.png"))
        assert (draw_polygons(path, LABEL_ID_OF_NAME) == np.asarray(Image.open(tmp_path / "official.png"))).all()


def polygons(path: Path, *objects: dict, height: int = 40, width: int = 64) -> Path:
    path.write_text(json.dumps({"imgHeight": height, "imgWidth": width, "objects": list(objects)}))
    return path


SQUARE = [[0, 0], [20, 0], [20.5, 30], [0, 30]]


def test_plates_are_not_drawn_and_groups_and_deleted_objects_are_understood(tmp_path):
    path = polygons(
        tmp_path / "a_polygons.json",
        {"label": "cargroup", "polygon": SQUARE},
        {"label": "license plate", "polygon": [[5, 5], [9, 5], [9, 9]]},
        {"label": "sky", "polygon": SQUARE, "deleted": 1},
    )
    json2labelImg(str(path), str(tmp_path / "official.png"))
    ours = draw_polygons(path, LABEL_ID_OF_NAME)
    assert (ours == np.asarray(Image.open(tmp_path / "official.png"))).all()
    assert set(np.unique(ours)) == {0, LABEL_ID_OF_NAME["car"]}


def test_faulty_polygons_are_named(tmp_path):
    path = tmp_path / "a_polygons.json"
    for objects, message in (
        ([{"label": "dragon", "polygon": SQUARE}], "label 'dragon' is not one of Cityscapes'"),
        ([{"label": "car"}], "an object lacks a label or a polygon"),
        ([{"label": "car", "polygon": [1, 2]}], "an object lacks a label or a polygon"),
        ([7], "an object lacks a label or a polygon"),
    ):
        with pytest.raises(InputError, match=message):
            draw_polygons(polygons(path, *objects), LABEL_ID_OF_NAME)
    for text, message in (
        ("{", "not a readable JSON"),
        ("[]", "must be an object"),
        ("{}", "not the size of an image"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            draw_polygons(path, LABEL_ID_OF_NAME)
    with pytest.raises(InputError, match="not the size of an image"):
        draw_polygons(polygons(path, height=60000, width=60000), LABEL_ID_OF_NAME)


def test_polygons_stand_in_for_missing_label_images(world, tmp_path):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    expected = Cityscapes(world / "cityscapes", "val")
    for path in (tmp_path / "cityscapes" / "gtFine" / "val").rglob("*.png"):
        path.unlink()
    dataset = Cityscapes(tmp_path / "cityscapes", "val")
    assert dataset.instances is None and dataset.labels[0].suffix == ".json"
    for one, other in zip(dataset, expected, strict=True):
        assert (one.labels == other.labels).float().mean() > 0.98  # the painter's polygons are not to the pixel


def test_coarse_labels_are_read_where_they_are_asked_for(world, tmp_path):
    source = world / "cityscapes"
    shutil.copytree(source / "leftImg8bit" / "val", tmp_path / "leftImg8bit" / "train_extra")
    for label in source.glob("gtFine/val/*/*_labelIds.png"):
        coarse = tmp_path / "gtCoarse" / "train_extra" / label.parent.name
        coarse.mkdir(parents=True, exist_ok=True)
        shutil.copy(label, coarse / label.name.replace("gtFine", "gtCoarse"))
    coarse = Cityscapes(tmp_path, "train_extra", annotation="gtCoarse")
    assert (coarse[1].labels == Cityscapes(source, "val")[1].labels).all()
    with pytest.raises(InputError, match="train_extra has labels in gtCoarse only"):
        Cityscapes(tmp_path, "train_extra")
    with pytest.raises(InputError, match="annotation 'gtfine' unknown"):
        Cityscapes(source, "val", annotation="gtfine")


@pytest.mark.parametrize("workers", ["-1", "many", "1000"])
def test_numbers_of_workers_that_cannot_be_are_refused(tmp_path, capsys, workers):
    with pytest.raises(SystemExit, match="2"):
        eval_seg.main(["--predictions", str(tmp_path), "--data", str(tmp_path), f"--workers={workers}"])
    assert f"--workers: {workers} must be a number from 0 to 256" in capsys.readouterr().err
