"""Run segmenters and detectors over a video, camera, stream or images, and draw what they see.

Examples:
    python -m tools.video --weights seg.safetensors --source in.mp4 --output out.mp4
    python -m tools.video --weights seg.safetensors --weights det.safetensors --source in.mp4 --output out.mkv
    python -m tools.video --weights det.safetensors --source 0 --show
    python -m tools.video --weights det.safetensors --source rtsp://192.0.2.7/live --output seen.mkv --max-frames 1000
    python -m tools.video --weights seg.safetensors --source "images/*.jpg" --output drawn/ --fps 10

A killed process leaves out.part.mkv, which plays up to there; an .mp4 cannot be read before it is finished, so long
recordings are safer as .mkv.

Exit codes: 0 complete; 2 bad input; 3 the source ended before the length it promises; 4 camera or stream lost;
130 stopped by Ctrl-C, SIGTERM, or q in the window. In the cases 3, 4 and 130 the output is finished and can be used.
"""

import argparse
import json
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from backbone.errors import InputError
from tools.io.console import progress, run
from tools.io.files import replace_file
from tools.streams.video_io import (
    Images,
    Sink,
    Source,
    VideoSink,
    has_display,
    open_sink,
    open_source,
    without_password,
)

EXIT_CODES = {"complete": 0, "truncated": 3, "source_lost": 4, "interrupted": 130}
# Frames between two stages: enough to even out their times, at 4K still under 100 MB.
QUEUE_FRAMES = 4
# Waits before a lost camera or stream is opened again; after the last one it counts as lost.
RETRY_DELAYS_S = (0.5, 1.0, 2.0)
# How often a waiting stage looks whether the run is over.
POLL_S = 0.1
WINDOW = "taproot"


@dataclass
class Seconds:
    """Time spent in each stage; the stages overlap, so the sum exceeds the time on the wall."""

    read: float = 0.0
    infer: float = 0.0
    draw: float = 0.0
    write: float = 0.0


@dataclass
class Counts:
    """What has happened so far; each number is changed by one thread only."""

    frames_read: int = 0
    frames_dropped: int = 0  # live sources only: a newer frame came before there was time for this one
    frames_written: int = 0  # drawn, and written where there is an output
    size_hw: tuple[int, int] | None = None  # of the last frame drawn
    stage_seconds: Seconds = field(default_factory=Seconds)


@dataclass(frozen=True)
class Drawing:
    """How results are drawn."""

    opacity: float = 0.5  # of the segmentation's colors, 0 to 1
    score_threshold: float = 0.5  # detections below it are not drawn
    legend: bool = True  # names of the classes in the image, and frames per second


class Outcome(NamedTuple):
    """How a run ended."""

    status: str  # a key of EXIT_CODES, or "failed" where an error ended it
    message: str  # one line for the user, empty if there is nothing to add


def process(
    source: Source,
    predictors: Sequence[Callable[[np.ndarray], Any]],
    sink: Sink | None,
    *,
    counts: Counts,
    drawing: Drawing,
    stop: threading.Event,
    max_frames: int | None = None,
    show: bool = False,
    on_frame: Callable[[int], None] | None = None,
) -> Outcome:
    """Send every frame of a source through all predictors and into the sink, in order.

    One thread reads, this one predicts, a third draws and writes; short queues join them. Of a live source the
    newest frame is predicted and older ones are dropped; of a recording none is. The source is closed, the sink is not.

    Args:
        predictors: `predictor(frame_bgr)` gives a result with `draw`; `predictor.task` is "segmentation" or
            "detection".
        counts: filled in as the run goes, so that it is there after a failure too.
        stop: set from outside, ends the run at the next frame; what was predicted is still written.
        max_frames: end after so many.
        show: also show the frames in a window; q or Escape there stops.
        on_frame: called with the number of frames written, from the writing thread.

    Raises:
        InputError: the source gives no frame at all, or an error of reading or writing.
        Exception: whatever a predictor or another part raised; all threads have ended then.
    """
    frames: queue.Queue = queue.Queue(1 if source.live else QUEUE_FRAMES)
    predicted: queue.Queue = queue.Queue(QUEUE_FRAMES)
    drawn: queue.Queue = queue.Queue(1)  # for the window, which must live in this thread
    done = threading.Event()  # no more frames are wanted
    failed = threading.Event()  # everybody leaves at once
    errors: list[BaseException] = []
    lost = threading.Event()

    def read() -> None:
        retries = 0
        while not (done.is_set() or stop.is_set() or failed.is_set()):
            if not source.live and counts.frames_read == max_frames:
                break
            start = time.perf_counter()
            frame = source.read()
            counts.stage_seconds.read += time.perf_counter() - start
            if frame is not None:
                retries = 0
                counts.frames_read += 1
                if source.live:
                    counts.frames_dropped += _put_newest(frames, frame)
                elif not _put(frames, frame, failed, done):
                    break
            elif not source.live:
                break
            elif retries == len(RETRY_DELAYS_S):
                lost.set()
                break
            else:
                done.wait(RETRY_DELAYS_S[retries])
                source.reopen()
                retries += 1
        source.close()
        _put(frames, None, failed, done)

    def write() -> None:
        written_at: deque[float] = deque(maxlen=30)
        while (item := _get(predicted, failed)) is not None:
            frame, results = item
            start = time.perf_counter()
            written_at.append(start)
            image = draw(frame, results, drawing, _rate(written_at))
            counts.stage_seconds.draw += time.perf_counter() - start
            counts.size_hw = image.shape[:2]
            start = time.perf_counter()
            if sink is not None:
                sink.write(image)
            counts.stage_seconds.write += time.perf_counter() - start
            counts.frames_written += 1
            if show:
                _put_newest(drawn, image)
            if on_frame is not None:
                on_frame(counts.frames_written)

    def guarded(stage: Callable[[], None]) -> threading.Thread:
        def body() -> None:
            try:
                stage()
            except BaseException as error:
                errors.append(error)
                failed.set()

        # Daemons: a camera driver that hangs must not keep the process alive.
        return threading.Thread(target=body, name=stage.__name__, daemon=True)

    ordered = sorted(predictors, key=lambda predictor: predictor.task == "detection")  # boxes on top of areas
    reader, writer = guarded(read), guarded(write)
    reader.start()
    writer.start()
    num_predicted = 0
    try:
        while num_predicted != max_frames and (frame := _get(frames, failed, stop)) is not None:
            start = time.perf_counter()
            results = [(predictor.task, predictor(frame)) for predictor in ordered]
            counts.stage_seconds.infer += time.perf_counter() - start
            _put(predicted, (frame, results), failed)
            num_predicted += 1
            if show and _window_closed(drawn):
                stop.set()
        done.set()
        _put(predicted, None, failed)
        writer.join()
    except BaseException:
        failed.set()
        writer.join(timeout=5)
        raise
    finally:
        done.set()
        reader.join(timeout=5)
        if show:
            cv2.destroyAllWindows()
    if errors:
        raise errors[0]
    if stop.is_set():
        return Outcome("interrupted", "stopped by the user")
    if counts.frames_read == 0:
        raise InputError(f"{source.name}: not one frame could be read; is it a video, and whole?")
    if num_predicted == max_frames:
        return Outcome("complete", "")
    if lost.is_set():
        return Outcome("source_lost", f"{source.name} was lost and did not come back in {len(RETRY_DELAYS_S)} attempts")
    expected = source.frames_expected
    if expected is not None and expected - counts.frames_read > _tolerated_shortfall(expected, source.fps):
        return Outcome("truncated", f"{source.name} ended after {counts.frames_read} of {expected} frames")
    return Outcome("complete", "")


def _tolerated_shortfall(expected: int, fps: float) -> int:
    """Frames that a whole video may lack: Matroska and others only store a duration, which sound can lengthen."""
    return max(2, min(round(fps / 2), expected // 20))


def _put(line: queue.Queue, item: object, *ends: threading.Event) -> bool:
    """Wait for room, unless one of the events ends the waiting; whether the item went in."""
    while not any(end.is_set() for end in ends):
        try:
            line.put(item, timeout=POLL_S)
        except queue.Full:
            continue
        return True
    return False


def _put_newest(line: queue.Queue, item: object) -> int:
    """Put without waiting into a queue of one, taking an older item out; the number taken out. One producer only."""
    dropped = 0
    if line.full():
        try:
            line.get_nowait()
            dropped = 1
        except queue.Empty:  # the consumer was faster
            pass
    line.put_nowait(item)
    return dropped


def _get(line: queue.Queue, *ends: threading.Event) -> Any:
    """The next item; None at the end of the line or when one of the events is set."""
    while not any(end.is_set() for end in ends):
        try:
            return line.get(timeout=POLL_S)
        except queue.Empty:
            continue
    return None


def _window_closed(drawn: queue.Queue) -> bool:
    """Show the newest drawn frame, if there is one; whether the user wants to stop."""
    try:
        cv2.imshow(WINDOW, drawn.get_nowait())
    except queue.Empty:
        return False
    return cv2.waitKey(1) & 0xFF in (ord("q"), 27) or cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1


def _rate(times: Sequence[float]) -> float:
    """Frames per second over the times given, 0 while there is only one."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def draw(frame: np.ndarray, results: list[tuple[str, Any]], drawing: Drawing, frames_per_second: float) -> np.ndarray:
    """A copy of the frame `[H, W, 3]` with the results drawn on it in their order, then legend and speed.

    Args:
        results: pairs of task and result.
        frames_per_second: of the whole pipeline; 0 is not drawn.
    """
    image = frame  # each draw copies
    for task, result in results:
        if task == "segmentation":
            image = result.draw(image, opacity=drawing.opacity)
        else:
            image = result.draw(image, score_threshold=drawing.score_threshold)
    if drawing.legend:
        _draw_legend(image, [result for task, result in results if task == "segmentation"], frames_per_second)
    return image


def _draw_legend(image: np.ndarray, segmentations: list[Any], frames_per_second: float) -> None:
    """Write the speed and, with their colors, the classes that are present into the image; boxes bear theirs."""
    height, width = image.shape[:2]
    row = max(12, round(min(height, width) / 24))  # pixels
    top = row // 2
    if frames_per_second > 0:
        _text(image, f"{frames_per_second:.1f} frames/s", (row // 2, top + row), row)
        top += row + row // 2
    for result in segmentations:
        pixels = cv2.calcHist([result.labels], [0], None, [256], [0, 256]).ravel()
        for label in np.flatnonzero(pixels[: len(result.classes)]):
            if top + row > height:
                return
            color = [int(channel) for channel in result.colors[label][::-1]]
            cv2.rectangle(image, (row // 2, top), (row // 2 + row, top + row - 3), color, cv2.FILLED)
            _text(image, result.classes[label], (2 * row, top + row - 3), row)
            top += row


def _text(image: np.ndarray, text: str, corner_xy: tuple[int, int], height: int) -> None:
    """White letters with a dark outline, readable on any ground; `corner_xy` is their lower left corner."""
    scale = height / 32  # the font's capitals are 22 pixels high
    left, bottom = corner_xy
    # The outline is the same text moved by a pixel: OpenCV 5 sets thicker letters wider, so that they would not align.
    for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)):
        color = (255, 255, 255) if (right, down) == (0, 0) else (0, 0, 0)
        corner = (left + right, bottom + down)
        cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked as far as it can be without opening anything."""
    description, examples = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        "python -m tools.video", description=description, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--weights", action="append", required=True, type=Path, metavar="FILE", help="trained model; repeat for more"
    )
    parser.add_argument(
        "--source", required=True, help="video file, camera index (0), URL, image, folder of images, quoted glob"
    )
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help=".mp4, .mkv or .avi file, or a folder for numbered PNGs"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument("--show", action="store_true", help="show the frames in a window; q stops")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--fps",
        type=float,
        metavar="RATE",
        help="frames per second of the output video (default: the source's, 30 for images)",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="draw detections from this score on (default: %(default)s)",
    )
    parser.add_argument(
        "--opacity",
        type=float,
        default=0.5,
        metavar="O",
        help="of the segmentation's colors, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--no-legend", action="store_true", help="no class names and no speed in the image")
    parser.add_argument("--engine", default="auto", help="what runs the models, as in tools.predict (default: auto)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument(
        "--status",
        type=Path,
        metavar="FILE",
        help="report in JSON (default: OUTPUT.status.json, or status.json in the output folder)",
    )
    args = parser.parse_args(argv)
    if args.max_frames is not None and args.max_frames < 1:
        raise InputError(f"--max-frames {args.max_frames}: must be at least 1")
    if args.fps is not None and not 0 < args.fps < 1000:
        raise InputError(f"--fps {args.fps:g}: must be above 0 and below 1000")
    for option, value in (("--score-threshold", args.score_threshold), ("--opacity", args.opacity)):
        if not 0 <= value <= 1:
            raise InputError(f"{option} {value:g}: must lie between 0 and 1")
    if args.output is None and not args.show:
        raise InputError("nothing to do with the frames: give --output PATH, --show, or both")
    return args


def _status_path(args: argparse.Namespace, sink: Sink | None) -> Path | None:
    if args.status is not None or sink is None:
        return args.status
    if isinstance(sink, VideoSink):
        return sink.path.with_name(f"{sink.path.name}.status.json")
    return sink.path / "status.json"


def _refuse_overlap(args: argparse.Namespace, source: Source) -> None:
    """No output may replace what the run reads, whatever --overwrite says."""
    inputs = [*args.weights, *(source.paths if isinstance(source, Images) else [Path(args.source)])]
    resolved = {path.resolve() for path in inputs}
    for option, output in (("--output", args.output), ("--status", args.status)):
        if output is None:
            continue
        part = output.with_name(f"{output.stem}.part{output.suffix}")
        if output.resolve() in resolved or part.resolve() in resolved:
            raise InputError(f"{option} {output} would replace what this run reads: choose another name")
    folders = {path.resolve().parent for path in source.paths} if isinstance(source, Images) else set()
    if args.output is not None and args.output.resolve() in folders:
        raise InputError(f"--output {args.output} holds the images of --source: choose another folder")


def _load_predictors(args: argparse.Namespace) -> list[Callable[[np.ndarray], Any]]:
    # Imported here because the models bring libraries that take seconds, which --help should not cost.
    from tools.predict import load

    if args.device is not None:
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
            reason = str(error).splitlines()[0]
            raise InputError(f"--device {args.device} cannot be used here, try cpu: {reason}") from None
    options = {"engine": args.engine, "device": args.device, "score_threshold": args.score_threshold}
    return [load(path, **options) for path in args.weights]


def _stop_on_signals(stop: threading.Event) -> None:
    """Let Ctrl-C and SIGTERM end the run at the next frame; a second Ctrl-C ends it on the spot."""

    def handler(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


def _status(
    args: argparse.Namespace, source: Source, fps: float, counts: Counts, outcome: Outcome, seconds: float
) -> dict[str, Any]:
    """What status.json says; sizes in pixels, `seconds` on the wall."""
    speed = counts.frames_written / seconds
    message = outcome.message
    if counts.frames_dropped and speed < 0.9 * fps:
        message = f"{message}; " if message else ""
        message += f"frames were dropped, so the output plays {fps / speed:.1f}x too fast: give --fps {speed:.1f}"
    return {
        "status": outcome.status,
        "message": message,
        "source": without_password(args.source),
        "output": None if args.output is None else str(args.output),
        "weights": [str(path) for path in args.weights],
        "size": None if counts.size_hw is None else {"height": counts.size_hw[0], "width": counts.size_hw[1]},
        "fps": fps,
        "frames_expected": source.frames_expected,
        "frames_read": counts.frames_read,
        "frames_dropped": counts.frames_dropped,
        "frames_written": counts.frames_written,
        "seconds": round(seconds, 3),
        "frames_per_second": round(speed, 2),
        "stage_seconds": {stage: round(value, 3) for stage, value in asdict(counts.stage_seconds).items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: anything that the user gave and that cannot be used.
    """
    args = parse(argv)
    show = args.show and has_display()
    if args.show and not show:
        if args.output is None:
            raise InputError("--show: there is no display here, or OpenCV has no windows: give --output PATH")
        print(f"--show: no display here, writing to {args.output} only", file=sys.stderr)
    source = open_source(args.source)
    _refuse_overlap(args, source)
    fps = source.fps if args.fps is None else args.fps
    sink = None if args.output is None else open_sink(args.output, fps, args.overwrite)
    status_path = _status_path(args, sink)
    predictors = _load_predictors(args)

    stop = threading.Event()
    _stop_on_signals(stop)
    counts = Counts()
    drawing = Drawing(args.opacity, args.score_threshold, legend=not args.no_legend)
    totals = [total for total in (source.frames_expected, args.max_frames) if total is not None]
    start = time.perf_counter()
    outcome = Outcome("failed", "")
    try:
        with progress("{task.fields[speed]:.1f} frames/s") as bar:
            task = bar.add_task("video", total=min(totals, default=None), speed=0.0)

            def on_frame(written: int) -> None:
                bar.update(task, completed=written, speed=written / (time.perf_counter() - start))

            outcome = process(
                source,
                predictors,
                sink,
                counts=counts,
                drawing=drawing,
                stop=stop,
                max_frames=args.max_frames,
                show=show,
                on_frame=on_frame,
            )
        if sink is not None:
            sink.close()
            outcome = outcome._replace(message="; ".join(filter(None, (outcome.message, sink.note))))
    except BaseException as error:
        outcome = Outcome("failed", f"{type(error).__name__}: {error}")
        if sink is not None:
            sink.abandon()
        raise
    finally:
        status = _status(args, source, fps, counts, outcome, time.perf_counter() - start)
        if status_path is not None:
            text = json.dumps(status, indent=2, allow_nan=False) + "\n"
            replace_file(status_path, lambda part: part.write_text(text, encoding="utf-8"))

    if status["message"]:
        print(f"{status['status']}: {status['message']}", file=sys.stderr)
    where = "window" if args.output is None else args.output
    report = "" if status_path is None else f"; status in {status_path}"
    print(f"{counts.frames_written} frames -> {where} ({status['frames_per_second']:.1f} frames/s){report}")
    return EXIT_CODES[outcome.status]


if __name__ == "__main__":
    run(main)
