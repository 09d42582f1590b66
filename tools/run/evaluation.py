"""Evaluation during training: when it is due, and which weights are kept."""

from pathlib import Path

from accelerate import Accelerator

from tools.io.console import console
from tools.io.model_file import save_model
from tools.run.config import Run
from tools.run.disk import Disk
from tools.run.loading import told_in_one_line
from tools.run.log import Log
from tools.run.processes import gather_parts
from tools.run.samples import write_samples
from tools.run.state import TrainingState
from tools.run.task import Task
from tools.scoring.metrics_file import finite


def evaluation_is_due(run: Run, step: int) -> bool:
    """Whether the model is evaluated after so many steps."""
    return step % run.eval_every == 0 or step == run.steps


def evaluation_is_missing(run: Run, state: TrainingState, accelerator: Accelerator) -> bool:
    """Whether an earlier process made the last step but not its evaluation; the same answer in all processes."""
    done = state.evaluated == state.step and best_file(run).exists()
    return gather_parts(accelerator, state.step > 0 and evaluation_is_due(run, state.step) and not done)[0]


def evaluate_and_keep_best(task: Task, run: Run, state: TrainingState, log: Log | None, disk: Disk) -> None:
    """Evaluates the model; where it is the best so far, writes `best.safetensors`; draws samples of what it finds.

    Where the disk has no space for it, the score to beat stays that of the file which is there.

    Arguments:
        log: takes the metrics; None in all processes but the main one.
    Raises:
        InputError: what the evaluation raises; a file cannot be written for another reason than a full disk. The state
            then says that no evaluation was.
    """
    state.share_statistics()
    with told_in_one_line(state.config.data.workers):  # here, so that what was learned is saved
        scores = task.evaluate(state.kept.eval())
    if log is not None:
        score = scores[task.score]
        improved = score > state.best
        best = best_file(run)
        if improved or not best.exists():
            description = task.description | {"step": state.step, "metrics": finite(scores)}
            if disk.write(best, lambda: save_model(best, state.kept, description)):
                state.best = max(state.best, score)
        if state.evaluated < state.step:  # else only best.safetensors was missing
            state.since_best = 0 if improved else state.since_best + 1
            if run.keep_best:
                keep_among_best(task, run, state, score, disk)
            log.write(state.step, {f"val/{name}": value for name, value in scores.items()})
        write_samples(task, run, state.kept, state.step, log, disk)
        console.out(f"step {state.step}: {task.score} {score:.4f}{' (best so far)' if improved else ''}")
    state.evaluated = state.step


def keep_among_best(task: Task, run: Run, state: TrainingState, score: float, disk: Disk) -> None:
    """Writes `best/step-N.safetensors` if it is one of the `run.keep_best` best, and deletes the one it supersedes.

    Raises:
        InputError: it cannot be written for another reason than a full disk.
    """
    folder = Path(run.out) / "best"

    def file(step: int) -> Path:
        return folder / f"step-{step:07d}.safetensors"

    ranked = sorted([*state.among_best, (score, state.step)], key=lambda entry: (-entry[0], entry[1]))
    kept, rest = ranked[: run.keep_best], ranked[run.keep_best :]
    if (score, state.step) in kept:
        description = task.description | {"step": state.step, "metrics": {task.score: score}}
        disk.write(file(state.step), lambda: save_model(file(state.step), state.kept, description))
    state.among_best = kept
    for _, step in rest:
        file(step).unlink(missing_ok=True)


def patience_is_lost(run: Run, state: TrainingState, accelerator: Accelerator) -> bool:
    """Whether `run.patience` ends the run; the same answer in all processes."""
    return run.patience is not None and gather_parts(accelerator, state.since_best >= run.patience)[0]


def best_file(run: Run) -> Path:
    """Where the best weights of a run are."""
    return Path(run.out) / "best.safetensors"
