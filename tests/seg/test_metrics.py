"""mIoU equals the official Cityscapes evaluator's."""

import numpy as np
import pytest
from PIL import Image

from seg import metrics
from seg.data.cityscapes import LABEL_ID_OF_TRAIN_ID, NAMES
from seg.metrics import confusion_matrix, iou_metrics


def maps(seed: int, classes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.choice([*classes, 255], (64, 128)).astype(np.uint8)
    predictions = np.where(random.random((64, 128)) < 0.6, labels, random.integers(0, 19, (64, 128))).astype(np.uint8)
    predictions[predictions == 255] = 0
    return labels, predictions


@pytest.mark.parametrize("shape", [(64, 128), (31, 47), (1, 3), (0, 5)])
@pytest.mark.parametrize("step", [metrics.STEP, 50])
def test_counts_equal_bincount(monkeypatch, shape, step):
    monkeypatch.setattr(metrics, "STEP", step)
    labels, predictions = (array[: shape[0], : shape[1]] for array in maps(0, list(range(19))))
    valid = labels != 255
    expected = np.bincount(labels[valid].astype(int) * 20 + predictions[valid], minlength=19 * 20).reshape(19, 20)
    assert (confusion_matrix(labels, predictions, 19) == expected).all()


def test_predictions_outside_the_classes_are_wrong():
    labels, predictions = np.zeros((2, 2), np.uint8), np.array([[0, 255], [19, 0]], np.uint8)
    counts = confusion_matrix(labels, predictions, 19)
    assert counts[0, 0] == 2 and counts[0, 19] == 2
    assert iou_metrics(counts, NAMES)["iou/road"] == 0.5


def test_metrics_equal_the_official_evaluator(tmp_path):
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    present = [0, 1, 2, 8, 11, 13]  # the other classes are absent from the labels, not from the predictions
    files, total = [], np.zeros((19, 20), np.int64)
    for number in range(3):
        labels, predictions = maps(number, present)
        total += confusion_matrix(labels, predictions, 19)
        pair = tmp_path / f"{number}_labels.png", tmp_path / f"{number}_predictions.png"
        for path, train_ids in zip(pair, (labels, predictions), strict=True):
            Image.fromarray(LABEL_ID_OF_TRAIN_ID[train_ids]).save(path)
        files.append(pair)
    official.args.quiet = True
    official.args.evalInstLevelScore = False
    official.args.JSONOutput = False
    official.args.evalPixelAccuracy = False
    result = official.evaluateImgLists([str(p) for _, p in files], [str(g) for g, _ in files], official.args)
    found = iou_metrics(total, NAMES)
    for train_id in present:
        assert found[f"iou/{NAMES[train_id]}"] == pytest.approx(result["classScores"][NAMES[train_id]], abs=1e-12)
    assert np.isnan(found["iou/train"])
    assert found["miou"] == pytest.approx(np.mean([found[f"iou/{NAMES[i]}"] for i in present]), abs=1e-12)


def test_no_labelled_pixel_is_not_a_score():
    nothing = confusion_matrix(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8), 19)
    assert np.isnan(iou_metrics(nothing, NAMES)["miou"])
