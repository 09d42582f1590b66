"""Transforms of an image and its boxes into the network input, by OpenCV."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from backbone.data import more as further
from backbone.errors import InputError
from det.boxes import place

if TYPE_CHECKING:
    import albumentations as A

CROWD = -1
"""The label of a box around many objects that nobody told apart."""
STRENGTHS = ("ssd", "crop", "flip", "none")
# The grey around a zoomed-out image: 0 after the usual normalisation by mean 0.5 and deviation 0.5.
FILL = 127
# Boxes thinner than this in the network input are slivers that a crop left over: nothing to see, nothing to learn.
MIN_BOX_SIDE = 1.0
# SSD's patches: a random one of these smallest overlaps; above 1 is "the whole image".
MIN_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, np.inf)
CROP_TRIALS = 40
CROP_SIDES = (0.3, 1.0)
CROP_ASPECTS = (0.5, 2.0)
MAX_ZOOM_OUT = 4.0
# Factors of SSD's photometric distortion, the hue's in turns; each is drawn half of the time.
BRIGHTNESS = (0.875, 1.125)
CONTRAST = SATURATION = (0.5, 1.5)
HUE = (-0.05, 0.05)
GREY = np.array([0.2989, 0.587, 0.114])  # of red, green, blue, as torchvision rounds them
MOSAIC_CENTER = (0.25, 0.75)


class Transformed(NamedTuple):
    """An image and its boxes at the size of the network input."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of `image`, at least 1 pixel wide and high
    labels: np.ndarray  # [n] int64, of the boxes that are left; CROWD for crowds


Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Transformed]
"""(image `[H, W, 3]` uint8 RGB, boxes `[n, 4]` float32 xyxy pixels, labels `[n]` int64, seed) -> Transformed."""


class View(NamedTuple):
    """Which part of an image is shown in which part of the network input; both may be empty."""

    source: np.ndarray  # [4] float32, xyxy in whole pixels of the image
    target: np.ndarray  # [4] float32, xyxy in whole pixels of the input


class Colors(NamedTuple):
    """A drawn photometric distortion; None leaves a part out."""

    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None  # turns
    contrast_first: bool  # before saturation and hue, or after them
    channels: np.ndarray | None  # their new order


def size_hw(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of an image size given as one side or as (height, width)."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def resize(image: np.ndarray, image_size_hw: tuple[int, int], how: str = "stretch") -> np.ndarray:
    """A uint8 image `[H, W, 3]` at (height, width), the one way for evaluation, prediction and video.

    "stretch" fills the size; "letterbox" keeps the image's proportions, as `det.boxes.place` says, on grey.
    """
    left, top, width, height = place(image.shape[:2], image_size_hw, how)
    shown = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if (height, width) == tuple(image_size_hw):
        return shown
    canvas = np.full((*image_size_hw, 3), FILL, np.uint8)
    canvas[top : top + height, left : left + width] = shown
    return canvas


def eval_transform(image_size: int | Sequence[int], how: str = "stretch") -> Transform:
    """`resize` to `image_size` (one side or (height, width)); nothing random."""
    return Evaluation(size_hw(image_size), how)


def train_transform(
    image_size: int | Sequence[int], strength: str = "ssd", how: str = "stretch", more: "A.Compose | None" = None
) -> Transform:
    """The augmentation of SSD, drawn from the seed alone.

    "ssd" is photometric distortion, zoom-out (up to 4 times, half of the time), a crop that keeps a random smallest
    overlap with some box, and a horizontal flip; "crop" the crop and the flip; "flip" only the flip; "none" is
    `eval_transform`. Distributions are those of torchvision's presets "ssd" and "ssdlite", save that images without
    boxes are cropped too. All geometry is one window of the image that is stretched to the input, so every pixel is
    interpolated once; with "letterbox" the window is first made as wide as the input is, relative to its height.
    Windows and what they show are rounded to whole pixels, and boxes with them.

    Arguments:
        image_size: one side, or (height, width), of the network input.
        strength: one of `STRENGTHS`.
        how: "stretch" or "letterbox".
        more: transforms of albumentations for what comes out, before samples are mixed: any composition that keeps
            the size, or what `backbone.data.more.compose` makes of a config's list. Boxes follow; those of which
            less than a quarter is left go, and where holes are cut out a box shrinks to what still shows.

    Raises:
        InputError: the strength is unknown.
    """
    if strength not in STRENGTHS:
        raise InputError(f"augmentation {strength!r} is unknown; choose one of {', '.join(STRENGTHS)}")
    transform = (
        eval_transform(image_size, how) if strength == "none" else Augmentation(size_hw(image_size), strength, how)
    )
    return transform if more is None else Further(transform, more)


class Evaluation:
    """What `eval_transform` returns; a class so that loader workers can be given a copy of it."""

    def __init__(self, out_hw: tuple[int, int], how: str) -> None:
        self.out_hw = out_hw
        self.how = how

    def __call__(self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int) -> Transformed:
        left, top, width, height = place(image.shape[:2], self.out_hw, self.how)
        whole = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
        view = View(whole, np.array([left, top, left + width, top + height], np.float32))
        boxes, labels = _into_view(boxes, labels, view)
        return Transformed(resize(image, self.out_hw, self.how), boxes, labels)


class Augmentation:
    """What `train_transform` returns."""

    def __init__(self, out_hw: tuple[int, int], strength: str, how: str) -> None:
        self.out_hw = out_hw
        self.strength = strength
        self.how = how

    def __call__(self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int) -> Transformed:
        rng = np.random.default_rng(seed)
        height, width = image.shape[:2]
        window = np.array([0, 0, width, height], np.float32)
        colors = draw_colors(rng) if self.strength == "ssd" else None
        if self.strength == "ssd":
            window = zoom_out(window, rng)
        if self.strength != "flip":
            window = crop(window, boxes[labels != CROWD], rng)
        if self.how == "letterbox":
            window = fit(window, self.out_hw)
        view = through(window, (height, width), self.out_hw)
        pixels = np.full((*self.out_hw, 3), FILL, np.uint8)
        if (view.target[2:] > view.target[:2]).all():
            shown = _resized(image, view)
            left, top, right, bottom = view.target.astype(int)
            pixels[top:bottom, left:right] = shown if colors is None else distort(shown, colors, image)
        boxes, labels = _into_view(boxes, labels, view)
        if rng.random() < 0.5:
            pixels, boxes = flip(pixels, boxes)
        return Transformed(pixels, boxes, labels)


class Further:
    """A transform with one of albumentations behind it."""

    def __init__(self, first: Transform, more: "A.Compose") -> None:
        self.first = first
        self.boxes_move = further.moves_boxes(more)
        self.more = further.adopt(more, boxes=True)

    def __call__(self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int) -> Transformed:
        pixels, boxes, labels = self.first(image, boxes, labels, seed)
        # Not the seed itself, whose stream `first` has drawn from.
        more_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        if not self.boxes_move:  # albumentations would return them divided by the size and multiplied again
            return Transformed(further.apply(self.more, more_seed, pixels)["image"], boxes, labels)
        changed = further.apply(self.more, more_seed, pixels, bboxes=boxes, labels=labels)
        boxes = np.asarray(changed["bboxes"], np.float32).reshape(-1, 4)
        boxes, labels = _thick(boxes, np.asarray(changed["labels"], np.int64).reshape(-1))
        return Transformed(changed["image"], boxes, labels)


def zoom_out(window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the time a window (xyxy, float32) up to 4 times as wide and high that contains the given one."""
    if rng.random() < 0.5:
        return window
    sides = (window[2:] - window[:2]) * rng.uniform(1.0, MAX_ZOOM_OUT)
    slack = sides - (window[2:] - window[:2])
    corner = window[:2] - slack * rng.random(2)
    return np.concatenate([corner, corner + sides]).astype(np.float32)


def crop(window: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random part of the window (xyxy, float32) by SSD's rule.

    Forty parts are drawn, 0.3 to 1 of each side and at most twice as wide as high or the reverse; the first wins that
    holds a box's centre and overlaps such a box by the drawn smallest IoU. If none does another overlap is drawn, until
    the lot falls on the whole window. Without boxes the first part of a fair shape wins.
    """
    sides = window[2:] - window[:2]
    while True:
        smallest = MIN_OVERLAPS[rng.integers(len(MIN_OVERLAPS))]
        if np.isinf(smallest):
            return window
        part_sides = sides * rng.uniform(*CROP_SIDES, size=(CROP_TRIALS, 2))
        corners = window[:2] + (sides - part_sides) * rng.random((CROP_TRIALS, 2))
        aspect = part_sides[:, 0] / part_sides[:, 1]
        parts = np.concatenate([corners, corners + part_sides], axis=1)
        parts = parts[(aspect >= CROP_ASPECTS[0]) & (aspect <= CROP_ASPECTS[1])]
        if len(boxes):
            fits = _centers_inside(boxes, parts[:, None]) & (_iou(parts[:, None], boxes) >= smallest)
            parts = parts[fits.any(axis=1)]
        if len(parts):
            return parts[0].astype(np.float32)


def fit(window: np.ndarray, out_hw: tuple[int, int]) -> np.ndarray:
    """The smallest window (xyxy, float32) of the input's proportions about the same centre that contains the given."""
    sides = window[2:] - window[:2]
    out_sides = np.array(out_hw[::-1], np.float32)
    sides = out_sides * (sides / out_sides).max()
    corner = (window[:2] + window[2:] - sides) / 2
    return np.concatenate([corner, corner + sides]).astype(np.float32)


def through(window: np.ndarray, image_hw: tuple[int, int], out_hw: tuple[int, int]) -> View:
    """What a window (xyxy, may reach beyond the image) shows of an image, stretched to (height, width).

    In whole pixels, as torchvision's crops: cutting out and resizing takes a third of the time of a warp.
    """
    window = window.round()
    window[2:] = np.maximum(window[2:], window[:2] + 1)
    source = window.clip(0, np.array(image_hw[::-1] * 2, np.float32))
    scale = np.array(out_hw[::-1], np.float32) / (window[2:] - window[:2])
    return View(source, ((source - np.tile(window[:2], 2)) * np.tile(scale, 2)).round())


def draw_colors(rng: np.random.Generator) -> Colors:
    """SSD's photometric distortion, drawn."""

    def half_of_the_time(low: float, high: float) -> float | None:
        return rng.uniform(low, high) if rng.random() < 0.5 else None

    return Colors(
        half_of_the_time(*BRIGHTNESS),
        half_of_the_time(*CONTRAST),
        half_of_the_time(*SATURATION),
        half_of_the_time(*HUE),
        bool(rng.random() < 0.5),
        rng.permutation(3) if rng.random() < 0.5 else None,
    )


def distort(image: np.ndarray, colors: Colors, whole: np.ndarray) -> np.ndarray:
    """A uint8 RGB image with other colors.

    Everything but the hue is linear in a pixel's color and becomes one matrix on each side of the hue. The contrast is
    about the mean grey of `whole`, the image that this one is cut from.
    """
    before, after = np.eye(3, 4), np.eye(3, 4)
    if colors.brightness is not None:
        before *= colors.brightness

    def contrasted(matrix: np.ndarray, contrast: float) -> np.ndarray:
        grey = GREY @ (before[:, :3] @ cv2.mean(whole)[:3] + before[:, 3])
        matrix = matrix * contrast
        matrix[:, 3] += (1 - contrast) * grey
        return matrix

    if colors.contrast is not None and colors.contrast_first:
        before = contrasted(before, colors.contrast)
    if colors.saturation is not None:
        before = (colors.saturation * np.eye(3) + (1 - colors.saturation) * GREY) @ before
    if colors.contrast is not None and not colors.contrast_first:
        after = contrasted(after, colors.contrast)
    if colors.channels is not None:
        after = after[colors.channels]
    if colors.hue is None:
        after = after[:, :3] @ before + np.pad(after[:, 3:], ((0, 0), (3, 0)))
    else:
        if not np.array_equal(before, np.eye(3, 4)):
            image = cv2.transform(image, before)
        turned = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        # Bytes wrap around as the circle of hues does. A row at a time: channel by channel NumPy takes 3 times as long.
        turn = np.array([round(256 * colors.hue) % 256, 0, 0], np.uint8)
        turned.reshape(len(turned), -1)[:] += np.tile(turn, turned.shape[1])
        image = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)
    return image if np.array_equal(after, np.eye(3, 4)) else cv2.transform(image, after)


def mosaic(parts: Sequence[Transformed], rng: np.random.Generator) -> Transformed:
    """Four transformed images in one of the same size, each shrunk into a quarter about a drawn centre."""
    height, width = parts[0].image.shape[:2]
    x, y = (round(side * rng.uniform(*MOSAIC_CENTER)) for side in (width, height))
    image = np.empty_like(parts[0].image)
    boxes = []
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for part, (left, top, right, bottom) in zip(parts, quarters, strict=True):
        size = right - left, bottom - top
        image[top:bottom, left:right] = cv2.resize(part.image, size, interpolation=cv2.INTER_LINEAR)
        scale = np.array([size[0] / width, size[1] / height] * 2, np.float32)
        boxes.append(part.boxes * scale + np.array([left, top, left, top], np.float32))
    boxes, labels = _thick(np.concatenate(boxes), np.concatenate([part.labels for part in parts]))
    return Transformed(image, boxes, labels)


def mixup(parts: Sequence[Transformed], rng: np.random.Generator) -> Transformed:
    """Two transformed images laid over each other with all their boxes; the first weighs 0.5 to 1."""
    one, other = parts
    weight = rng.uniform(0.5, 1.0)
    image = cv2.addWeighted(one.image, weight, other.image, 1 - weight, 0)
    return Transformed(image, np.concatenate([one.boxes, other.boxes]), np.concatenate([one.labels, other.labels]))


def _centers_inside(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Whether the centres of `[..., 4]` boxes lie in `[..., 4]` windows, broadcast."""
    x = (boxes[..., 0] + boxes[..., 2]) / 2
    y = (boxes[..., 1] + boxes[..., 3]) / 2
    return (x > windows[..., 0]) & (x < windows[..., 2]) & (y > windows[..., 1]) & (y < windows[..., 3])


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU of `[..., 4]` xyxy boxes of positive area, broadcast."""
    # Side by side: NumPy takes ten times as long for products along a last axis of two.
    width = np.minimum(one[..., 2], other[..., 2]) - np.maximum(one[..., 0], other[..., 0])
    height = np.minimum(one[..., 3], other[..., 3]) - np.maximum(one[..., 1], other[..., 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (one, other)]
    return common / (areas[0] + areas[1] - common)


def _resized(image: np.ndarray, view: View) -> np.ndarray:
    """The pixels that a view shows, as large as it shows them."""
    left, top, right, bottom = view.source.astype(int)
    width, height = (view.target[2:] - view.target[:2]).astype(int).tolist()
    return cv2.resize(image[top:bottom, left:right], (width, height), interpolation=cv2.INTER_LINEAR)


def _into_view(boxes: np.ndarray, labels: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Boxes whose centre a view shows, clipped to what it shows, in pixels of the input; slivers go.

    Of a crowd's box stays what is shown, wherever its centre is.
    """
    inside = _centers_inside(boxes, view.source) | (labels == CROWD)
    boxes, labels = boxes[inside], labels[inside]
    corners, sides = (np.tile(part, 2) for part in (view.source[:2], view.source[2:] - view.source[:2]))
    boxes = (boxes - corners).clip(0, sides) / sides.clip(min=1)
    return _thick(boxes * np.tile(view.target[2:] - view.target[:2], 2) + np.tile(view.target[:2], 2), labels)


def flip(pixels: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image and its boxes, mirrored left to right."""
    boxes = boxes.copy()
    boxes[:, [0, 2]] = pixels.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(pixels, 1), boxes


def _thick(boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that are no slivers."""
    thick = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= MIN_BOX_SIDE
    return boxes[thick].astype(np.float32), labels[thick]
