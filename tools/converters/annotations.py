"""Reads boxes in other formats and makes COCO's annotations of them; `tools.convert_annotations` says how."""

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from backbone.data.images import image_files, image_size, read_ids
from backbone.errors import InputError
from det.data.annotations import check_annotations, check_file_name, read_json
from seg.data.cityscapes import LABEL_ID_OF_NAME
from tools.io.console import progress

INSTANCE_CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
"""Cityscapes' evaluated classes whose objects are told apart."""
CSV_COLUMNS = ["file", "class", "xmin", "ymin", "xmax", "ymax"]
TOLERANCE = 0.5


class Box(NamedTuple):
    """An object of one image."""

    name: str  # of its class
    edges: tuple[float, float, float, float]  # left, top, right, bottom in pixels, right and bottom exclusive
    crowd: bool
    where: str  # names file and place for an error


class Image(NamedTuple):
    """An image with its boxes."""

    file_name: str  # relative to the folder of images
    size_hw: tuple[int, int]
    boxes: list[Box]


def read_voc(source: Path, folder: Path, classes: list[str] | None) -> Iterator[Image]:
    """The images of a folder of Pascal VOC's xml files."""
    for path in _files(source, ".xml"):
        root = _parse_xml(path)
        file_name = _child(root, "filename", str(path))
        image = _image(file_name, folder, f"{path}: annotation")
        if root.find("size") is not None:
            said = tuple(
                _number(_child(root, f"size/{side}", str(path)), f"{path}: {side}") for side in ("height", "width")
            )
            _check_size(said, image.size_hw, str(path))
        boxes = []
        for number, row in enumerate(root.iter("object"), start=1):
            where = f"{path}: object {number}"
            corners = ("xmin", "ymin", "xmax", "ymax")
            left, top, right, bottom = (
                _number(_child(row, f"bndbox/{corner}", where), f"{where}: {corner}") for corner in corners
            )
            difficult = row.findtext("difficult", "0").strip() == "1"
            boxes.append(Box(_child(row, "name", where), (left - 1, top - 1, right, bottom), difficult, where))
        yield image._replace(boxes=boxes)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, which may define entities that grow without end or read other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise InputError("has a DOCTYPE, which annotations do not need and which may be an attack; remove it")


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except ElementTree.ParseError as error:
        line, column = error.position
        raise InputError(
            f"{path}: is not XML at line {line} column {column} ({error}); is the file complete?"
        ) from error
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{path}: cannot be read as XML ({error}); is it one of VOC's files?") from error


def _child(element: ElementTree.Element, tag: str, where: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise InputError(f"{where}: <{tag}> is missing or empty; add it")
    return text


def read_yolo(source: Path, folder: Path, classes: list[str] | None) -> Iterator[Image]:
    """The images of a folder, with the boxes of the text files of their names."""
    if classes is None:
        raise InputError(f"{source}: the files only number their classes; name them in that order with --classes")
    images = image_files(folder)
    names = {path.relative_to(folder).with_suffix(""): path for path in images}
    if len(names) < len(images):
        raise InputError(f"{folder}: two images have the same name but for their endings; rename one")
    lonely = [path for path in _files(source, ".txt") if path.relative_to(source).with_suffix("") not in names]
    # Tools leave their list of classes beside the labels.
    lonely = [path for path in lonely if path.name != "classes.txt"]
    if lonely:
        raise InputError(f"{lonely[0]}: has no image of its name below {folder}; copy it there, or --images FOLDER")
    for name, image in names.items():
        height, width = image_size(image)
        path = source / name.parent / f"{name.name}.txt"
        boxes = []
        for number, line in enumerate(read_text(path).splitlines() if path.exists() else [], start=1):
            where, words = f"{path}: line {number}", line.split()
            if not words:
                continue
            if len(words) != 5:
                raise InputError(f"{where} has {len(words)} values; class, x, y, width and height are 5 (no polygons)")
            label, x, y, w, h = (_number(word, where) for word in words)
            if label not in range(len(classes)):
                raise InputError(f"{where}: class {words[0]} is not one of 0 to {len(classes) - 1}; complete --classes")
            for value in (x, y, w, h):
                if not 0 <= value <= 1:
                    raise InputError(f"{where}: {value:g} is not a share between 0 and 1; divide by the image's size")
            edges = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            boxes.append(Box(classes[int(label)], edges, False, where))
        yield Image(image.relative_to(folder).as_posix(), (height, width), boxes)


def read_labelme(source: Path, folder: Path, classes: list[str] | None) -> Iterator[Image]:
    """The images of a folder of LabelMe's json files."""
    for path in _files(source, ".json"):
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise InputError(f"{path}: has no list of shapes; is it one of LabelMe's files?")
        if not isinstance(content.get("imagePath"), str):
            raise InputError(f"{path}: imagePath is missing or no text; add the name of the image")
        file_name = (path.parent.relative_to(source) / content["imagePath"]).as_posix()
        image = _image(file_name, folder, f"{path}: imagePath")
        said = content.get("imageHeight"), content.get("imageWidth")
        if said != (None, None):
            _check_size(said, image.size_hw, str(path))
        boxes = []
        for number, shape in enumerate(content["shapes"]):
            where = f"{path}: shapes[{number}]"
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise InputError(f"{where}.label is missing or no text; add the class")
            kind = shape.get("shape_type", "polygon")
            if kind not in ("rectangle", "polygon"):
                raise InputError(f"{where}.shape_type {kind!r:.40} has no box; draw a rectangle or polygon")
            points = shape.get("points")
            smallest = 2 if kind == "rectangle" else 3
            if not isinstance(points, list) or len(points) < smallest or not all(map(_is_point, points)):
                raise InputError(f"{where}.points must be {smallest} or more pairs of numbers, is {points!r:.60}")
            columns, rows = zip(*points, strict=True)
            boxes.append(Box(shape["label"], (min(columns), min(rows), max(columns), max(rows)), False, where))
        yield image._replace(boxes=boxes)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)


def read_csv(source: Path, folder: Path, classes: list[str] | None) -> Iterator[Image]:
    """The images that a table lists, in its order."""
    rows = csv.reader(read_text(source).splitlines())
    header = [name.strip() for name in next(rows, [])]
    if header != CSV_COLUMNS:
        raise InputError(f"{source}: line 1 must be {','.join(CSV_COLUMNS)}, is {','.join(header)!r:.80}")
    images: dict[str, Image] = {}
    for row in rows:
        where = f"{source}: line {rows.line_num}"
        if not row:
            continue
        if len(row) != len(CSV_COLUMNS):
            raise InputError(f"{where} has {len(row)} values; {','.join(CSV_COLUMNS)} are {len(CSV_COLUMNS)}")
        file_name, name, *edges = (value.strip() for value in row)
        if file_name not in images:
            images[file_name] = _image(file_name, folder, where)
        if name or any(edges):
            if not name:
                raise InputError(f"{where}: class is empty; name it, or leave the edges empty too")
            left, top, right, bottom = (
                _number(edge, f"{where}: {column}") for edge, column in zip(edges, CSV_COLUMNS[2:], strict=True)
            )
            images[file_name].boxes.append(Box(name, (left, top, right, bottom), False, where))
    yield from images.values()


def read_cityscapes(source: Path, folder: Path, classes: list[str] | None) -> Iterator[Image]:
    """The images of a split of Cityscapes, boxes around the pixels of each instance."""
    name_of = {LABEL_ID_OF_NAME[name]: name for name in INSTANCE_CLASSES}
    for path in _files(source, "_instanceIds.png"):
        stem = path.name.removesuffix("_instanceIds.png").rsplit("_", 1)[0]
        city = path.parent.relative_to(source).as_posix()
        found = [f"{city}/{stem}_leftImg8bit{ending}" for ending in (".png", ".jpg")]
        file_name = next((name for name in found if (folder / name).is_file()), found[0])
        image = _image(file_name, folder, str(path))
        ids = read_ids(path)
        _check_size(ids.shape, image.size_hw, str(path))
        boxes = []
        for instance in np.unique(ids).tolist():
            label_id = instance // 1000 if instance >= 1000 else instance
            if label_id in name_of:
                rows, columns = np.nonzero(ids == instance)
                edges = (float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0)
                boxes.append(Box(name_of[label_id], edges, instance < 1000, f"{path}: instance {instance}"))
        yield image._replace(boxes=boxes)


class Format(NamedTuple):
    """How a format is read."""

    read: Callable[[Path, Path, list[str] | None], Iterator[Image]]
    images: Callable[[Path], Path]  # from the annotations to where the images usually are


FORMATS = {
    "voc": Format(read_voc, lambda source: source.parent / "JPEGImages"),
    "yolo": Format(read_yolo, lambda source: Path(*("images" if p == "labels" else p for p in source.parts))),
    "labelme": Format(read_labelme, lambda source: source),
    "csv": Format(read_csv, lambda source: source.parent),
    "cityscapes": Format(read_cityscapes, lambda source: source.parents[1] / "leftImg8bit" / source.name),
}


def convert(kind: str, source: Path, folder: Path, classes: list[str] | None) -> dict[str, Any]:
    """The content of a COCO annotation file.

    Arguments:
        kind: one of `FORMATS`.
        source: folder of the annotations, or the csv file.
        folder: of the images.
        classes: names in the order of the category ids; by default those that occur, by name.

    Raises:
        InputError: something is wrong with the annotations; the first fault is named.
    """
    with progress() as bar:
        read = FORMATS[kind].read(source, folder, classes)
        images = list(bar.track(read, total=None, description="converting"))
    content = to_coco(images, classes)
    check_annotations(content, str(source))
    return content


def to_coco(images: list[Image], classes: list[str] | None) -> dict[str, Any]:
    """COCO's content of images; classes have the ids 1, 2, … in the given order, or in that of their names.

    Raises:
        InputError: a box is of a class that is not given, has no area, or is not inside its image.
    """
    found = sorted({box.name for image in images for box in image.boxes})
    id_of = {name: number for number, name in enumerate(classes or found, start=1)}
    rows, annotations = [], []
    for image_id, image in enumerate(images, start=1):
        height, width = image.size_hw
        rows.append({"id": image_id, "file_name": image.file_name, "height": height, "width": width})
        for box in image.boxes:
            if box.name not in id_of:
                raise InputError(f"{box.where}: class {box.name!r:.60} is not one of --classes {', '.join(id_of)}")
            left, top, right, bottom = _inside(box, width, height)
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": id_of[box.name]}
            row |= {"bbox": [left, top, right - left, bottom - top], "iscrowd": int(box.crowd)}
            annotations.append(row | {"area": (right - left) * (bottom - top)})
    categories = [{"id": number, "name": name} for name, number in id_of.items()]
    return {"info": {}, "images": rows, "annotations": annotations, "categories": categories}


def _inside(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """The edges, clipped to the image where they pass it by no more than the tolerance."""
    left, top, right, bottom = box.edges
    said = f"{left:g}, {top:g} to {right:g}, {bottom:g}"
    if not all(map(math.isfinite, box.edges)) or right <= left or bottom <= top:
        raise InputError(f"{box.where}: the box {said} has no area; correct or remove it")
    if min(left, top) < -TOLERANCE or right > width + TOLERANCE or bottom > height + TOLERANCE:
        raise InputError(f"{box.where}: the box {said} is not inside its {width}x{height} image; correct it")
    edges = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    # Shares of an image are rounded: what is meant is seldom finer than a thousandth of a pixel.
    left, top, right, bottom = (round(float(edge), 3) for edge in edges)
    return left, top, right, bottom


def _files(folder: Path, ending: str) -> list[Path]:
    files = sorted(path for path in folder.rglob(f"*{ending}") if path.is_file())
    if not files:
        raise InputError(f"{folder}: holds no *{ending}; give the folder of the annotations")
    return files


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a mark; InputError if it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); is it the right file?") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r:.40} is not a number; correct it") from error
    if not math.isfinite(value):
        raise InputError(f"{where}: {text} is not finite; correct it")
    return value


def _image(file_name: str, folder: Path, where: str) -> Image:
    """An image below `folder` without boxes, its size from its header."""
    path = check_file_name(file_name, folder, where)
    if not path.is_file():
        raise InputError(f"{where}: its image {path} is missing; copy it there, or --images FOLDER")
    return Image(path.relative_to(folder).as_posix(), image_size(path), [])


def _check_size(said_hw: tuple, size_hw: tuple[int, int], where: str) -> None:
    if tuple(said_hw) != size_hw:
        sizes = " but the image is ".join(f"{width}x{height}" for height, width in (said_hw, size_hw))
        raise InputError(f"{where}: is for an image of {sizes}; annotate the image as it is")
