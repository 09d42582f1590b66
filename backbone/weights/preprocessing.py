"""The images that published weights expect, and the publisher's name of their network, from the files beside them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from backbone.errors import InputError
from backbone.weights import efficientnet_lite
from backbone.weights.refusals import Source, source_name
from backbone.weights.translation import IMAGENET, INCEPTION, Layout, Triple

TORCHVISION_232 = ("5c1a4163", "7ebf99e0", "7090bc5f", "a4c69d6f")
"""Parts of the names of torchvision's files whose images are resized to 232, not 256, before the crop."""
TIMM_BILINEAR = ("fbnet_c", "single_path_nas")
"""timm's networks that were evaluated with bilinear resizing, as were most with TensorFlow's padding."""
TIMM_LITE = {
    # size and crop_pct of timm's EfficientNet-Lites, which are not always the authors'
    "efficientnet_lite0": (224, 0.875),
    "efficientnet_lite1": (240, 0.882),
    "efficientnet_lite2": (260, 0.89),
    "efficientnet_lite3": (300, 0.904),
    "efficientnet_lite4": (380, 0.92),
}
TIMM_BICUBIC = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Those with TensorFlow's padding that timm evaluates with bicubic resizing."""


class Preprocessing(NamedTuple):
    """How images are resized, cropped and normalised for weights."""

    mean: Triple = IMAGENET[0]  # RGB in 0..1
    std: Triple = IMAGENET[1]
    size: int = 224  # height and width
    crop_pct: float = 0.875  # share of the resized image's shorter side that the central crop keeps
    interpolation: str = "bilinear"  # of resizing, or "bicubic"


def published_preprocessing(layout: Layout, name: str, padding: str | None, source: Source) -> Preprocessing:
    """How images were prepared when a published classifier was evaluated, by layout, file name and config.json.

    Arguments:
        name, padding: of the weights' architecture.

    Raises:
        InputError: config.json beside the file cannot be read or has values of the wrong kind.
    """
    file_name = published_name(source)
    if layout.name == "torchvision":
        shorter = 232 if any(sign in file_name for sign in TORCHVISION_232) else 256
        return Preprocessing(layout.mean, layout.std, crop_pct=224 / shorter)
    if layout.name == efficientnet_lite.NAME:
        size = efficientnet_lite.SIZES.get(name, 224)  # 224 for networks of one's own
        return Preprocessing(layout.mean, layout.std, size, interpolation="bicubic")
    if layout.name != "timm":
        return Preprocessing(layout.mean, layout.std)
    bilinear = (padding == "same" and name not in TIMM_BICUBIC) or name in TIMM_BILINEAR
    mean, std = INCEPTION if padding == "same" or name.startswith("mobilenet_v1") else (layout.mean, layout.std)
    if "_miil" in file_name:
        mean, std, bilinear = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True
    size, crop_pct = TIMM_LITE.get(name, (224, 0.875))
    guessed = Preprocessing(mean, std, size, crop_pct, "bilinear" if bilinear else "bicubic")
    try:
        return _configured(hub_config(source).get("pretrained_cfg", {}), guessed)
    except (TypeError, ValueError) as error:
        config = Path(source_name(source)).parent / "config.json"
        raise InputError(f"{config}: {error}; copy it again or remove it") from error


def _configured(config: dict[str, Any], guessed: Preprocessing) -> Preprocessing:
    """timm's configuration, its test values first; what it lacks is taken from `guessed`.

    Raises:
        TypeError, ValueError: a value is of the wrong kind.
    """
    size = config.get("test_input_size") or config.get("input_size") or (3, guessed.size, guessed.size)
    interpolation = config.get("interpolation", guessed.interpolation)
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation {interpolation!r} is neither bilinear nor bicubic")
    return Preprocessing(
        _triple(config.get("mean", guessed.mean)),
        _triple(config.get("std", guessed.std)),
        int(size[-1]),
        float(config.get("test_crop_pct") or config.get("crop_pct") or guessed.crop_pct),
        interpolation,
    )


def _triple(values: Iterable[float]) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def published_name(source: Source) -> str:
    """The publisher's name of a network, from config.json beside its file or from the file's name; "" if unknown."""
    if isinstance(source, Mapping):
        return ""
    return hub_config(source).get("architecture", Path(source).name)


def hub_config(source: Source) -> dict[str, Any]:
    """The config.json that Hugging Face's hub has beside timm's weights; empty if there is none.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(source, Mapping) or not (path := Path(source).parent / "config.json").is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again or remove it") from error
    return config if isinstance(config, dict) and isinstance(config.get("pretrained_cfg"), dict) else {}
