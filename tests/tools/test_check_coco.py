"""The check of detection data: silent on a good copy, one line for each fault of a bad one."""

import json
import shutil

import cv2
import numpy as np
import pytest

from backbone import InputError
from tests.builders.commands import check_coco_main
from tools import check_coco


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def test_a_good_copy_has_no_faults(copy, capsys):
    code, faults, text = check_coco_main(capsys, copy)
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
    code, faults, _ = check_coco_main(capsys, copy, "--split", "train2017")
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
    code, faults, _ = check_coco_main(capsys, copy)
    assert code == 1 and len(faults) == 2
    assert "is not JSON at line 1" in faults[0] and "no such folder of images" in faults[1]


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no annotations/instances_SPLIT"):
        check_coco.main([str(tmp_path)])


def test_images_of_splits_whose_boxes_are_secret_are_checked(copy, capsys):
    """As of test-dev2017, whose images are some of those in test2017/."""
    folder = copy / "annotations"
    content = json.loads((folder / "instances_val2017.json").read_text())
    del content["annotations"]
    (folder / "image_info_test2017.json").write_text(json.dumps(content))
    first = content["images"].pop()
    (folder / "image_info_test-dev2017.json").write_text(json.dumps(content))
    assert "test2017" not in check_coco_main(capsys, copy)[2]  # not asked for, and the images are not here
    shutil.copytree(copy / "val2017", copy / "test2017")
    code, faults, text = check_coco_main(capsys, copy)
    assert code == 0 and faults == [] and "test2017: 5 images, boxes are secret" in text
    code, faults, text = check_coco_main(capsys, copy, "--split", "test-dev2017")
    assert code == 0 and "test-dev2017: 4 images, boxes are secret" in text and "no box of" not in text
    (copy / "test2017" / first["file_name"]).write_bytes(b"")
    assert check_coco_main(capsys, copy, "--split", "test-dev2017")[0] == 0
    code, faults, _ = check_coco_main(capsys, copy, "--split", "test2017")
    assert code == 1 and len(faults) == 1 and "is empty" in faults[0]


def test_samples_lie_in_the_data_sets_folder_or_where_out_says(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [str(copy), "--split", "val2017", "--workers", "0"]
    assert check_coco.main(arguments) == 0
    assert cv2.imread(str(copy / "check" / "samples.png")).shape[1] == 2 * 480
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]
    shutil.rmtree(copy / "check")
    (copy / "check").write_text("")
    with pytest.raises(InputError, match=r"check/samples\.png: cannot be written; say where to write it with --out"):
        check_coco.main(arguments)
    with pytest.raises(InputError, match=r"would lie among the data set's images; say where"):
        check_coco.main([*arguments, "--out", str(copy / "val2017" / "samples.png")])
    assert check_coco.main([*arguments, "--out", str(tmp_path / "new" / "sheet.png")]) == 0
    assert (tmp_path / "new" / "sheet.png").is_file()
    with pytest.raises(InputError, match="missing: no such folder"):
        check_coco.main([str(tmp_path / "missing"), "--split", "val2017"])
    assert not (tmp_path / "missing").exists()
