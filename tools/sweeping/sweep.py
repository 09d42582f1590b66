"""A sweep: Optuna chooses, `trial.train` trains, and all that is known lies in a database in the sweep's folder."""

import json
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState
from sqlalchemy import URL

from backbone.errors import InputError
from tools.io.console import console, table
from tools.io.files import open_folder
from tools.run.config import FREE_ON_RESUME
from tools.run.lock import lock_folder
from tools.sweeping.results import draw_results, read_results, write_table
from tools.sweeping.space import SCORES, Choices, Experiment, Range
from tools.sweeping.trial import train

DATABASE = "sweep.db"
STUDY = "sweep"
UNPRUNED = 4
"""So many trials go on to their end before any is ended early: there has to be a median."""
DEFINITION = "definition"
"""Under this name the database holds what the sweep was started with, as JSON."""


def sweep(experiment: Experiment, *, seed: int, prune: bool, resume: bool) -> int:
    """Makes the trials that are still to be made; returns the process's exit code.

    Raises:
        InputError: the folder cannot be used, the sweep in it is another one, or no trial can begin.
    """
    out = experiment.out
    with lock_folder(out, is_main=True, use="sweeps in this folder"), stop_on_signal() as stopped:
        study, storage = open_study(experiment, seed=seed, prune=prune, resume=resume)
        while (trial := next_trial(study, storage, experiment, seed)) is not None:
            run_trial(study, trial, experiment, stopped)
            results = read_results(study, experiment)
            write_table(out / "sweep.csv", results, experiment)
            draw_results(out / "sweep.png", results, experiment)
            if stopped:
                console.out("stopped; go on with --resume")
                return 128 + stopped[0]
        show(study, experiment)
    return 0


def open_study(experiment: Experiment, *, seed: int, prune: bool, resume: bool) -> tuple[optuna.Study, Any]:
    """The study in the sweep's folder and its storage, new or to go on with.

    Raises:
        InputError: there is one already, none, or another one.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = experiment.out
    path = out / DATABASE
    if path.exists() and not resume:
        raise InputError(f"{out}: holds a sweep already; add --resume to go on, or choose another run.out")
    if resume and not path.exists():
        raise InputError(f"{out}: holds no sweep; start it without --resume")
    if (out / "last.pt").exists():
        raise InputError(f"{out}: holds a run; choose another run.out for the sweep")
    open_folder(out)
    storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())
    pruner = optuna.pruners.MedianPruner(UNPRUNED) if prune else optuna.pruners.NopPruner()
    study = optuna.create_study(
        storage=storage, study_name=STUDY, direction="maximize", pruner=pruner, load_if_exists=True
    )
    definition = defined(experiment, seed)
    before = study.user_attrs.get(DEFINITION)
    if before is not None and before != definition:
        changed = [key for key in {**before, **definition} if before.get(key) != definition.get(key)]
        raise InputError(f"{path}: was made with another {', '.join(changed[:3])}; a sweep that goes on keeps it")
    study.set_user_attr(DEFINITION, definition)
    return study, storage


def defined(experiment: Experiment, seed: int) -> dict[str, Any]:
    """What has to stay the same for a sweep to go on."""
    settings = {key: value for key, value in experiment.settings.items() if key not in FREE_ON_RESUME}
    space = {f"space of {key}": entry._asdict() for key, entry in experiment.space.items()}
    return json.loads(json.dumps({"task": experiment.task, "seed": seed, **space, **settings}))


def distribution(entry: Choices | Range) -> BaseDistribution:
    """The same for Optuna."""
    if isinstance(entry, Choices):
        return CategoricalDistribution(entry.values)
    if entry.whole:
        return IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
    return FloatDistribution(entry.low, entry.high, log=entry.log, step=entry.step)


def next_trial(study: optuna.Study, storage: Any, experiment: Experiment, seed: int) -> Trial | None:
    """The trial that an earlier process did not end, or a new one; None when all are made.

    What a trial tries follows from the seed, its number and what came out before it: a sweep that was killed goes on
    as it would have.
    """
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id(storage), frozen.number))
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    number = len(study.get_trials(deepcopy=False)) - len(waiting)
    if number >= experiment.trials:
        return None
    study.sampler = optuna.samplers.TPESampler(seed=seed + number)
    combinations = experiment.combinations()
    if combinations is not None and not waiting:
        if experiment.trials < len(combinations):
            random.Random(seed).shuffle(combinations)
        study.enqueue_trial(combinations[number])
    return study.ask({key: distribution(entry) for key, entry in experiment.space.items()})


def study_id(storage: Any) -> int:
    return storage.get_study_id_from_name(STUDY)


def run_trial(study: optuna.Study, trial: Trial, experiment: Experiment, stopped: list[int]) -> None:
    """Trains a trial to its end, and tells the study what came out; nothing where the sweep itself was stopped.

    Raises:
        InputError: the first trial does not begin, so none would.
    """
    score, number = SCORES[experiment.task], trial.number
    chosen = [f"{key}={value}" for key, value in trial.params.items()]
    console.out(f"trial {number}: {' '.join(chosen)}")
    known = set(study.get_trials(deepcopy=False)[number].intermediate_values)
    pruned = False

    def stops(scores: dict[int, float]) -> bool:
        nonlocal pruned
        for step in sorted(scores.keys() - known):
            known.add(step)
            trial.report(scores[step], step)
            pruned = pruned or trial.should_prune()
        return pruned or bool(stopped)

    folder = trial_folder(experiment.out, number)
    arguments = [str(experiment.config), *experiment.fixed, *chosen]
    ended = train(experiment.task, arguments, folder, score, stops)
    if stopped:
        return
    stops(ended.scores)
    if ended.code == 0 and ended.scores:
        step, best = max(ended.scores.items(), key=lambda item: item[1])
        study.tell(number, best)
        console.out(f"trial {number}: {score} {best:.4f} at step {step}")
    elif pruned:
        study.tell(number, state=TrialState.PRUNED)
        step = max(ended.scores)
        console.out(f"trial {number}: {score} {ended.scores[step]:.4f} at step {step}, ended early")
    else:
        study.tell(number, state=TrialState.FAIL)
        console.out(f"trial {number}: failed with code {ended.code}: {ended.last_line}")
        if number == 0 and ended.code == 2:
            raise InputError(f"trial 0: {ended.last_line.removeprefix('error: ')}; see {folder / 'output.txt'}")


def trial_folder(out: Path, number: int) -> Path:
    """The run folder of a trial."""
    return out / f"trial-{number:04d}"


def show(study: optuna.Study, experiment: Experiment) -> None:
    """Prints the table, the best trial first, and where to look."""
    results = read_results(study, experiment)
    score = SCORES[experiment.task]
    rows = [
        [str(result.number), *map(str, result.shown(experiment)), result.score_text, result.outcome]
        for result in results
    ]
    console.print(table("Trials", ["trial", *experiment.space, score, "outcome"], rows))
    if results and results[0].score is not None:
        folder = trial_folder(experiment.out, results[0].number)
        console.out(f"best: {folder / 'best.safetensors'}; its config: {folder / 'config.yaml'}")
    console.out(f"table: {experiment.out / 'sweep.csv'}; picture: {experiment.out / 'sweep.png'}")


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT put their number into, so that the trial can save before the sweep ends."""
    stopped: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
