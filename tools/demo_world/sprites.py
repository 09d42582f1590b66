"""Paints the flat pieces of the demo world (facades, cars, people, trees, signs) from random numbers.

Every sprite is `[H, W, 4]` uint8: blue, green, red premultiplied by alpha. Premultiplied colors are what anti-aliased
drawing on an empty canvas gives, and the only ones that stay right when a sprite is shrunk or warped.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[int, int, int]  # blue, green, red
FloatImage = NDArray[np.floating]  # float32 or float64
Sprite = NDArray[np.uint8]  # [H, W, 4], premultiplied
Point = tuple[float, float]  # metres: to the right of the canvas' left edge, above its bottom

NOISE_SIZE = 512
_SUBPIXEL_BITS = 4


@functools.cache
def noise(cell: int) -> FloatImage:
    """Smooth noise `[512, 512]` in -1..1 that tiles; `cell` is the size of its spots in pixels, a divisor of 512."""
    num_cells = NOISE_SIZE // cell
    grid = np.random.default_rng(cell).uniform(-1.0, 1.0, (num_cells, num_cells)).astype(np.float32)
    if cell == 1:
        return grid
    margin = 2
    padded = np.pad(grid, margin, mode="wrap")
    grown = np.asarray(cv2.resize(padded, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC), np.float32)
    return np.clip(grown[margin * cell : -margin * cell, margin * cell : -margin * cell], -1.0, 1.0)


@functools.cache
def fractal_noise() -> FloatImage:
    """Noise `[512, 512]` in -1..1 with large soft shapes and fine detail, for clouds, leaves and worn surfaces."""
    return 0.5 * noise(64) + 0.25 * noise(32) + 0.15 * noise(8) + 0.1 * noise(2)


def crop_noise(field: FloatImage, rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """A random window `[height, width]` of a noise field; both at most 512."""
    top, left = rng.integers(0, NOISE_SIZE - height + 1), rng.integers(0, NOISE_SIZE - width + 1)
    return field[top : top + height, left : left + width]


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A color from hue in turns (0..1), saturation and value (0..1)."""
    sector = hue * 6.0
    channels = [value * (1.0 - saturation * max(0.0, min(1.0, 2.0 - abs((sector - k) % 6.0 - 3.0)))) for k in (4, 2, 0)]
    blue, green, red = (round(255 * channel) for channel in channels)
    return blue, green, red


def scaled(color: Color, factor: float) -> Color:
    """The color made darker or lighter by a factor."""
    blue, green, red = (min(255, round(channel * factor)) for channel in color)
    return blue, green, red


class Canvas:
    """An empty sprite drawn on in metres, y pointing up."""

    def __init__(self, width_m: float, height_m: float, pixels_per_m: float) -> None:
        self.pixels_per_m = pixels_per_m
        self.pixels = np.zeros(
            (max(2, round(height_m * pixels_per_m)), max(2, round(width_m * pixels_per_m)), 4), np.uint8
        )

    def _fixed_point(self, points: Sequence[Point]) -> NDArray[np.int32]:
        xy = np.asarray(points, np.float64) * self.pixels_per_m
        xy[:, 1] = self.pixels.shape[0] - xy[:, 1]
        # The centre of the first pixel is 0 for OpenCV, half a pixel from the canvas' edge.
        return np.round((xy - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        cv2.fillPoly(self.pixels, [self._fixed_point(points)], (*color, 255), cv2.LINE_AA, _SUBPIXEL_BITS)

    def rectangle(self, left: float, bottom: float, right: float, top: float, color: Color) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], color)

    def disc(self, centre: Point, radius: float, color: Color) -> None:
        fixed_radius = round(radius * self.pixels_per_m * (1 << _SUBPIXEL_BITS))
        x, y = self._fixed_point([centre])[0].tolist()
        cv2.circle(self.pixels, (x, y), fixed_radius, (*color, 255), -1, cv2.LINE_AA, _SUBPIXEL_BITS)

    def stroke(self, points: Sequence[Point], width: float, color: Color) -> None:
        thickness = max(1, round(width * self.pixels_per_m))
        fixed = self._fixed_point(points)
        cv2.polylines(self.pixels, [fixed], False, (*color, 255), thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def text(self, text: str, left_lower: tuple[int, int], size: float, color: Color) -> None:
        """Writes on what is there already; the place in pixels from the upper left."""
        alpha = self.pixels[..., 3].copy()
        cv2.putText(self.pixels, text, left_lower, cv2.FONT_HERSHEY_SIMPLEX, size, (*color, 255), 2, cv2.LINE_AA)
        self.pixels[..., 3] = alpha

    def mottle(self, rng: np.random.Generator, strength: float) -> None:
        """Roughens the colors so that no surface is one flat value; the silhouette stays."""
        height, width = self.pixels.shape[:2]
        factor = 1.0 + strength * crop_noise(fractal_noise(), rng, height, width)[..., None]
        factor = factor * np.linspace(1.0 + strength / 2, 1.0 - strength / 2, height, dtype=np.float32)[:, None, None]
        colors = np.minimum(self.pixels[..., :3] * factor, self.pixels[..., 3:])
        self.pixels[..., :3] = colors.astype(np.uint8)


def facade(rng: np.random.Generator, width_m: float, height_m: float, wall: Color, lit: float) -> Sprite:
    """A house front up to 25 x 25 m; `lit` is the share of its windows with a light on."""
    canvas = Canvas(width_m, height_m, 20.0)
    canvas.rectangle(-1.0, -1.0, width_m + 1.0, height_m + 1.0, wall)
    canvas.mottle(rng, 0.25)
    pixels, to_px = canvas.pixels, canvas.pixels_per_m
    if rng.random() < 0.5:
        course = int(rng.integers(5, 9))  # pixels between two mortar joints or boards
        pixels[::course, :, :3] = (pixels[::course, :, :3] * 0.8).astype(np.uint8)

    floor_m = rng.uniform(2.7, 3.6)
    ground_floor_m = floor_m + 0.4
    pitch_m, window_w, window_h = rng.uniform(1.6, 3.2), rng.uniform(0.8, 1.3), rng.uniform(1.2, 1.9)
    frame = scaled(wall, 1.5) if rng.random() < 0.6 else scaled(wall, 0.5)
    glass = hsv(rng.uniform(0.52, 0.64), rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5))

    def box(left: float, bottom: float, right: float, top: float, color: Color) -> None:
        corners = [
            (round(left * to_px), round((height_m - top) * to_px)),
            (round(right * to_px), round((height_m - bottom) * to_px)),
        ]
        cv2.rectangle(pixels, corners[0], corners[1], (*color, 255), -1)

    num_columns = max(1, int((width_m - 0.6) / pitch_m))
    first = (width_m - (num_columns - 1) * pitch_m) / 2
    bottom = ground_floor_m + 0.7
    while bottom + window_h < height_m - 0.5:
        for column in range(num_columns):
            x = first + column * pitch_m
            box(x - window_w / 2 - 0.1, bottom - 0.15, x + window_w / 2 + 0.1, bottom + window_h + 0.1, frame)
            pane = (120, 205, 245) if rng.random() < lit else scaled(glass, rng.uniform(0.7, 1.5))
            box(x - window_w / 2, bottom, x + window_w / 2, bottom + window_h, pane)
            box(x - 0.03, bottom, x + 0.03, bottom + window_h, frame)
        bottom += floor_m

    shop = rng.random() < 0.45
    if shop:
        box(
            0.4,
            0.5,
            width_m - 0.4,
            ground_floor_m - 0.7,
            (120, 190, 220) if rng.random() < 2 * lit else scaled(glass, 1.3),
        )
        awning = hsv(rng.random(), 0.7, 0.75)
        box(0.2, ground_floor_m - 0.8, width_m - 0.2, ground_floor_m - 0.1, awning)
    door_x = rng.uniform(0.6, max(0.7, width_m - 1.8))
    box(door_x, 0.0, door_x + 1.1, 2.2, hsv(rng.random(), 0.5, 0.35))
    box(0.0, height_m - 0.35, width_m, height_m, scaled(wall, rng.choice([0.6, 1.3])))
    return pixels


ROOF_M = 2.0  # how far a roof leans back from the street


def gable(rng: np.random.Generator, width_m: float, height_m: float, wall: Color, rising: bool) -> Sprite:
    """The wall under the end of a roof that rises over its first `ROOF_M`, from the left or else from the right."""
    canvas = Canvas(width_m, height_m, 16.0)
    canvas.polygon([(0, 0), (width_m, 0), (width_m, height_m), (ROOF_M, height_m)], scaled(wall, 0.8))
    canvas.mottle(rng, 0.25)
    return canvas.pixels if rising else np.ascontiguousarray(canvas.pixels[:, ::-1])


def roof(rng: np.random.Generator, width_m: float, height_m: float) -> Sprite:
    """A tiled roof surface."""
    canvas = Canvas(width_m, height_m, 16.0)
    tiles = hsv(rng.uniform(0.0, 0.08), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.6))
    canvas.rectangle(-1.0, -1.0, width_m + 1.0, height_m + 1.0, tiles)
    canvas.mottle(rng, 0.3)
    canvas.pixels[::5, :, :3] = (canvas.pixels[::5, :, :3] * 0.75).astype(np.uint8)
    return canvas.pixels


def _leaves(rng: np.random.Generator, height: int, width: int) -> FloatImage:
    """Foliage colors `[height, width, 3]`, lighter towards the top."""
    color = np.array(hsv(rng.uniform(0.17, 0.38), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.52)), np.float32)
    depth = 1.0 + 0.45 * crop_noise(noise(8), rng, height, width) + 0.3 * crop_noise(noise(2), rng, height, width)
    depth *= np.linspace(1.2, 0.75, height, dtype=np.float32)[:, None]
    return np.clip(color * depth[..., None], 0, 255)


def tree(rng: np.random.Generator, width_m: float, height_m: float) -> Sprite:
    """A tree with a ragged crown on a trunk."""
    canvas = Canvas(width_m, height_m, 20.0)
    trunk = hsv(rng.uniform(0.05, 0.1), 0.4, rng.uniform(0.2, 0.4))
    centre, half = width_m / 2, rng.uniform(0.1, 0.2)
    canvas.polygon(
        [
            (centre - half * 1.3, 0),
            (centre + half * 1.3, 0),
            (centre + half * 0.6, height_m * 0.6),
            (centre - half * 0.6, height_m * 0.6),
        ],
        trunk,
    )
    canvas.mottle(rng, 0.3)

    height, width = canvas.pixels.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    crown_w, crown_h = rng.uniform(0.38, 0.46), rng.uniform(0.28, 0.34)
    shape = 1.0 - np.hypot((columns / width - 0.5) / crown_w, (rows / height - crown_h - 0.02) / crown_h)
    inside = (
        shape + 0.35 * crop_noise(noise(16), rng, height, width) + 0.12 * crop_noise(noise(4), rng, height, width)
        > 0.12
    )
    inside[0] = inside[:, 0] = inside[:, -1] = False
    canvas.pixels[inside, :3] = _leaves(rng, height, width)[inside].astype(np.uint8)
    canvas.pixels[inside, 3] = 255
    return canvas.pixels


def hedge(rng: np.random.Generator, width_m: float, height_m: float) -> Sprite:
    """A hedge with an uneven upper edge, up to 25 m long."""
    canvas = Canvas(width_m, height_m, 20.0)
    height, width = canvas.pixels.shape[:2]
    top = 2 + 0.12 * height * (1.0 + crop_noise(noise(8), rng, 1, width)[0])
    inside = np.arange(height)[:, None] > top
    canvas.pixels[..., :3] = (_leaves(rng, height, width) * inside[..., None]).astype(np.uint8)
    canvas.pixels[..., 3] = 255 * inside
    return canvas.pixels


class PersonLook(NamedTuple):
    """What stays the same about a person from one step to the next."""

    skin: Color
    hair: Color
    top: Color
    bottom: Color
    shoes: Color
    coat: bool  # the top reaches over the thighs
    bag: Color | None
    sideways: bool  # seen from the side, else from the front or back
    leftwards: bool


def person_look(rng: np.random.Generator, sideways: bool, leftwards: bool) -> PersonLook:
    """Draws clothes, hair and skin for one person."""
    tone = rng.uniform(0.3, 0.95)
    bright = rng.random() < 0.7
    return PersonLook(
        skin=hsv(rng.uniform(0.04, 0.08), rng.uniform(0.3, 0.55), tone),
        hair=hsv(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.6), rng.uniform(0.08, 0.6)),
        top=hsv(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9))
        if bright
        else hsv(0.6, 0.1, rng.uniform(0.1, 0.9)),
        bottom=hsv(rng.uniform(0.5, 0.75), rng.uniform(0.05, 0.6), rng.uniform(0.1, 0.5)),
        shoes=hsv(rng.random(), 0.3, rng.uniform(0.1, 0.8)),
        coat=rng.random() < 0.3,
        bag=hsv(rng.random(), 0.6, 0.5) if rng.random() < 0.35 else None,
        sideways=sideways,
        leftwards=leftwards,
    )


PERSON_CANVAS_M = (1.1, 1.8)  # width, height


def person(look: PersonLook, phase: float, rng: np.random.Generator) -> Sprite:
    """A person at one moment of a stride; `phase` in radians, a full turn being two steps."""
    canvas = Canvas(*PERSON_CANVAS_M, 64.0)
    middle, swing = PERSON_CANVAS_M[0] / 2, float(np.sin(phase))
    shoulder = 0.14 if look.sideways else 0.22
    hip = 0.11 if look.sideways else 0.15

    for side in (-1.0, 1.0):
        # From the side the legs swing in the image; from the front one foot is lifted.
        reach = 0.30 * swing * side if look.sideways else 0.09 * side
        lift = 0.0 if look.sideways else 0.10 * max(0.0, swing * side)
        knee = (middle + reach * 0.45 + (0.04 if look.sideways else 0.0), 0.47 + lift)
        ankle = (middle + reach, 0.08 + lift)
        start = (middle + (0.0 if look.sideways else 0.08 * side), 0.88)
        canvas.stroke([start, knee, ankle], 0.15, scaled(look.bottom, 0.85 if side < 0 else 1.0))
        toe = 0.13 if look.sideways else 0.02
        canvas.stroke([(ankle[0], 0.05 + lift), (ankle[0] + toe, 0.05 + lift)], 0.09, look.shoes)

    arms = []
    for side in (-1.0, 1.0):
        reach = -0.28 * swing * side if look.sideways else 0.10 * side
        root = (middle + (0.0 if look.sideways else shoulder * side), 1.38)
        arms.append((root, (root[0] + reach * 0.5, 1.13), (root[0] + reach, 0.90)))
    sleeve = scaled(look.top, 0.8)
    canvas.stroke(arms[0], 0.10, sleeve)
    canvas.disc(arms[0][-1], 0.05, look.skin)
    hem = 0.58 if look.coat else 0.84
    flare = hip + (0.05 if look.coat else 0.0)
    canvas.polygon(
        [
            (middle - flare, hem),
            (middle + flare, hem),
            (middle + shoulder, 1.40),
            (middle + 0.07, 1.48),
            (middle - 0.07, 1.48),
            (middle - shoulder, 1.40),
        ],
        look.top,
    )
    if look.bag is not None:
        canvas.rectangle(middle - shoulder - 0.08, 1.0, middle - (0.05 if look.sideways else -0.10), 1.36, look.bag)
    canvas.stroke(arms[1], 0.10, sleeve)
    canvas.disc(arms[1][-1], 0.05, look.skin)
    canvas.disc((middle, 1.60), 0.125, look.hair)
    canvas.disc((middle + (0.04 if look.sideways else 0.0), 1.575), 0.10, look.skin)
    canvas.mottle(rng, 0.25)
    return np.ascontiguousarray(canvas.pixels[:, ::-1]) if look.leftwards else canvas.pixels


class CarShape(NamedTuple):
    """The outline of a car from the side and what each stretch of it is."""

    profile: tuple[Point, ...]  # metres from the rear and above the ground, rear bumper over the roof to the front one
    stretches: tuple[str, ...]  # between two points of the profile: rear, lid, glass, roof, hood or front
    width: float


CAR_SHAPES = (
    CarShape(
        ((0, 0.28), (0.02, 0.92), (0.45, 1.42), (2.2, 1.47), (2.95, 0.96), (3.9, 0.80), (4.0, 0.28)),
        ("rear", "glass", "roof", "glass", "hood", "front"),
        1.72,
    ),
    CarShape(
        ((0, 0.28), (0.02, 0.92), (0.7, 0.96), (1.3, 1.38), (2.7, 1.42), (3.4, 0.94), (4.4, 0.80), (4.5, 0.28)),
        ("rear", "lid", "glass", "roof", "glass", "hood", "front"),
        1.78,
    ),
    CarShape(
        ((0, 0.38), (0.02, 1.04), (0.3, 1.62), (2.7, 1.66), (3.3, 1.10), (4.2, 0.98), (4.3, 0.38)),
        ("rear", "glass", "roof", "glass", "hood", "front"),
        1.84,
    ),
    CarShape(
        ((0, 0.34), (0.02, 1.15), (0.15, 1.92), (3.5, 1.96), (4.1, 1.15), (4.7, 0.98), (4.8, 0.34)),
        ("rear", "glass", "roof", "glass", "hood", "front"),
        1.90,
    ),
)

_TYRE, _RIM, _GLASS, _TRIM = (28, 28, 28), (150, 150, 150), (70, 58, 48), (40, 40, 40)


def car_paint(rng: np.random.Generator) -> Color:
    """The color of a car: half of them grey, white or black, as on a street."""
    if rng.random() < 0.5:
        return hsv(0.6, 0.05, rng.choice([0.12, 0.3, 0.55, 0.75, 0.92]))
    return hsv(rng.random(), rng.uniform(0.5, 0.95), rng.uniform(0.35, 0.85))


def car_side(rng: np.random.Generator, shape: CarShape, paint: Color) -> Sprite:
    """A car from its right side: rear at the left, front at the right."""
    profile = shape.profile
    length, height = profile[-1][0], max(y for _, y in profile)
    canvas = Canvas(length, height, 56.0)
    canvas.polygon(profile, paint)
    sill = profile[0][1]
    canvas.rectangle(0.1, sill, length - 0.1, sill + 0.1, scaled(paint, 0.5))
    canvas.mottle(rng, 0.3)

    # The windows follow the outline between the two glass stretches, a hand's breadth inside it.
    first, last = shape.stretches.index("glass"), len(shape.stretches) - 1 - shape.stretches[::-1].index("glass")
    low_rear, top_rear, top_front, low_front = profile[first], profile[first + 1], profile[last], profile[last + 1]
    base = max(low_rear[1], low_front[1]) + 0.02
    pane = [
        (low_rear[0] + 0.2, base),
        (top_rear[0] + 0.1, top_rear[1] - 0.09),
        (top_front[0] - 0.1, top_front[1] - 0.09),
        (low_front[0] - 0.15, base),
    ]
    canvas.polygon(pane, _GLASS)
    pillar = (top_rear[0] + top_front[0]) / 2 + 0.1
    canvas.rectangle(pillar - 0.05, base, pillar + 0.05, top_rear[1] - 0.05, scaled(paint, 0.8))
    canvas.stroke([(pillar, sill + 0.1), (pillar, base)], 0.02, scaled(paint, 0.55))
    canvas.rectangle(pillar - 0.35, base - 0.14, pillar - 0.15, base - 0.09, scaled(paint, 0.4))
    canvas.rectangle(0.0, 0.62, 0.14, 0.8, (40, 40, 190))
    canvas.rectangle(length - 0.2, 0.62, length - 0.05, 0.74, (200, 235, 240))
    for x in (0.17 * length, 0.81 * length):
        canvas.disc((x, 0.34), 0.39, scaled(paint, 0.35))
        canvas.disc((x, 0.31), 0.31, _TYRE)
        canvas.disc((x, 0.31), 0.18, _RIM)
        canvas.disc((x, 0.31), 0.06, _TRIM)
    return canvas.pixels


def car_stretch(
    rng: np.random.Generator, kind: str, width: float, height: float, paint: Color, lights_on: bool
) -> Sprite:
    """The part of a car between two points of its outline, seen flat: rear, lid, glass, roof, hood or front.

    The rear and the front reach down to the ground and carry the wheels.
    """
    canvas = Canvas(width, height, 48.0)
    if kind in ("lid", "roof", "hood"):
        canvas.rectangle(-1.0, -1.0, width + 1.0, height + 1.0, scaled(paint, 1.15))
        canvas.mottle(rng, 0.2)
    elif kind == "glass":
        canvas.rectangle(-1.0, -1.0, width + 1.0, height + 1.0, paint)
        canvas.polygon([(0.1, 0.02), (width - 0.1, 0.02), (width - 0.2, height - 0.06), (0.2, height - 0.06)], _GLASS)
        canvas.polygon([(0.3, 0.05), (0.6, 0.05), (0.9, height - 0.1), (0.6, height - 0.1)], scaled(_GLASS, 1.6))
    else:
        for x in (0.16, width - 0.16):
            canvas.rectangle(x - 0.12, 0.0, x + 0.12, 0.5, _TYRE)
        canvas.rectangle(0.0, 0.26, width, height + 1.0, paint)
        canvas.mottle(rng, 0.25)
        canvas.rectangle(0.02, 0.26, width - 0.02, 0.42, _TRIM)
        canvas.rectangle(width / 2 - 0.26, 0.45, width / 2 + 0.26, 0.57, (225, 235, 235))
        if kind == "rear":
            lamp = (60, 60, 255) if lights_on else (40, 40, 170)
            for x in (0.16, width - 0.16):
                canvas.rectangle(x - 0.15, 0.60, x + 0.15, min(0.82, height), lamp)
        else:
            lamp = (235, 255, 255) if lights_on else (190, 205, 205)
            canvas.rectangle(0.5, 0.58, width - 0.5, 0.72, _TRIM)
            for x in (0.24, width - 0.24):
                canvas.rectangle(x - 0.17, 0.58, x + 0.17, 0.74, lamp)
    return canvas.pixels


LAMP_POST_M = (2.4, 6.0)  # width, height of the sprite
_POST_COLORS: tuple[Color, ...] = ((70, 80, 70), (120, 120, 120), (60, 60, 65), (150, 155, 155))


def lamp_post(rng: np.random.Generator, lights_on: bool) -> Sprite:
    """A street lamp: post in the middle, arm to the right."""
    canvas = Canvas(*LAMP_POST_M, 24.0)
    color = _POST_COLORS[rng.integers(len(_POST_COLORS))]
    middle = LAMP_POST_M[0] / 2
    canvas.polygon([(middle - 0.2, 0), (middle + 0.2, 0), (middle + 0.15, 5.8), (middle - 0.15, 5.8)], color)
    canvas.stroke([(middle, 5.6), (middle + 0.7, 5.85)], 0.2, color)
    canvas.rectangle(middle + 0.55, 5.72, middle + 1.1, 5.92, (190, 245, 255) if lights_on else (200, 200, 200))
    canvas.mottle(rng, 0.3)
    return canvas.pixels


def post(rng: np.random.Generator, height_m: float) -> Sprite:
    """The bare post that carries a sign or a light; stretched to its width."""
    canvas = Canvas(0.12, height_m, 48.0)
    canvas.rectangle(-1.0, -1.0, 1.0, height_m + 1.0, _POST_COLORS[rng.integers(len(_POST_COLORS))])
    canvas.mottle(rng, 0.3)
    return canvas.pixels


def sign_plate(rng: np.random.Generator, kind: str) -> Sprite:
    """A traffic sign's plate, 1 x 1 m: stop, speed, warning, priority or direction."""
    canvas = Canvas(1.0, 1.0, 72.0)
    red, white, blue, yellow = (45, 35, 190), (235, 235, 235), (170, 90, 30), (40, 190, 235)
    if kind == "stop":
        for radius, color in ((0.49, white), (0.44, red)):
            angles = np.pi / 8 + np.arange(8) * np.pi / 4
            canvas.polygon([(0.5 + radius * np.cos(a), 0.5 + radius * np.sin(a)) for a in angles], color)
        canvas.text("STOP", (11, 44), 0.62, white)
    elif kind == "speed":
        canvas.disc((0.5, 0.5), 0.48, red)
        canvas.disc((0.5, 0.5), 0.36, white)
        number = str(rng.choice([30, 50, 70]))
        canvas.text(number, (18, 46), 0.85, (20, 20, 20))
    elif kind == "warning":
        canvas.polygon([(0.02, 0.06), (0.98, 0.06), (0.5, 0.95)], red)
        canvas.polygon([(0.18, 0.15), (0.82, 0.15), (0.5, 0.75)], white)
        canvas.rectangle(0.46, 0.22, 0.54, 0.52, (20, 20, 20))
    elif kind == "priority":
        canvas.polygon([(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)], white)
        canvas.polygon([(0.5, 0.16), (0.84, 0.5), (0.5, 0.84), (0.16, 0.5)], yellow)
    else:
        canvas.disc((0.5, 0.5), 0.48, blue)
        canvas.stroke([(0.28, 0.3), (0.7, 0.7)], 0.1, white)
        canvas.polygon([(0.78, 0.78), (0.5, 0.74), (0.74, 0.5)], white)
    canvas.mottle(rng, 0.15)
    return canvas.pixels


def traffic_light(rng: np.random.Generator) -> Sprite:
    """A traffic light's box with one of its three lamps lit, 0.45 x 1.1 m."""
    canvas = Canvas(0.45, 1.1, 72.0)
    canvas.rectangle(0.0, 0.0, 0.45, 1.1, (32, 36, 32))
    lit = int(rng.integers(3))
    for lamp, (y, color) in enumerate(((0.9, (50, 50, 255)), (0.55, (50, 200, 255)), (0.2, (130, 255, 70)))):
        canvas.disc((0.225, y), 0.14, color if lamp == lit else scaled(color, 0.25))
    return canvas.pixels


def bin_box(rng: np.random.Generator) -> Sprite:
    """A litter bin, 0.7 x 1.0 m."""
    canvas = Canvas(0.7, 1.0, 48.0)
    color = hsv(rng.random(), 0.5, rng.uniform(0.2, 0.5))
    canvas.polygon([(0.1, 0.0), (0.6, 0.0), (0.68, 0.85), (0.02, 0.85)], color)
    canvas.rectangle(0.0, 0.83, 0.7, 0.98, scaled(color, 0.6))
    canvas.mottle(rng, 0.3)
    return canvas.pixels
