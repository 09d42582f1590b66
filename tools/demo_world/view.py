"""Renders what a camera sees of the demo world, with the label and the object at every pixel.

Ground first, then the actors from far to near, each into three layers at once: the image, the object visible at
each pixel, and the outline of the object before others hide a part of it.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from seg.data.cityscapes import CLASSES
from tools.demo_world import sprites
from tools.demo_world.sprites import FloatImage
from tools.demo_world.world import Camera, Panel, World, vector

Outline = tuple[str, list[list[int]]]  # label, [[x, y], ...] in whole pixels

NEAR_M = 0.8  # nothing closer to the camera than this is painted
FAR_M = 90.0  # where the ground ends


class Label(NamedTuple):
    """A class of Cityscapes that the demo world paints."""

    label_id: int
    color_rgb: tuple[int, int, int]


PAINTED = (
    "unlabeled",
    "ego vehicle",
    "out of roi",
    "static",
    "road",
    "sidewalk",
    "building",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "car",
)
LABELS = {row.name: Label(row.label_id, row.color) for row in CLASSES if row.name in PAINTED}


class VisibleObject(NamedTuple):
    """One object in a view; its pixels are those of `View.object_ids` that hold its place in the list."""

    label: str
    coco_name: str | None
    is_group: bool
    actor: int | None = None  # its place in the world's list of actors, the same in all views; None: no actor
    distance: float = 0.0  # of an actor's nearest point from the camera along the street, metres


class View(NamedTuple):
    """What the camera sees."""

    image: NDArray[np.uint8]  # [H, W, 3] blue, green, red
    object_ids: NDArray[np.uint16]  # [H, W] index into `objects`
    objects: list[VisibleObject]  # the first one is "unlabeled": what nothing was painted on
    outlines: list[Outline]  # back to front, each before others hid a part of it

    def label_ids(self) -> NDArray[np.uint8]:
        """Cityscapes' label ids `[H, W]`."""
        table = np.array([LABELS[item.label].label_id for item in self.objects], np.uint8)
        return table[self.object_ids]

    def instance_ids(self) -> NDArray[np.uint16]:
        """Cityscapes' instance ids `[H, W]`: label id * 1000 + count for single cars and people, else the label id."""
        table, counts = np.zeros(len(self.objects), np.uint16), {"car": 0, "person": 0}
        for index, item in enumerate(self.objects):
            table[index] = LABELS[item.label].label_id
            if item.label in counts and not item.is_group:
                table[index] = table[index] * 1000 + counts[item.label]
                counts[item.label] += 1
        return table[self.object_ids]


class _Painter:
    """The layers of one view while it is painted."""

    def __init__(self, world: World, camera: Camera, size_hw: tuple[int, int], time: float) -> None:
        self.world, self.camera, self.time = world, camera, time
        self.height, self.width = size_hw
        self.image = np.zeros((*size_hw, 3), np.float32)
        self.object_ids = np.zeros(size_hw, np.uint16)
        self.objects = [VisibleObject("unlabeled", None, False)]
        self.outlines: list[Outline] = []
        self.focal = camera.focal * self.width
        self.horizon = camera.horizon * self.height
        heading = world.bend_slope(camera.z)
        # The camera looks where the street heads, so that a bend never turns the street out of sight.
        self.centre = self.width * (0.5 + camera.pan) - heading * self.focal
        self.eye = vector(camera.x + float(world.bend(camera.z)), camera.height, camera.z)

    def add_object(self, label: str) -> int:
        self.objects.append(VisibleObject(label, None, False))
        return len(self.objects) - 1

    def add_outline(self, index: int) -> None:
        """Notes the outline of an object that was painted just now and is not hidden yet."""
        item = self.objects[index]
        suffix = "group" if item.is_group else ""
        self.outlines += [(item.label + suffix, points) for points in contours(self.object_ids == index)]

    def cover(self, label: str, mask: NDArray[np.bool_], colors: FloatImage) -> None:
        """Paints a surface: colors `[H, W, 3]` or one that broadcasts, where the mask `[H, W]` holds."""
        index = self.add_object(label)
        np.copyto(self.image, colors, where=mask[..., None])
        self.object_ids[mask] = index
        self.add_outline(index)

    def sky(self) -> None:
        light = self.world.light
        share = np.clip(np.arange(self.height, dtype=np.float32) / max(1.0, self.horizon), 0, 1)[:, None, None]
        colors = light.sky_top * (1 - share) + light.sky_bottom * share
        rows = (np.arange(self.height) * 300 // self.height) % 512
        columns = (
            np.arange(self.width) * 300 // self.width
            + self.world.texture_offset
            - round(self.centre * 300 / self.width)
        ) % 512
        clouds = np.clip(2.5 * (sprites.fractal_noise()[np.ix_(rows, columns)] + light.clouds - 0.55), 0, 1)[..., None]
        white = np.float32(235 * (1 - 0.55 * light.dusk))
        colors = colors + (white - colors) * clouds * 0.75
        above = np.broadcast_to(np.arange(self.height)[:, None] <= self.horizon, self.object_ids.shape)
        self.cover("sky", above, colors.astype(np.float32))

    def skyline(self) -> None:
        columns = (
            np.arange(self.width) * 512 // self.width
            + self.world.texture_offset
            - round(self.centre * 512 / self.width)
        ) % 1024
        above = self.horizon - np.arange(self.height, dtype=np.float32)[:, None]
        distant = self.world.light.sky_bottom * 0.55
        for label, heights, tint in (
            ("building", self.world.skyline[1], np.array([70, 75, 80], np.float32)),
            ("vegetation", self.world.skyline[0], np.array([35, 65, 45], np.float32)),
        ):
            mask = (above > 0) & (above < heights[columns] * self.height)
            self.cover(label, mask, distant + tint * 0.45)

    def ground(self) -> None:
        world, offset = self.world, self.world.texture_offset
        top = int(np.floor(self.horizon)) + 1
        below = np.arange(top, self.height, dtype=np.float32)[:, None] - self.horizon + 0.5
        distance = self.focal * self.camera.height / below  # [rows, 1]
        z = distance + self.camera.z
        columns = np.arange(self.width, dtype=np.float32)[None] - self.centre
        x = columns * distance / self.focal + self.eye[0] - world.bend(z)  # [rows, W], from the centre line
        x, pixel_m = x.astype(np.float32), (distance / self.focal).astype(np.float32)

        def line(offset_m: NDArray, width_m: float) -> FloatImage:
            """How much of each pixel a line of some width covers, given the distance from its middle."""
            return np.clip((width_m / 2 - np.abs(offset_m)) / pixel_m + 0.5, 0, 1) * np.minimum(1.0, width_m / pixel_m)

        rough = sprites.fractal_noise()
        fine = rough[(z * 24).astype(int) % 512, ((x + 99) * 24 + offset).astype(int) % 512]
        coarse = rough[(z * 5 + offset).astype(int) % 512, ((x + 99) * 5).astype(int) % 512]
        grain = 1.0 + (0.45 * fine + 0.25 * coarse) / (1.0 + distance / 12.0)

        ground = {name: color.astype(np.float32) for name, color in world.ground.items()}
        half = world.road_half
        paint = line(np.abs(x) - half + 0.3, 0.14) + line(x, 0.16) * (z % 6.0 < 3.0)
        for zebra in world.zebras:
            paint = np.maximum(paint, line(x % 1.0 - 0.5, 0.5) * ((z > zebra) & (z < zebra + 3.0)))
        paint = np.clip(paint, 0, 1)[..., None] * (0.75 + 0.25 * coarse[..., None])
        road = ground["road"] * grain[..., None]
        if world.light.rain:
            road = road * 0.65 + world.light.sky_bottom * 0.2
        road = road * (1 - paint) + np.float32(220) * paint
        joints = (
            np.maximum(line(z % 1.5 - 0.75, 0.05) + 0 * x, line(x % 1.5 - 0.75, 0.05)) * 0.3 / (1.0 + distance / 10.0)
        )
        kerb = line(np.abs(x) - half - 0.1, 0.2)[..., None]
        walk = ground["sidewalk"] * (grain - joints)[..., None] * (1 + 0.3 * kerb)
        grass = ground["terrain"] * (1 + 1.3 * (grain - 1))[..., None]

        shade = 1.0 - self.world.light.shadow * self._shadows()[top:, :, None]
        haze = self._haze(distance)[..., None]
        reach = distance < FAR_M
        within = np.abs(x)
        whole = np.zeros_like(self.image)
        mask = np.zeros(self.object_ids.shape, bool)
        for label, colors, here in (
            ("terrain", grass, within >= half + world.sidewalk),
            ("sidewalk", walk, (within >= half) & (within < half + world.sidewalk)),
            ("road", road, within < half),
        ):
            whole[top:] = colors * shade * (1 - haze) + world.light.sky_bottom * haze
            mask[top:] = here & reach
            self.cover(label, mask, whole)
        beyond = np.zeros_like(mask)
        beyond[top:] = np.broadcast_to(~reach, within.shape)
        self.image[beyond] = world.light.sky_bottom * 0.7  # stays "unlabeled"

    def _haze(self, distance: NDArray | float) -> Any:
        """How much haze hides at a distance in metres, 0 to 1; an array for an array."""
        return 1.0 - np.exp(-np.maximum(distance, 0.0) / self.world.light.haze_m)

    def _shadows(self) -> FloatImage:
        """Where the ground lies in shadow, `[H, W]` in 0..1."""
        mask = np.zeros(self.object_ids.shape, np.uint8)
        for actor in self.world.actors:
            x, z = actor.position(self.time)
            width, length = actor.shadow
            near, far = max(z - 0.15, self.camera.z + NEAR_M), z + length
            if width == 0.0 or far <= near:
                continue
            corners = [
                (x - width / 2, near),
                (x + width / 2, near),
                (x + width / 2 + 0.3, far),
                (x - width / 2 + 0.3, far),
            ]
            points = [self.project(vector(cx + float(self.world.bend(cz)), 0, cz)) for cx, cz in corners]
            cv2.fillConvexPoly(mask, np.round(points).astype(np.int32), 255)
        return cv2.GaussianBlur(mask, (0, 0), self.width / 350).astype(np.float32) / 255

    def project(self, point: NDArray[np.float64]) -> tuple[float, float]:
        """Column and row of a world point in front of the camera."""
        x, y, z = point - self.eye
        return self.centre + self.focal * x / z, self.horizon - self.focal * y / z

    def actors(self) -> None:
        placed = []
        for number, actor in enumerate(self.world.actors):
            x, z = actor.position(self.time)
            if z - self.camera.z < FAR_M and (z + 30.0 > self.camera.z):
                placed.append((z + actor.paint_z, x, z, number, actor))
        for _, x, z, number, actor in sorted(placed, key=lambda item: -item[0]):
            index = len(self.objects)
            distance = z - self.camera.z
            self.objects.append(VisibleObject(actor.label, actor.coco_name, actor.is_group, number, distance))
            for panel in actor.panels(self.time):
                self._panel(panel, x, z, index)
            self.add_outline(index)

    def _panel(self, panel: Panel, x: float, z: float, index: int) -> None:
        """Warps a sprite into its place in the image."""
        bend = self.world.bend
        start = panel.origin + vector(x, 0, z)
        across = panel.across.copy()
        across[0] += float(bend(start[2] + across[2]) - bend(start[2]))
        start[0] += float(bend(start[2]))
        up = panel.up
        if panel.outward is not None and panel.outward @ (self.eye - start) <= 0:
            return
        # A panel that starts behind the camera is cut at a whole column of its sprite.
        sprite, first, last = panel.sprite, 0.0, 1.0
        ahead = start[2] - self.camera.z - NEAR_M
        columns = sprite.shape[1]
        if across[2] > 0:
            first = max(0.0, np.ceil(-ahead / across[2] * columns) / columns)
        elif across[2] < 0:
            last = min(1.0, np.floor(-ahead / across[2] * columns) / columns)
        elif ahead < 0:
            return
        if last - first < 1.0 / columns:
            return
        sprite = sprite[:, round(first * columns) : round(last * columns)]
        start, across = start + across * first, across * (last - first)
        corners_world = [start, start + across, start + across + up, start + up]
        if min(corner[2] for corner in corners_world) - self.camera.z < NEAR_M * 0.99:
            return
        corners = np.array([self.project(corner) for corner in corners_world])
        left, upper = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right, lower = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (self.width, self.height))
        if right <= left or lower <= upper:
            return

        # Halve the sprite until it is at most about twice as fine as its place: warping alone would skip pixels.
        extent_w, extent_h = np.ptp(corners, axis=0)
        shrunk_w, shrunk_h = sprite.shape[1], sprite.shape[0]
        while shrunk_w > 2 * extent_w and shrunk_w > 1:
            shrunk_w = (shrunk_w + 1) // 2
        while shrunk_h > 2 * extent_h and shrunk_h > 1:
            shrunk_h = (shrunk_h + 1) // 2
        sprite = cv2.resize(sprite, (shrunk_w, shrunk_h), interpolation=cv2.INTER_AREA)

        relative = start - self.eye
        plane = np.stack(
            [across, -up, relative + up], axis=1
        )  # (share of width, share of height, 1) -> world, top first
        lens = np.array([[self.focal, 0, self.centre - left], [0, -self.focal, self.horizon - upper], [0, 0, 1]])
        to_share = np.array([[1 / shrunk_w, 0, 0.5 / shrunk_w], [0, 1 / shrunk_h, 0.5 / shrunk_h], [0, 0, 1]])
        size = (int(right - left), int(lower - upper))
        warped = cv2.warpPerspective(sprite, lens @ plane @ to_share, size, flags=cv2.INTER_LINEAR).astype(np.float32)
        alpha = warped[..., 3:] / 255
        haze = self._haze(float(relative[2] + across[2] / 2))
        window = (slice(upper, lower), slice(left, right))
        colors = warped[..., :3] * (1 - haze) + self.world.light.sky_bottom * (haze * alpha)
        self.image[window] = colors + self.image[window] * (1 - alpha)
        self.object_ids[window][alpha[..., 0] > 0.45] = index

    def hood_and_border(self) -> None:
        """The bonnet of the camera's own car, and the frame of pixels that Cityscapes does not evaluate."""
        hood = np.zeros(self.object_ids.shape, np.uint8)
        axes = (round(self.width * 0.62), max(2, round(self.height * 0.05)))
        cv2.ellipse(hood, (self.width // 2, self.height), axes, 0, 0, 360, 1, -1)
        sheen = np.linspace(95, 40, axes[1] + 1, dtype=np.float32)
        shades = np.zeros((self.height, 1, 1), np.float32)
        shades[-axes[1] - 1 :, 0, 0] = sheen
        self.cover("ego vehicle", hood.astype(bool), np.broadcast_to(shades, self.image.shape))

        index, margin = self.add_object("out of roi"), max(1, self.width // 170)
        inner_right, inner_lower = self.width - margin, self.height - margin
        bars = [(0, 0, self.width, margin), (0, inner_lower, self.width, self.height)]
        bars += [(0, 0, margin, self.height), (inner_right, 0, self.width, self.height)]
        for left, upper, right, lower in bars:
            self.object_ids[upper:lower, left:right] = index
            corners = [[left, upper], [right - 1, upper], [right - 1, lower - 1], [left, lower - 1]]
            self.outlines.append(("out of roi", corners))

    def finish(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Rain, light, blur and the sensor's noise."""
        light, image = self.world.light, self.image
        if light.rain:
            streaks = np.zeros(self.object_ids.shape, np.uint8)
            starts = rng.uniform(0, 1, (self.width // 3, 2)) * (self.width, self.height)
            lengths = rng.uniform(0.03, 0.09, self.width // 3) * self.height
            for (x, y), length in zip(starts, lengths, strict=True):
                end = (round(x - length * 0.15), round(y + length))
                cv2.line(streaks, (round(x), round(y)), end, 255, 1, cv2.LINE_AA)
            image = image + streaks[..., None] * np.float32(0.16)
        image = cv2.GaussianBlur(image * light.gain, (0, 0), light.blur * self.width / 512)
        grain = rng.standard_normal(image.shape, np.float32)
        return np.clip(image + grain * np.float32(light.noise), 0, 255).astype(np.uint8)


def contours(mask: NDArray[np.bool_]) -> list[list[list[int]]]:
    """Outer outlines of a mask `[H, W]` as lists of [x, y] pixels; filled, they give the mask without its holes."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.reshape(-1, 2).astype(int).tolist() for contour in found]


def render(world: World, camera: Camera, size_hw: tuple[int, int], rng: np.random.Generator, time: float = 0.0) -> View:
    """Paints what the camera sees of the world at a time in seconds; `rng` feeds the rain and the sensor's noise."""
    painter = _Painter(world, camera, size_hw, time)
    painter.sky()
    painter.skyline()
    painter.ground()
    painter.actors()
    painter.hood_and_border()
    return View(painter.finish(rng), painter.object_ids, painter.objects, painter.outlines)
