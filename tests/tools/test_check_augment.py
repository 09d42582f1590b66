"""The sheet of training samples shows what training sees, for both tasks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from backbone import InputError
from tools import check_augment
from tools.run import detection, segmentation
from tools.run.config import DetConfig, SegConfig, load

CONFIGS = Path(__file__).parents[2] / "configs"


def test_labels_are_drawn_beside_their_images(world, tmp_path):
    keys = [f"data.root={world / 'cityscapes'}", "augment.crop_hw=[96,480]"]
    recipe = CONFIGS / "cityscapes" / "weather.yaml"
    out = tmp_path / "new" / "seg.png"
    assert check_augment.main(["seg", str(recipe), *keys, "--out", str(out), "--count", "3", "--epoch", "2"]) == 0
    sheet = cv2.imread(str(out))
    assert sheet.shape == (2 * 96, 4 * 480, 3)
    sample = segmentation.make_train_set(load(SegConfig, recipe, keys))[2, 0]
    np.testing.assert_array_equal(sheet[:96, :480, ::-1], sample.image.permute(1, 2, 0).numpy())
    assert not sheet[:96, 480:960][sample.labels.numpy() == 255].any() and sheet[:96, 480:960].any()
    assert not sheet[96:, 960:].any()


def test_boxes_are_drawn_into_their_images(world, tmp_path):
    keys = [f"data.root={world / 'coco'}", "model.image_size=[96,480]", "augment.mosaic=0.5"]
    recipe = CONFIGS / "coco" / "weather.yaml"
    out = tmp_path / "det.png"
    assert check_augment.main(["det", str(recipe), *keys, "--out", str(out), "--count", "200"]) == 0
    sheet = cv2.imread(str(out))
    assert sheet.shape == (2 * 96, 4 * 480, 3)
    sample = detection.make_train_set(load(DetConfig, recipe, keys))[0, 0]
    assert len(sample.boxes) and 0 < (sheet[:96, :480, ::-1] != sample.image.permute(1, 2, 0).numpy()).mean() < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.jpg"], "ends in .png"),
        (["--out", "a.png", "--count", "0"], "--count must be 1 to 200"),
        (["--out", "a.png", "--epoch", "-1"], "--epoch at least 0"),
        (["--out", "a.png", "augment.more=[{name: Rain}]"], "Rain"),
        (["--out", "a.png", "model.image_size=[64,64]"], "unknown key model.image_size"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        check_augment.main(["seg", str(CONFIGS / "demo" / "seg.yaml"), *arguments])
