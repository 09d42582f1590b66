"""Frozen layers keep every value, thaw with a warm-up, and a run that froze some resumes to the bit."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import seg
from backbone import InputError
from tests.builders.runs import assert_equal, command, interrupted, log_of
from tools.run import checkpoint
from tools.run.config import Optim, Run
from tools.run.layers import Layers, frozen_modules, split_layers
from tools.run.optimizer import make_optimizer, set_rates
from tools.run.state import TrainingState

THAW = ["run.freeze=3", "run.freeze_steps=3", "optim.backbone_lr=0.5", "optim.clip=1", "optim.ema=0.5"]


@pytest.fixture(scope="module")
def model() -> seg.Segmenter:
    return seg.create(backbone="mobilenet_v3_small", width=0.35, num_classes=3)


def start(finished, world: Path, out: Path, *own: str):
    """The segmenter's training tool, and a small experiment that starts from a finished run's weights."""
    main, arguments = command("seg", world, out)
    return main, [*arguments, f"weights={finished['seg'] / 'best.safetensors'}", *own]


def body_of(path: Path, up_to: str) -> dict[str, torch.Tensor]:
    """The tensors of the stem and the blocks up to one, by name."""
    blocks = tuple(f"backbone.blocks.{number}." for number in range(1, int(up_to) + 1))
    return {name: value for name, value in load_file(path).items() if name.startswith(("backbone.stem.", *blocks))}


def test_without_differences_there_is_one_part_in_the_models_order(model):
    (part,) = split_layers(model, [], Optim(backbone_lr=1.0), Run())
    assert [*map(id, part.parameters)] == [*map(id, model.parameters())]
    assert part[1:] == (1.0, 0) and part.factor_at(0, 100) == 1


def test_parts_differ_by_rate_and_time_and_hold_each_parameter_once(model):
    run, optim = Run(steps=10, freeze="2", freeze_steps=4), Optim(lr=1.0, backbone_lr=0.1)
    parts = split_layers(model, frozen_modules(model, run.freeze), optim, run)
    assert [part[1:] for part in parts] == [(0.1, 4), (0.1, 0), (1.0, 0)]
    everything = [id(parameter) for part in parts for parameter in part.parameters]
    assert sorted(everything) == sorted(map(id, model.parameters()))
    assert {*map(id, parts[2].parameters)} == {*map(id, model.head.parameters())}
    optimizer = make_optimizer([part.parameters for part in parts], optim)
    set_rates(optimizer, [0.0, 0.1, 1.0])
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0, 0.1, 0.1, 1, 1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [optim.weight_decay, 0] * 3


def test_what_thaws_warms_up_again():
    layers = Layers([], 0.5, 3)
    assert [layers.factor_at(step, 2) for step in range(6)] == [0, 0, 0, 0.25, 0.5, 0.5]
    assert [layers.factor_at(step, 0) for step in (2, 3)] == [0, 0.5]


def test_only_blocks_that_are_built_can_be_frozen(model):
    assert frozen_modules(model, "body") == [model.backbone]
    assert frozen_modules(model, "stem") == [model.backbone.stem]
    assert len(frozen_modules(model, "11")) == 12
    with pytest.raises(InputError, match=r"run\.freeze is 12, but the body that this model builds ends at block 11"):
        frozen_modules(model, "12")


@pytest.mark.parametrize("freeze", ["body", "3"])
def test_frozen_layers_keep_weights_and_statistics_exactly_and_so_does_their_average(finished, world, tmp_path, freeze):
    main, arguments = start(finished, world, tmp_path / "run", f"run.freeze={freeze}", "run.steps=3")
    assert main(arguments) == 0
    before, after = finished["seg"] / "best.safetensors", tmp_path / "run" / "best.safetensors"
    up_to = "11" if freeze == "body" else freeze
    assert_equal(body_of(before, up_to), body_of(after, up_to))
    old, new = load_file(before), load_file(after)
    learnt = "head.gate.weight" if freeze == "body" else "backbone.blocks.4.project.conv.weight"
    assert not torch.equal(old[learnt], new[learnt])


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_a_run_resumes_to_the_bit_across_the_thaw(finished, world, tmp_path, monkeypatch, stop_at):
    main, arguments = start(finished, world, tmp_path / "whole", *THAW)
    assert main(arguments) == 0
    main, arguments = start(finished, world, tmp_path / "cut", *THAW)
    assert interrupted(main, arguments, stop_at, monkeypatch) == 128 + signal.SIGTERM
    assert main([*arguments, "--resume"]) == 0
    states = [checkpoint.load_state(tmp_path / name / "last.pt") for name in ("whole", "cut")]
    for state in states:
        del state["config"]
    assert_equal(*states)
    assert_equal(*(log_of(tmp_path / name) for name in ("whole", "cut")))
    stem = "backbone.stem.conv.weight"
    first = load_file(finished["seg"] / "best.safetensors")[stem]
    assert not torch.equal(first, states[0]["model"][stem])  # it did thaw


def test_a_run_that_goes_on_needs_its_weights_no_more(finished, world, tmp_path):
    weights = tmp_path / "start.safetensors"
    shutil.copy(finished["seg"] / "best.safetensors", weights)
    main, arguments = command("seg", world, tmp_path / "run")
    arguments = [*arguments, f"weights={weights}", "optim.lr=null"]
    assert main(arguments) == 0
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["config"]["optim.lr"] == 0.001
    weights.unlink()
    assert main([*arguments, "--resume"]) == 0
    with pytest.raises(InputError, match=r"was made with optim\.lr=0\.001, now 0\.5"):
        main([*arguments, "optim.lr=0.5", "--resume"])


@pytest.mark.parametrize("options", [["run.freeze=body"], THAW])
def test_two_processes_agree_on_every_weight(finished, world, tmp_path, monkeypatch, options, together):
    """Gradients that one process keeps to itself would show as weights that differ."""
    main, arguments = start(finished, world, tmp_path / "run", *options)
    states, save = [], TrainingState.save
    monkeypatch.setattr(TrainingState, "save", lambda state, disk: (states.append(state), save(state, disk)))

    def train():
        assert main(arguments) == 0
        weights = torch.cat([value.flatten() for value in states[-1].model.parameters()])
        other = weights.clone()
        torch.distributed.broadcast(other, 0)
        assert torch.equal(weights, other)

    assert "2 processes" in together(2, train)
