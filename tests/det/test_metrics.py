"""COCO's metrics: pycocotools is the reference, and mistakes in ids or formats do not pass as low scores."""

import contextlib
import gc
import io
import json
import warnings

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import det
import det.metrics
from backbone.errors import InputError
from det.metrics import METRICS
from tests.builders.coco_data import CATEGORY_IDS, content, dataset, ground_truth, noisy_results, write


def test_metrics_equal_pycocotools_to_the_last_digit(capsys):
    truth = ground_truth()
    results = noisy_results(truth)
    metrics = det.evaluate(truth, results)
    assert capsys.readouterr().out == ""

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        coco_eval = COCOeval(coco, coco.loadRes([dict(row) for row in results]), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    assert [metrics[name] for name in METRICS] == coco_eval.stats.tolist()
    assert 0.1 < metrics["AP"] < metrics["AP50"] < 1
    classes = [metrics[f"AP/class {category_id}"] for category_id in CATEGORY_IDS]
    assert np.mean(classes) == pytest.approx(metrics["AP"], abs=1e-12)


@pytest.mark.parametrize("case", ["plain", "ties", "some images", "no detections", "crowds only", "no truth"])
def test_the_fast_evaluation_gives_the_same_metrics(case):
    pytest.importorskip("faster_coco_eval")
    truth = ground_truth()
    results = noisy_results(truth)
    image_ids = range(3, 12) if case == "some images" else None
    if case == "ties":
        results = [row | {"score": round(row["score"], 1)} for row in results] * 2
    elif case == "no detections":
        results = []
    elif case == "crowds only":
        for row in truth["annotations"]:
            row["iscrowd"] = 1
    elif case == "no truth":
        truth["annotations"] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "there are no detections")
        fast, slow = (det.evaluate(truth, results, image_ids, fast=fast) for fast in (True, False))
    assert fast == pytest.approx(slow, abs=1e-12)


def test_the_fast_evaluation_is_silent_and_leaves_out_what_is_not_finite(capsys):
    pytest.importorskip("faster_coco_eval")
    truth = ground_truth()
    broken = {"image_id": 1, "category_id": 1, "bbox": [0, float("inf"), 5, 5], "score": 0.5}
    with pytest.warns(UserWarning, match="1 detections are not finite"):
        metrics = det.evaluate(truth, [*noisy_results(truth), broken], fast=True)
    assert metrics == pytest.approx(det.evaluate(truth, noisy_results(truth)), abs=1e-12)
    assert capsys.readouterr().out == ""


def test_without_the_fast_evaluation_it_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setattr(det.metrics, "has_fast", lambda: False)
    with pytest.raises(InputError, match="pip install"):
        det.evaluate(ground_truth(), [], fast=True)


def test_results_are_not_changed_and_files_lacking_fields_are_judged_alike(tmp_path):
    truth = ground_truth(crowds=False)
    results = noisy_results(truth)
    before = json.dumps(results)
    expected = det.evaluate(truth, results)
    assert json.dumps(results) == before
    del truth["info"]
    for row in truth["annotations"]:
        del row["iscrowd"]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    assert det.evaluate(path, results) == expected


def test_only_the_chosen_images_count():
    truth = ground_truth()
    perfect = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 1.0}
        for row in truth["annotations"]
        if row["image_id"] <= 10 and not row["iscrowd"]
    ]
    assert det.evaluate(truth, perfect)["AP"] < 0.8
    assert det.evaluate(truth, perfect, range(1, 11))["AP"] == pytest.approx(1.0)


def test_detections_become_results_with_real_ids_and_xywh():
    found = det.Detections(
        torch.tensor([[1.0, 2, 5, 10], [0, 0, 3, 3]]), torch.tensor([0.75, 0.5]), torch.tensor([2, 1])
    )
    # The second detection is of a class that the annotations do not have.
    assert det.to_results([found], [7], [1, -1, 90]) == [
        {"image_id": 7, "category_id": 90, "bbox": [1.0, 2.0, 4.0, 8.0], "score": 0.75}
    ]


@pytest.mark.parametrize("box", [[-4, 5, 30, 20], [70, 30, 20, 20], [5, 5, 0.5, 20]])
def test_self_check_stays_out_of_images_whose_boxes_are_cleaned(tmp_path, box):
    truth = content()
    truth["annotations"][0]["bbox"] = box
    data = dataset(write(tmp_path, truth))
    det.self_check(data.annotation_file, data)


def test_self_check_accepts_a_file_without_any_box(tmp_path):
    data = dataset(write(tmp_path, content() | {"annotations": []}))
    det.self_check(data.annotation_file, data)


@pytest.mark.parametrize("fast", [False, True])
def test_annotations_may_be_numbered_from_0(fast):
    if fast:
        pytest.importorskip("faster_coco_eval")
    truth = ground_truth()
    expected = det.evaluate(truth, noisy_results(truth), fast=fast)
    for number, row in enumerate(truth["annotations"]):
        row["id"] = number
    assert det.evaluate(truth, noisy_results(truth), fast=fast) == expected


def test_ground_truth_that_is_not_finite_is_refused():
    truth = ground_truth()
    truth["annotations"][4]["bbox"][0] = float("inf")
    with pytest.raises(InputError, match=r"annotations\[4\].bbox"):
        det.load_ground_truth(truth)


@pytest.mark.parametrize(
    "results, message",
    [
        ({}, "must be a list"),
        ([3], r"\[0\] must be an object"),
        ([{"image_id": "1", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}], r"\[0\].image_id"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1], "score": 1}], r"\[0\].bbox"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], r"\[0\].score"),
    ],
)
def test_results_files_of_another_form_are_refused(tmp_path, results, message):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(InputError, match=message) as caught:
        det.read_results(path)
    assert "results.json" in str(caught.value)


def test_the_garbage_collector_is_back_after_reading_and_after_failing(tmp_path):
    for text in ("[]", "[3]"):
        (tmp_path / "results.json").write_text(text)
        with contextlib.suppress(InputError):
            det.read_results(tmp_path / "results.json")
        assert gc.isenabled()


def test_results_files_are_read(tmp_path):
    path = tmp_path / "results.json"
    results = noisy_results(ground_truth())
    path.write_text(json.dumps(results))
    assert det.read_results(path) == results
