"""The report of a detector: metrics that agree with pycocotools', one file that loads nothing, every name escaped."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import det
from backbone import InputError
from det.metrics import METRICS
from tests.builders.coco_data import CATEGORY_IDS, ground_truth, noisy_results
from tests.builders.pages import Page
from tools import eval_det
from tools.scoring.report_det import best_f1, compare, confusion_matrix


def row(category_id: int, box: list, image_id: int = 1, **others) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": box} | others


def small_truth(boxes: list[dict]) -> dict:
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 99, "width": 99} for n in (1, 2)]
    annotations = [{"id": number, "iscrowd": 0} | box for number, box in enumerate(boxes, start=1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": n, "name": f"c{n}"} for n in (3, 7)]}


def test_best_f1_is_what_filtering_at_each_score_gives():
    truth = ground_truth()
    results = [found | {"score": round(found["score"], 2)} for found in noisy_results(truth)]
    best = best_f1(det.run_coco_eval(truth, results))
    num_boxes = [sum(a["category_id"] == c and not a["iscrowd"] for a in truth["annotations"]) for c in CATEGORY_IDS]

    def f1_from(score: float) -> np.ndarray:
        coco_eval = det.run_coco_eval(truth, [found for found in results if found["score"] >= score])
        values = []
        for position, boxes in enumerate(num_boxes):
            first = position * 4 * 30
            found = [entry for entry in coco_eval.evalImgs[first : first + 30] if entry is not None]
            counted = [~entry["dtIgnore"][0].astype(bool) for entry in found]
            right = sum((entry["dtMatches"][0][c] > 0).sum() for entry, c in zip(found, counted, strict=True))
            values.append(2 * right / (sum(c.sum() for c in counted) + boxes))
        return np.array(values)

    tried = {score: f1_from(score) for score in np.arange(0, 1, 0.07).round(2)}
    for score, values in tried.items():
        np.testing.assert_allclose([entry.curve[round(100 * score)] for entry in best], values, atol=1e-12)
    for position, entry in enumerate(best):
        assert f1_from(entry.threshold)[position] == pytest.approx(entry.f1, abs=1e-12)
        assert entry.f1 >= max(values[position] for values in tried.values()) > 0.2


def test_confusions_are_counted_by_hand():
    truth = small_truth(
        [
            row(3, [0, 0, 10, 10]),
            row(7, [20, 0, 10, 10]),
            row(3, [40, 0, 10, 10]),
            row(3, [60, 60, 30, 30], iscrowd=1),
            row(7, [0, 0, 10, 10], image_id=2),
        ]
    )
    results = [
        row(3, [0, 0, 10, 10], score=0.9),  # right
        row(3, [0, 1, 10, 10], score=0.8),  # a second one of the same box
        row(3, [20, 0, 10, 10], score=0.7),  # of another class
        row(7, [70, 70, 9, 9], score=0.6),  # in the crowd
        row(7, [20, 60, 9, 9], score=0.5),  # of nothing
        row(7, [0, 0, 10, 10], image_id=2, score=0.1),  # below the threshold
    ]
    first, second = compared = compare(det.run_coco_eval(truth, results), {3: 0.2, 7: 0.2})
    # rows: 3, 7, no box; columns: 3, 7, not detected
    assert confusion_matrix(compared, [3, 7]).tolist() == [[1, 0, 1], [1, 0, 1], [1, 1, 0]]
    assert first.missed() == [False, True, True, False] and second.missed() == [True]
    assert first.wrong() == [False, True, True, False, True] and second.found == []


@pytest.fixture
def hostile(world, tmp_path) -> Path:
    """The world's validation images with markup in names of files and classes, and detections."""
    data = tmp_path / "data"
    shutil.copytree(world / "coco", data)
    file = data / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    image = content["images"][0]
    (data / "val2017" / image["file_name"]).rename(data / "val2017" / "<b>&.jpg")
    image["file_name"] = "<b>&.jpg"
    content["categories"][0]["name"] = "<script>alert(1)</script> $x_"
    file.write_text(json.dumps(content))
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in content["annotations"]
        if a["image_id"] != image["id"]
    ]
    stray = {"image_id": image["id"], "category_id": content["categories"][0]["id"]}
    results += [stray | {"bbox": [n, 2, 9, 9], "score": 0.95} for n in range(60)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_the_page_is_whole_and_loads_nothing(hostile):
    arguments = ["--results", str(hostile / "results.json"), "--data", str(hostile / "data"), "--report"]
    assert eval_det.main(arguments) == 0
    text = (hostile / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and "script" not in page.tags and "b" not in page.tags
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<script>alert(1)</script>" in page.text and "<b>&.jpg" in page.text
    assert page.links[0].startswith("data:image/png;base64,")
    assert len(page.links) == 3 and page.links[1].startswith("data:image/jpeg;base64,")  # one image has errors
    metrics = json.loads((hostile / "metrics.json").read_text())
    for name in ("AP", "AP50", "AP75", "AR1", "AR10"):
        assert f"{100 * metrics[name]:.2f}" in page.text


def test_a_report_without_images_or_detections_is_written(hostile):
    shutil.rmtree(hostile / "data" / "val2017")
    (hostile / "results.json").write_text("[]")
    arguments = ["--results", str(hostile / "results.json"), "--data", str(hostile / "data"), "--report"]
    with pytest.warns(UserWarning, match="no detections"):
        assert eval_det.main(arguments) == 0
    assert len(Page((hostile / "report.html").read_text()).links) == 1


def test_the_fast_evaluation_scores_alike_and_cannot_report(hostile):
    pytest.importorskip("faster_coco_eval")
    arguments = ["--results", str(hostile / "results.json"), "--data", str(hostile / "data")]
    metrics = []
    for options in ([], ["--fast"]):
        assert eval_det.main([*arguments, *options]) == 0
        metrics.append(json.loads((hostile / "metrics.json").read_text()))
    assert "faster-coco-eval" in metrics[1]["protocol"] and "pycocotools" in metrics[0]["protocol"]
    for name in METRICS:
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=1e-12)
    with pytest.raises(InputError, match="leave one of them out"):
        eval_det.main([*arguments, "--fast", "--report"])
