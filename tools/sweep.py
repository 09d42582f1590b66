"""Searches for good settings: a training for each of many choices of some keys, by Optuna, bad ones ended early.

    python -m tools.sweep configs/demo/seg.yaml optim.lr=1e-4..1e-2:log optim.name=[adamw,sgd] --trials 20
    python -m tools.sweep configs/demo/seg.yaml optim.lr=[0.001,0.003,0.01] run.batch=[8,16]
    python -m tools.sweep configs/demo/seg.yaml optim.lr=[0.001,0.003,0.01] run.batch=[8,16] --resume

Overrides are as for the training tools. A key is searched for if its value is a list, of which each trial takes one
(for a key that takes a list, a list of lists), or a range:

    0.0..0.5      any number from 0 to 0.5; of a key that takes whole numbers, any whole number
    8..64:8       every eighth
    1e-4..1e-2:log  each power of ten as likely as another

With lists alone, every combination is tried once; --trials stops sooner, in random order. With a range, Optuna's TPE
chooses from what came out so far. A trial whose score at an evaluation is below the median of the others' at that step
is ended (--no-prune lets all go on to their end).

run.out becomes the sweep's folder: a run folder for each trial (trial-0000, …), sweep.csv, sweep.png with parallel
coordinates, and sweep.db, with which a sweep that ended in whatever way goes on by --resume, in the middle of a trial
too. Needs the extra `sweep`.
"""

import argparse
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, run
from tools.io.packages import require

TASKS = ("seg", "det", "backbone")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked as far as it can be without the config."""
    parser = command_parser("sweep", __doc__)
    parser.add_argument("config", type=Path, help="YAML file of a training tool; see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="fixed, or a list or range to search in")
    parser.add_argument("--trials", type=int, metavar="N", help="trainings; default: all combinations of lists")
    parser.add_argument("--task", choices=TASKS, help="what the config trains, where it does not show")
    parser.add_argument("--no-prune", action="store_true", help="let every trial go on to its last step")
    parser.add_argument("--seed", type=int, default=0, help="of the choices; default: 0")
    parser.add_argument("--resume", action="store_true", help="go on with the sweep in run.out; --trials may be larger")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.trials is not None and arguments.trials < 1:
        raise InputError(f"--trials {arguments.trials}: must be at least 1")
    if not 0 <= arguments.seed < 2**31:
        raise InputError(f"--seed {arguments.seed}: must lie between 0 and {2**31 - 1}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    from tools.sweeping.space import read_experiment

    experiment = read_experiment(arguments.config, arguments.overrides, arguments.task, arguments.trials)
    require("tools.sweep", ["optuna"], "pip install -e '.[sweep]'")
    # After the checks: it takes seconds to import.
    from tools.sweeping.sweep import sweep

    return sweep(experiment, seed=arguments.seed, prune=not arguments.no_prune, resume=arguments.resume)


if __name__ == "__main__":
    run(main)
