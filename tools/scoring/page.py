"""What the report pages share: one HTML page that opens offline, its style, tables and images."""

import base64
from html import escape

import cv2
import numpy as np

from tools.scoring.metrics_file import percent

SHOWN_WIDTH = 480
"""Pixels across of an image on a page."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 1040px; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse } th { font-weight: 600; text-align: right } td { text-align: right }
td, th { padding: .15rem .5rem } th:first-child, td:first-child { text-align: left; white-space: nowrap }
.summary td { font-size: 1.3rem; padding-right: 2rem; text-align: left } .summary th { text-align: left; color: #666 }
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


def page(title: str, parts: list[str]) -> str:
    """A whole page of parts that are HTML already."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def header(title: str, means: dict[str, float], facts: dict[str, str]) -> str:
    """The title, the metrics that sum it up, in percent, and what was evaluated and how, as HTML.

    Arguments:
        means: shares from 0 to 1 by name.
        facts: as `metrics_file.Evaluated.facts` gives them.
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    names = "".join(f"<th>{escape(name)}</th>" for name in means)
    values = "".join(f"<td>{percent(value)}</td>" for value in means.values())
    summary = f"<table class=summary><tr>{names}</tr><tr>{values}</tr></table>"
    return f"<h1>{escape(title)}</h1>{summary}<table class=facts>{rows}</table>"


def matrix(row_names: list[str], column_names: list[str], confusion: np.ndarray) -> str:
    """A table of counts, integers [rows, columns], in percent of the row; empty rows and columns are left out."""
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


def data_uri(image_bgr: np.ndarray) -> str:
    """An image, uint8 BGR [H, W, 3], as a JPEG within its own address, no wider than `SHOWN_WIDTH`."""
    scale = min(1.0, SHOWN_WIDTH / image_bgr.shape[1])
    small = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
