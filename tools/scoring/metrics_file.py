"""How an evaluation ends: metrics.json, the report page, and the closing line."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.io.console import console
from tools.io.files import replace_file


@dataclass(frozen=True)
class Evaluated:
    """What was scored, and how."""

    task: str
    source: Path  # weights, or a file or folder of predictions
    data: Path
    split: str
    images: int
    protocol: str
    engine: str | None = None  # what ran the network; None where files were scored

    def facts(self) -> dict[str, str]:
        """What a report says above its tables, by name."""
        data = f"{self.data}, {self.split}, {self.images} images"
        engine = {} if self.engine is None else {"engine": self.engine}
        return {"data": data, "source": str(self.source), **engine, "protocol": self.protocol}


def finish(
    out: Path, evaluated: Evaluated, metrics: Mapping[str, Any], *, summary: str, report: str | None = None
) -> None:
    """Writes metrics.json, and report.html where there is one, into the folder `out` and says so.

    Arguments:
        metrics: as JSON can hold them (see `nested`); they stand beside the protocol and the number of images.
        summary: the metrics that matter most, for the last line.
        report: the page, as HTML.
    """
    content = {
        "task": evaluated.task,
        "source": str(evaluated.source),
        **({} if evaluated.engine is None else {"engine": evaluated.engine}),
        "protocol": evaluated.protocol,
        "split": evaluated.split,
        "images": evaluated.images,
        **metrics,
    }
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(content, indent=1)))
    if report is not None:
        replace_file(out / "report.html", lambda part: part.write_text(report, encoding="utf-8"))
        console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    console.print(f"{summary} on {evaluated.images} images; {out / 'metrics.json'}", soft_wrap=True)


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON can hold them: NaN (a class that does not occur) becomes null."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def nested(metrics: Mapping[str, float]) -> dict[str, float | dict[str, float | None] | None]:
    """Metrics for JSON: `iou/NAME` becomes the entry NAME of `iou`, NaN becomes null."""
    report: dict[str, Any] = {}
    for name, value in finite(metrics).items():
        kind, separator, class_name = name.partition("/")
        if separator:
            report.setdefault(kind, {})[class_name] = value
        else:
            report[name] = value
    return report


def percent(value: float) -> str:
    """A share in percent; nothing for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.2f}"
