"""Experiment trackers that a run reports to besides its own log, through accelerate's classes for them."""

import json
import math
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate.tracking import GeneralTracker, MLflowTracker, WandBTracker

from backbone.errors import InputError
from tools.io.console import console
from tools.io.files import replace_file
from tools.io.packages import require
from tools.run.config import AnyConfig, flatten

PROJECT = "taproot"
"""W&B's project and MLflow's experiment, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says another one."""
IDS = "trackers.json"
"""In a run's folder: by which id each tracker knows the run, so that a resumed run goes on there."""


class Tracker(NamedTuple):
    """An open tracker."""

    name: str
    backend: GeneralTracker
    error: type[Exception]  # what its package raises
    clean: Callable[[str], str]  # what its package allows of the name of a value


class Trackers:
    """The trackers of a run but TensorBoard, which `Log` writes itself.

    A server that cannot be reached at the start is an error; later it is told once, and the run goes on without it.

    Arguments:
        folder: of the run.
        config: its `run.trackers` says which.
    Raises:
        InputError: a package is missing, or a tracker does not begin.
    """

    def __init__(self, folder: Path, config: AnyConfig) -> None:
        names = [name for name in config.run.trackers if name != "tensorboard"]
        require_trackers(names)
        path = folder / IDS
        known: dict[str, str] = json.loads(path.read_text()) if names and path.is_file() else {}
        self.open: list[Tracker] = []
        for name in names:
            tracker, begin = _make(name, folder, known.get(name))
            try:
                identity = begin()
                if name not in known:  # MLflow never changes what it was told first
                    tracker.backend.store_init_configuration(flatten(config))
            except (OSError, tracker.error) as error:
                raise InputError(f"run.trackers={name}: {_first_line(error)}; set it up, or leave it out") from error
            self.open.append(tracker)
            known[name] = identity
        if names:
            text = json.dumps(known)
            replace_file(path, lambda part: part.write_text(text))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Reports values; those that are not finite numbers are left out."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for tracker in list(self.open):
            cleaned = {tracker.clean(name): value for name, value in finite.items()}
            self._report(tracker, lambda tracker=tracker, cleaned=cleaned: tracker.backend.log(cleaned, step=step))

    def draw(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Reports images, uint8 RGB [H, W, 3]; to W&B only, MLflow's class in accelerate takes none."""
        for tracker in list(self.open):
            backend = tracker.backend
            if isinstance(backend, WandBTracker):
                lists: dict[str, Any] = {name: [image] for name, image in images.items()}
                self._report(tracker, lambda backend=backend, lists=lists: backend.log_images(lists, step=step))

    def close(self) -> None:
        """Ends the run at each tracker."""
        for tracker in list(self.open):
            self._report(tracker, tracker.backend.finish)

    def _report(self, tracker: Tracker, report: Callable[[], None]) -> None:
        try:
            report()
        except (OSError, tracker.error) as error:
            console.out(f"warning: {tracker.name}: {_first_line(error)}; the run goes on without it")
            self.open.remove(tracker)


def require_trackers(names: Sequence[str]) -> None:
    """Checks that the packages of trackers are installed.

    Raises:
        InputError: one is missing.
    """
    for name in names:
        if name != "tensorboard":
            require(f"run.trackers={name}", [name], f"pip install {name}, or leave it out")


def _make(name: str, folder: Path, identity: str | None) -> tuple[Tracker, Callable[[], str]]:
    """A tracker, and what starts it and returns the id that it knows the run by.

    Arguments:
        identity: the id of an earlier start of the run; None for a new one.
    """
    if name == "wandb":
        import wandb  # pyright: ignore[reportMissingImports] - no package of ours needs it

        chosen = identity or secrets.token_hex(4)  # of the system's randomness: the run's own stays as it is
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        weights_and_biases = WandBTracker(project, name=folder.name, id=chosen, resume="allow", dir=str(folder))

        def begin_wandb() -> str:
            weights_and_biases.start()
            return chosen

        return Tracker(name, weights_and_biases, wandb.Error, lambda text: text), begin_wandb
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports] - likewise

    mlflow = MLflowTracker(PROJECT, run_id=identity, run_name=folder.name)

    def begin_mlflow() -> str:
        mlflow.start()
        return str(mlflow.tracker.info.run_id)

    return Tracker(name, mlflow, MlflowException, lambda text: re.sub(r"[^\w\-. :/]", "_", text)), begin_mlflow


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
