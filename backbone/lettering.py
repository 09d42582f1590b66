"""Text for drawing into images: any alphabet that DejaVu Sans has, which OpenCV's own letters, ASCII only, are not."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont


@lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only for the font that it brings along

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", round(height * 0.8))


@lru_cache(maxsize=4096)  # the same names come in every frame; rendering one takes 0.1 ms
def letters(text: str, height: int) -> np.ndarray:
    """How much ink each pixel of a line of text takes, uint8 `[height, W]`, 255 for all.

    Arguments:
        height: of the line, pixels.
    """
    font = _font(height)
    width = max(1, int(np.ceil(font.getlength(text))))
    image = Image.new("L", (width, height))
    ascent, descent = font.getmetrics()
    ImageDraw.Draw(image).text((0, (height - ascent - descent) / 2), text, 255, font=font)
    return np.array(image)


def write(canvas_bgr: np.ndarray, text: str, left: int, top: int, height: int, ink: tuple[int, int, int]) -> int:
    """Writes a line of text into an image, as far as it fits, and returns its width in pixels.

    Arguments:
        canvas_bgr: uint8 BGR [H, W, 3]; is changed.
        left: of the line, pixels from the left edge, not negative.
        top: of the line, pixels from the upper edge, not negative.
        height: of the line, pixels.
        ink: BGR, 0 to 255.
    """
    mask = letters(text, height)
    place = canvas_bgr[top : top + height, left : left + mask.shape[1]]
    if place.size:
        share = cv2.merge([mask[: place.shape[0], : place.shape[1]]] * 3).astype(np.uint16)
        place[:] = (place * (255 - share) + np.array(ink, np.uint16) * share) // 255
    return mask.shape[1]


def readable_on(color_bgr: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out from a color, BGR."""
    blue, green, red = color_bgr
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)
