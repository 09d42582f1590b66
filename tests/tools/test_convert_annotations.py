"""Boxes of other formats become COCO's to the pixel, and what cannot be right is refused by file, place and value."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import det
from backbone import InputError
from tools import convert_annotations
from tools.converters.annotations import INSTANCE_CLASSES

HEIGHT, WIDTH = 60, 80
BOXES = {"a": [("car", 10, 20, 30, 50), ("person", 0, 0, 80, 60)], "b": [("car", 79, 59, 80, 60)], "c": []}
"""Class, left, top, right, bottom by image; right and bottom are exclusive."""


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in BOXES:
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


def voc(name: str, boxes: list) -> str:
    objects = "".join(
        f"<object><name>{c}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{r}</xmax><ymax>{b}</ymax></bndbox></object>"
        for c, x, y, r, b in boxes
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"


def yolo(name: str, boxes: list) -> str:
    lines = []
    for c, x, y, r, b in boxes:
        shares = (x + r) / 2 / WIDTH, (y + b) / 2 / HEIGHT, (r - x) / WIDTH, (b - y) / HEIGHT
        lines.append(f"{['person', 'car'].index(c)} {' '.join(f'{share:.6f}' for share in shares)}")
    return "\n".join(lines)


def labelme(name: str, boxes: list) -> str:
    shapes = [{"label": c, "shape_type": "rectangle", "points": [[r, b], [x, y]]} for c, x, y, r, b in boxes]
    for shape in shapes[1:]:
        (r, b), (x, y) = shape["points"]
        shape |= {"shape_type": "polygon", "points": [[x, y], [r, y], [(x + r) / 2, b]]}
    return json.dumps({"imagePath": f"{name}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes})


def write(root: Path, kind: str, boxes: dict) -> list[str]:
    """The data in a format, and the arguments that convert it."""
    if kind == "csv":
        rows = ["file,class,xmin,ymin,xmax,ymax"]
        for name, mine in boxes.items():
            rows += [f"{name}.png,{','.join(map(str, box))}" for box in mine] or [f"{name}.png,,,,,"]
        (root / "boxes.csv").write_text("\n".join(rows))
        return ["csv", str(root / "boxes.csv"), str(root / "out.json"), "--images", str(root / "images")]
    make, ending = {"voc": (voc, "xml"), "yolo": (yolo, "txt"), "labelme": (labelme, "json")}[kind]
    for name, mine in boxes.items():
        (root / "labels" / f"{name}.{ending}").write_text(make(name, mine))
    return [kind, str(root / "labels"), str(root / "out.json"), "--images", str(root / "images")]


def converted(root: Path, arguments: list[str], *options: str) -> dict:
    assert convert_annotations.main([*arguments, *options]) == 0
    return json.loads((root / "out.json").read_text())


def boxes_of(content: dict) -> dict:
    names = {row["id"]: row["name"] for row in content["categories"]}
    found = {Path(row["file_name"]).stem: [] for row in content["images"]}
    stems = {row["id"]: Path(row["file_name"]).stem for row in content["images"]}
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        assert row["area"] == pytest.approx(w * h)
        found[stems[row["image_id"]]].append((names[row["category_id"]], x, y, x + w, y + h))
    return found


@pytest.mark.parametrize("kind", ["voc", "yolo", "labelme", "csv"])
def test_boxes_are_equal_to_the_pixel(root, kind):
    content = converted(root, write(root, kind, BOXES), "--classes", "person", "car")
    assert [row["name"] for row in content["categories"]] == ["person", "car"]
    assert {(row["height"], row["width"]) for row in content["images"]} == {(HEIGHT, WIDTH)}
    found = boxes_of(content)
    assert found.keys() == BOXES.keys()
    for name, boxes in BOXES.items():
        assert [box[0] for box in found[name]] == [box[0] for box in boxes]
        for mine, given in zip(found[name], boxes, strict=True):
            np.testing.assert_allclose(mine[1:], given[1:], atol=2e-3)


def test_what_is_written_can_be_trained_on(root):
    (root / "annotations").mkdir()
    arguments = write(root, "voc", BOXES)
    arguments[2] = str(root / "annotations" / "instances_images.json")
    assert convert_annotations.main(arguments) == 0
    data = det.CocoDetection(root, "images")
    assert data.classes == ["car", "person"] and data[0].boxes[0].tolist() == [10, 20, 30, 50]
    det.self_check(data.annotation_file, data)


def test_classes_come_from_a_file_or_are_those_that_occur(root):
    arguments = write(root, "csv", BOXES)
    assert [row["name"] for row in converted(root, arguments)["categories"]] == ["car", "person"]
    (root / "names.txt").write_text("tree\nperson\n\ncar\n")
    named = converted(root, arguments, "--classes", str(root / "names.txt"))
    assert [row["name"] for row in named["categories"]] == ["tree", "person", "car"]


def test_difficult_objects_of_voc_become_crowds(root):
    arguments = write(root, "voc", BOXES)
    path = root / "labels" / "a.xml"
    path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    assert [row["iscrowd"] for row in converted(root, arguments)["annotations"]] == [1, 0, 0]


def test_instances_of_cityscapes_become_boxes_and_groups_crowds(tmp_path):
    images, labels = tmp_path / "leftImg8bit" / "val" / "city", tmp_path / "gtFine" / "val" / "city"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    cv2.imwrite(str(images / "city_0_0_leftImg8bit.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    ids = np.full((HEIGHT, WIDTH), 7, np.uint16)
    ids[5:10, 20:31] = 26000
    ids[40, 50] = 26001
    ids[0:20, 70:80] = 24  # a group of persons
    ids[50:55, 0:5] = 29000  # a caravan, not evaluated
    Image.fromarray(ids).save(labels / "city_0_0_gtFine_instanceIds.png")
    content = converted(tmp_path, ["cityscapes", str(tmp_path / "gtFine" / "val"), str(tmp_path / "out.json")])
    assert content["images"][0]["file_name"] == "city/city_0_0_leftImg8bit.png"
    names = {row["id"]: row["name"] for row in content["categories"]}
    assert list(names.values()) == INSTANCE_CLASSES
    found = [(names[row["category_id"]], row["bbox"], row["iscrowd"]) for row in content["annotations"]]
    assert found == [("person", [70, 0, 10, 20], 1), ("car", [20, 5, 11, 5], 0), ("car", [50, 40, 1, 1], 0)]


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>'
OUTSIDE = {"a": [("car", 10, 20, 90, 50)]}
NO_AREA = {"a": [("car", 30, 20, 30, 50)]}


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("voc", ("<xmin>11</xmin>", "<xmin>eleven</xmin>"), r"a\.xml: object 1: xmin: 'eleven' is not a number"),
        ("voc", ("<xmin>11</xmin>", "<xmin>nan</xmin>"), r"a\.xml: object 1: xmin: nan is not finite"),
        ("voc", ("<xmin>11</xmin>", ""), r"a\.xml: object 1: <bndbox/xmin> is missing"),
        ("voc", ("<name>car</name>", "<name> </name>"), r"a\.xml: object 1: <name> is missing or empty"),
        ("voc", ("</annotation>", ""), r"a\.xml: is not XML at line 1 column \d+"),
        ("voc", ("<annotation>", BOMB + "<annotation>"), r"a\.xml: has a DOCTYPE"),
        ("voc", ("a.png", "gone.png"), r"a\.xml: .*gone\.png is missing"),
        ("voc", ("a.png", "../out.png"), r"a\.xml: annotation.file_name '../out.png' must be a path inside"),
        ("voc", ("a.png", "/etc/passwd"), "must be a path inside"),
        ("voc", ("<width>80", "<width>81"), r"a\.xml: is for an image of 81.*x60.* but the image is 80x60"),
        ("yolo", ("1 0.25", "2 0.25"), r"a\.txt: line 1: class 2 is not one of 0 to 1"),
        ("yolo", ("1 0.25", "-1 0.25"), r"a\.txt: line 1: class -1"),
        ("yolo", ("1 0.25", "car 0.25"), r"a\.txt: line 1: 'car' is not a number"),
        ("yolo", ("1 0.25", "1 20.25"), r"a\.txt: line 1: 20\.25 is not a share"),
        ("yolo", ("1 0.25", "1 0.5 0.25"), r"a\.txt: line 1 has 6 values"),
        ("yolo", ("0.250000 ", "0.010000 "), r"a\.txt: line 1: the box -9.2, 20 to 10.8, 50 is not inside its 80x60"),
        ("labelme", ('"rectangle"', '"circle"'), r"a\.json: shapes\[0\]\.shape_type 'circle' has no box"),
        ("labelme", ("[[30, 50], [10, 20]]", "[[30, 50]]"), r"a\.json: shapes\[0\]\.points must be 2 or more"),
        ("labelme", ("[[30, 50], [10, 20]]", "[[30, 50], [10, null]]"), r"shapes\[0\]\.points"),
        ("labelme", ('"label": "car"', '"label": 3'), r"a\.json: shapes\[0\]\.label is missing or no text"),
        ("labelme", ('"imageWidth": 80', '"imageWidth": 8'), r"a\.json: is for an image of 8x60"),
        ("labelme", ("a.png", "..\\\\a.png"), "must be a path inside"),
        ("labelme", ("}]}", "}"), r"a\.json: is not JSON at line 1"),
        ("csv", ("file,class", "image,class"), r"boxes\.csv: line 1 must be file,class"),
        ("csv", ("car,10", "car,ten"), r"boxes\.csv: line 2: xmin: 'ten' is not a number"),
        ("csv", ("car,10", ",10"), r"boxes\.csv: line 2: class is empty"),
        ("csv", ("car,10", "car,9,10"), r"boxes\.csv: line 2 has 7 values"),
        ("csv", ("a.png", "../a.png"), r"line 2\.file_name '\.\./a\.png' must be a path inside"),
        ("csv", ("car,10", "bus,10"), r"boxes\.csv: line 2: class 'bus' is not one of --classes person, car"),
    ],
)
def test_what_cannot_be_right_is_refused_by_file_place_and_value(root, kind, change, message):
    arguments = write(root, kind, BOXES)
    path = Path(arguments[1]) if kind == "csv" else next((root / "labels").glob("a.*"))
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(InputError, match=message) as caught:
        convert_annotations.main([*arguments, "--classes", "person", "car"])
    assert "\n" not in str(caught.value) and not (root / "out.json").exists()


@pytest.mark.parametrize("kind", ["voc", "yolo", "labelme", "csv"])
@pytest.mark.parametrize("boxes, rule", [(OUTSIDE, "is not inside its 80x60 image"), (NO_AREA, "has no area")])
def test_boxes_outside_or_without_area_are_refused(root, kind, boxes, rule):
    if kind == "yolo" and boxes is OUTSIDE:
        boxes = {"a": [("car", 10, 20, 86, 50)]}  # width and centre are still shares of the image
    with pytest.raises(InputError, match=rule):
        convert_annotations.main([*write(root, kind, boxes), "--classes", "person", "car"])


def test_labels_without_an_image_and_numbers_without_names_are_refused(root):
    arguments = write(root, "yolo", BOXES)
    with pytest.raises(InputError, match="name them in that order with --classes"):
        convert_annotations.main(arguments)
    (root / "labels" / "gone.txt").write_text("")
    with pytest.raises(InputError, match=re.escape("gone.txt: has no image")):
        convert_annotations.main([*arguments, "--classes", "person", "car"])
    with pytest.raises(InputError, match="differ from each other"):
        convert_annotations.main([*arguments, "--classes", "car", "car"])


def test_yolo_finds_the_images_beside_the_labels_and_takes_images_without_labels(root):
    arguments = write(root, "yolo", {"a": BOXES["a"]})[:3]
    content = converted(root, arguments, "--classes", "person", "car")
    assert [row["file_name"] for row in content["images"]] == ["a.png", "b.png", "c.png"]
    assert len(content["annotations"]) == 2


def test_entities_are_never_expanded(root):
    arguments = write(root, "voc", BOXES)
    secret = root / "secret.txt"
    secret.write_text("treasure")
    for text in (BOMB, f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]><annotation>&x;</annotation>'):
        for encoding in ("utf-8", "utf-16"):
            (root / "labels" / "a.xml").write_bytes(text.encode(encoding))
            with pytest.raises(InputError, match="DOCTYPE"):
                convert_annotations.main(arguments)
