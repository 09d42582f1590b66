"""The tables of all boxes, COCO's results and CSV, and of all segments, COCO's panoptic json."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from det.data.coco import ABSENT
from tools.io.files import replace_file
from tools.predicting.items import Item

COLUMNS = ("time", "frame", "image", "x0", "y0", "x1", "y1", "class", "score", "track")
Found = Iterable[tuple[Item, dict[str, Any]]]
"""Images with their records, in order."""


def write_json(path: Path, found: Found, category_ids: Sequence[int]) -> None:
    """COCO's results: boxes xywh in pixels; with the image's name, and of a video, frame, time in s and track."""
    rows = []
    for item, record in found:
        tracks = record.get("tracks", [None] * len(record["boxes"]))
        for (x0, y0, x1, y1), score, label, track in zip(
            record["boxes"], record["scores"], record["labels"], tracks, strict=True
        ):
            if category_ids[label] == ABSENT:  # the data set's file has no such class, so it has no id
                continue
            bbox = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            row = {"image_id": item.image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}
            row["file_name"] = item.name
            if item.frame is not None:
                row |= {"frame": item.frame, "time": round(item.seconds or 0.0, 6)}
            if track is not None:
                row["track"] = track
            rows.append(json.dumps(row, ensure_ascii=False))
    text = "[" + ",\n".join(rows) + "]\n"
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_csv(path: Path, found: Found, classes: Sequence[str]) -> None:
    """One row per box, edges in pixels, time in s; time and frame are empty for images, track without a tracker."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item, record in found:
        place = ["", ""] if item.frame is None else [round(item.seconds or 0.0, 6), item.frame]
        tracks = record.get("tracks", [""] * len(record["boxes"]))
        for box, score, label, track in zip(record["boxes"], record["scores"], record["labels"], tracks, strict=True):
            writer.writerow([*place, item.name, *box, classes[label], score, track])
    replace_file(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))


def write_panoptic(path: Path, found: Found, categories: Sequence[dict[str, Any]]) -> None:
    """COCO's panoptic json of the PNGs in the folder `panoptic`, whose pixels are R + 256 G + 65536 B of the ids."""
    images, annotations = [], []
    for item, record in found:
        images.append({"id": item.image_id, "file_name": item.name})
        annotations.append(
            {"image_id": item.image_id, "file_name": f"{item.stem}.png", "segments_info": record["segments"]}
        )
    content = {"images": images, "annotations": annotations, "categories": list(categories)}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
