"""README and docs: what they tell a reader to type is run, and the files, keys and options that they name exist.

Every ```sh and ```python block is run on the demo world, made small, unless `<!-- not run: REASON -->` stands above it;
a command that is not run is still parsed: its tool, options, configs and keys must exist.
"""

import ast
import contextlib
import functools
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backbone.errors import InputError
from seg.data.folder import read_classes
from tools.run.config import BackboneConfig, DetConfig, JointConfig, SegConfig, flatten, load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = 29
"""Blocks that say why they are not run; another one is a decision to take."""

KINDS = {
    "train_seg": SegConfig,
    "train_det": DetConfig,
    "train_joint": JointConfig,
    "train_backbone": BackboneConfig,
}
SMALL = {
    "train_seg": ["augment.crop_hw=[32,64]", "data.val_limit=1"],
    "train_det": ["model.image_size=[64,64]"],
    "train_joint": ["segmentation.augment.crop_hw=[64,128]", "detection.model.image_size=[64,128]", "run.batch=4"],
    "train_backbone": ["augment.size=32"],
}
SMALL_RUN = ["run.steps=2", "run.batch=2", "run.precision=no", "optim.lr=0.001", "optim.warmup=0", "data.workers=0"]
"""What makes any recipe a matter of a second."""

ELSEWHERE = {
    "make": "CI runs its targets",
    ".ci/run": "runs this test",
    "pip": "would change this environment",
    "source": "this environment is one",
}
"""Commands that are checked by what they name, and never run here."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of the fence, from 1
    language: str
    text: str
    not_run: str | None  # the reason

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The page's blocks of one language, in order."""
    found, start, lines = [], None, page.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("```") and start is None:
            start = number
        elif line.startswith("```"):
            marker = re.fullmatch(r"<!-- not run: (.+) -->", lines[start - 1])
            text = "\n".join(lines[start + 1 : number])
            fence = lines[start][3:].split()
            if fence[:1] == [language]:
                found.append(Block(page, start + 1, language, text, marker and marker[1]))
            start = None
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            if words:
                yield words


def tool_of(words: list[str]) -> tuple[str, list[str]] | None:
    """(tool, arguments) of a command that runs one of ours."""
    if words[0] == "taproot" and len(words) > 1 and not words[1].startswith("-"):
        return words[1].replace("-", "_"), words[2:]
    if "-m" in words and words[words.index("-m") + 1].startswith("tools."):
        at = words.index("-m")
        return words[at + 1].removeprefix("tools."), words[at + 2 :]
    return None


def run_tool(tool: str, arguments: list[str]) -> None:
    """Runs a tool's main function on a command line; a failure is a SystemExit or an InputError."""
    module = importlib.import_module(f"tools.{tool}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{tool}.py", *arguments])
        code = module.main()
    if code:
        raise SystemExit(code)


@functools.cache
def help_of(tool: str, *subcommand: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        run_tool(tool, [*subcommand, "--help"])
    return text.getvalue()


def faults(words: list[str], empty: Path) -> Iterator[str]:
    """What a command names that does not exist. `empty` is a config file that stands for those that a run writes."""
    ours = tool_of(words)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        yield from (f"no target {word}" for word in words[1:] if "=" not in word and word not in targets)
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for word in words for name in re.findall(r"^\.\[(.*)\]$", word)]
        yield from (f"no extra {name}" for names in named for name in names.split(",") if name not in extras)
    elif ours is None:
        if words[0] not in {*ELSEWHERE, "taproot", "mkdir", "ln"}:
            yield f"{words[0]} is no command that these pages use"
    elif not (ROOT / "tools" / f"{ours[0]}.py").is_file():
        yield f"no tool {ours[0]}"
    else:
        yield from faults_of_tool(*ours, empty)


def faults_of_tool(tool: str, arguments: list[str], empty: Path) -> Iterator[str]:
    help_text = help_of(tool)
    if tool == "benchmark" and arguments:
        if not re.search(rf"^ +{arguments[0]}(  |$)", help_text, re.MULTILINE):
            yield f"no benchmark {arguments[0]}"
            return
        help_text = help_of(tool, arguments[0])
    for option in (word.split("=")[0] for word in arguments if word.startswith("--")):
        if not re.search(rf"(?<![\w-]){option}(?![\w-])", help_text):
            yield f"{tool} has no option {option}"
    for path in (word for word in arguments if word.startswith("configs/")):
        if not (ROOT / path).is_file():
            yield f"no file {path}"
    if tool in KINDS:
        path = next((ROOT / word for word in arguments if (ROOT / word).is_file()), empty)
        try:
            load(KINDS[tool], path, [word for word in arguments if "=" in word and not word.startswith("-")])
        except InputError as error:
            yield str(error)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "empty.yaml"
    path.write_text("{}\n")
    return path


class Desk(NamedTuple):
    """Where commands run, and which have."""

    folder: Path
    done: set[str]


@pytest.fixture(scope="module")
def desk(world, tmp_path_factory) -> Desk:
    """A folder that holds, made small, what the pages suppose that their reader has: data, and the README's runs."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(world / "cityscapes", desk / "datasets/cityscapes")
    shutil.copytree(world / "coco", desk / "datasets/coco")
    shutil.copytree(world, desk / "demo/data")
    shutil.copy(world / "street.mp4", desk / "in.mp4")
    scenes = sorted((world / "coco/train2017").glob("*.jpg"))[:4]

    # Splits that COCO's and Cityscapes' own copies have: one without boxes, one with coarse labels only.
    coco = json.loads((world / "coco/annotations/instances_val2017.json").read_text())
    info = {key: coco[key] for key in ("images", "categories")}
    (desk / "datasets/coco/annotations/image_info_test-dev2017.json").write_text(json.dumps(info))
    (desk / "datasets/coco/test2017").symlink_to("val2017")
    cityscapes = desk / "datasets/cityscapes"
    (cityscapes / "leftImg8bit/train_extra").symlink_to("train")
    for label in sorted((cityscapes / "gtFine/train").rglob("*_labelIds.png")):
        place = cityscapes / "gtCoarse/train_extra" / label.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(label, place / label.name.replace("gtFine", "gtCoarse"))

    shutil.copy(scenes[0], desk / "photo.jpg")
    (desk / "images").mkdir()
    shutil.copy(scenes[0], desk / "images")
    for folder in ("datasets/imagenet", "flowers"):
        for number, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
            (desk / folder / place).mkdir(parents=True)
            shutil.copy(scenes[number], desk / folder / place)

    ids = np.array([10, 20, 21, 30, 255], np.uint8)
    for split in ("train", "val"):
        photos = desk / f"home/photos/{split}"
        for folder in (desk / f"garden/images/{split}", desk / f"garden/masks/{split}", photos):
            folder.mkdir(parents=True)
        for number, scene in enumerate(scenes[:2]):
            shutil.copy(scene, desk / f"garden/images/{split}/{number}.jpg")
            shutil.copy(scene, photos / f"{number}.jpg")
            height, width = cv2.imread(str(scene)).shape[:2]
            mask = ids[np.arange(height * width).reshape(height, width) * len(ids) // (height * width)]
            cv2.imwrite(str(desk / f"garden/masks/{split}/{number}.png"), mask)
            shapes = [
                {"label": label, "shape_type": "rectangle", "points": [[left, 8], [left + 40, 60]]}
                for label, left in (("cup", 10), ("spoon", 80))
            ]
            labelme = {"imagePath": f"{number}.jpg", "imageHeight": height, "imageWidth": width, "shapes": shapes}
            (photos / f"{number}.json").write_text(json.dumps(labelme))
    classes = next(block for block in blocks(ROOT / "docs/own-data.md", "yaml") if "ignore" in block.text)
    (desk / "garden/classes.yaml").write_text(classes.text)

    done: set[str] = set()
    with contextlib.chdir(desk):
        for block in blocks(ROOT / "README.md", "sh"):
            for words in commands(block):
                if (tool_of(words) or [""])[0] in KINDS:
                    run_command(block, words, done)
    widen_norms(desk / "runs/coco/best.safetensors")
    for place in (desk, desk / "demo/seg"):
        place.mkdir(exist_ok=True)
        shutil.copy(desk / "runs/large/best.safetensors", place)
    return Desk(desk, done)


def widen_norms(path: Path) -> None:
    """Gives norms variances as training leaves them; after two steps on tiny maps they enlarge rounding a lot."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path).items()
    save_file({k: v.clamp(min=0.1) if k.endswith("running_var") else v for k, v in tensors}, path, metadata)


def made_small(tool: str, arguments: list[str]) -> list[str]:
    """A page's command line for the demo world's sizes."""
    if tool in KINDS:
        return [*arguments, *SMALL_RUN, *SMALL[tool]]
    joined = " ".join(arguments)
    if "--window 512 1024" in joined:
        arguments = joined.replace("--window 512 1024", "--window 64 128").split()
    if tool == "export":
        arguments = joined.replace("--size 512 1024", "--size 64 128").split()
    if tool == "video":
        arguments = [*arguments, "--max-frames", "2"]
    if tool in ("check_masks", "check_coco", "prepare_masks", "eval_seg", "eval_det", "eval_backbone"):
        arguments = [*arguments, "--workers", "1" if tool.startswith("prepare") else "0"]
    return arguments


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_commands_name_exists(page, empty):
    found = [
        f"{block}: {shlex.join(words)}: {fault}"
        for block in blocks(page, "sh")
        for words in commands(block)
        for fault in faults(words, empty)
    ]
    assert found == []


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(not block.not_run for block in (*blocks(page, "sh"), *blocks(page, "python")))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_and_programs_run(page, desk, monkeypatch):
    monkeypatch.chdir(desk.folder)
    monkeypatch.setenv("HOME", str(desk.folder / "home"))
    names = {"frame_bgr": np.zeros((64, 96, 3), np.uint8), "images": torch.zeros(1, 3, 64, 64)}
    both = [*blocks(page, "sh"), *blocks(page, "python")]
    for block in sorted((block for block in both if not block.not_run), key=lambda block: block.line):
        if block.language == "python":
            try:
                exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)
            except Exception as error:
                pytest.fail(f"{block}: {type(error).__name__}: {error}")
            continue
        for words in commands(block):
            if words[0] not in ELSEWHERE:
                run_command(block, words, desk.done)


def run_command(block: Block, words: list[str], done: set[str]) -> None:
    """Runs a command of a page once, with the pages' `/data/…` and `/fast/…` below the current folder."""
    words = [re.sub(r"(?<![\w./])/(data|fast)/", r"\1sets/", word) for word in words]
    line = shlex.join(words)
    if line in done:
        return
    done.add(line)
    ours = tool_of(words)
    if ours is None:
        subprocess.run([os.path.expanduser(word) for word in words], check=True)
        return
    try:
        run_tool(ours[0], made_small(*ours))
    except (InputError, SystemExit) as error:
        pytest.fail(f"{block}: {line}: {error or 'failed'}")


def test_every_block_that_is_not_run_says_why():
    reasons = [
        f"{block}: {block.not_run}"
        for page in PAGES
        for language in ("sh", "python")
        for block in blocks(page, language)
        if block.not_run
    ]
    assert len(reasons) == NOT_RUN, "\n".join(reasons)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_is_read(page, tmp_path):
    for block in blocks(page, "yaml"):
        path = tmp_path / "block.yaml"
        path.write_text(block.text)
        errors = []
        for read in (read_classes, *(functools.partial(load, kind, overrides=[]) for kind in KINDS.values())):
            try:
                read(path)
                break
            except InputError as error:
                errors.append(str(error))
        else:
            pytest.fail(f"{block}: neither classes nor a config: {errors}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_the_text_exist(page, empty):
    """Keys, options, tools and files that stand in backticks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = []
    for text in re.findall(r"`([^`\n]+)`", prose):
        try:
            words = shlex.split(text)
        except ValueError:  # a lone quote: not a command
            continue
        if words and (tool_of(words) or words[0] == "make"):
            found += [f"{text}: {fault}" for fault in faults(words, empty) if "…" not in text]
            continue
        for word in words:
            found += [f"{text}: {fault}" for fault in faults_of_word(word, empty)]
    assert found == []


def faults_of_word(word: str, empty: Path) -> Iterator[str]:
    if word != "model.safetensors" and re.fullmatch(
        r"(data|model|augment|loss|loss_settings|optim|run)\.[a-z_]+(=\S*)?", word
    ):
        key, equals, _ = word.partition("=")
        if equals:
            errors = []
            for kind in KINDS.values():
                try:
                    load(kind, empty, [word])
                except InputError as error:
                    errors.append(str(error))
            if len(errors) == len(KINDS):
                yield errors[0]
        elif not any(key in flatten(kind()) for kind in KINDS.values()):
            yield "no such key"
    elif re.fullmatch(r"--[a-z-]+", word):
        sources = (path.read_text() for path in (ROOT / "tools").rglob("*.py"))
        if word != "--help" and not any(f'"{word}"' in source for source in sources):
            yield "no tool has this option"
    elif re.fullmatch(r"configs/[\w/]+\.yaml|docs/\S+|tests/\S+\.py|test_\w+\.py", word):
        if not ((ROOT / word).exists() or (ROOT / "tests" / word).exists()):
            yield "no such file"
    elif re.fullmatch(r"(tools\.)?(check|prepare|convert|train|eval)_\w+|tools\.\w+", word) and not list(
        ROOT.glob(f"tools/{word.removeprefix('tools.')}*")
    ):
        yield "no such tool"


def test_every_recipe_is_on_the_page_and_is_there():
    text = (ROOT / "docs/recipes.md").read_text()
    named = set()
    for folder, rows in re.findall(r"^\| `configs/(\w+)/`(.*?)\n\n", text, re.MULTILINE | re.DOTALL):
        named |= {f"{folder}/{name}" for name in re.findall(r"`(\w+\.yaml)`", rows)}
    assert named == {f"{path.parent.name}/{path.name}" for path in (ROOT / "configs").glob("*/*.yaml")}


def test_the_readme_fits_on_a_screen_or_two_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text) <= 9000
    links = re.findall(r"\]\(([^)#]+)", text)
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("package", ["backbone", "seg", "det", "tools"])
def test_docstrings_name_arguments_that_exist(package):
    """The site shows them in tables; `mean, std:` is one entry for two."""
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                missing = set(documented(ast.get_docstring(node) or "")) - parameters(node)
                wrong += [f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {name}" for name in sorted(missing)]
    assert wrong == []


def documented(docstring: str) -> list[str]:
    """Names in a docstring's section of arguments."""
    section = re.search(r"^Arguments:\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*?):", section[1], re.MULTILINE) if section else []
    return [name for entry in entries for name in entry.split(", ")]


def parameters(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Names of what a function takes, or a class when it is made."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        return {argument.arg for argument in every}
    fields = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__")]
    return fields.union(*map(parameters, makers))
