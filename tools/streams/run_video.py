"""One run of `tools.video`: opens source, output and models, runs the pipeline and writes status.json."""

import json
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from backbone.errors import InputError
from tools.io.console import progress
from tools.io.files import replace_file
from tools.joint.panoptic import common_classes
from tools.predicting.pairs import parts
from tools.predicting.settings import Saving
from tools.streams.blurring import SCORE, check_blur
from tools.streams.opencv_log import DecoderErrors
from tools.streams.overlay import Drawing
from tools.streams.pipeline import Counts, Outcome, Pipeline, Predictor
from tools.streams.raw_pipe import PipeSink
from tools.streams.settings import Predicting, Reading, Tracking, Writing
from tools.streams.sinks import ImageSink, Sink, open_sink
from tools.streams.sources import Images, Source, VideoFile, is_url, open_source, without_password
from tools.streams.summary import advise, num_cores, summary
from tools.streams.truth import Truth
from tools.streams.window import Window, has_display
from tools.tracking.tracker import LOW_SCORE, Trackers, require_trackers

# Frames of a recording that are predicted at once on a processor.
LANES = 2
EXIT_CODES = {"complete": 0, "truncated": 3, "source_lost": 4, "interrupted": 130}


def run_video(
    reading: Reading,
    predicting: Predicting,
    writing: Writing,
    drawing: Drawing,
    tracking: Tracking | None = None,
    saving: Saving | None = None,
) -> int:
    """Sends a source through the models, prints a summary, and returns the exit code.

    Arguments:
        tracking: of detected objects; None: none.
        saving: of results as files; None: none.

    Raises:
        InputError: anything that the user gave and that cannot be used.
    """
    with DecoderErrors() as errors:
        return _run_video(reading, predicting, writing, drawing, tracking, saving, errors)


def _run_video(
    reading: Reading,
    predicting: Predicting,
    writing: Writing,
    drawing: Drawing,
    tracking: Tracking | None,
    saving: Saving | None,
    errors: DecoderErrors,
) -> int:
    if tracking is not None:
        require_trackers(f"--track {tracking.kind}")
    output, show = writing.output, writing.show
    if show and not has_display():
        if output is None and saving is None:
            raise InputError("--show: there is no display here, or OpenCV has no windows: give --output PATH")
        print(f"--show: no display here, writing to {output or (saving and saving.folder)} only", file=sys.stderr)
        show = False
    stream = open_source(reading.source, start=reading.start, end=reading.end, skip=reading.skip)
    refuse_overlap(reading, predicting, writing, stream)
    fps = stream.fps if writing.fps is None else writing.fps
    stop = threading.Event()
    sink = None if output is None else open_output(output, fps, writing, stream, stop)
    status = status_path(sink) if writing.status is None else writing.status
    if drawing.compare is not None:
        Truth(drawing.compare)  # told before the models are loaded
    threshold = drawing.score_threshold
    # What blurs and what tracks wants boxes that are not drawn, too.
    kept = threshold
    if drawing.blur:
        kept = min(kept, SCORE)
    if tracking is not None:
        kept = min(kept, LOW_SCORE)
    threads_before = thread_counts()
    num_lanes = share_cores(stream, predicting)
    scores = saving is not None and "scores" in (saving.kinds or ())
    lanes = [load_predictors(predicting, score_threshold=kept, scores=scores) for _ in range(num_lanes)]
    predictors = lanes[0]
    tasks = [part.task for part in parts(predictors)]
    trackers = None
    if tracking is not None:
        if "detection" not in tasks:
            raise InputError(f"--track {tracking.kind}: no model given finds objects; add a detector by --weights")
        trackers = Trackers(tracking.kind, stream.fps, threshold, tasks)
    if drawing.compare is not None and "segmentation" not in tasks:
        raise InputError(f"--compare {drawing.compare}: holds labels, which only a segmenter is compared with: add one")
    if drawing.view == "panoptic":
        if tasks != ["segmentation", "detection"]:
            raise InputError("--view panoptic: needs one segmenter and one detector, or a joint network of these")
        common_classes(*(part.classes for part in parts(predictors)))
    if drawing.blur:
        check_blur(drawing.blur, [name for part in parts(predictors) for name in part.classes])
    saver = None
    if saving is not None:
        from tools.predicting.frames import FrameSaver  # with torch, as the predictors

        saver = FrameSaver(
            saving,
            source=reading.source,
            stream=stream,
            predictors=predictors,
            weights=predicting.weights,
            score_threshold=threshold,
        )

    stop_on_signals(stop)
    counts = Counts()
    totals = [total for total in (stream.frames_expected, reading.max_frames) if total is not None]
    start, processor_start = time.perf_counter(), time.process_time()
    outcome = Outcome("failed", "")
    try:
        with progress("{task.fields[speed]:.1f} frames/s") as bar:
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
                more_lanes=lanes[1:],
                max_frames=reading.max_frames,
                resize=reading.resize,
                batch=predicting.batch,
                decoder_errors=lambda: errors.count,
                trackers=trackers,
                draw_trails=tracking is not None and tracking.trails,
                window=Window() if show else None,
                on_frame=on_frame,
                saver=saver,
            )
            outcome = pipeline.run()
        if saver is not None:
            saver.finish(complete=outcome.status == "complete")
        if sink is not None:
            sink.close()
            outcome = outcome._replace(message="; ".join(filter(None, (outcome.message, sink.note))))
    except BaseException as error:
        outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        if sink is not None:
            sink.abandon()
        if saver is not None:
            saver.abandon()
        raise
    finally:
        set_thread_counts(*threads_before)
        seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
        engines = [predictor.engine for predictor in predictors]
        advice = advise(counts, seconds, engines, reading, predicting)
        if sink is None or not sink.keeps_times:
            outcome = warn_of_speed(outcome, counts, fps, seconds)
        if status is not None:
            given = {
                "source": without_password(reading.source),
                "output": None if output is None else str(output),
                "weights": [str(path) for path in predicting.weights],
                "engines": engines,
            }
            report = status_report(outcome, given, counts, fps, stream.frames_expected, seconds)
            report |= spent(processor_seconds, advice)
            if trackers is not None:
                report["tracked_objects"] = trackers.summary()
            write_status(status, report)

    if outcome.message:
        print(f"{outcome.status}: {outcome.message}", file=sys.stderr)
    where = output or ("window" if saving is None else saving.folder)
    place = "" if status is None else f"; status in {status}"
    ran = " and ".join(dict.fromkeys(engines))
    speed = f"{counts.frames_written / seconds:.1f} frames/s"
    told = sys.stderr if isinstance(sink, PipeSink) else sys.stdout
    if trackers is not None:
        objects = ", ".join(f"{count} {name}" for name, count in trackers.summary().items()) or "nothing"
        print(f"tracked: {objects}", file=told)
    print(f"{counts.frames_written} frames -> {where} ({speed}, engine {ran}){place}", file=told)
    print("\n".join(summary(counts, seconds, processor_seconds, advice)), file=told)
    return EXIT_CODES[outcome.status]


def open_output(output: Path, fps: float, writing: Writing, stream: Source, stop: threading.Event) -> Sink:
    """The sink that the user asked for.

    Raises:
        InputError: as `open_sink`, or sound of a source that is no file.
    """
    sound = None
    if writing.sound:
        if not isinstance(stream, VideoFile) or is_url(stream.name):
            raise InputError(f"--sound: {stream.name} is no video file; leave --sound out")
        sound = Path(stream.name)
    constant = writing.fps is not None
    return open_sink(output, fps, writing.overwrite, stop=stop, constant=constant, sound=sound)


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


def load_predictors(predicting: Predicting, *, score_threshold: float, scores: bool = False) -> list[Predictor]:
    """The models in the files, ready for frames.

    Arguments:
        scores: segmenters give each pixel's probability too.

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
        load(
            path,
            predicting.engine,
            size=size,
            device=device,
            score_threshold=score_threshold,
            nms=predicting.nms,
            scores=scores,
        )
        for path, size in zip(predicting.weights, predicting.sizes or [None] * len(predicting.weights), strict=True)
    ]


def share_cores(stream: Source, predicting: Predicting) -> int:
    """Divides the cores among frames that are predicted at once, and says how many these are.

    A frame on one thread needs less of the processor than on two, which wait for each other, and leaves no core idle
    while another stage is at work: OpenVINO needed 54 ms of the processor instead of 67 for LR-ASPP Large at 512x1024.
    OpenCV's threads would take turns with them, so it gets none. A live source has one frame at a time, and a GPU one
    batch.
    """
    import torch

    threads = torch.get_num_threads()
    on_cpu = predicting.device == "cpu" or (predicting.device is None and not torch.cuda.is_available())
    if stream.live or predicting.batch > 1 or predicting.engine == "compiled" or not on_cpu or threads < LANES:
        return 1
    set_thread_counts(threads // LANES, 1)
    return LANES


def thread_counts() -> tuple[int, int]:
    """The threads of torch, which the runtimes follow, and of OpenCV."""
    import torch

    return torch.get_num_threads(), cv2.getNumThreads()


def set_thread_counts(torch_threads: int, opencv_threads: int) -> None:
    """Sets the threads of torch, for engines that are made from now on, and of OpenCV."""
    import torch

    torch.set_num_threads(torch_threads)
    cv2.setNumThreads(opencv_threads)


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
    """Where the report goes by default: beside a video, in a folder of images; nowhere for a pipe or a window."""
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
        "frames_repaired": counts.frames_repaired,
        "frames_written": counts.frames_written,
        "seconds": round(seconds, 3),
        "frames_per_second": round(counts.frames_written / seconds, 2),
        "stage_seconds": {stage: round(value, 3) for stage, value in asdict(counts.stage_seconds).items()},
    }


def spent(processor_seconds: float, advice: str) -> dict[str, Any]:
    """What status.json says of the processor's time, and the option that would help most."""
    return {"processor_seconds": round(processor_seconds, 3), "cores": num_cores(), "advice": advice}


def write_status(path: Path, content: dict[str, Any]) -> None:
    """Writes the report as JSON."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
