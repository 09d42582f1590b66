"""Writes the demo world: painted street scenes in Cityscapes' and COCO's layouts, and a video of one street.

Examples:
    python -m tools.make_demo_data --out demo_data
    python -m tools.make_demo_data --out tiny --train 16 --val 8 --clip-frames 24 --height 128 --width 256
    python -m tools.make_demo_data --out other_streets --seed 7

What it writes:
    OUT/cityscapes/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
    OUT/cityscapes/gtFine/{train,val}/CITY/*_gtFine_{labelIds,instanceIds}.png and *_gtFine_polygons.json
    OUT/coco/{train2017,val2017}/*.jpg (the same scenes) and OUT/coco/annotations/instances_{train,val}2017.json
    OUT/street.mp4, a drive along another street of the same world
    OUT/preview.png, three scenes with their boxes and labels, to look at
    OUT/demo_world.json, the settings; a second call with the same ones leaves everything as it is

The same settings always write the same bytes.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from backbone.errors import InputError
from tools.demo_world.view import LABELS, View, contours, render
from tools.demo_world.world import Camera, make_camera, make_world
from tools.io.console import console, progress, run
from tools.io.files import replace_file

PAINTER_VERSION = 1  # raise when the same settings would paint something else
MARKER = "demo_world.json"
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
MIN_SIZE = 64


class Scene(NamedTuple):
    """One image of a split and the names it goes by."""

    view: View
    city: str
    stem: str  # Cityscapes' file name up to the kind of file
    image_id: int  # COCO's


def make_demo_data(
    out: Path,
    *,
    num_train: int = 240,
    num_val: int = 48,
    num_clip_frames: int = 96,
    size_hw: tuple[int, int] = (320, 640),
    seed: int = 0,
) -> bool:
    """Writes the demo world into a folder, unless the same one is already there.

    Args:
        out: the folder; made if missing. An earlier demo world in it with other settings is replaced.
        num_train, num_val: scenes per split.
        num_clip_frames: length of the video at 24 frames per second.
        size_hw: height and width of images and video in pixels, even numbers from 64.
        seed: everything is drawn from it.

    Returns:
        True if the world was painted, False if it was there.

    Raises:
        InputError: a number is out of range, the folder holds something else, or it cannot be written.
    """
    for name, count in (("--train", num_train), ("--val", num_val), ("--clip-frames", num_clip_frames)):
        if count < 1:
            raise InputError(f"{name} {count}: must be at least 1")
    for name, size in zip(("--height", "--width"), size_hw, strict=True):
        if size < MIN_SIZE or size % 2:
            raise InputError(f"{name} {size}: must be an even number of pixels, at least {MIN_SIZE}")
    if seed < 0:
        raise InputError(f"--seed {seed}: must not be negative")
    settings = {
        "painter_version": PAINTER_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "num_clip_frames": num_clip_frames,
        "size_hw": list(size_hw),
        "seed": seed,
    }
    try:
        if _is_complete(out, settings):
            return False
        _clear(out)
        _write_json(out / MARKER, {"settings": settings, "complete": False})
        with progress() as bar:
            task = bar.add_task("painting", total=num_train + num_val + num_clip_frames)
            previews = []
            for split, num_scenes in (("train", num_train), ("val", num_val)):
                images, annotations = [], []
                for index in range(num_scenes):
                    scene = make_scene(split, index, size_hw, seed)
                    boxes = coco_annotations(scene, first_id=len(annotations) + 1)
                    _write_cityscapes(out / "cityscapes", split, scene)
                    images.append(_write_coco_image(out / "coco" / f"{split}2017", scene))
                    annotations += boxes
                    if len(previews) < NUM_PREVIEWED:
                        previews.append(_preview(scene.view, boxes))
                    bar.advance(task)
                _write_instances(out / "coco" / "annotations" / f"instances_{split}2017.json", images, annotations)
            _write_image(out / "preview.png", np.vstack(previews))
            for _ in _write_clip(out / "street.mp4", num_clip_frames, size_hw, seed):
                bar.advance(task)
        _write_json(out / MARKER, {"settings": settings, "complete": True})
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


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths of a mask `[H, W]`: column after column, beginning with a run of zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
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
    for name in ("street.mp4", "preview.png"):
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


def _write_clip(path: Path, num_frames: int, size_hw: tuple[int, int], seed: int) -> Iterator[None]:
    """Writes a drive along one street; yields after each frame."""
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
        yield
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


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line and writes the demo world."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_demo_data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, empty or with an earlier demo world")
    parser.add_argument("--train", type=int, default=240, help="scenes for training (default: %(default)s)")
    parser.add_argument("--val", type=int, default=48, help="scenes for validation (default: %(default)s)")
    parser.add_argument("--clip-frames", type=int, default=96, help="frames of video (default: %(default)s)")
    parser.add_argument("--height", type=int, default=320, help="of every image, pixels (default: %(default)s)")
    parser.add_argument("--width", type=int, default=640, help="of every image, pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn by chance (default: %(default)s)")
    args = parser.parse_args(argv)

    cv2.setNumThreads(1)  # the images are too small for more to pay
    painted = make_demo_data(
        args.out,
        num_train=args.train,
        num_val=args.val,
        num_clip_frames=args.clip_frames,
        size_hw=(args.height, args.width),
        seed=args.seed,
    )
    what = "painted" if painted else "already there with the same settings, kept"
    console.print(f"demo world {what}: {args.out} (look at {args.out / 'preview.png'})", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
