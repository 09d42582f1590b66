"""The terminal: text from data is printed as it is, whatever it looks like; old names of commands go on working."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.builders.gardens import CLASSES, make_garden
from tools import check_cityscapes, check_coco, check_masks, eval_det, eval_seg, prepare_cityscapes, prepare_masks
from tools import convert_annotations as command
from tools.converters import annotations
from tools.io.console import console, progress, table

ROOT = Path(__file__).parents[2]
HOSTILE = "cup [/red] [red] :car:"
COMMANDS = {
    "eval_seg": ["--predictions", ".", "--data", ".", "--flip"],
    "eval_det": ["--results", "r.json", "--data", ".", "--fast", "--report"],
    "eval_backbone": ["--weights", "w.pth", "--data", ".", "--size", "2"],
    "check_masks": [".", "--workers", "-1"],
    "check_coco": [".", "--workers", "many"],
    "check_cityscapes": [".", "--worker", "many"],
    "prepare_masks": [".", "out", "--labels", "gtRough"],
    "prepare_cityscapes": [".", "out", "--labels", "gtRough"],
    "convert_annotations": ["voc", "no such folder", "out.json"],
    "convert_weights": ["w.pth", "out.pth"],
}
"""Each with arguments that it refuses."""
HEAVY = ["torch", "torchvision", "cv2", "matplotlib", "albumentations", "accelerate", "pycocotools"]


@pytest.mark.parametrize("options", ["help", "refused"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_refusals_import_nothing_heavy(name, options):
    arguments = ["--help"] if options == "help" else COMMANDS[name]
    code = f"""
import runpy, sys
sys.argv = {[name, *arguments]!r}
try:
    runpy.run_module("tools.{name}", run_name="__main__")
except SystemExit as ended:
    print(ended.code, *[heavy for heavy in {HEAVY!r} if heavy in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == ("0" if options == "help" else "2"), ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_commands_offer_is_what_there_is():
    assert tuple(annotations.FORMATS) == command.FORMATS
    assert check_cityscapes.main is check_masks.main and prepare_cityscapes.main is prepare_masks.main


def test_text_is_never_markup(capsys):
    console.print(HOSTILE)
    console.rule(HOSTILE)
    console.print(table(HOSTILE, [f"a {HOSTILE}", "b"], [[f"c {HOSTILE}", f"d {HOSTILE}"]]))
    with progress("{task.fields[note]}") as bar:
        bar.add_task(f"e {HOSTILE}", total=1, note=f"f {HOSTILE}")
    shown = " ".join(capsys.readouterr().out.split())
    for start in ("", "a ", "c ", "d ", "e ", "f "):
        assert start + HOSTILE in shown


def test_nothing_escapes_markup_that_the_console_does_not_read():
    escaping = [
        str(path)
        for path in (ROOT / "tools").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "rich.markup"
    ]
    assert escaping == []


def test_any_name_of_a_class_of_pixels_is_scored_checked_and_printed(tmp_path, capsys):
    classes = make_garden(tmp_path, CLASSES.replace("pond", f'"{HOSTILE}"'))
    own = ["--data", str(tmp_path), "--classes", str(classes)]
    assert eval_seg.main([*own, "--predictions", str(tmp_path / "masks" / "val")]) == 0
    assert json.loads((tmp_path / "masks" / "val" / "metrics.json").read_text())["iou"][HOSTILE] == 1
    assert HOSTILE in capsys.readouterr().out
    assert check_masks.main([str(tmp_path), "--classes", str(classes), "--workers", "0"]) == 0
    assert HOSTILE in capsys.readouterr().out


def test_any_name_of_a_class_of_boxes_is_scored_checked_converted_and_printed(world, tmp_path, capsys):
    shutil.copytree(world / "coco", tmp_path / "[/red]")
    file = tmp_path / "[/red]" / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = HOSTILE
    file.write_text(json.dumps(content))
    results = [{"score": 0.9} | row for row in content["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert eval_det.main(["--results", str(tmp_path / "results.json"), "--data", str(tmp_path / "[/red]")]) == 0
    assert HOSTILE in json.loads((tmp_path / "metrics.json").read_text())["per_class"]
    assert HOSTILE in capsys.readouterr().out
    assert check_coco.main([str(tmp_path / "[/red]"), "--split", "val2017", "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    assert HOSTILE in shown and "[/red]/check/samples.png" in shown

    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    (tmp_path / "boxes.csv").write_text(f"file,class,xmin,ymin,xmax,ymax\na.png,{HOSTILE},1,2,30,40\n")
    out = tmp_path / "[red]" / "annotations" / "instances_train.json"
    assert command.main(["csv", str(tmp_path / "boxes.csv"), str(out)]) == 0
    shown = capsys.readouterr().out
    assert HOSTILE in shown and str(out) in shown
