"""Configs: files and overrides merge, and every mistake is one line that names the key and the cure."""

from pathlib import Path

import pytest

from backbone import InputError
from tools.run.config import BackboneConfig, DetConfig, SegConfig, describe, flatten, load, parse_arguments, to_yaml

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*/*.yaml"))


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
    kind = BackboneConfig if path.parent.name == "imagenet" else kind
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
        ("std=[0,1,1]", "above 0"),
        ("run=fast", "run is a section"),
        ("steps", "key=value"),
        ("run.steps=", "run.steps"),
        ("run.out=${oc.env:HOME}", "oc.env"),
    ],
)
def test_mistakes_name_the_key(file, override, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        load(SegConfig, file, [override])


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


def test_print_config_prints_and_stops(file, capsys):
    assert parse_arguments(SegConfig, [str(file), "run.steps=8", "--print-config"], "train_seg", "") is None
    assert "steps: 8" in capsys.readouterr().out
