"""Writes the demo world: scenes in Cityscapes' and COCO's layouts, a video, and a preview.

`tools.make_demo_data` says which files these are.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from backbone.errors import InputError
from tools.demo_world.settings import WorldSettings
from tools.demo_world.view import LABELS, View, contours, render
from tools.demo_world.world import NEAR_M, REACH_M, Camera, make_camera, make_world
from tools.io.console import progress
from tools.io.files import replace_file

PAINTER_VERSION = 2  # raise when the same settings would write something else
MARKER = "demo_world.json"
CLIP, CLIP_TRACKS = "street.mp4", "street_tracks.txt"
CITIES = {"train": ("ahornberg", "quellbach"), "val": ("moosfeld",)}
SPLIT_SEEDS = {"train": 0, "val": 1}
CLIP_SEED = 2

# COCO's own ids, with its gaps.
CATEGORIES = (
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 3, "name": "car", "supercategory": "vehicle"},
    {"id": 10, "name": "traffic light", "supercategory": "outdoor"},
    {"id": 13, "name": "stop sign", "supercategory": "outdoor"},
)
CATEGORY_IDS = {category["name"]: category["id"] for category in CATEGORIES}
MIN_BOX_PIXELS = 60
FRAMES_PER_SECOND = 24.0
CAMERA_SPEED = 4.0  # metres per second
NUM_PREVIEWED = 3


class Scene(NamedTuple):
    """One image of a split and the names it goes by."""

    view: View
    city: str
    stem: str  # Cityscapes' file name up to the kind of file
    image_id: int  # COCO's


def write_world(out: Path, settings: WorldSettings) -> bool:
    """Writes the demo world into a folder, unless the same one is already there; whether it was painted.

    Raises:
        InputError: the folder holds something else, or it cannot be written.
    """
    cv2.setNumThreads(1)  # the images are so small that more threads cost more than they save
    # Lists, as the marker's JSON gives them back.
    described = {"painter_version": PAINTER_VERSION, **asdict(settings), "size_hw": list(settings.size_hw)}
    num_scenes = {"train": settings.num_train, "val": settings.num_val}
    try:
        if _is_complete(out, described):
            return False
        _clear(out)
        _write_json(out / MARKER, {"settings": described, "complete": False})
        with progress() as bar:
            task = bar.add_task("painting", total=sum(num_scenes.values()) + settings.num_clip_frames)
            previews = []
            for split, count in num_scenes.items():
                images, annotations = [], []
                for index in range(count):
                    scene = make_scene(split, index, settings.size_hw, settings.seed)
                    boxes = coco_annotations(scene, first_id=len(annotations) + 1)
                    _write_cityscapes(out / "cityscapes", split, scene)
                    images.append(_write_coco_image(out / "coco" / f"{split}2017", scene))
                    annotations += boxes
                    if len(previews) < NUM_PREVIEWED:
                        previews.append(_preview(scene.view, boxes))
                    bar.advance(task)
                _write_instances(out / "coco" / "annotations" / f"instances_{split}2017.json", images, annotations)
            _write_image(out / "preview.png", np.vstack(previews))
            tracks = []
            for rows in _write_clip(out / CLIP, settings.num_clip_frames, settings.size_hw, settings.seed):
                tracks += rows
                bar.advance(task)
            (out / CLIP_TRACKS).write_text("".join(tracks), "utf-8")
        _write_json(out / MARKER, {"settings": described, "complete": True})
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder for --out") from error
    return True


def make_scene(split: str, index: int, size_hw: tuple[int, int], seed: int) -> Scene:
    """Paints scene number `index` of a split ("train" or "val"), whatever the others are."""
    rng = np.random.default_rng([seed, SPLIT_SEEDS[split], index])
    # Every eighth street is empty and every sixth has a crowd, so that even small sets hold both.
    world = make_world(rng, things=index % 8 != 5, group=index % 6 == 2)
    view = render(world, make_camera(rng, world), size_hw, rng)
    city = CITIES[split][index % len(CITIES[split])]
    # Ids with gaps, as after years of editing; a reader must not take them for positions.
    image_id = 7 * index + index % 3 + (139 if split == "train" else 500_139)
    return Scene(view, city, f"{city}_{index:06d}_000019", image_id)


def coco_annotations(scene: Scene, first_id: int) -> list[dict[str, Any]]:
    """COCO's annotations for what is visible of people, cars, traffic lights and stop signs.

    Boxes are `[x, y, width, height]` in pixels, tight around the visible ones; objects with fewer than
    `MIN_BOX_PIXELS` visible are left out. People in a group are one annotation with `iscrowd` 1.
    """
    annotations = []
    for index, item in enumerate(scene.view.objects):
        if item.coco_name is None:
            continue
        mask = scene.view.object_ids == index
        area = int(mask.sum())
        # COCO's polygons have three corners or more; what is one pixel thin has none.
        polygons = [np.ravel(points).tolist() for points in contours(mask) if len(points) >= 3]
        if area < MIN_BOX_PIXELS or not polygons:
            continue
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": scene.image_id,
                "category_id": CATEGORY_IDS[item.coco_name],
                "bbox": [float(value) for value in cv2.boundingRect(mask.astype(np.uint8))],
                "area": float(area),
                "iscrowd": int(item.is_group),
                "segmentation": run_lengths(mask) if item.is_group else polygons,
            }
        )
    return annotations


def track_lines(view: View, frame: int) -> list[str]:
    """The boxes of a frame of the clip as lines of MOTChallenge's truth files, each object with its lasting id.

    A line is frame (from 1), id (from 1), left, top, width and height in pixels, 1 or 0, COCO's category id and the
    visible share, which is not known: -1. Boxes are those of `coco_annotations`. A 0 says that the box is not to be
    scored: people in a group, and what is farther away than the scenes for training have such objects.

    Arguments:
        frame: its number, from 0.
    """
    lines = []
    for index, item in enumerate(view.objects):
        if item.coco_name is None or item.actor is None:
            continue
        mask = view.object_ids == index
        if int(mask.sum()) < MIN_BOX_PIXELS:
            continue
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        reach = REACH_M if item.label == "car" else NEAR_M
        scored = int(not item.is_group and item.distance <= reach)
        category = CATEGORY_IDS[item.coco_name]
        lines.append(f"{frame + 1},{item.actor + 1},{left},{top},{width},{height},{scored},{category},-1\n")
    return lines


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a mask `[H, W]`: column after column, beginning with a run of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds this very world; refuses a folder with anything but a demo world in it."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{out}: is a file, not a folder; choose another one for --out")
    if not any(out.iterdir()):
        return False
    marker = out / MARKER
    if not marker.is_file():
        raise InputError(
            f"{out}: holds files that are not a demo world (no {MARKER}); choose an empty folder for --out"
        )
    try:
        found = json.loads(marker.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{marker}: not JSON ({error}); remove the folder or choose another one for --out") from error
    return found == {"settings": settings, "complete": True}


def _clear(out: Path) -> None:
    """Makes the folder, or removes from it what an earlier or interrupted call wrote."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("cityscapes", "coco"):
        if (out / name).exists():
            shutil.rmtree(out / name)
    for name in (CLIP, CLIP_TRACKS, "preview.png"):
        (out / name).unlink(missing_ok=True)


def _write_image(path: Path, image: NDArray, options: Sequence[int] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(path.suffix, image, list(options))
    path.write_bytes(encoded.tobytes())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, lambda part: part.write_text(json.dumps(content), "utf-8"))


def _write_cityscapes(root: Path, split: str, scene: Scene) -> None:
    view = scene.view
    _write_image(root / "leftImg8bit" / split / scene.city / f"{scene.stem}_leftImg8bit.png", view.image)
    folder = root / "gtFine" / split / scene.city
    _write_image(folder / f"{scene.stem}_gtFine_labelIds.png", view.label_ids())
    _write_image(folder / f"{scene.stem}_gtFine_instanceIds.png", view.instance_ids())
    height, width = view.object_ids.shape
    objects = [{"label": label, "polygon": points} for label, points in view.outlines]
    _write_json(
        folder / f"{scene.stem}_gtFine_polygons.json", {"imgHeight": height, "imgWidth": width, "objects": objects}
    )


def _write_coco_image(folder: Path, scene: Scene) -> dict[str, Any]:
    """Writes the image and returns its entry for the list of images."""
    name = f"{scene.image_id:012d}.jpg"
    _write_image(folder / name, scene.view.image, (cv2.IMWRITE_JPEG_QUALITY, 95))
    height, width = scene.view.object_ids.shape
    return {"id": scene.image_id, "file_name": name, "height": height, "width": width, "license": 1}


def _write_instances(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    content = {
        "info": {"description": "A painted street world", "version": str(PAINTER_VERSION)},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "categories": list(CATEGORIES),
        "images": images,
        "annotations": annotations,
    }
    _write_json(path, content)


def _write_clip(path: Path, num_frames: int, size_hw: tuple[int, int], seed: int) -> Iterator[list[str]]:
    """Writes a drive along one street; yields after each frame, with its lines of `track_lines`."""
    rng = np.random.default_rng([seed, CLIP_SEED])
    seconds = num_frames / FRAMES_PER_SECOND
    world = make_world(rng, length=100.0 + CAMERA_SPEED * seconds, camera_speed=CAMERA_SPEED, group=True, fair=True)
    start = make_camera(rng, world)._replace(x=min(1.8, world.road_half * 0.45))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, size_hw[::-1])
    if not writer.isOpened():
        raise InputError(f"{path}: OpenCV cannot write this video; choose another folder for --out")
    for frame in range(num_frames):
        time = frame / FRAMES_PER_SECOND
        camera = _drive(start, time)
        view = render(world, camera, size_hw, np.random.default_rng([seed, CLIP_SEED, frame]), time)
        writer.write(view.image)
        yield track_lines(view, frame)
    writer.release()
    reader = cv2.VideoCapture(str(path))
    num_written = round(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    reader.release()
    # OpenCV says nothing when the disk is full.
    if num_written != num_frames:
        raise InputError(f"{path}: {num_written} of {num_frames} frames were written; free some space for --out")


def _drive(start: Camera, time: float) -> Camera:
    """The camera after some seconds: it moves ahead, nods a little and looks to both sides."""
    return start._replace(
        z=start.z + CAMERA_SPEED * time,
        horizon=start.horizon + 0.004 * float(np.sin(5.0 * time)),
        pan=start.pan + 0.04 * float(np.sin(1.2 * time)),
    )


def _preview(view: View, boxes: list[dict[str, Any]]) -> NDArray[np.uint8]:
    """The image with its boxes beside its labels in Cityscapes' colors: `[H, 2 W, 3]`."""
    colors = np.array([LABELS[item.label].color_rgb[::-1] for item in view.objects], np.uint8)
    drawn = view.image.copy()
    for annotation in boxes:
        x, y, width, height = (int(value) for value in annotation["bbox"])
        color = (0, 0, 255) if annotation["iscrowd"] else (60, 255, 60)
        cv2.rectangle(drawn, (x, y), (x + width - 1, y + height - 1), color, 1)
    return np.hstack([drawn, colors[view.object_ids]])
