"""A segmenter's evaluation as one HTML page that opens offline: metrics, confusions, and the worst images."""

import io
import math
from html import escape

import cv2
import numpy as np
from PIL import Image

from backbone.data.images import read_image
from seg.data.dataset import IGNORE, SegDataset
from seg.predictor import SegmentationResult
from tools.scoring.metrics_file import percent
from tools.scoring.page import data_uri, header, matrix, page
from tools.scoring.segmentation import Evaluation, Shown

WRONG_BGR, UNLABELLED_BGR = (60, 60, 230), (0, 0, 0)


TITLE = "Segmentation metrics"


def write_report(facts: dict[str, str], dataset: SegDataset, evaluation: Evaluation) -> str:
    """The page, as HTML.

    Arguments:
        facts: what was evaluated and how, by name.
    """
    return page(TITLE, report_parts(facts, dataset, evaluation))


def report_parts(facts: dict[str, str], dataset: SegDataset, evaluation: Evaluation) -> list[str]:
    """What the page consists of; see `write_report`."""
    metrics = evaluation.metrics
    means = {"mIoU": metrics["miou"], "pixel accuracy": metrics["pixel_accuracy"]}
    means |= {f"official {name}": value for name, value in evaluation.official.items() if "/" not in name}
    parts = [
        header(TITLE, means, facts),
        "<h2>Classes</h2>",
        _classes(dataset, evaluation),
        "<h2>Confusion</h2><p class=note>A row is a class of the labels, a column what was predicted for its pixels, "
        "in percent of the row.</p>",
        matrix(dataset.classes, [*dataset.classes, "none of them"], evaluation.confusion),
    ]
    if evaluation.worst:
        parts.append(
            "<h2>Worst images</h2><p class=note>Errors are red; pixels without a label, which do not count, are black."
            "</p>"
        )
        parts += [_figure(dataset, shown) for shown in evaluation.worst]
    return parts


def _classes(dataset: SegDataset, evaluation: Evaluation) -> str:
    confusion, official = evaluation.confusion, evaluation.official
    labelled, predicted, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    weighted = "miiou" in official
    rows = []
    for label, (name, color) in enumerate(zip(dataset.classes, dataset.colors, strict=True)):
        iou = evaluation.metrics[f"iou/{name}"]
        width = 0 if math.isnan(iou) else 100 * iou
        cells = [
            f'<td><span class=swatch style="background: rgb{tuple(color)}"></span>{escape(name)}</td>',
            f"<td>{'absent' if math.isnan(iou) else percent(iou)}</td>",
            f'<td class=bar><div style="width: {width:.2f}%"></div></td>',
        ]
        if weighted:
            cells.append(f"<td>{percent(official.get(f'iiou/{name}', math.nan))}</td>")
        for total in (labelled[label], predicted[label]):
            cells.append(f"<td>{percent(hits[label] / total) if total else ''}</td>")
        cells.append(f"<td>{100 * labelled[label] / max(1, labelled.sum()):.2f}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<th>class</th><th>IoU %</th><th></th>" + ("<th>iIoU %</th>" if weighted else "")
    head += "<th>recall %</th><th>precision %</th><th>pixels %</th>"
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _figure(dataset: SegDataset, shown: Shown) -> str:
    path = dataset.images[shown.number]
    image = read_image(path)
    labels = dataset.labels_of_image(shown.number)
    predicted = np.asarray(Image.open(io.BytesIO(shown.predicted_png)))
    colors = np.array(dataset.colors, np.uint8)
    drawn = [SegmentationResult(part, dataset.classes, colors).draw(image, 1.0) for part in (labels, predicted)]
    errors = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) // 2 + 64
    errors[labels != predicted] = WRONG_BGR
    errors[labels == IGNORE] = UNLABELLED_BGR
    images = zip(("image", "labels", "prediction", "errors"), (image, *drawn, errors), strict=True)
    cells = "".join(
        f'<div><img alt="{name}" src="{data_uri(shown_image)}">{name}</div>' for name, shown_image in images
    )
    caption = f"{escape(str(path))}: mIoU {percent(shown.miou)} %"
    return f"<figure><figcaption>{caption}</figcaption><div>{cells}</div></figure>"
