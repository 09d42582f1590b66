"""Further augmentation by albumentations: its transforms by name from a config, or any `A.Compose` of a caller."""

import difflib
import inspect
import os
import random
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import InputError

# albumentations takes two seconds to import (it brings torch) and is imported only where something is to be applied.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version

if TYPE_CHECKING:
    import albumentations as A

IGNORE = 255
"""What masks hold where a transform leaves nothing of the image: no class."""
MIN_VISIBILITY = 0.25
"""Boxes of which less is left in the image go, as a box whose center stays inside shows at least a quarter."""

WEATHER = (
    *("RandomRain", "RandomFog", "RandomSnow", "RandomSunFlare"),
    *("RandomShadow", "PlasmaShadow", "RandomGravel", "Spatter"),
)
NOISE = ("GaussNoise", "ISONoise", "ShotNoise", "MultiplicativeNoise", "AdditiveNoise", "SaltAndPepper")
BLUR = (
    *("Blur", "GaussianBlur", "MedianBlur", "MotionBlur"),
    *("AdvancedBlur", "Defocus", "GlassBlur", "ZoomBlur"),
)
CAMERA = (
    *("ImageCompression", "Downscale", "ChromaticAberration", "Illumination"),
    *("RingingOvershoot", "Sharpen", "UnsharpMask", "Emboss"),
)
COLOR = (
    *("AutoContrast", "CLAHE", "ChannelDropout", "ChannelShuffle", "ColorJitter", "Equalize", "FancyPCA"),
    *("HueSaturationValue", "InvertImg", "PlanckianJitter", "PlasmaBrightnessContrast", "Posterize", "RGBShift"),
    *("RandomBrightnessContrast", "RandomGamma", "RandomToneCurve", "Solarize", "ToGray", "ToSepia"),
)
DROPOUT = ("CoarseDropout", "Erasing", "GridDropout", "PixelDropout", "XYMasking")
# Boxes follow these by their corners. Elastic and grid distortions only approximate them, crops change the size.
GEOMETRY = ("Affine", "HorizontalFlip", "Perspective", "Rotate", "VerticalFlip")
ALLOWED = (*WEATHER, *NOISE, *BLUR, *CAMERA, *COLOR, *DROPOUT, *GEOMETRY)
"""The transforms that a config may name."""

FIXED = (
    *("fill_mask", "mask_drop_value", "mask_interpolation"),  # labels are never blended, and 255 where nothing is shown
    *("fit_output", "keep_size", "crop_border", "num_output_channels"),  # the image keeps its size and its channels
    "border_mode",  # mirrored borders would show objects without boxes
    *("mask", "mask_params"),  # arrays and functions
)
"""Arguments that a config may not set."""


def compose(entries: list[Any], source: str = "augment.more") -> "A.Compose | None":
    """The transforms that a config lists, applied in its order; None for an empty list.

    Arguments:
        entries: tables such as `{"name": "RandomRain", "p": 0.1, "slant_range": [-5, 5]}`: the name of one of
            `ALLOWED`, the other keys are arguments of albumentations' class; `p` is the share of samples that
            get it. Colors are RGB.
        source: how messages call the list.

    Raises:
        InputError: a name or an argument is unknown, or albumentations refuses a value.
    """
    for number, entry in enumerate(entries):
        _check_name(entry, f"{source}[{number}]")
    if not entries:
        return None
    import albumentations as A

    return A.Compose([_build(entry, f"{source}[{number}]") for number, entry in enumerate(entries)])


def check(entries: list[Any], size_hw: tuple[int, int], source: str = "augment.more") -> None:
    """Refuses what `compose` refuses, and transforms that fail on an image of this (height, width).

    Albumentations finds some mistakes only when it meets an image, which with a small `p` would be late in a run.

    Raises:
        InputError: the list cannot be applied.
    """
    composed = compose(entries, source)
    if composed is None:
        return
    gray = np.full((*size_hw, 3), 127, np.uint8)
    for number, transform in enumerate(composed.transforms):
        transform.set_random_seed(0)
        try:
            transform(image=gray, force_apply=True)
        except Exception as error:  # whatever it is, it would end the run
            raise InputError(
                f"{source}[{number}]: {entries[number]['name']} fails on an image of {size_hw[1]}x{size_hw[0]}: "
                f"{_one_line(error)}"
            ) from error


def adopt(given: "A.Compose", *, masks: bool = False, boxes: bool = False) -> "A.Compose":
    """A caller's transforms in a Compose that is ours to seed, prepared for labels or for boxes.

    Masks are passed as `mask`, boxes as `bboxes` in xyxy pixels with their `labels`; the caller's own bbox_params do
    not count. Without `boxes`, and where every transform leaves geometry alone, no boxes are to be passed.

    Raises:
        InputError: a transform would fill masks with a class instead of 255.
    """
    import albumentations as A

    for leaf in _leaves(given):
        fill = vars(leaf).get("fill_mask")
        if masks and fill is not None and np.any(np.asarray(fill) != IGNORE):
            raise InputError(
                f"{type(leaf).__name__} has fill_mask {fill}, which labels what it uncovers as that class; "
                f"give fill_mask={IGNORE}"
            )
    parameters = None
    if boxes and moves_boxes(given):
        parameters = A.BboxParams(
            "pascal_voc", ["labels"], min_width=1, min_height=1, min_visibility=MIN_VISIBILITY, clip=True
        )
    return A.Compose(given.transforms, bbox_params=parameters, p=given.p)


def moves_boxes(given: "A.Compose") -> bool:
    """Whether any transform does more than change pixels where they are."""
    import albumentations as A

    return not all(isinstance(leaf, A.ImageOnlyTransform) for leaf in _leaves(given))


def apply(adopted: Any, seed: int, image: np.ndarray, **targets: np.ndarray) -> dict[str, np.ndarray]:
    """Applies what `adopt` returned, all choices drawn from the seed.

    Arguments:
        adopted: an `A.Compose`.
        image: uint8 RGB `[H, W, 3]`.
        targets: `mask`, or `bboxes` and `labels`, by name.

    Returns:
        image and targets by name.

    Raises:
        InputError: the image does not keep its size and type.
    """
    # Not `set_random_seed`: it gives every transform a stream of its own from the same seed, so that all make the
    # same first draw, and one with p=0.1 never comes without the one with p=0.2 beside it.
    adopted.set_random_state(np.random.default_rng(seed), random.Random(seed))
    changed = adopted(image=image, **targets)
    found = np.asarray(changed["image"])
    if found.shape != image.shape or found.dtype != np.uint8:
        raise InputError(
            f"further augmentation turned an image of {image.shape} uint8 into {found.shape} {found.dtype}; "
            "leave out what crops, resizes, normalizes or converts"
        )
    return changed


def _check_name(entry: Any, source: str) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise InputError(f"{source} is {entry!r}; give a table with a name, e.g. {{name: RandomRain, p: 0.1}}")
    name = entry["name"]
    if name not in ALLOWED:
        close = difflib.get_close_matches(name, ALLOWED, n=1)
        hint = f"did you mean {close[0]}?" if close else f"valid: {', '.join(ALLOWED)}"
        raise InputError(f"{source}: {name!r} is not among the transforms that a config may name; {hint}")


def _build(entry: dict[str, Any], source: str) -> "A.BasicTransform":
    """One transform; `fill_mask` is always 255."""
    import albumentations as A

    name = entry["name"]
    arguments = {key: value for key, value in entry.items() if key != "name"}
    known = list(inspect.signature(getattr(A, name)).parameters)
    valid = [key for key in known if key not in FIXED]
    for key in arguments:
        if key not in valid:
            close = difflib.get_close_matches(str(key), valid, n=1)
            hint = f"did you mean {close[0]}?" if close else f"valid: {', '.join(valid)}"
            raise InputError(f"{source}: {name} takes no {key} here; {hint}")
    if "fill_mask" in known:
        arguments["fill_mask"] = IGNORE
    try:
        with warnings.catch_warnings():
            # Of some bad values it only warns, and goes on with its defaults.
            warnings.simplefilter("error", UserWarning)
            return getattr(A, name)(**arguments)
    except (ValueError, TypeError, UserWarning) as error:
        raise InputError(f"{source}: {name}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """The first fault of what albumentations' validation raised, argument first."""
    from pydantic import ValidationError

    if not isinstance(error.__cause__, ValidationError):
        return " ".join(str(error).split())
    fault = error.__cause__.errors()[0]
    message = fault["msg"].removeprefix("Value error, ")
    return f"{fault['loc'][0]}: {message}" if fault["loc"] else message


def _leaves(given: "A.BaseCompose") -> "Iterator[A.BasicTransform]":
    """All transforms of a composition, those of compositions inside it too."""
    import albumentations as A

    for transform in given.transforms:
        if isinstance(transform, A.BaseCompose):
            yield from _leaves(transform)
        else:
            yield transform
