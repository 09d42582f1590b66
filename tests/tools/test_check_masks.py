"""The check of a data set: silent on a good one, one line for each fault of a bad one."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from backbone import InputError
from tests.builders.commands import check_masks_main
from tests.builders.gardens import make_garden
from tools import check_masks


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


def test_a_good_copy_has_no_faults(copy, capsys):
    code, faults, text = check_masks_main(capsys, copy)
    assert code == 0 and faults == [] and "no faults" in text
    assert "train: 8 images" in text and "the real data set has 2975" in text
    assert "moosfeld 5" in text and "192x96: 5" in text and "road" in text
    assert cv2.imread(str(copy / "samples.png")).shape == (4 * 240, 3 * 480, 3)


def test_every_fault_gets_its_line(copy, capsys):
    images = sorted((copy / "leftImg8bit" / "train").glob("*/*.png"))
    labels = [path.parents[3] / "gtFine" / "train" / path.parent.name / path.name for path in images]
    labels = [path.with_name(path.name.replace("leftImg8bit", "gtFine_labelIds")) for path in labels]
    images[0].write_bytes(images[0].read_bytes()[:-300])
    images[1].write_bytes(b"")
    images[2].unlink()
    frame = cv2.imread(str(images[3]))
    images[3].unlink()
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    images[3].with_suffix(".jpg").write_bytes(jpeg[: len(jpeg) // 2])
    Image.fromarray(np.full((96, 192), 77, np.uint8)).save(labels[4])
    Image.fromarray(np.zeros((96, 190), np.uint8)).save(labels[5])
    for ending in ("labelIds.png", "polygons.json"):
        labels[6].with_name(labels[6].name.replace("labelIds.png", ending)).unlink()
    code, faults, text = check_masks_main(capsys, copy, "--splits", "train")
    assert code == 1 and f"{len(faults)} faults" in text
    for path, message in (
        (images[0], "cut short"),
        (images[1], "is empty"),
        (labels[2], "belongs to no image"),
        (images[3].with_suffix(".jpg"), "cut short"),
        (labels[4], r"18432 pixels are [77]"),
        (labels[5], "is 190x96, its image 192x96"),
        (images[6], "has no label"),
    ):
        assert any(str(path) in fault and message in fault for fault in faults), (path, message)
    assert len(faults) == 8  # the lost image has a label and polygons


def test_cities_of_the_real_data_set_must_be_complete(copy, capsys):
    for folder in ("leftImg8bit", "gtFine"):
        (copy / folder / "val" / "moosfeld").rename(copy / folder / "val" / "lindau")
    code, faults, _ = check_masks_main(capsys, copy, "--splits", "val")
    assert code == 1 and len(faults) == 3
    assert faults[1] == "fault: val/lindau: 5 images, the real data set has 59; copy the city again"


def test_doubtful_labels_are_noted(copy, capsys):
    for path in (copy / "gtFine" / "val").rglob("*_labelIds.png"):
        Image.fromarray(np.full((96, 192), 10, np.uint8)).save(path)
    assert "no pixel counts" in check_masks_main(capsys, copy, "--splits", "val")[2]
    for path in (copy / "gtFine" / "val").rglob("*_labelIds.png"):
        Image.fromarray(np.full((96, 192), 11, np.uint8)).save(path)
    assert "are these train ids" in check_masks_main(capsys, copy, "--splits", "val")[2]


def test_ones_own_data_is_checked_too(tmp_path, capsys):
    classes = make_garden(tmp_path)
    code, faults, text = check_masks_main(capsys, tmp_path, "--classes", str(classes))
    assert code == 0 and "lawn" in text and "64x48: 6" in text
    (tmp_path / "images" / "val" / "bed" / "0.jpg").unlink()
    (tmp_path / "masks" / "val" / "bed" / "1.png").unlink()
    code, faults, text = check_masks_main(capsys, tmp_path, "--classes", str(classes))
    assert code == 1 and len(faults) == 2 and "belongs to no image" in faults[1] and "has no mask" in faults[0]


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no leftImg8bit/SPLIT"):
        check_masks.main([str(tmp_path)])


def test_samples_lie_in_the_data_sets_folder_but_never_among_its_images(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    classes = make_garden(tmp_path)
    arguments = [str(tmp_path), "--classes", str(classes), "--workers", "0"]
    assert check_masks.main(arguments) == 0
    assert (tmp_path / "check" / "samples.png").is_file() and list(here.iterdir()) == []
    for ending in (".png", "_mask.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(here / f"a{ending}")
    (here / "classes.yaml").write_text("{images: ., masks: ., mask_ending: _mask.png, classes: [x]}")
    with pytest.raises(InputError, match=r"would lie among the data set's images; say where to write it with --out"):
        check_masks.main([".", "--classes", "classes.yaml", "--workers", "0"])
    assert check_masks.main([".", "--classes", "classes.yaml", "--workers", "0", "--out", "../a.png"]) == 0
    with pytest.raises(InputError, match="missing: no such folder"):
        check_masks.main([str(tmp_path / "missing"), "--splits", "val"])
    assert not (tmp_path / "missing").exists()
