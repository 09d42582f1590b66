"""Builds the street of the demo world from random numbers: ground, houses, cars, people, weather, and a camera.

Axes in metres: x to the right, y up from the ground, z along the street. The street bends, so x is measured from its
centre line, and the view adds the bend. Everything that stands on the ground is an `Actor` made of flat `Panel`s.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.demo_world import sprites
from tools.demo_world.sprites import FloatImage

MAX_ROW_M = 22.0  # longest house, within what a sprite can hold


class Panel(NamedTuple):
    """A flat parallelogram in an actor's own axes, covered by a sprite."""

    sprite: sprites.Sprite
    origin: NDArray[np.float64]  # [3] the sprite's lower left corner
    across: NDArray[np.float64]  # [3] from there to the lower right corner
    up: NDArray[np.float64]  # [3] from there to the upper left corner
    outward: NDArray[np.float64] | None = None  # [3] seen only from this side; None: from both


@dataclass(frozen=True)
class Actor:
    """One object of the world: where it stands, how it moves and what it looks like."""

    label: str
    x: float
    z: float  # its nearest point
    poses: list[list[Panel]]  # shown one after the other; each from far to near
    speed_x: float = 0.0  # metres per second
    speed_z: float = 0.0
    poses_per_second: float = 0.0
    paint_z: float = 0.0  # added to z to find its place in the order from far to near
    shadow: tuple[float, float] = (0.0, 0.0)  # width and length of its shadow on the ground
    coco_name: str | None = None  # the class it is boxed as
    is_group: bool = False  # people that cannot be told apart

    def position(self, time: float) -> tuple[float, float]:
        """x and z at a time in seconds."""
        return self.x + self.speed_x * time, self.z + self.speed_z * time

    def panels(self, time: float) -> list[Panel]:
        """The pose at a time in seconds."""
        return self.poses[int(time * self.poses_per_second) % len(self.poses)]


REACH_M = 26.0
NEAR_M = 10.0
"""How far single images have cars in them, and people and posts: beyond, they are too small to learn in minutes."""
POST_M = 0.26
"""Width of the posts of signs; everything on posts is drawn sturdier than in a real street, for the same reason."""


class Light(NamedTuple):
    """Time of day and weather."""

    sky_top: NDArray[np.float32]  # [3] blue, green, red, 0..255
    sky_bottom: NDArray[np.float32]
    gain: NDArray[np.float32]  # [3] what the whole image is multiplied by
    haze_m: float  # distance at which two thirds of a thing are lost in haze
    dusk: float  # 0 day .. 1 night
    clouds: float  # 0 none .. 1 closed
    rain: bool
    shadow: float  # how dark shadows are, 0..1
    noise: float  # standard deviation of the sensor's noise, grey values
    blur: float  # standard deviation of the lens' blur, pixels


@dataclass(frozen=True)
class World:
    """A street, its surroundings and everything on it."""

    light: Light
    road_half: float  # metres from the centre line to the kerb
    sidewalk: float  # its width, metres
    bend_m: float  # how far the street swings to the side
    bend_phase: float
    ground: dict[str, FloatImage]  # [3] color of road, sidewalk and terrain
    zebras: list[float]  # z where crossings begin
    skyline: FloatImage  # [2, 1024] heights of distant trees and houses as shares of the image's height
    texture_offset: int
    actors: list[Actor] = field(default_factory=list)

    def bend(self, z: NDArray | float) -> NDArray | float:
        """How far the street's centre line lies to the right at z, metres."""
        return self.bend_m * (1.0 - np.cos(np.asarray(z) / 35.0 + self.bend_phase))

    def bend_slope(self, z: float) -> float:
        """The derivative of `bend`: where the street heads, metres to the right per metre."""
        return float(self.bend_m / 35.0 * np.sin(z / 35.0 + self.bend_phase))


class Camera(NamedTuple):
    """A camera over the street that looks along it."""

    x: float  # metres from the centre line
    z: float
    height: float  # metres above the ground
    horizon: float  # row of the horizon as a share of the image's height
    pan: float  # how far the street's vanishing point lies right of the middle, as a share of the image's width
    focal: float  # focal length as a share of the image's width


def vector(x: float, y: float, z: float) -> NDArray[np.float64]:
    """A point or direction in the world, metres."""
    return np.array([x, y, z], np.float64)


def _upright(sprite: sprites.Sprite, width: float, height: float, x: float = 0.0, y: float = 0.0) -> Panel:
    """A panel that faces the camera, its lower edge centred at (x, y)."""
    return Panel(sprite, vector(x - width / 2, y, 0), vector(width, 0, 0), vector(0, height, 0))


def make_car(
    rng: np.random.Generator, x: float, z: float, forward: NDArray[np.float64], speed: float, dusk: float
) -> Actor:
    """A car whose nearest point is at z; `forward` is its unit direction along x or along z."""
    shape = sprites.CAR_SHAPES[rng.integers(len(sprites.CAR_SHAPES))]
    paint = sprites.car_paint(rng)
    length, height = shape.profile[-1][0], max(y for _, y in shape.profile)
    right, up = vector(forward[2], 0, -forward[0]), vector(0, 1, 0)
    rear = vector(0, 0, 0)  # the middle of the rear edge, such that the nearest point has z = 0
    if forward[2] < 0:
        rear = -forward * length
    elif forward[0] != 0:
        rear = vector(-forward[0] * length / 2, 0, shape.width / 2)

    stretches = []
    for kind, (s0, y0), (s1, y1) in zip(shape.stretches, shape.profile[:-1], shape.profile[1:], strict=True):
        s_low, y_low, s_high, y_high = (s0, y0, s1, y1) if y0 < y1 else (s1, y1, s0, y0)
        if kind in ("rear", "front"):
            y_low = 0.0
        # Seen from the front, left and right change places.
        side = right if y0 < y1 else -right
        rise = forward * (s_high - s_low) + up * (y_high - y_low)
        sprite = sprites.car_stretch(rng, kind, shape.width, float(np.linalg.norm(rise)), paint, dusk > 0.4)
        origin = rear + forward * s_low + up * y_low - side * shape.width / 2
        outward = -forward * (y1 - y0) + up * (s1 - s0)
        stretches.append(Panel(sprite, origin, side * shape.width, rise, outward))
    stretches.sort(key=lambda panel: -panel.origin[2])
    flank = sprites.car_side(rng, shape, paint)
    flanks = [
        Panel(flank, rear + right * side * shape.width / 2, forward * length, up * height, right * side)
        for side in (-1, 1)
    ]
    along = forward[2] != 0
    return Actor(
        "car",
        x,
        z,
        [stretches + flanks],
        speed_x=forward[0] * speed,
        speed_z=forward[2] * speed,
        shadow=(shape.width + 0.2, length) if along else (length, shape.width + 0.2),
        coco_name="car",
    )


def make_person(rng: np.random.Generator, x: float, z: float, direction: str, num_poses: int, height: float) -> Actor:
    """A person who walks left, right, away or near; `height` in metres."""
    walk = rng.uniform(0.9, 1.5)
    speed_x, speed_z = {"left": (-walk, 0.0), "right": (walk, 0.0), "away": (0.0, walk), "near": (0.0, -walk)}[
        direction
    ]
    look = sprites.person_look(rng, direction in ("left", "right"), direction == "left")
    start, scale, seed = rng.uniform(0, 2 * np.pi), height / sprites.PERSON_CANVAS_M[1], int(rng.integers(1 << 31))
    poses = []
    for pose in range(num_poses):
        # The same seed for each pose keeps the creases on the clothes where they are.
        sprite = sprites.person(look, start + 2 * np.pi * pose / num_poses, np.random.default_rng(seed))
        poses.append([_upright(sprite, sprites.PERSON_CANVAS_M[0] * scale, height)])
    return Actor(
        "person",
        x,
        z,
        poses,
        speed_x,
        speed_z,
        poses_per_second=num_poses * walk / 1.5,
        shadow=(0.7, 0.5),
        coco_name="person",
    )


def make_group(rng: np.random.Generator, x: float, z: float) -> Actor:
    """People standing so close together that they count as one."""
    panels = []
    for place in range(int(rng.integers(5, 9))):
        member = make_person(rng, 0.0, 0.0, str(rng.choice(["left", "right", "near"])), 1, rng.uniform(1.5, 1.9))
        offset = vector((place % 4 - 1.5) * 0.42 + rng.uniform(-0.1, 0.1), 0, 0.5 - 0.5 * (place // 4))
        panels += [panel._replace(origin=panel.origin + offset) for panel in member.poses[0]]
    panels.sort(key=lambda panel: -panel.origin[2])
    return Actor("person", x, z, [panels], shadow=(2.2, 1.0), coco_name="person", is_group=True)


def make_sign(rng: np.random.Generator, x: float, z: float, kind: str) -> list[Actor]:
    """A post and the plate or light on it, which are two objects in Cityscapes; `kind` a sign's or "light"."""
    height = rng.uniform(1.9, 2.5)
    holder = Actor(
        "pole", x, z + 0.05, [[_upright(sprites.post(rng, height + 0.4), POST_M, height + 0.4)]], shadow=(0.15, 0.3)
    )
    if kind == "light":
        box = _upright(sprites.traffic_light(rng), 0.9, 2.1, y=height)
        return [holder, Actor("traffic light", x, z, [[box]], coco_name="traffic light")]
    size = rng.uniform(1.2, 1.6)
    plate = _upright(sprites.sign_plate(rng, kind), size, size, y=height - 0.5)
    return [holder, Actor("traffic sign", x, z, [[plate]], coco_name="stop sign" if kind == "stop" else None)]


def make_row(
    rng: np.random.Generator, light: Light, side: int, inner_x: float, start: float, end: float
) -> list[Actor]:
    """Houses, or a park of hedges and trees, on one side of the street from z = start to end."""
    actors, z, built = [], start, rng.random() < 0.7
    while z < end:
        if rng.random() < 0.2:
            built = not built
        length = rng.uniform(9.0, MAX_ROW_M)
        x = side * (inner_x + rng.uniform(0.0, 1.2))
        inward = vector(-side, 0, 0)
        front_depth = 12.0
        # A sprite's left edge is the far end on the left side of the street and the near end on the right side.
        origin, along = (
            (vector(0, 0, 0), vector(0, 0, length)) if side < 0 else (vector(0, 0, length), vector(0, 0, -length))
        )
        front_origin = vector(-front_depth if side < 0 else 0.0, 0, 0)
        if built:
            height = rng.uniform(5.0, 16.0)
            wall = sprites.hsv(
                rng.choice([0.03, 0.08, 0.12, 0.55]) + rng.uniform(-0.03, 0.03),
                rng.uniform(0.05, 0.5),
                rng.uniform(0.4, 0.9),
            )
            lit = 0.6 * light.dusk
            panels = [
                Panel(
                    sprites.facade(rng, front_depth, height, sprites.scaled(wall, 0.85), lit),
                    front_origin,
                    vector(front_depth, 0, 0),
                    vector(0, height, 0),
                    vector(0, 0, -1),
                ),
                Panel(sprites.facade(rng, length, height, wall, lit), origin, along, vector(0, height, 0), inward),
            ]
            if rng.random() < 0.5:
                rise = rng.uniform(1.2, 2.5)
                gable = sprites.gable(rng, front_depth, rise, wall, rising=side > 0)
                eaves = vector(0, height, 0)
                panels += [
                    Panel(gable, front_origin + eaves, vector(front_depth, 0, 0), vector(0, rise, 0), vector(0, 0, -1)),
                    Panel(
                        sprites.roof(rng, length, 3.0), origin + eaves, along, vector(side * sprites.ROOF_M, rise, 0)
                    ),
                ]
            actors.append(Actor("building", x, z, [panels], paint_z=length))
        else:
            height = rng.uniform(1.0, 2.2)
            sprite = sprites.hedge(rng, length, height)
            panels = [
                Panel(
                    sprites.hedge(rng, 2.0, height),
                    vector(-2.0 if side < 0 else 0.0, 0, 0),
                    vector(2.0, 0, 0),
                    vector(0, height, 0),
                    vector(0, 0, -1),
                ),
                Panel(sprite, origin, along, vector(0, height, 0), inward),
            ]
            actors.append(Actor("vegetation", x, z, [panels], paint_z=length))
            actors += [
                make_tree(rng, x + side * rng.uniform(1.5, 6.0), z + length * share) for share in (0.2, 0.5, 0.8)
            ]
        z += length + (rng.uniform(0.0, 6.0) if rng.random() < 0.4 else 0.0)
    return actors


def make_tree(rng: np.random.Generator, x: float, z: float) -> Actor:
    """A tree 4 to 8 m high."""
    height = rng.uniform(4.0, 8.0)
    width = height * rng.uniform(0.55, 0.8)
    return Actor("vegetation", x, z, [[_upright(sprites.tree(rng, width, height), width, height)]], shadow=(1.6, 1.2))


def make_light(rng: np.random.Generator, fair: bool = False) -> Light:
    """Draws time of day and weather; `fair` is a day without rain or fog."""
    dusk = 0.0 if fair else float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0.3, 0.8)]))
    clouds = rng.uniform(0.0, 1.0)
    rain = rng.random() < 0.15 and not fair
    fog = rng.random() < 0.15 and not fair
    grey = np.full(3, rng.uniform(150, 225))
    blue = np.array([rng.uniform(190, 245), rng.uniform(140, 190), rng.uniform(70, 130)])
    evening = np.array([rng.uniform(90, 150), rng.uniform(110, 150), rng.uniform(160, 220)])
    cover = 1.0 if rain or fog else clouds * 0.8
    top = blue * (1 - cover) + grey * cover
    bottom = (top * 0.4 + 235 * 0.6) * (1 - dusk) + evening * dusk
    warmth = rng.uniform(-0.08, 0.08)
    tint = np.array([1.0 - warmth, 1.0, 1.0 + warmth]) * (1 - dusk) + np.array([1.05, 0.92, 0.95]) * dusk
    return Light(
        sky_top=(top * (1 - 0.45 * dusk)).astype(np.float32),
        sky_bottom=bottom.astype(np.float32),
        gain=(tint * rng.uniform(0.85, 1.15) * (1 - 0.4 * dusk)).astype(np.float32),
        haze_m=rng.uniform(25, 50) if fog else rng.uniform(120, 400),
        dusk=dusk,
        clouds=clouds,
        rain=rain,
        shadow=0.25 if cover > 0.6 else rng.uniform(0.35, 0.6),
        noise=rng.uniform(1.5, 5.0) + 3.0 * dusk,
        blur=rng.uniform(0.3, 0.8),
    )


class _Places:
    """Which stretches of ground are taken."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float, float]] = []

    def take(self, x: float, z: float, half_width: float, length: float) -> bool:
        """Takes a rectangle that starts at z unless it meets a taken one; says whether it did."""
        box = (x - half_width, x + half_width, z, z + length)
        if any(box[0] < b[1] and box[1] > b[0] and box[2] < b[3] and box[3] > b[2] for b in self._taken):
            return False
        self._taken.append(box)
        return True


def make_world(
    rng: np.random.Generator,
    *,
    length: float = 100.0,
    camera_speed: float = 0.0,
    things: bool = True,
    group: bool = False,
    fair: bool = False,
) -> World:
    """Draws a street.

    Arguments:
        rng: the only source of chance.
        length: how far it reaches along z, metres.
        camera_speed: metres per second; above 0 people stride, traffic ahead keeps its distance and nobody crosses.
        things: False leaves out all that COCO would box.
        group: True adds people standing close together.
        fair: True keeps rain, fog and dusk away.
    """
    light = make_light(rng, fair)
    parked = [rng.random() < 0.6, rng.random() < 0.6]
    road_half = rng.uniform(4.4, 5.2) if any(parked) else rng.uniform(3.2, 4.2)
    sidewalk = rng.uniform(2.2, 3.6)
    world = World(
        light,
        road_half,
        sidewalk,
        bend_m=rng.uniform(-3.0, 3.0),
        bend_phase=rng.uniform(0, 2 * np.pi),
        ground={
            "road": np.full(3, rng.uniform(70, 125)) + rng.uniform(-6, 6, 3),
            "sidewalk": np.full(3, rng.uniform(125, 180)) + rng.uniform(-14, 14, 3),
            "terrain": np.array(
                sprites.hsv(rng.uniform(0.14, 0.3), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.6)), np.float64
            ),
        },
        zebras=[rng.uniform(6.0, length)] if rng.random() < 0.5 else [],
        skyline=_skyline(rng),
        texture_offset=int(rng.integers(sprites.NOISE_SIZE)),
    )
    actors, places, kerb = world.actors, _Places(), road_half + 0.5
    near = NEAR_M if camera_speed == 0 else length
    for side in (-1, 1):
        actors += make_row(rng, light, side, road_half + sidewalk + rng.uniform(0.3, 2.0), -5.0, length)
        for z in np.arange(rng.uniform(5.0, 10.0), near + 2.0, rng.uniform(9.0, 16.0)):
            if rng.random() < 0.5 and places.take(side * kerb, z, 0.4, 0.5):
                panel = _upright(
                    sprites.lamp_post(rng, light.dusk > 0.4), side * -sprites.LAMP_POST_M[0], sprites.LAMP_POST_M[1]
                )
                actors.append(Actor("pole", side * kerb, z, [[panel]], shadow=(0.25, 0.5)))
            elif rng.random() < 0.5 and places.take(side * kerb, z, 0.4, 0.5):
                actors.append(make_tree(rng, side * kerb, z))
    kinds = ["speed", "warning", "priority", "direction"] + (["stop", "stop", "light", "light"] if things else [])
    for _ in range(int(rng.integers(2, 7) * length / 100)):
        x, z = rng.choice([-1.0, 1.0]) * (kerb - 0.15), rng.uniform(4.5, min(near, length / 4))
        if places.take(x, z, 0.5, 0.6):
            actors += make_sign(rng, x, z, str(rng.choice(kinds)))
    for _ in range(int(rng.integers(0, 4))):
        x, z = rng.choice([-1.0, 1.0]) * (road_half + sidewalk - 0.4), rng.uniform(4.0, length / 3)
        if places.take(x, z, 0.4, 0.6):
            actors.append(Actor("static", x, z, [[_upright(sprites.bin_box(rng), 0.7, 1.0)]], shadow=(0.8, 0.5)))
    if things:
        if group:
            x = rng.uniform(-0.5, 0.5) * road_half if camera_speed == 0 else -kerb - 1.0
            z = rng.uniform(6.0, 10.0) if camera_speed == 0 else rng.uniform(25.0, 30.0)
            places.take(x, z - 1.0, 1.4, 3.0)
            actors.append(make_group(rng, x, z))
        _add_cars(rng, world, places, parked, length, camera_speed)
        _add_people(rng, world, places, length, camera_speed)
    return world


def _skyline(rng: np.random.Generator) -> FloatImage:
    columns = np.arange(1024)
    trees = (
        0.02
        + 0.02 * (1.0 + sprites.noise(16)[rng.integers(512), columns % 512])
        + 0.006 * sprites.noise(2)[0, columns % 512]
    )
    houses = np.repeat(rng.uniform(-0.05, 0.13, 64), 16)
    return np.stack([trees, houses]).astype(np.float32)


def _add_cars(
    rng: np.random.Generator, world: World, places: _Places, parked: list[bool], length: float, camera_speed: float
) -> None:
    away, near, half = vector(0, 0, 1), vector(0, 0, -1), world.road_half
    dusk, lane = world.light.dusk, min(1.8, half * 0.45)
    reach = REACH_M if camera_speed == 0 else length
    for side, is_parked in zip((-1, 1), parked, strict=True):
        x, z = side * (half - 1.05), rng.uniform(3.5, 9.0)
        while is_parked and z < reach:
            if rng.random() < 0.65 and places.take(x, z, 1.0, 5.0):
                forward = away if (side > 0) == (rng.random() < 0.9) else near
                world.actors.append(make_car(rng, x, z, forward, 0.0, dusk))
            z += rng.uniform(5.3, 6.5)
    if camera_speed == 0 and rng.random() < 0.35:
        x, z = rng.uniform(-3.0, 3.0), rng.uniform(7.0, 21.0)
        if places.take(x, z, 2.6, 2.2):
            world.actors.append(make_car(rng, x, z, vector(rng.choice([-1.0, 1.0]), 0, 0), 0.0, dusk))
    for x, forward, first in ((lane, away, rng.uniform(6.0, 20.0)), (-lane, near, rng.uniform(4.5, 20.0))):
        z = first
        while z < reach and rng.random() < 0.85:
            if places.take(x, z, 1.0, 5.0):
                speed = camera_speed + 0.5 if forward is away else rng.uniform(4.0, 5.0)
                world.actors.append(make_car(rng, x + rng.uniform(-0.2, 0.2), z, forward, speed, dusk))
            z += rng.uniform(8.0, 20.0)


def _add_people(rng: np.random.Generator, world: World, places: _Places, length: float, camera_speed: float) -> None:
    half = world.road_half
    for _ in range(int(rng.integers(2, 11) * length / 100)):
        height = rng.uniform(1.55, 1.95) if rng.random() < 0.85 else rng.uniform(1.1, 1.4)
        if camera_speed == 0 and rng.random() < 0.4:
            z = rng.uniform(4.5, NEAR_M)
            x, direction = rng.uniform(-0.85, 0.85) * min(half, 0.7 * z), str(rng.choice(["left", "right"]))
        else:
            z = 5.0 + (NEAR_M - 5.0 if camera_speed == 0 else length / 3) * rng.random() ** 1.5
            x = rng.choice([-1.0, 1.0]) * rng.uniform(half + 0.8, half + world.sidewalk - 0.3)
            # With time running, those who walk across the sidewalk would end up in a house.
            direction = str(rng.choice(["away", "near"] if camera_speed > 0 else ["left", "right", "away", "near"]))
        if places.take(x, z, 0.4, 0.6):
            world.actors.append(make_person(rng, x, z, direction, 12 if camera_speed > 0 else 1, height))


def make_camera(rng: np.random.Generator, world: World) -> Camera:
    """Draws where the camera stands: mostly in its lane, sometimes in the middle or on the sidewalk."""
    lane = min(1.8, world.road_half * 0.45)
    x = float(rng.choice([lane, lane, lane, 0.0, world.road_half + 0.8])) + rng.uniform(-0.5, 0.5)
    pan = rng.uniform(-0.12, 0.12) + (0.12 if x > world.road_half else 0.0)
    return Camera(x, 0.0, rng.uniform(1.2, 1.8), rng.uniform(0.36, 0.5), pan, rng.uniform(0.52, 0.68))
