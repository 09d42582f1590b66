"""One's own images and masks: read as the classes file says, and its names and colors arrive everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbone import InputError
from seg.data.folder import Folder, read_classes
from seg.palette import distinct_colors
from tests.builders.gardens import CLASSES, make_garden
from tools import eval_seg, train_seg
from tools.io.model_file import load_description
from tools.predict import load

CONFIG = Path(__file__).parents[2] / "configs" / "demo" / "seg.yaml"


@pytest.mark.parametrize("palette", [False, True])
def test_masks_are_read_as_the_classes_file_says(tmp_path, palette):
    dataset = Folder(tmp_path, "val", make_garden(tmp_path, palette=palette))
    ids = np.asarray(Image.open(dataset.labels[1]))
    expected = np.select([ids == 10, (ids == 20) | (ids == 21), ids == 30], [0, 1, 2], 255)
    assert (dataset[1].labels.numpy() == expected).all() and len(dataset) == 3
    assert dataset.classes == ["lawn", '<path> & "kerb"', "pond"]
    assert dataset.colors == [(0, 200, 0), *distinct_colors(1, [(0, 200, 0), (0, 0, 255)]), (0, 0, 255)]


def test_names_alone_are_classes_numbered_from_zero(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [sky, tree]")
    classes = read_classes(path)
    assert classes.names == ["sky", "tree"] and classes.ids == [[0], [1]] and classes.ignore == [255]


def test_pascal_vocs_folders_and_lists_are_understood(tmp_path):
    for name in ("a", "b", "c"):
        for folder, ending in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / (name + ending))
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "val.txt").write_text("c\na\n")
    keys = "images: JPEGImages\nmasks: SegmentationClass\nlist: ImageSets/{split}.txt\n"
    (tmp_path / "classes.yaml").write_text(keys + "classes: [background, aeroplane]")
    dataset = Folder(tmp_path, "val", tmp_path / "classes.yaml")
    assert [path.stem for path in dataset.images] == [path.stem for path in dataset.labels] == ["c", "a"]
    (tmp_path / "ImageSets" / "val.txt").write_text("c\nz\n")
    with pytest.raises(InputError, match=r"val.txt: z is not in"):
        Folder(tmp_path, "val", tmp_path / "classes.yaml")


def test_names_in_a_list_may_hold_blanks(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in ("garden path 1", "pond"):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "val.txt").write_text("\n  garden path 1 \r\n\npond\n")
    (tmp_path / "classes.yaml").write_text("{images: images, masks: masks, list: val.txt, classes: [x]}")
    dataset = Folder(tmp_path, "val", tmp_path / "classes.yaml")
    assert [path.stem for path in dataset.images] == ["garden path 1", "pond"]


def test_pictures_is_the_older_name_of_images(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text("{pictures: photos, classes: [x]}")
    assert read_classes(path).images == "photos"


def test_masks_beside_their_images(tmp_path):
    for ending in (".png", "_mask.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"a{ending}")
    (tmp_path / "classes.yaml").write_text("{images: ., masks: ., mask_ending: _mask.png, classes: [x]}")
    dataset = Folder(tmp_path, "val", tmp_path / "classes.yaml")
    assert [path.name for path in dataset.images + dataset.labels] == ["a.png", "a_mask.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [", "not a readable YAML"),
        ("names: [a]", "needs a list `classes`"),
        ("classes: []", "needs a list `classes`"),
        ("{classes: [a], ignored: 255}", r"unknown key ignored; did you mean ignore\?"),
        ("{classes: [a], colours: 255}", "unknown key colours; valid: classes, ignore, images"),
        ("{classes: [a], image: x}", r"unknown key image; did you mean images\?"),
        ("{classes: [a], images: x, pictures: y}", "has images and pictures, its old name; leave pictures out"),
        ("classes: [{id: 3}]", r"class 0 is \{'id': 3\}; write"),
        ("classes: [{name: a, colour: [1, 2, 3]}]", "class 0 is"),
        ("classes: [{name: a, id: 256}]", "class a: 256 is not a whole number from 0 to 255"),
        ("classes: [{name: a, id: true}]", "class a: True is not a whole number"),
        ("classes: [{name: a, color: [1, 2]}]", r"class a: color is \[1, 2\]"),
        ("classes: [{name: a, color: red}]", "class a: color is 'red'"),
        ("classes: [a, a]", "name a occurs twice"),
        ("{classes: [{name: a, id: 1}], ignore: [1]}", "id 1 occurs twice"),
        ("{classes: [a], masks: 3}", "masks is 3; it must be text"),
        ("classes: [!!python/object/apply:os.system ['true']]", "not a readable YAML"),
    ],
)
def test_faulty_classes_files_are_named(tmp_path, text, message):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_classes(path)
    assert "\n" not in str(error.value)


def test_faulty_folders_are_named(tmp_path):
    classes = make_garden(tmp_path)
    with pytest.raises(InputError, match=r"images/test: no such folder"):
        Folder(tmp_path, "test", classes)
    mask = tmp_path / "masks" / "val" / "bed" / "0.png"
    ids = np.asarray(Image.open(mask)).copy()
    ids[:2, :2] = 77
    Image.fromarray(ids).save(mask)
    with pytest.raises(InputError, match=r"0.png: 4 pixels are \[77\], which no class has"):
        Folder(tmp_path, "val", classes)[0]
    Image.fromarray(np.full((48, 64, 3), 9, np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"0.png: 3072 pixels have one of 1 colors .* 3072 of them \[9, 9, 9\]"):
        Folder(tmp_path, "val", classes)[0]
    Image.new("CMYK", (64, 48)).save(mask.with_suffix(".jpg"))
    mask.with_suffix(".jpg").rename(mask)
    with pytest.raises(InputError, match="a mask holds one id per pixel, this is CMYK"):
        Folder(tmp_path, "val", classes)[0]
    Image.fromarray(ids[:9]).save(mask)
    with pytest.raises(InputError, match=r"0.png: is 64x9, its image 64x48"):
        Folder(tmp_path, "val", classes)
    mask.unlink()
    with pytest.raises(InputError, match=r"0.jpg: has no mask; expected .*masks/val/bed/0.png"):
        Folder(tmp_path, "val", classes)
    (tmp_path / "images" / "val" / "bed" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"0.jpg: 0.png has the same name"):
        Folder(tmp_path, "val", classes)


def test_classes_flow_from_training_to_evaluation_and_prediction(tmp_path):
    classes, out = make_garden(tmp_path), tmp_path / "run"
    own = [f"data.root={tmp_path}", f"data.classes={classes}", f"run.out={out}", "augment.crop_hw=[32,48]"]
    assert train_seg.main([str(CONFIG), *own, "run.steps=2", "run.batch=2", "run.eval_every=2", "optim.warmup=1"]) == 0
    description = load_description(out / "best.safetensors")
    dataset = Folder(tmp_path, "val", classes)
    assert description["classes"] == dataset.classes and description["model"]["num_classes"] == 3
    result = load(out / "best.safetensors")(np.zeros((40, 56, 3), np.uint8))
    assert result.classes == dataset.classes and result.colors.tolist() == [list(color) for color in dataset.colors]

    predictions = tmp_path / "predictions"
    arguments = ["--data", str(tmp_path), "--classes", str(classes)]
    saved = ["--weights", str(out / "best.safetensors"), "--save-predictions", str(predictions)]
    assert eval_seg.main([*arguments, *saved, "--workers", "0"]) == 0
    assert eval_seg.main([*arguments, "--predictions", str(predictions)]) == 0
    reports = [json.loads((folder / "metrics.json").read_text()) for folder in (out, predictions)]
    assert reports[0]["iou"] == reports[1]["iou"] and reports[0]["iou"].keys() == set(dataset.classes)
    assert "cityscapes" not in reports[0]
    more = ["--window", "32", "32", "--scales", "1", "1.5", "--flip", "--out", str(tmp_path / "more")]
    assert eval_seg.main([*arguments, "--weights", str(out / "best.safetensors"), *more]) == 0
    protocol = json.loads((tmp_path / "more" / "metrics.json").read_text())["protocol"]
    assert protocol.startswith("windows of 32x32 every 21x21 (height x width); scales 1, 1.5; mean with the mirror")
    with pytest.raises(InputError, match="need --weights"):
        eval_seg.main([*arguments, "--predictions", str(predictions), "--flip"])
    (predictions / "bed" / "1.png").unlink()
    with pytest.raises(InputError, match=r"bed/1.png: no such prediction \(1 missing\)"):
        eval_seg.main([*arguments, "--predictions", str(predictions)])


def test_a_model_of_other_classes_is_refused(tmp_path):
    classes, out = make_garden(tmp_path), tmp_path / "run"
    own = [f"data.root={tmp_path}", f"data.classes={classes}", f"run.out={out}", "augment.crop_hw=[32,48]"]
    assert train_seg.main([str(CONFIG), *own, "run.steps=1", "run.batch=2", "optim.warmup=1"]) == 0
    (tmp_path / "other.yaml").write_text(CLASSES.replace("pond", "pool"))
    arguments = ["--data", str(tmp_path), "--classes", str(tmp_path / "other.yaml")]
    with pytest.raises(InputError, match="was trained on other classes"):
        eval_seg.main(["--weights", str(out / "best.safetensors"), *arguments])
