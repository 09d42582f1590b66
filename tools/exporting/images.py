"""The images on which an exported file is compared with its model: given, or painted, and noise."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from backbone.data.images import image_files, read_image
from backbone.errors import InputError
from tools.demo_world.writer import make_scene

NUM_IMAGES = 8
"""How many images the comparison needs."""
NUM_NOISE = 2
PAINTED_HW = (256, 512)


class Images(NamedTuple):
    """Images of any sizes, and what a record says of them."""

    images: list[np.ndarray]  # uint8 BGR [H, W, 3] each
    source: str
    names: list[str]


def given_images(folder: Path) -> Images:
    """Images of a folder and those below, evenly chosen.

    Raises:
        InputError: there are too few, or one cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"--images {folder}: no such folder; give one of at least {NUM_IMAGES} images")
    paths = image_files(folder)
    if len(paths) < NUM_IMAGES:
        raise InputError(f"--images {folder}: has {len(paths)} images; give a folder of at least {NUM_IMAGES}")
    chosen = [paths[number * len(paths) // NUM_IMAGES] for number in range(NUM_IMAGES)]
    return Images([read_image(path) for path in chosen], folder.name, [path.name for path in chosen])


def painted_images() -> Images:
    """Street scenes of the demo world."""
    scenes = [make_scene("val", number, PAINTED_HW, seed=0) for number in range(NUM_IMAGES)]
    return Images(
        [np.asarray(scene.view.image) for scene in scenes], "painted street scenes", [scene.stem for scene in scenes]
    )


def batches(images: list[np.ndarray], sizes_hw: list[tuple[int, int]], batch: int | None) -> list[np.ndarray]:
    """The images and NUM_NOISE of noise as inputs of a graph, uint8 [N, H, W, 3] each.

    Arguments:
        sizes_hw: (height, width) of the inputs in pixels, which take turns.
        batch: images in an input; None for one and two in turn.
    """
    random = np.random.default_rng(0)
    sources = [*images, *[None] * NUM_NOISE]
    found: list[np.ndarray] = []
    position = 0
    while position < len(sources):
        height, width = sizes_hw[len(found) % len(sizes_hw)]
        members = []
        count = batch or 1 + len(found) % 2
        for number in range(position, position + count):
            source = sources[number % len(sources)]  # a last input that would not be full begins again
            if source is None:
                members.append(random.integers(0, 256, (height, width, 3), np.uint8))
            else:
                members.append(cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA))
        found.append(np.stack(members))
        position += count
    return found
