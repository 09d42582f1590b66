"""COCO's twelve detection metrics and the AP of each class, by pycocotools or, faster, by faster-coco-eval."""

import contextlib
import importlib.util
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbone.errors import InputError
from det.data.annotations import check_annotations, read_annotations, without_collector
from det.data.coco import ABSENT, MIN_BOX_SIDE, CocoDetection
from det.data.transforms import CROWD
from det.postprocess import Detections

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In pycocotools' order: AP, over IoU 0.5 to 0.95, at 0.5, at 0.75, of small, medium and large objects; then average
recall with 1, 10 and 100 detections, and of small, medium and large objects."""

MAX_DETECTIONS = 100
"""Of a class in an image, that pycocotools considers; the self-check avoids images with more objects."""
SELF_CHECK_IMAGES = 100


def load_ground_truth(source: str | Path | dict) -> COCO:
    """Indexes COCO annotations for `evaluate`, filling in fields that pycocotools needs and some files lack.

    An annotation of id 0 gets another one: pycocotools counts a detection matched to id 0 as unmatched.

    Arguments:
        source: the annotation file, or its content.

    Raises:
        InputError: as `det.data.annotations.read_annotations`, and for a box that is not finite.
    """
    if isinstance(source, dict):
        content, name = source, "ground truth"
        check_annotations(content, name)
    else:
        content, name = read_annotations(source), str(source)
    annotations = []
    unused = 1 + max((row["id"] for row in content["annotations"]), default=0)
    for number, row in enumerate(content["annotations"]):
        if not all(map(math.isfinite, row["bbox"])):
            raise InputError(f"{name}: annotations[{number}].bbox is not finite; remove the annotation")
        annotations.append({"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0} | row | {"id": row["id"] or unused})
    coco: Any = COCO()  # whose stubs allow no dataset to be set
    coco.dataset = {"info": {}} | content | {"annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def to_results(detections: Iterable[Detections], image_ids: Iterable[int], category_ids: Sequence[int]) -> list[dict]:
    """Detections in COCO's results format: the annotation file's category ids, boxes xywh in the images' own pixels.

    Arguments:
        detections: of each image; boxes [n, 4] xyxy, scores [n] and labels [n].
        image_ids: of the same images.
        category_ids: by label, as `CocoDetection` has them. Detections of a class that the annotations do not have
            (id -1) cannot be scored and are left out.
    """
    results = []
    for found, image_id in zip(detections, image_ids, strict=True):
        boxes = found.boxes.cpu().double()
        boxes_xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
        for box, score, label in zip(boxes_xywh, found.scores.tolist(), found.labels.tolist(), strict=True):
            if category_ids[label] != ABSENT:
                row = {"image_id": int(image_id), "category_id": category_ids[label], "bbox": box, "score": score}
                results.append(row)
    return results


def has_fast() -> bool:
    """Whether faster-coco-eval is installed, which `evaluate` and `run_coco_eval` can use."""
    return importlib.util.find_spec("faster_coco_eval") is not None


def evaluate(
    ground_truth: COCO | str | Path | dict,
    results: list[dict],
    image_ids: Iterable[int] | None = None,
    *,
    fast: bool = False,
) -> dict[str, float]:
    """COCO's metrics (`METRICS`) and `AP/NAME` for each class, all 0 to 1, or -1 where there is nothing to find.

    Arguments, warnings and errors are those of `run_coco_eval`.
    """
    return coco_metrics(run_coco_eval(ground_truth, results, image_ids, fast=fast))


@without_collector()
def run_coco_eval(
    ground_truth: COCO | str | Path | dict,
    results: list[dict],
    image_ids: Iterable[int] | None = None,
    *,
    fast: bool = False,
) -> COCOeval:
    """Runs pycocotools' evaluation; `coco_metrics` reads the result.

    Detections that are not finite are left out and an empty list scores 0, both with a warning.

    Arguments:
        ground_truth: from `load_ground_truth`, or what that takes.
        results: detections in COCO's results format; not changed.
        image_ids: score these images only; all of the ground truth by default.
        fast: count with faster-coco-eval, which is several times faster; metrics are equal to 1e-12, as it rounds
            precisions differently in the last bit. It leaves `evalImgs` empty.

    Returns:
        pycocotools' object after `evaluate`, `accumulate` and `summarize`: `stats`, `eval["precision"]` and the like.

    Raises:
        InputError: an image or category id is not in the ground truth, or faster-coco-eval is not installed.
    """
    if fast and not has_fast():
        raise InputError(
            "the fast evaluation needs faster-coco-eval; pip install 'faster-coco-eval>=1.6.5', or go without"
        )
    truth = ground_truth if isinstance(ground_truth, COCO) else load_ground_truth(ground_truth)
    chosen = sorted(truth.imgs if image_ids is None else {int(image_id) for image_id in image_ids})
    for what, known, asked in (
        ("image_id", truth.imgs, chosen),
        ("image_id", truth.imgs, {row["image_id"] for row in results}),
        ("category_id", truth.cats, {row["category_id"] for row in results}),
    ):
        foreign = [value for value in asked if value not in known]
        if foreign:
            raise InputError(
                f"detections: {what} {', '.join(map(str, foreign[:3]))} is not in the ground truth; are the real ids "
                "written, of the same annotation file?"
            )
    finite = [row for row in results if all(map(math.isfinite, (*row["bbox"], row["score"])))]
    if len(finite) < len(results):
        warnings.warn(f"{len(results) - len(finite)} detections are not finite and were left out", stacklevel=3)
    if not finite:
        warnings.warn("there are no detections: every metric is 0", stacklevel=3)

    with contextlib.redirect_stdout(io.StringIO()):
        found = _results_index(truth, finite)
        coco_eval = _fast_coco_eval(truth, found) if fast else COCOeval(truth, found, "bbox")
        coco_eval.params.imgIds = chosen
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def coco_metrics(coco_eval: COCOeval) -> dict[str, float]:
    """What `evaluate` returns, from what `run_coco_eval` returned."""
    metrics = {name: float(value) for name, value in zip(METRICS, coco_eval.stats, strict=True)}
    # precision is [IoU, recall, class, area, maximal detections]: all areas, 100 detections.
    for position, category_id in enumerate(coco_eval.params.catIds):
        precision = coco_eval.eval["precision"][:, :, position, 0, -1]
        known = precision[precision > -1]
        metrics[f"AP/{coco_eval.cocoGt.cats[category_id]['name']}"] = float(known.mean()) if known.size else -1.0
    return metrics


def _fast_coco_eval(truth: Any, found: Any) -> Any:
    from faster_coco_eval import COCOeval_faster

    return COCOeval_faster(truth, found, "bbox", print_function=print)


def _results_index(truth: COCO, results: list[dict]) -> COCO:
    """What `loadRes` makes of results, which are not changed; `loadRes` itself fails on an empty list."""
    index: Any = COCO()
    index.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [
            row | {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for number, row in enumerate(results, start=1)
        ],
    }
    index.createIndex()
    return index


def self_check(ground_truth: COCO | str | Path | dict, dataset: CocoDetection) -> None:
    """Scores a data set's own boxes as if they had been detected, through `to_results` and `evaluate`: AP must be 1.

    It is not when category ids, image ids or box formats are mixed up, which otherwise only looks like a bad model.
    Takes the first hundred images whose boxes the data set neither clips nor drops.

    Raises:
        InputError: the AP is another, which the message says.
    """
    truth = ground_truth if isinstance(ground_truth, COCO) else load_ground_truth(ground_truth)
    detections, image_ids = [], []
    for index, image_id in enumerate(dataset.image_ids):
        rows = [row for row in truth.imgToAnns[image_id] if not row["iscrowd"]]
        if not 1 <= len(rows) <= MAX_DETECTIONS:
            continue
        boxes = np.array([row["bbox"] for row in rows])
        size_wh = truth.imgs[image_id]["width"], truth.imgs[image_id]["height"]
        if boxes.min() < 0 or boxes[:, 2:].min() < MIN_BOX_SIDE or (boxes[:, :2] + boxes[:, 2:] > size_wh).any():
            continue
        mine = slice(dataset.first[index], dataset.first[index + 1])
        objects = dataset.labels[mine] != CROWD
        read, labels = (torch.from_numpy(part[mine][objects]) for part in (dataset.boxes, dataset.labels))
        detections.append(Detections(read, torch.ones(len(read)), labels))
        image_ids.append(image_id)
        if len(image_ids) == SELF_CHECK_IMAGES:
            break
    if not image_ids:
        return
    found = evaluate(truth, to_results(detections, image_ids, dataset.category_ids), image_ids)["AP"]
    if found < 0.999:
        raise InputError(
            f"self-check: the ground truth given as detections has AP {found:.4f} instead of 1; "
            "category ids or box formats are mixed up"
        )
