"""What is said at the end of a run: frames, where the time went, and which option would help most."""

import os
from collections.abc import Sequence
from dataclasses import asdict

from tools.engines.choice import EXTRAS, choose_engine
from tools.streams.pipeline import Counts
from tools.streams.settings import Predicting, Reading

# A stage that is at work for less of the run than this does not bound it.
BOUND_SHARE = 0.6
# Longer side of the network's input from which a smaller one is worth naming, pixels.
LARGE_SIDE = 1024


def num_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def summary(counts: Counts, seconds: float, processor_seconds: float, advice: str) -> list[str]:
    """Lines for the user.

    Arguments:
        seconds: elapsed time of the run.
        processor_seconds: of all threads.
        advice: of `advise`.
    """
    stages = asdict(counts.stage_seconds)
    shares = ", ".join(f"{name} {100 * value / seconds:.0f} %" for name, value in stages.items())
    busy = 100 * processor_seconds / seconds / num_cores()
    per_frame = 1000 * processor_seconds / max(1, counts.frames_written)
    lines = [
        f"  frames: {counts.frames_read} read, {counts.frames_written} written, {counts.frames_dropped} dropped, "
        f"{counts.frames_repaired} repaired by the decoder",
        f"  stages at work, of the run's time: {shares}",
        f"  processor: {per_frame:.0f} ms a frame, {busy:.0f} % of {num_cores()} cores",
    ]
    return [*lines, f"  {advice}"] if advice else lines


def advise(counts: Counts, seconds: float, engines: Sequence[str], reading: Reading, predicting: Predicting) -> str:
    """The option that would help most, by what the run measured; empty where nothing stands out.

    Arguments:
        seconds: elapsed time of the run.
        engines: names of what ran the models.
    """
    stages = asdict(counts.stage_seconds)
    slowest = max(stages, key=lambda name: stages[name])
    share = stages[slowest] / seconds
    if share < BOUND_SHARE or counts.size_hw is None:
        return ""
    found = f"{slowest} was at work {100 * share:.0f} % of the time: "
    height, width = counts.size_hw
    smaller = f"--resize {width // 4 * 2} makes the frames that are drawn and written smaller"
    if slowest == "read":
        return found + "the source gives no more frames"
    if slowest in ("draw", "write"):
        return found + smaller
    on_cpu = predicting.device in (None, "cpu") and not _has_gpu(predicting)
    runtime = choose_engine("auto", "cpu")
    if on_cpu and "torch" in engines:
        if runtime != "torch":
            return f"{found}--engine {runtime} is installed and faster than torch on a processor"
        return f"{found}pip install 'taproot[{EXTRAS['openvino']}]' brings an engine that is faster than torch"
    longer = max(map(_longer_side, predicting.sizes), default=max(height, width))
    if longer >= LARGE_SIDE:
        return f"{found}--size {longer // 64 * 32} is a smaller input of the network; try what it costs in accuracy"
    return f"{found}--skip {reading.skip + 1} predicts fewer frames"


def _longer_side(size: tuple[int, int] | int) -> int:
    return size if isinstance(size, int) else max(size)


def _has_gpu(predicting: Predicting) -> bool:
    """Whether the default device is a GPU."""
    import torch  # here: what is wrong with the arguments is said before it is imported

    return predicting.device is None and torch.cuda.is_available()
