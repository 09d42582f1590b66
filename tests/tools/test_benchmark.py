"""The benchmarks: fair timing, options that reach their subject, and one subject run for real."""

import argparse
import inspect

import pytest

from tools import benchmark
from tools.benchmarks import (
    backbone,
    confusion,
    det_eval,
    det_loader,
    det_step,
    joint,
    label_map,
    postprocess,
    predict,
    seg_loader,
    seg_step,
    train,
    video,
)
from tools.benchmarks.timing import alternate

SUBJECTS = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module
    for module in (
        backbone,
        confusion,
        det_eval,
        det_loader,
        det_step,
        joint,
        label_map,
        postprocess,
        predict,
        seg_loader,
        seg_step,
        train,
        video,
    )
}


def test_contenders_take_turns_and_each_round_begins_with_another_one():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = alternate(contenders, 3)
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    calls.clear()
    assert len(alternate(contenders, 1, warm_up=False)["a"]) == 1 and len(calls) == 3


def test_time_is_read_from_the_clock_given_and_the_warm_up_is_left_out():
    now = [0.0]
    durations = iter([7.0, 5.0, 1.0])

    def contender():
        now[0] += next(durations)

    assert alternate({"one": contender}, 2, clock=lambda: now[0]) == {"one": [5.0, 1.0]}


def test_every_subject_takes_exactly_its_options():
    (subjects,) = (
        action.choices for action in benchmark.make_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    assert set(subjects) == set(SUBJECTS)
    for name, parser in subjects.items():
        options = {action.dest for action in parser._actions} - {"help"}
        assert options == set(inspect.signature(SUBJECTS[name].benchmark).parameters), name


def test_one_subject_from_the_command_line(capsys):
    assert benchmark.main(["confusion", "--images", "1"]) == 0
    assert "equal counts: yes; 1 images" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["warp"], ["postprocess", "--rounds", "0"], ["video", "--source", "x.mp4"]])
def test_what_cannot_be_benchmarked_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(arguments)
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
