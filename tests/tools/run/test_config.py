"""Configs: files and overrides merge, and every mistake is one line that names the key and the cure."""

import subprocess
import sys
from pathlib import Path

import pytest

from backbone import InputError
from backbone import options as backbone_options
from backbone.data import transforms as backbone_transforms
from seg.options import ANNOTATIONS
from tools.run.config import (
    BackboneConfig,
    DetConfig,
    JointConfig,
    SegConfig,
    describe,
    flatten,
    load,
    parse_arguments,
    to_yaml,
)

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*/*.yaml"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.yaml"
    path.write_text("optim: {lr: 0.5}\nrun: {steps: 7}\n")
    return path


def test_the_file_overrides_defaults_and_the_command_line_the_file(file):
    config = load(SegConfig, file, ["run.steps=9", "augment.crop_hw=[32,64]", "loss.dice=0.5"])
    assert (config.optim.lr, config.run.steps, config.augment.crop_hw) == (0.5, 9, [32, 64])
    assert config.loss == {"cross_entropy": 1.0, "dice": 0.5}
    assert config.run.batch == SegConfig().run.batch


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_config_is_valid_and_opens_with_a_comment(path):
    kind = DetConfig if "det" in path.stem or path.parent.name == "coco" else SegConfig
    kind = {"imagenet": BackboneConfig, "joint": JointConfig}.get(path.parent.name, kind)
    load(kind, path, [])
    assert path.read_text().startswith("# ")


def test_no_mixed_precision_can_be_asked_for(file):
    assert load(DetConfig, file, ["run.precision=no"]).run.precision == "no"


def test_a_printed_config_reads_back_the_same(file, tmp_path):
    config = load(DetConfig, file, ["model.image_size=[64,96]"])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load(DetConfig, again, []) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.rate=1", "unknown key optim.rate"),
        ("optm.lr=1", "unknown key optm; did you mean optim"),
        ("optim.weight_decy=1", "did you mean optim.weight_decay"),
        ("optim.lr=fast", "optim.lr: Value 'fast'"),
        ("run.steps=1.5", "run.steps: Value '1.5'"),
        ("run.steps=0", "run.steps is 0; it must lie between 1"),
        ("optim.name=sdg", "optim.name is 'sdg'; valid: adamw, sgd, rmsprop|valid: sgd, rmsprop, adamw"),
        ("augment.crop_hw=[64]", "takes 2 numbers"),
        ("std=[0,1,1]", "a number of std is 0.0; it must lie between 1e-06"),
        ("mean=[.nan,1,1]", "a number of mean is nan; it must lie between 0 and 1"),
        ("loss.cross=1", "loss.cross is unknown; did you mean cross_entropy?"),
        ("loss.dice=-1", "loss.dice is -1.0; it must lie between 0"),
        ("loss.dice=.nan", "loss.dice is nan; it must lie between 0"),
        ("data.val_limit=0", "data.val_limit is 0; it must lie between 1"),
        ("model.head=lrasp", "model.head is 'lrasp'; did you mean lraspp?"),
        ("model.output_stride=4", "model.output_stride is 4; valid: 8, 16, 32"),
        (
            "model.backbone=mobilenet_v3_larg",
            "model.backbone: 'mobilenet_v3_larg' is no architecture; did you mean mob",
        ),
        ("model.backbone=ds_k3_c17", "model.backbone: 'ds_k3_c17', character 8: '17' must be channels"),
        ("run.freeze=head", "run.freeze: 'head' is no part of a network; valid: body, stem, or the number of a block"),
        ("run.freeze=body", "run.freeze keeps layers as weights made them; give weights too"),
        ("run.freeze_steps=5", "run.freeze_steps says when run.freeze ends; give run.freeze too"),
        ("run=fast", "run is a section"),
        ("steps", "key=value"),
        ("run.steps=", "run.steps"),
        ("run.out=${oc.env:HOME}", "oc.env"),
    ],
)
def test_mistakes_name_the_key(file, override, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace("?", r"\?")):
        load(SegConfig, file, [override])


def test_mistakes_name_the_source(file, tmp_path):
    with pytest.raises(InputError, match=r"^run\.steps=0: run\.steps is 0"):
        load(SegConfig, file, ["run.steps=0"])
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("loss: {dice: -1}")
    with pytest.raises(InputError, match=r"wrong\.yaml: loss\.dice is -1"):
        load(SegConfig, wrong, ["run.steps=5"])


def test_losses_given_as_a_whole_replace_the_default_and_one_by_one_are_added(file, tmp_path):
    hard = tmp_path / "loss.yaml"  # begins like the key of an override
    hard.write_text("loss: {ohem: 1}")
    assert load(SegConfig, hard, []).loss == {"ohem": 1.0}
    assert load(SegConfig, hard, ["loss.dice=0.5"]).loss == {"ohem": 1.0, "dice": 0.5}
    assert load(SegConfig, hard, ["loss={focal: 2}"]).loss == {"focal": 2.0}
    assert load(SegConfig, hard, ["loss={}"]).loss == {}
    assert load(SegConfig, file, ["loss.ohem=1"]).loss == {"cross_entropy": 1.0, "ohem": 1.0}
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(load(SegConfig, hard, [])))
    assert load(SegConfig, again, []).loss == {"ohem": 1.0}


def test_choices_are_what_the_packages_know(file):
    assert tuple(backbone_transforms.POLICIES) == backbone_options.POLICIES
    assert tuple(backbone_transforms.INTERPOLATIONS) == backbone_options.INTERPOLATIONS
    for annotation in ANNOTATIONS:
        load(SegConfig, file, [f"data.train_labels={annotation}"])


@pytest.mark.parametrize("kind", [SegConfig, DetConfig, BackboneConfig])
def test_every_number_has_limits_and_the_defaults_keep_to_them(kind, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    config = load(kind, tmp_path / "empty.yaml", [])
    for key, value in flatten(config).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            with pytest.raises(InputError, match=r"must lie between|valid:"):
                load(kind, tmp_path / "empty.yaml", [f"{key}=-1"])


@pytest.mark.parametrize(
    "content",
    ["optim: [", "- a\n- b", "optim: {lr: 1}\noptim: {lr: 2}", "x: !!python/object/apply:os.getcwd []", "\xff"],
)
def test_files_that_are_no_tables_are_refused(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"broken\.yaml"):
        load(SegConfig, path, [])


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such config file"):
        load(SegConfig, tmp_path / "absent.yaml", [])


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(SegConfig, ["--help"], "train_seg", "examples")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {key}=" in text for key in flatten(SegConfig()))
    assert len(describe(SegConfig())) == len(flatten(SegConfig()))


def test_the_command_line_says_what_to_do(file):
    assert parse_arguments(SegConfig, [str(file)], "train_seg", "")[1:] == (False,) * 5
    assert parse_arguments(SegConfig, [str(file), "--resume"], "train_seg", "").resume
    config, *_ = found = parse_arguments(SegConfig, [str(file), "run.out=a", "--find-lr"], "train_seg", "")
    assert found.find_lr and (config.optim.min_lr, config.optim.lr, config.run.out) == (1e-6, 10, "a/find_lr")
    with pytest.raises(InputError, match=r"optim.min_lr 0 must lie between 0 and optim.lr 10 for a range test"):
        parse_arguments(SegConfig, [str(file), "--find-lr", "optim.min_lr=0"], "train_seg", "")


def test_print_config_prints_and_stops(file, capsys):
    assert parse_arguments(SegConfig, [str(file), "run.steps=8", "--print-config"], "train_seg", "") is None
    assert "steps: 8" in capsys.readouterr().out


def test_help_and_refusals_import_nothing_heavy():
    """torch, torchvision and OpenCV take seconds; a text or a refusal must not wait for them."""
    code = "import sys; from tools import train_backbone, train_det, train_seg; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    modules = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision", "cv2", "albumentations", "matplotlib", "accelerate"} & set(modules)
