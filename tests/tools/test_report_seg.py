"""The report of an evaluation: all there is to see, in one file that loads nothing, with every name escaped."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.folder import Folder
from tests.builders.gardens import CLASSES, make_garden
from tests.builders.pages import Page
from tools import eval_seg
from tools.scoring.segmentation import evaluate_files


@pytest.fixture
def garden(tmp_path) -> Path:
    """A data set with markup in its names, and predictions of which image 1's are the worst and 0's all right."""
    classes = make_garden(tmp_path, CLASSES.replace("pond", "<script>alert(1)</script>"))
    (tmp_path / "images" / "val" / "bed").rename(tmp_path / "images" / "val" / "<b>bed & tree")
    (tmp_path / "masks" / "val" / "bed").rename(tmp_path / "masks" / "val" / "<b>bed & tree")
    dataset = Folder(tmp_path, "val", classes)
    for number, right in enumerate((1.0, 0.1, 0.5)):
        ids = np.asarray(Image.open(dataset.labels[number]))
        keep = np.random.default_rng(number).random(ids.shape) < right
        path = tmp_path / "predictions" / dataset.prediction_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(keep, ids, 10).astype(np.uint8)).save(path)
    return tmp_path


def test_the_page_is_whole_and_loads_nothing(garden, tmp_path):
    arguments = ["--data", str(garden), "--classes", str(garden / "classes.yaml"), "--report"]
    assert eval_seg.main([*arguments, "--predictions", str(garden / "predictions")]) == 0
    text = (garden / "predictions" / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and "script" not in page.tags and "b" not in page.tags
    assert len(page.links) == 3 * 4 and all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<script>alert(1)</script>" in page.text and '<path> & "kerb"' in page.text
    assert page.text.index("1.jpg") < page.text.index("2.jpg") < page.text.index("0.jpg")
    assert "mIoU 100.00 %" in page.text


def test_only_the_worst_images_are_kept(garden):
    dataset = Folder(garden, "val", garden / "classes.yaml")
    worst = evaluate_files(garden / "predictions", dataset, num_worst=2).worst
    assert [image.number for image in worst] == [1, 2] and worst[0].miou < worst[1].miou
    assert evaluate_files(garden / "predictions", dataset).worst == []


def test_a_report_of_cityscapes_has_the_official_metrics(world, tmp_path):
    for label in (world / "cityscapes" / "gtFine" / "val").glob("*/*_labelIds.png"):
        Image.open(label).save(tmp_path / label.name)
    data = str(world / "cityscapes")
    assert eval_seg.main(["--predictions", str(tmp_path), "--data", data, "--report"]) == 0
    page = Page((tmp_path / "report.html").read_text())
    assert "official category_miiou" in page.text and "iIoU %" in page.text and page.text.count("100.00") > 8
