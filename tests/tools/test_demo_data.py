"""The demo world: what is drawn, that its labels, instances, polygons and boxes agree, and what is refused."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from backbone.errors import InputError
from tools.demo_world.view import LABELS
from tools.demo_world.writer import MARKER, MIN_BOX_PIXELS, coco_annotations, make_scene, run_lengths
from tools.make_demo_data import main, make_demo_data

SMALL = {"num_train": 7, "num_val": 3, "num_clip_frames": 5, "size_hw": (96, 192), "seed": 3}
LABEL_IDS = {label.label_id for label in LABELS.values()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "world"
    assert make_demo_data(out, **SMALL)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def label_files(world: Path) -> list[Path]:
    return sorted((world / "cityscapes" / "gtFine").rglob("*_labelIds.png"))


def sibling(label_file: Path, kind: str) -> Path:
    return label_file.with_name(label_file.name.replace("labelIds.png", kind))


def load_coco(world: Path, split: str) -> COCO:
    return COCO(str(world / "coco" / "annotations" / f"instances_{split}2017.json"))


def test_the_same_seed_writes_the_same_bytes(world: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path / "again", **SMALL)
    assert files(tmp_path / "again") == files(world)


def test_another_seed_and_another_index_and_the_other_split_paint_other_scenes() -> None:
    def image(split: str, index: int, seed: int) -> np.ndarray:
        return make_scene(split, index, (64, 128), seed).view.image

    first = image("train", 0, 0)
    for other in (image("train", 0, 1), image("train", 1, 0), image("val", 0, 0)):
        assert np.abs(first.astype(int) - other).mean() > 10


def test_every_image_has_its_labels_instances_and_polygons_in_cityscapes_layout(world: Path) -> None:
    root = world / "cityscapes"
    for split, count in (("train", 7), ("val", 3)):
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        assert len(images) == count
        for path in images:
            city, sequence, frame, _ = path.name.split("_")
            assert city == path.parent.name and len(sequence) == len(frame) == 6
            stem = path.name.removesuffix("leftImg8bit.png")
            folder = root / "gtFine" / split / city
            assert read(path).shape == (96, 192, 3)
            assert read(folder / f"{stem}gtFine_labelIds.png").dtype == np.uint8
            assert read(folder / f"{stem}gtFine_instanceIds.png").dtype == np.uint16
            assert (folder / f"{stem}gtFine_polygons.json").is_file()


def test_labels_are_known_and_all_main_classes_and_ignored_ones_occur(world: Path) -> None:
    found = set(np.unique(np.stack([read(path) for path in label_files(world)])).tolist())
    assert found <= LABEL_IDS
    assert {1, 3, 7, 8, 11, 17, 21, 22, 23, 24, 26} <= found


def test_instance_ids_agree_with_label_ids(world: Path) -> None:
    for path in label_files(world):
        labels, instances = read(path).astype(int), read(sibling(path, "instanceIds.png")).astype(int)
        single = instances >= 1000
        assert np.array_equal(instances[single] // 1000, labels[single])
        assert np.array_equal(instances[~single], labels[~single])
        assert set(np.unique(labels[single])) <= {24, 26}


def test_polygons_filled_in_order_give_the_labels(world: Path) -> None:
    for path in label_files(world):
        labels, content = read(path), json.loads(sibling(path, "polygons.json").read_text())
        assert (content["imgHeight"], content["imgWidth"]) == labels.shape
        filled = np.zeros_like(labels)
        for item in content["objects"]:
            label_id = LABELS[item["label"].removesuffix("group")].label_id
            cv2.fillPoly(filled, [np.array(item["polygon"], np.int32)], label_id)
        assert (filled == labels).mean() > 0.97


def test_boxes_are_tight_around_the_visible_pixels_of_their_instance() -> None:
    num_boxes = 0
    for index in range(4):
        scene = make_scene("train", index, (96, 192), 3)
        instances = scene.view.instance_ids()
        expected = set()
        for instance in np.unique(instances[instances >= 1000]):
            rows, columns = np.nonzero(instances == instance)
            if len(rows) >= MIN_BOX_PIXELS:
                left, top = int(columns.min()), int(rows.min())
                expected.add((left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1, len(rows)))
        from_coco = {
            (*(int(value) for value in box["bbox"]), int(box["area"]))
            for box in coco_annotations(scene, first_id=1)
            if box["category_id"] in (1, 3) and not box["iscrowd"]
        }
        assert from_coco == expected
        num_boxes += len(expected)
    assert num_boxes > 5


# pycocotools' decoder warns about itself under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_boxes_masks_and_images(world: Path, split: str) -> None:
    coco = load_coco(world, split)
    assert coco.getCatIds() == [1, 3, 10, 13]
    assert len(coco.getImgIds()) == {"train": 7, "val": 3}[split]
    for row in coco.dataset["images"]:
        image = read(world / "coco" / f"{split}2017" / row["file_name"])
        assert image.shape == (row["height"], row["width"], 3)
    for annotation in coco.dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert x >= 0 and y >= 0 and x + width <= 192 and y + height <= 96
        mask = coco.annToMask(annotation)
        assert mask.any()
        if annotation["iscrowd"]:
            assert mask.sum() == annotation["area"]


def test_image_ids_have_gaps_and_differ_between_splits(world: Path) -> None:
    train, val = (load_coco(world, split).getImgIds() for split in ("train", "val"))
    assert max(train) - min(train) > len(train)
    assert not set(train) & set(val)


def test_there_are_a_crowd_and_an_empty_image(world: Path) -> None:
    coco = load_coco(world, "train")
    assert any(annotation["iscrowd"] for annotation in coco.dataset["annotations"])
    assert any(not coco.getAnnIds(imgIds=[image_id]) for image_id in coco.getImgIds())


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths_begin_with_zeros_and_go_down_the_columns(first: bool) -> None:
    mask = np.array([[first, True], [True, False]])
    assert run_lengths(mask)["counts"] == ([0, 3, 1] if first else [1, 2, 1])


def test_the_clip_has_its_frames_and_moves_smoothly(world: Path) -> None:
    reader, frames = cv2.VideoCapture(str(world / "street.mp4")), []
    assert reader.get(cv2.CAP_PROP_FPS) == 24
    while (step := reader.read())[0]:
        frames.append(step[1].astype(int))
    assert len(frames) == 5
    for before, after in itertools.pairwise(frames):
        assert 0.5 < np.abs(before - after).mean() < 15


def test_the_same_world_is_kept_and_other_settings_replace_it(tmp_path: Path) -> None:
    settings = {"num_train": 2, "num_val": 1, "num_clip_frames": 1, "size_hw": (64, 64)}
    assert make_demo_data(tmp_path, **settings, seed=0)
    assert not make_demo_data(tmp_path, **settings, seed=0)
    assert make_demo_data(tmp_path, **settings | {"num_train": 1}, seed=0)
    assert len(list((tmp_path / "coco" / "train2017").iterdir())) == 1


def test_an_interrupted_world_is_painted_again(tmp_path: Path) -> None:
    settings = {"num_train": 1, "num_val": 1, "num_clip_frames": 1, "size_hw": (64, 64), "seed": 0}
    make_demo_data(tmp_path, **settings)
    marker = tmp_path / MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"complete": False}))
    assert make_demo_data(tmp_path, **settings)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"not a demo world.*--out"):
        main(["--out", str(tmp_path)])
    assert files(tmp_path) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "0"], "--train 0: must be at least 1"),
        (["--height", "97"], "--height 97: must be an even number"),
        (["--width", "32"], "--width 32: must be an even number of pixels, at least 64"),
        (["--seed", "-1"], "--seed -1: must not be negative"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        main(["--out", str(tmp_path / "world"), *arguments])
    assert not (tmp_path / "world").exists()


def test_a_folder_named_like_markup_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo [red][/blue]"
    assert (
        main(
            [
                "--out",
                str(out),
                *["--train", "1", "--val", "1", "--clip-frames", "1", "--height", "64", "--width", "64"],
            ]
        )
        == 0
    )
    assert f"painted: {out} " in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        main(["--out", str(tmp_path / "file")])
    with pytest.raises(InputError, match="cannot be written"):
        main(["--out", str(tmp_path / "file" / "below")])
