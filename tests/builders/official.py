"""Cityscapes' own evaluation, to compare with."""

import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from seg.data.cityscapes import Cityscapes


@pytest.fixture(autouse=True)
def old_name(monkeypatch):
    """The official script calls a function by a name that NumPy has dropped since."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)


def official_scores(labels: list[Path], predictions: Path, *, instances: bool = True) -> dict:
    """The official metrics, with its own search for the prediction of each label file."""
    options = Namespace(**vars(official.args))
    options.quiet, options.JSONOutput, options.evalPixelAccuracy = True, False, False
    options.evalInstLevelScore = instances
    options.predictionPath, options.predictionWalk = str(predictions), None
    files = [str(path) for path in labels]
    return official.evaluateImgLists([official.getPrediction(options, file) for file in files], files, options)


def assert_official(ours: dict, dataset: Cityscapes, predictions: Path) -> None:
    """Our metrics, nested as metrics.json has them or flat, equal the official ones, and nothing is left out."""
    labels = [Path(str(path).replace("_polygons.json", "_labelIds.png")) for path in dataset.labels]
    theirs = official_scores(labels, predictions)
    means = {
        "miou": "averageScoreClasses",
        "miiou": "averageScoreInstClasses",
        "category_miou": "averageScoreCategories",
        "category_miiou": "averageScoreInstCategories",
    }
    expected = {name: theirs[key] for name, key in means.items()}
    lists = {
        "iou": "classScores",
        "iiou": "classInstScores",
        "category_iou": "categoryScores",
        "category_iiou": "categoryInstScores",
    }
    flat = {name: value for name, value in ours.items() if not isinstance(value, dict)}
    for kind, values in ours.items():
        if isinstance(values, dict):
            flat |= {f"{kind}/{name}": math.nan if value is None else value for name, value in values.items()}
    for kind, key in lists.items():
        for name, value in theirs[key].items():
            if f"{kind}/{name}" in flat:
                expected[f"{kind}/{name}"] = value
            else:
                assert math.isnan(value)
    assert flat == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)
    assert len(flat) == 4 + 19 + 8 + 7 + 2
