"""One run of `tools.video`: opens source, output and models, runs the pipeline and writes status.json."""

import json
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from tools.io.console import progress
from tools.io.files import replace_file
from tools.streams.overlay import Drawing
from tools.streams.pipeline import Counts, Outcome, Pipeline, Predictor
from tools.streams.settings import Predicting, Reading, Writing
from tools.streams.short import PipeSink
from tools.streams.sinks import STDOUT, ImageSink, Sink, open_sink
from tools.streams.sources import Images, Source, VideoFile, open_source, without_password
from tools.streams.window import Window, has_display

EXIT_CODES = {"complete": 0, "truncated": 3, "source_lost": 4, "interrupted": 130}


def run_video(reading: Reading, predicting: Predicting, writing: Writing, drawing: Drawing) -> int:
    """Sends a source through the models, prints a line about it, and returns the exit code.

    Raises:
        InputError: anything that the user gave and that cannot be used.
    """
    output, show = writing.output, writing.show
    if show and not has_display():
        if output is None:
            raise InputError("--show: there is no display here, or OpenCV has no windows: give --output PATH")
        print(f"--show: no display here, writing to {output} only", file=sys.stderr)
        show = False
    stream = open_source(reading.source)
    refuse_overlap(reading, predicting, writing, stream)
    fps = stream.fps if writing.fps is None else writing.fps
    if writing.sound and not isinstance(stream, VideoFile):
        raise InputError(f"--sound: {reading.source} is no video file; leave the option out")
    sink = None
    if output is not None:
        sink = open_sink(
            output,
            fps,
            overwrite=writing.overwrite,
            keep_times=writing.fps is None,
            sound_from=Path(reading.source) if writing.sound else None,
        )
    status = status_path(sink) if writing.status is None else writing.status
    predictors = load_predictors(predicting, score_threshold=drawing.score_threshold)

    stop = threading.Event()
    stop_on_signals(stop)
    counts = Counts()
    totals = [total for total in (stream.frames_expected, reading.max_frames) if total is not None]
    start = time.perf_counter()
    outcome = Outcome("failed", "")
    try:
        with progress("{task.fields[speed]:.1f} frames/s", to_stderr=output == STDOUT) as bar:
            task = bar.add_task("video", total=min(totals, default=None), speed=0.0)

            def on_frame(written: int) -> None:
                bar.update(task, completed=written, speed=written / (time.perf_counter() - start))

            pipeline = Pipeline(
                stream,
                predictors,
                sink,
                counts=counts,
                drawing=drawing,
                stop=stop,
                max_frames=reading.max_frames,
                window=Window() if show else None,
                on_frame=on_frame,
            )
            outcome = pipeline.run()
        if sink is not None:
            sink.close()
            outcome = outcome._replace(message="; ".join(filter(None, (outcome.message, sink.note))))
    except BaseException as error:
        outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        if sink is not None:
            sink.abandon()
        raise
    finally:
        seconds = time.perf_counter() - start
        if sink is None or not sink.keeps_times:
            outcome = warn_of_speed(outcome, counts, fps, seconds)
        if status is not None:
            given = {
                "source": without_password(reading.source),
                "output": None if output is None else str(output),
                "weights": [str(path) for path in predicting.weights],
                "engines": [predictor.engine for predictor in predictors],
            }
            write_status(status, status_report(outcome, given, counts, fps, stream.frames_expected, seconds))

    if outcome.message:
        print(f"{outcome.status}: {outcome.message}", file=sys.stderr)
    where = "window" if output is None else output
    # Standard output may be the frames'.
    told = sys.stderr if output == STDOUT else sys.stdout
    report = "" if status is None else f"; status in {status}"
    engines = " and ".join(dict.fromkeys(predictor.engine for predictor in predictors))
    speed = f"{counts.frames_written / seconds:.1f} frames/s"
    print(f"{counts.frames_written} frames -> {where} ({speed}, engine {engines}){report}", file=told)
    return EXIT_CODES[outcome.status]


def refuse_overlap(reading: Reading, predicting: Predicting, writing: Writing, stream: Source) -> None:
    """No output may replace what the run reads, whatever --overwrite says.

    Raises:
        InputError: one would.
    """
    images = stream.paths if isinstance(stream, Images) else []
    inputs = {path.resolve() for path in (*predicting.weights, *(images or [Path(reading.source)]))}
    for option, path in (("--output", writing.output), ("--status", writing.status)):
        if path is None:
            continue
        part = path.with_name(f"{path.stem}.part{path.suffix}")
        if path.resolve() in inputs or part.resolve() in inputs:
            raise InputError(f"{option} {path} would replace what this run reads: choose another name")
    output = writing.output
    if output is not None and output.resolve() in {path.resolve().parent for path in images}:
        raise InputError(f"--output {output} holds the images of --source: choose another folder")


def load_predictors(predicting: Predicting, *, score_threshold: float) -> list[Predictor]:
    """The models in the files, ready for frames.

    Raises:
        InputError: a file is no model, or the device cannot be used here.
    """
    # Imported only now: torch takes seconds, and what is wrong with source and output has been said before.
    import torch

    from tools.predict import load

    device = predicting.device
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
            reason = str(error).splitlines()[0]
            raise InputError(f"--device {device} cannot be used here, try cpu: {reason}") from None
    return [
        load(path, engine=predicting.engine, device=device, score_threshold=score_threshold)
        for path in predicting.weights
    ]


def stop_on_signals(stop: threading.Event) -> None:
    """Lets Ctrl-C and SIGTERM end the run at the next frame; a second one ends it on the spot."""

    def handler(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def warn_of_speed(outcome: Outcome, counts: Counts, fps: float, seconds: float) -> Outcome:
    """The outcome; where dropped frames make the output play too fast, its message says so and gives the right rate."""
    speed = counts.frames_written / seconds
    if not counts.frames_dropped or speed >= 0.9 * fps:
        return outcome
    warning = f"frames were dropped, so the output plays {fps / speed:.1f}x too fast: give --fps {speed:.1f}"
    return outcome._replace(message="; ".join(filter(None, (outcome.message, warning))))


def status_path(sink: Sink | None) -> Path | None:
    """Where the report goes by default: beside a file, in a folder of images, nowhere without either."""
    if sink is None or isinstance(sink, PipeSink):
        return None
    if isinstance(sink, ImageSink):
        return sink.path / "status.json"
    return sink.path.with_name(f"{sink.path.name}.status.json")


def status_report(
    outcome: Outcome,
    given: dict[str, Any],
    counts: Counts,
    fps: float,
    frames_expected: int | None,
    seconds: float,
) -> dict[str, Any]:
    """What status.json says: sizes in pixels, times in seconds.

    Arguments:
        given: what the user named: source, output, weights; with the engines that run these.
        fps: frames per second of the output.
        seconds: elapsed time of the run.
    """
    return {
        "status": outcome.status,
        "message": outcome.message,
        **given,
        "size": None if counts.size_hw is None else {"height": counts.size_hw[0], "width": counts.size_hw[1]},
        "fps": fps,
        "frames_expected": frames_expected,
        "frames_read": counts.frames_read,
        "frames_dropped": counts.frames_dropped,
        "frames_written": counts.frames_written,
        "seconds": round(seconds, 3),
        "frames_per_second": round(counts.frames_written / seconds, 2),
        "stage_seconds": {stage: round(value, 3) for stage, value in asdict(counts.stage_seconds).items()},
    }


def write_status(path: Path, content: dict[str, Any]) -> None:
    """Writes the report as JSON."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
