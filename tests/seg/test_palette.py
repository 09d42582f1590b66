"""Colors for classes without one: never near a given one or each other."""

import numpy as np
import pytest

from seg.data import cityscapes
from seg.data.folder import read_classes
from seg.palette import BLACK, distinct_colors, pascal_voc_color, to_lab


def smallest_distance(colors: list[tuple[int, int, int]], count: int) -> float:
    """In CIELAB, between one of the last `count` colors and any other."""
    lab = to_lab(colors).astype(np.float64)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    np.fill_diagonal(distances, np.inf)
    return distances[-count:].min()


@pytest.mark.parametrize(
    ("count", "given", "least"),
    [
        (1, cityscapes.COLORS, 58),
        (5, cityscapes.COLORS, 40),
        (30, cityscapes.COLORS, 25),
        (20, [], 40),
        (254, [], 10),
    ],
)
def test_colors_are_far_from_those_given_and_from_each_other(count, given, least):
    colors = distinct_colors(count, given)
    assert len(colors) == len(set(colors)) == count and distinct_colors(count, given) == colors
    assert all(type(value) is int and 0 <= value <= 255 for color in colors for value in color)
    assert smallest_distance([BLACK, *given, *colors], count) >= least


def test_a_class_beside_cityscapes_road_never_comes_out_near_its_purple(tmp_path):
    road = cityscapes.COLORS[0]
    for number in range(1, 60):  # Pascal VOC's color of id 5 is (128, 0, 128)
        names = "".join(f", other {index}" for index in range(number))
        path = tmp_path / "classes.yaml"
        path.write_text(f"classes: [{{name: road, id: 200, color: {list(road)}}}{names}]")
        lab = to_lab(read_classes(path).colors)
        assert np.linalg.norm(lab[1:] - lab[0], axis=1).min() > 20


def test_color_masks_without_given_colors_are_read_with_pascal_vocs(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [sky, {name: tree, id: [3, 4]}, {name: road, id: 7, color: [[9, 8, 7], [1, 2, 3]]}]")
    classes = read_classes(path)
    vocs = [pascal_voc_color(number) for number in (0, 3, 4)]
    assert classes.mask_colors == [vocs[:1], vocs[1:], [(9, 8, 7), (1, 2, 3)]]
    assert classes.colors == [*distinct_colors(2, [(9, 8, 7)]), (9, 8, 7)]
    assert classes.ignore_colors == [pascal_voc_color(255)]


def test_the_palette_for_reading_is_pascal_vocs():
    assert [pascal_voc_color(n) for n in (0, 1, 2, 8, 20, 255)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (64, 0, 0),
        (0, 64, 128),
        (224, 224, 192),
    ]
