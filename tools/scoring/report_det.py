"""A detector's evaluation as one HTML page that opens offline: metrics, curves, confusions, and the worst images."""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from backbone.data.images import read_image
from backbone.errors import InputError
from det.data.annotations import check_file_name
from det.metrics import METRICS, coco_metrics
from det.predictor import draw_box
from tools.scoring.metrics_file import percent
from tools.scoring.page import SHOWN_WIDTH, data_uri, header, matrix, page

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NUM_WORST = 8
IOU = 0.5  # of the F1 scores, the confusion matrix and the worst images
AREAS = ("all", "small, under 32² pixels", "medium", "large, from 96² pixels")
RIGHT_BGR, WRONG_BGR, CROWD_BGR = (80, 170, 60), (60, 60, 230), (150, 150, 150)
NUM_NAMED = 10  # classes, up to which each has a curve of its own color


class BestF1(NamedTuple):
    """Where a class's F1 is highest."""

    f1: float  # 0 without a right detection
    threshold: float  # detections count from this score on; infinite without a right detection
    curve: np.ndarray  # [101] F1 at the thresholds 0, 0.01, … 1; NaN for a class with nothing to find


class Compared(NamedTuple):
    """One image's boxes and detections, paired whatever their classes."""

    image_id: int
    truth: list[dict]  # annotations
    found: list[dict]  # detections at or above their class's threshold, the best first
    owner: list[int]  # for each detection the position in `truth` of its box, or -1
    ignored: list[bool]  # for each detection whether it lies in a crowd, where it is neither right nor wrong

    def wrong(self) -> list[bool]:
        """For each detection, whether it has no box or one of another class."""
        return [
            not ignored and (owner < 0 or self.truth[owner]["category_id"] != row["category_id"])
            for row, owner, ignored in zip(self.found, self.owner, self.ignored, strict=True)
        ]

    def missed(self) -> list[bool]:
        """For each box, whether it has no detection of its class; crowds cannot be missed."""
        pairs = zip(self.found, self.owner, strict=True)
        right = {owner for row, owner in pairs if owner >= 0 and self.truth[owner]["category_id"] == row["category_id"]}
        return [not row["iscrowd"] and position not in right for position, row in enumerate(self.truth)]


def best_f1(coco_eval: COCOeval) -> list[BestF1]:
    """The best F1 at IoU 0.5 of every class, from pycocotools' matches, in the order of `coco_eval.params.catIds`."""
    areas, images = len(coco_eval.params.areaRng), len(coco_eval.params.imgIds)
    grid = np.arange(101) / 100
    results = []
    for position in range(len(coco_eval.params.catIds)):
        first = position * areas * images  # evalImgs runs over classes, areas (all of them first) and images
        found = [row for row in coco_eval.evalImgs[first : first + images] if row is not None]
        num_boxes = sum(int((np.asarray(row["gtIgnore"]) == 0).sum()) for row in found)
        scores = np.concatenate([np.empty(0), *(row["dtScores"] for row in found)])
        right = np.concatenate([np.empty(0, bool), *(row["dtMatches"][0] > 0 for row in found)])
        counted = ~np.concatenate([np.empty(0, bool), *(row["dtIgnore"][0].astype(bool) for row in found)])
        order = np.argsort(-scores[counted], kind="stable")
        scores, right = scores[counted][order], right[counted][order]
        f1 = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + max(1, num_boxes))
        # A threshold takes all detections of a score or none.
        last = np.append(scores[1:] < scores[:-1], True) if len(scores) else np.empty(0, bool)
        scores, f1 = scores[last], f1[last]
        passing = len(scores) - np.searchsorted(scores[::-1], grid, side="left")
        curve = np.where(passing > 0, np.append(0.0, f1)[passing], 0.0)
        if num_boxes == 0:
            results.append(BestF1(0.0, np.inf, np.full(101, np.nan)))
        elif not f1.any():
            results.append(BestF1(0.0, np.inf, curve))
        else:
            results.append(BestF1(float(f1.max()), float(scores[f1.argmax()]), curve))
    return results


def compare(coco_eval: COCOeval, thresholds: dict[int, float]) -> list[Compared]:
    """Pairs boxes and detections image by image: the highest score first takes the free box that it overlaps most.

    Arguments:
        thresholds: by category id, the smallest score of a detection that counts.
    """
    results = []
    for image_id in coco_eval.params.imgIds:
        truth: list[Any] = coco_eval.cocoGt.imgToAnns[image_id]
        rows: list[Any] = coco_eval.cocoDt.imgToAnns[image_id]
        found = sorted(
            (row for row in rows if row["score"] >= thresholds[row["category_id"]]), key=lambda row: -row["score"]
        )
        crowds = [int(row["iscrowd"]) for row in truth]
        owner, ignored = [-1] * len(found), [False] * len(found)
        if truth and found:
            overlap = mask.iou([row["bbox"] for row in found], [row["bbox"] for row in truth], crowds)
            in_crowd = np.asarray(crowds, bool)
            free = ~in_crowd
            for number, overlaps in enumerate(overlap):
                best = int(np.where(free, overlaps, -1).argmax())
                if free[best] and overlaps[best] >= IOU:
                    owner[number], free[best] = best, False
                else:
                    ignored[number] = bool((overlaps[in_crowd] >= IOU).any())
        results.append(Compared(image_id, truth, found, owner, ignored))
    return results


def confusion_matrix(compared: list[Compared], category_ids: list[int]) -> np.ndarray:
    """Counts boxes and detections by class.

    Arguments:
        category_ids: the K classes, in the order of rows and columns.

    Returns:
        int64 [K + 1, K + 1]: rows by the class of the box, columns by that of the detection matched to it; the last
        row counts detections without a box, the last column boxes without a detection.
    """
    position = {category_id: number for number, category_id in enumerate(category_ids)}
    counts = np.zeros((len(position) + 1, len(position) + 1), np.int64)
    for image in compared:
        for row, owner, ignored in zip(image.found, image.owner, image.ignored, strict=True):
            if not ignored:
                box = position[image.truth[owner]["category_id"]] if owner >= 0 else -1
                counts[box, position[row["category_id"]]] += 1
        for number, row in enumerate(image.truth):
            if not row["iscrowd"] and number not in image.owner:
                counts[position[row["category_id"]], -1] += 1
    return counts


TITLE = "Detection metrics"


def write_report(facts: dict[str, str], coco_eval: COCOeval, folder: Path) -> str:
    """The page, as HTML.

    Arguments:
        facts: what was evaluated and how, by name.
        coco_eval: as `det.run_coco_eval` returned it, without `fast`.
        folder: of the images; those that are not there are not shown.
    """
    return page(TITLE, report_parts(facts, coco_eval, folder))


def report_parts(facts: dict[str, str], coco_eval: COCOeval, folder: Path) -> list[str]:
    """What the page consists of; see `write_report`."""
    metrics, category_ids = coco_metrics(coco_eval), list(coco_eval.params.catIds)
    names = [coco_eval.cocoGt.cats[category_id]["name"] for category_id in category_ids]
    best = best_f1(coco_eval)
    finite = [row.threshold for row in best if np.isfinite(row.threshold)]
    usual = float(np.median(finite)) if finite else 0.0  # for classes without a right detection
    thresholds = {
        category_id: row.threshold if np.isfinite(row.threshold) else usual
        for category_id, row in zip(category_ids, best, strict=True)
    }
    compared = compare(coco_eval, thresholds)
    shown = {name: metrics[name] for name in ("AP", "AP50", "AP75", "AR100")}
    parts = [
        header(TITLE, {name: _known(value) for name, value in shown.items()}, facts),
        "<h2>COCO's metrics</h2>",
        _means(coco_eval, metrics),
        "<h2>Classes</h2><p class=note>The best F1 at IoU 0.5, and the score threshold that gives it.</p>",
        _classes(coco_eval, names, metrics, best),
        "<h2>Precision and recall</h2>",
        _curves(coco_eval, names, best),
        "<h2>Confusion</h2><p class=note>A row is the class of a box, a column that of the detection matched to it at "
        "IoU 0.5, in percent of the row. Detections count from their class's threshold on, or from the median one. The "
        "last row counts detections without a box, the last column boxes without a detection.</p>",
        matrix([*names, "no box"], [*names, "not detected"], confusion_matrix(compared, category_ids)),
    ]
    errors = {image.image_id: sum(image.missed()) + sum(image.wrong()) for image in compared}
    worst = sorted((p for p in compared if errors[p.image_id]), key=lambda p: (-errors[p.image_id], p.image_id))
    drawn = [text for image in worst[:NUM_WORST] if (text := _image(coco_eval, image, folder))]
    if drawn:
        parts.append(
            "<h2>Worst images</h2><p class=note>Those with the most missed boxes and wrong detections. Left: "
            "annotations, missed ones red, crowds grey. Right: detections, red without a box or of another class.</p>"
        )
        parts += drawn
    return parts


def _known(value: float) -> float:
    return np.nan if value < 0 else value


def _means(coco_eval: COCOeval, metrics: dict[str, float]) -> str:
    """The twelve metrics, those by size beside how many boxes there are of it."""
    counts = []
    for low, high in coco_eval.params.areaRng:
        rows = (row for image_id in coco_eval.params.imgIds for row in coco_eval.cocoGt.imgToAnns[image_id])
        counts.append(sum(not row["iscrowd"] and low <= row["area"] <= high for row in rows))
    rows = [("AP", "AR100"), ("APs", "ARs"), ("APm", "ARm"), ("APl", "ARl")]
    lines = [
        f"<tr><td>{area}</td><td>{count}</td>{_cells(metrics, row)}</tr>"
        for area, count, row in zip(AREAS, counts, rows, strict=True)
    ]
    others = [name for name in METRICS if name not in sum(rows, ())]
    head = "".join(f"<th>{name} %</th>" for name in others)
    return (
        f"<table><tr><th>size</th><th>boxes</th><th>AP %</th><th>AR %</th></tr>{''.join(lines)}</table>"
        f"<p></p><table><tr>{head}</tr><tr>{_cells(metrics, others)}</tr></table>"
    )


def _cells(metrics: dict[str, float], names: Iterable[str]) -> str:
    return "".join(f"<td>{percent(_known(metrics[name]))}</td>" for name in names)


def _classes(coco_eval: COCOeval, names: list[str], metrics: dict[str, float], best: list[BestF1]) -> str:
    counts = dict.fromkeys(coco_eval.params.catIds, 0)
    for image_id in coco_eval.params.imgIds:
        for row in coco_eval.cocoGt.imgToAnns[image_id]:
            counts[row["category_id"]] += not row["iscrowd"]
    rows = []
    for name, count, row in zip(names, counts.values(), best, strict=True):
        ap = _known(metrics[f"AP/{name}"])
        known = np.isfinite(row.threshold)
        cells = [
            f"<td>{escape(name)}</td><td>{'absent' if np.isnan(ap) else percent(ap)}</td>",
            f'<td class=bar><div style="width: {100 * np.nan_to_num(ap):.2f}%"></div></td>',
            f"<td>{percent(row.f1) if count else ''}</td><td>{f'{row.threshold:.3f}' if known else ''}</td>",
            f"<td>{count}</td>",
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<th>class</th><th>AP %</th><th></th><th>best F1 %</th><th>from score</th><th>boxes</th>"
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _curves(coco_eval: COCOeval, names: list[str], best: list[BestF1]) -> str:
    """Curves of each class and of the mean: precision over recall and F1 over the score threshold, as an image."""
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class] of all areas and 100 detections
    present = [number for number in range(len(names)) if (precision[:, :, number] > -1).all()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.2), layout="constrained")
    recall, thresholds = coco_eval.params.recThrs, np.arange(101) / 100
    named = len(present) <= NUM_NAMED
    for order, number in enumerate(present):
        style = {"color": f"C{order}" if named else "0.8", "linewidth": 1.2 if named else 0.6}
        # A $ would begin a formula.
        label = names[number].replace("$", r"\$") if named else None
        left.plot(recall, precision[0, :, number], label=label, **style)
        right.plot(thresholds, best[number].curve, label=label, **style)
    if present:
        for position, name, dashes in ((0, "mean, IoU 0.50", "-"), (5, "mean, IoU 0.75", "--")):
            left.plot(recall, precision[position][:, present].mean(1), dashes, color="k", linewidth=1.8, label=name)
        mean = precision[:, :, present].mean((0, 2))
        left.plot(recall, mean, ":", color="k", linewidth=1.8, label="mean, IoU 0.50 to 0.95")
        curve = np.mean([best[number].curve for number in present], axis=0)
        peak = int(curve.argmax())
        text = f"mean, best {100 * curve[peak]:.1f} % from score {thresholds[peak]:.2f}"
        right.plot(thresholds, curve, color="k", linewidth=1.8, label=text)
        for axis in (left, right):
            axis.legend(fontsize="x-small")
    left.set(xlabel="recall", ylabel="precision (classes: IoU 0.5)", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="score threshold", ylabel="F1 at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=130)
    plt.close(figure)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="curves" style="width: 100%" src="data:image/png;base64,{data}">'


def _image(coco_eval: COCOeval, compared: Compared, folder: Path) -> str:
    """An image twice, with its boxes and with its detections; nothing if it cannot be read."""
    file_name = coco_eval.cocoGt.imgs[compared.image_id]["file_name"]
    try:
        image = read_image(check_file_name(file_name, folder.resolve(), "image"))
    except InputError:
        return ""
    scale = SHOWN_WIDTH / image.shape[1]
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    names = {category_id: row["name"] for category_id, row in coco_eval.cocoGt.cats.items()}
    truth, found = small.copy(), small.copy()
    missed, wrong = compared.missed(), compared.wrong()
    for row, bad in zip(compared.truth, missed, strict=True):
        color = CROWD_BGR if row["iscrowd"] else WRONG_BGR if bad else RIGHT_BGR
        draw_box(truth, _edges(row) * scale, names[row["category_id"]], color)
    for row, bad, ignored in reversed(list(zip(compared.found, wrong, compared.ignored, strict=True))):
        color = CROWD_BGR if ignored else WRONG_BGR if bad else RIGHT_BGR
        draw_box(found, _edges(row) * scale, f"{names[row['category_id']]} {row['score']:.2f}", color)
    pairs = zip(("annotations", "detections"), (truth, found), strict=True)
    images = "".join(f'<img alt="{name}" title="{name}" src="{data_uri(drawn)}">' for name, drawn in pairs)
    caption = f"{escape(file_name)}: {sum(missed)} missed, {sum(wrong)} wrong"
    return f"<figure><figcaption>{caption}</figcaption><div>{images}</div></figure>"


def _edges(row: dict) -> np.ndarray:
    x, y, width, height = row["bbox"]
    return np.array([x, y, x + width, y + height])
