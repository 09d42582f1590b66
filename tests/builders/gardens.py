"""A small data set of one's own: a garden's images and masks."""

from pathlib import Path

import numpy as np
from PIL import Image

from seg.palette import pascal_voc_color

CLASSES = """
classes:
  - {name: lawn, id: 10, color: [0, 200, 0]}
  - {name: <path> & "kerb", id: [20, 21]}
  - {name: pond, id: 30, color: [0, 0, 255]}
ignore: [0, 255]
"""


def make_garden(root: Path, classes: str = CLASSES, *, palette: bool = False) -> Path:
    """Six training and three validation images whose brightness tells the class; returns the classes file."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for number in range(count):
            ids = random.choice([0, 10, 20, 21, 30], (6, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            mask = Image.fromarray(ids)
            if palette:
                mask.putpalette([value for index in range(256) for value in pascal_voc_color(index)])
            for folder, ending, image in (
                ("images", ".jpg", Image.fromarray(np.stack([ids * 8] * 3, -1))),
                ("masks", ".png", mask),
            ):
                path = root / folder / split / "bed" / f"{number}{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    (root / "classes.yaml").write_text(classes)
    return root / "classes.yaml"
