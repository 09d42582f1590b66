"""The description in a weights file's header: older formats are translated, newer and damaged ones refused."""

import json

import pytest

from backbone import InputError
from backbone.weights.description import FORMAT, KEY, read_header, write_header


def header(description: object) -> dict[str, str]:
    return {KEY: json.dumps(description)}


def test_a_description_comes_back_as_it_was_written():
    described = {"task": "detection", "model": {"head_channels": 128}, "metrics": {"AP": 0.2}}
    assert json.loads(write_header(described)[KEY])["format"] == FORMAT
    assert read_header(write_header(described), "file") == described


def test_a_header_without_a_description_gives_none():
    assert read_header(None, "file") == read_header({"author": "someone"}, "file") == {}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"filters": 256, "alignment": "corners"}, {"head_channels": 256, "align_corners": True}),
        ({"head": "raspp", "alignment": "centres"}, {"head": "raspp", "align_corners": False}),
        (
            {"backbone": "mobilenet_v3_small_squeeze_first", "filters": None},
            {"backbone": "mobilenet_v3_small_se_before_activation", "head_channels": None},
        ),
        (
            {"name": "mobilenet_v3_large_squeeze_first", "width": 0.5},
            {"name": "mobilenet_v3_large_se_before_activation", "width": 0.5},
        ),
    ],
)
def test_a_description_of_format_0_is_read_in_todays_words(model, expected):
    old = {"task": "segmentation", "model": model, "scores": {"miou": 0.7}}
    new = {"task": "segmentation", "model": expected, "metrics": {"miou": 0.7}}
    assert read_header(header(old), "file") == new


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"format": FORMAT + 1}, rf"weights: was written by a newer taproot \(format {FORMAT + 1}; .*update taproot"),
        ({"format": "x"}, "weights: format 'x' of its header is no number"),
        ([], "weights: the description in its header cannot be read"),
        ({"model": "large"}, "weights: the description in its header cannot be read"),
    ],
)
def test_a_newer_or_damaged_description_is_refused_in_a_line(description, message):
    with pytest.raises(InputError, match=message) as caught:
        read_header(header(description), "weights")
    assert "\n" not in str(caught.value)
