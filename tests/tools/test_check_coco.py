"""The check of detection data: silent on a good copy, one line for each fault of a bad one."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbone import InputError
from tools import check_coco


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def check(capsys, root: Path, *options: str) -> tuple[int, list[str], str]:
    code = check_coco.main([str(root), "--workers", "0", "--out", str(root / "samples.png"), *options])
    text = capsys.readouterr().out
    return code, [line for line in text.splitlines() if line.startswith("fault: ")], text


def test_a_good_copy_has_no_faults(copy, capsys):
    code, faults, text = check(capsys, copy)
    assert code == 0 and faults == [] and "no faults" in text
    assert "train2017: 8 images" in text and "val2017: 5 images" in text and "192x96: 5" in text
    assert cv2.imread(str(copy / "samples.png")).shape == (3 * 240, 2 * 480, 3)


def test_every_fault_gets_its_line(copy, capsys):
    file = copy / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    folder = (copy / "train2017").resolve()
    names = [row["file_name"] for row in content["images"]]
    whole = (folder / names[0]).read_bytes()
    (folder / names[0]).write_bytes(whole[: len(whole) // 2])
    (folder / names[1]).unlink()
    (folder / "stray.jpg").write_bytes(whole)
    cv2.imwrite(str(folder / names[2]), np.zeros((50, 60, 3), np.uint8))
    content["images"][3]["file_name"] = "../val2017/secret.jpg"
    content["images"][4]["file_name"] = names[5]
    image_id, category_id = content["images"][6]["id"], content["categories"][0]["id"]
    first = len(content["annotations"])
    boxes = ["[1e999, 5, 9, 9]", "[5, 5, 0, 9]", "[500, 5, 9, 9]", "[180, 5, 20, 9]", "[1, 2, 9, 9]", "[1, 2, 9, 9]"]
    for number in range(len(boxes)):
        row = {"id": 9000 + number, "image_id": image_id, "category_id": category_id, "bbox": [number]}
        content["annotations"].append(row)
    content["categories"][1]["name"] = content["categories"][0]["name"]
    text = json.dumps(content)
    for number, box in enumerate(boxes):
        text = text.replace(f'"bbox": [{number}]', f'"bbox": {box}')
    file.write_text(text)
    code, faults, _ = check(capsys, copy, "--split", "train2017")
    expected = [
        (f"{folder / names[0]}", "cut short"),
        (f"{folder / names[1]}", "listed in images[1] but missing"),
        (f"{folder / names[2]}", "is 60x50, images[2] says 192x96"),
        ("images[3].file_name", "must be a path inside"),
        (f"images[5].file_name {names[5]!r}", "listed twice"),
        (f"{folder / names[3]}", "is not in the annotations"),
        (f"{folder / names[4]}", "is not in the annotations"),
        (f"{folder / 'stray.jpg'}", "is not in the annotations"),
        (f"annotations[{first}]", "is not finite"),
        (f"annotations[{first + 1}]", "under 1 pixel"),
        (f"annotations[{first + 2}]", "is outside its 192x96 image"),
        (f"annotations[{first + 3}]", "passes the edge of its 192x96 image by 8 pixels"),
        (f"annotations[{first + 5}]", f"is the same as annotations[{first + 4}]"),
        ("categories: 2 have the name", "rename them"),
    ]
    for where, message in expected:
        assert any(where in fault and message in fault for fault in faults), (where, message, faults)
    assert code == 1 and len(faults) == len(expected)


def test_a_malformed_file_and_a_missing_folder_are_faults(copy, capsys):
    shutil.rmtree(copy / "val2017")
    (copy / "annotations" / "instances_train2017.json").write_text('{"images": [')
    code, faults, _ = check(capsys, copy)
    assert code == 1 and len(faults) == 2
    assert "is not JSON at line 1" in faults[0] and "no such folder of images" in faults[1]


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no annotations/instances_SPLIT"):
        check_coco.main([str(tmp_path)])
