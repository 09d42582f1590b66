"""A segmenter's evaluation as one HTML page that opens offline, and what the detector's (report_det) shares with it."""

import base64
import math
from html import escape
from typing import NamedTuple

import cv2
import numpy as np

from backbone.data.images import read_image
from seg.data.dataset import IGNORE, SegDataset
from seg.predictor import SegmentationResult

SHOWN_WIDTH = 480
WRONG_BGR, UNLABELLED_BGR = (60, 60, 230), (0, 0, 0)

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 1040px; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse } th { font-weight: 600; text-align: right } td { text-align: right }
td, th { padding: .15rem .5rem } th:first-child, td:first-child { text-align: left; white-space: nowrap }
.figures td { font-size: 1.3rem; padding-right: 2rem; text-align: left } .figures th { text-align: left; color: #666 }
.facts td, .facts th { text-align: left; vertical-align: top } .facts th { color: #666; padding-right: 1rem }
.bar { width: 22rem } .bar div { height: .8rem; background: #2f7a8c; border-radius: 2px }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; border: 1px solid #0003 }
.wide { overflow-x: auto } .matrix td, .matrix th { font-size: 11px; padding: .1rem .25rem }
.matrix th.column { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left }
figure { margin: 1rem 0 } figure div div { color: #666; font-size: 12px }
figure > div { display: grid; grid-template-columns: 1fr 1fr; gap: 4px }
figure img { width: 100%; display: block } figcaption { color: #444; margin-bottom: .3rem; overflow-wrap: anywhere }
p.note { color: #666 }
"""


class Shown(NamedTuple):
    """An image that the report shows."""

    score: float  # mean IoU over the classes in its labels
    number: int  # in the data set
    predicted_png: bytes  # labels, uint8 [H, W], as a PNG


def write_report(
    *,
    facts: dict[str, str],
    scores: dict[str, float],
    official: dict[str, float],
    confusion: np.ndarray,
    dataset: SegDataset,
    worst: list[Shown],
) -> str:
    """The page, as HTML.

    Arguments:
        facts: what was evaluated and how, by name.
        scores: `miou`, `pixel_accuracy` and `iou/NAME`, as `seg.metrics.iou_scores` gives them.
        official: as `seg.cityscapes_scores.cityscapes_scores` gives them, or empty.
        confusion: int64 [K, K + 1], rows by label.
        worst: the images to show, in this order.
    """
    title = "Segmentation scores"
    means = {"mIoU": scores["miou"], "pixel accuracy": scores["pixel_accuracy"]}
    means |= {f"official {name}": value for name, value in official.items() if "/" not in name}
    parts = [
        header(title, means, facts),
        "<h2>Classes</h2>",
        _classes(dataset, scores, official, confusion),
        "<h2>Confusion</h2><p class=note>A row is a class of the labels, a column what was predicted for its pixels, "
        "in percent of the row.</p>",
        matrix(dataset.classes, [*dataset.classes, "none of them"], confusion),
    ]
    if worst:
        parts.append(
            "<h2>Worst images</h2><p class=note>Errors are red; what has no label, and does not count, is black.</p>"
        )
        parts += [_figure(dataset, shown) for shown in worst]
    return page(title, parts)


def page(title: str, parts: list[str]) -> str:
    """A whole page of parts that are HTML already."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def header(title: str, means: dict[str, float], facts: dict[str, str]) -> str:
    """The title, the figures that sum it up, shares shown in percent, and what was evaluated and how."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    names = "".join(f"<th>{escape(name)}</th>" for name in means)
    values = "".join(f"<td>{percent(value)}</td>" for value in means.values())
    figures = f"<table class=figures><tr>{names}</tr><tr>{values}</tr></table>"
    return f"<h1>{escape(title)}</h1>{figures}<table class=facts>{rows}</table>"


def _classes(dataset: SegDataset, scores: dict[str, float], official: dict[str, float], confusion: np.ndarray) -> str:
    labelled, predicted, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    weighted = "miiou" in official
    rows = []
    for label, (name, color) in enumerate(zip(dataset.classes, dataset.colors, strict=True)):
        iou = scores[f"iou/{name}"]
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


def matrix(row_names: list[str], column_names: list[str], confusion: np.ndarray) -> str:
    """Counts `[rows, columns]` in percent of the row, without the rows and columns that are empty."""
    shown_rows = np.flatnonzero(confusion.sum(1))
    shown_columns = np.flatnonzero(confusion.sum(0))
    head = "".join(f"<th class=column>{escape(column_names[column])}</th>" for column in shown_columns)
    rows = []
    for row in shown_rows:
        cells = []
        for column in shown_columns:
            share = confusion[row, column] / confusion[row].sum()
            color = "47, 122, 140" if row == column else "210, 70, 60"
            text = f"{100 * share:.1f}" if share >= 0.0005 else ""
            cells.append(f'<td style="background: rgba({color}, {share:.3f})">{text}</td>')
        rows.append(f"<tr><td>{escape(row_names[row])}</td>{''.join(cells)}</tr>")
    return f"<div class=wide><table class=matrix><tr><th></th>{head}</tr>{''.join(rows)}</table></div>"


def _figure(dataset: SegDataset, shown: Shown) -> str:
    path = dataset.images[shown.number]
    image = read_image(path)
    labels = dataset.read_labels(dataset.labels[shown.number])
    predicted = cv2.imdecode(np.frombuffer(shown.predicted_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    colors = np.array(dataset.colors, np.uint8)
    drawn = [SegmentationResult(part, dataset.classes, colors).draw(image, 1.0) for part in (labels, predicted)]
    errors = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) // 2 + 64
    errors[labels != predicted] = WRONG_BGR
    errors[labels == IGNORE] = UNLABELLED_BGR
    images = zip(("image", "labels", "prediction", "errors"), (image, *drawn, errors), strict=True)
    cells = "".join(
        f'<div><img alt="{name}" src="{data_uri(shown_image)}">{name}</div>' for name, shown_image in images
    )
    caption = f"{escape(str(path))}: mIoU {percent(shown.score)} %"
    return f"<figure><figcaption>{caption}</figcaption><div>{cells}</div></figure>"


def data_uri(image_bgr: np.ndarray) -> str:
    """An image, shrunk to what the page shows, as the address of itself."""
    scale = min(1.0, SHOWN_WIDTH / image_bgr.shape[1])
    small = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def percent(value: float) -> str:
    """A share in percent; nothing for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.2f}"
