"""Sends frames from a source through predictors into a sink: three overlapping stages, joined by short queues.

    read  --frames-->  infer  --predicted-->  draw and write  --newest-->  window

Each stage is a method of `Pipeline`. Reading, drawing and writing have threads of their own; inference and the window
stay in the caller's, because windows work in the main thread only.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from backbone.errors import InputError
from tools.streams.frames import Frame
from tools.streams.overlay import Drawing, draw
from tools.streams.short import PipeClosed
from tools.streams.sources import LiveStream, Source
from tools.streams.stage_queue import StageQueue
from tools.streams.window import Window

# Frames between two stages: enough to even out their times, at 4K still under 100 MB.
QUEUE_FRAMES = 4
# Waits before a lost camera or stream is opened again; after the last one it counts as lost.
RETRY_DELAYS_S = (0.5, 1.0, 2.0)
# How long the end of a failed run waits for a thread; a camera driver may hang for good.
JOIN_S = 5.0


class Predictor(Protocol):
    """A model that is ready for frames, as `tools.predict.load` gives it."""

    task: str  # "segmentation" or "detection"

    @property
    def engine(self) -> str:
        """The name of what runs it."""
        ...

    def __call__(self, frame_bgr: np.ndarray, /) -> Any:
        """The result for a frame, uint8 `[H, W, 3]`; it has a method `draw`."""
        ...


class FrameWriter(Protocol):
    """What the pipeline needs of a sink."""

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Takes a drawn frame, uint8 BGR `[H, W, 3]`, and its time in the source."""
        ...


@dataclass
class Seconds:
    """Time spent in each stage; the stages overlap, so the sum exceeds the elapsed time."""

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
    size_hw: tuple[int, int] | None = None  # of the last frame drawn, pixels
    stage_seconds: Seconds = field(default_factory=Seconds)


class Outcome(NamedTuple):
    """How a run ended."""

    status: str  # "complete", "truncated", "source_lost", "interrupted", or "failed" where an error ended it
    message: str  # one line for the user, empty if there is nothing to add


class Pipeline:
    """Sends every frame of a source through all predictors and into the sink, in order.

    Of a live source the newest frame is predicted and older ones are dropped; of a recording none is. The source is
    closed at the end, the sink is not.

    Arguments:
        predictors: detections are drawn over segmentations, whatever the order here.
        sink: None: frames are only drawn, for the window.
        counts: filled in as the run goes, so that it can be read after a failure too.
        stop: once set from outside, the run ends at the next frame; what was predicted is still written.
        max_frames: end after so many.
        window: also show the frames there; closing it stops the run.
        on_frame: called with the number of frames written, from the writing thread.
    """

    def __init__(
        self,
        source: Source,
        predictors: Sequence[Predictor],
        sink: FrameWriter | None,
        *,
        counts: Counts,
        drawing: Drawing,
        stop: threading.Event,
        max_frames: int | None = None,
        window: Window | None = None,
        on_frame: Callable[[int], None] | None = None,
    ) -> None:
        self.source = source
        self.predictors = sorted(predictors, key=lambda predictor: predictor.task == "detection")
        self.sink = sink
        self.counts = counts
        self.drawing = drawing
        self.stop = stop
        self.max_frames = max_frames
        self.window = window
        self.on_frame = on_frame

        self._frames = StageQueue(1 if source.live else QUEUE_FRAMES)
        self._predicted = StageQueue(QUEUE_FRAMES)
        self._num_predicted = 0
        self._source_lost = False
        self._enough = threading.Event()  # no more frames are wanted
        self._failed = threading.Event()  # a stage raised: all leave at once
        self._errors: list[BaseException] = []  # raised in the threads

    def run(self) -> Outcome:
        """Runs all stages to their end; call it once.

        Raises:
            InputError: the source gives no frame at all, or an error of reading or writing.
            Exception: whatever a predictor or another part raised. All threads have ended then.
        """
        reader, writer = self._thread("read", self._read), self._thread("write", self._draw_and_write)
        reader.start()
        writer.start()
        try:
            self._infer()
            writer.join()
        except BaseException:
            self._failed.set()
            writer.join(timeout=JOIN_S)
            raise
        finally:
            self._enough.set()
            reader.join(timeout=JOIN_S)
            if self.window is not None:
                self.window.close()
        if self._errors:
            raise self._errors[0]
        return self._outcome()

    def _read(self) -> None:
        """Stage one: frames from the source; a live source that fails is opened again a few times."""
        source, counts, retries = self.source, self.counts, 0
        while not (self._enough.is_set() or self.stop.is_set() or self._failed.is_set()):
            if not source.live and counts.frames_read == self.max_frames:
                break
            start = time.perf_counter()
            frame = source.read()
            counts.stage_seconds.read += time.perf_counter() - start
            if frame is not None:
                retries = 0
                counts.frames_read += 1
                if source.live:
                    counts.frames_dropped += self._frames.put_newest(frame)
                elif not self._frames.put(frame, self._failed, self._enough):
                    break
            elif not isinstance(source, LiveStream):
                break
            elif retries == len(RETRY_DELAYS_S):
                self._source_lost = True
                break
            else:
                self._enough.wait(RETRY_DELAYS_S[retries])
                source.reopen()
                retries += 1
        source.close()
        self._frames.put(None, self._failed, self._enough)

    def _infer(self) -> None:
        """Stage two: every predictor's result for a frame; shows the newest drawn frame in between."""
        while self._num_predicted != self.max_frames:
            frame: Frame | None = self._frames.get(self._failed, self.stop)
            if frame is None:
                break
            start = time.perf_counter()
            results = [(predictor.task, predictor(frame.image)) for predictor in self.predictors]
            self.counts.stage_seconds.infer += time.perf_counter() - start
            self._predicted.put((frame, results), self._failed)
            self._num_predicted += 1
            if self.window is not None and self.window.update():
                self.stop.set()
        self._enough.set()
        self._predicted.put(None, self._failed)

    def _draw_and_write(self) -> None:
        """Stage three: results drawn on their frame, which goes to the sink and the window."""
        counts = self.counts
        started_at: deque[float] = deque(maxlen=30)  # the last frames, for the speed in the image
        while (item := self._predicted.get(self._failed)) is not None:
            frame, results = item
            start = time.perf_counter()
            started_at.append(start)
            image = draw(frame.image, results, self.drawing, frames_per_second(started_at))
            drawn = time.perf_counter()
            counts.stage_seconds.draw += drawn - start
            counts.size_hw = image.shape[:2]
            if self.sink is not None:
                try:
                    self.sink.write(image, frame.seconds)
                except PipeClosed:
                    self.stop.set()
                    return
            counts.stage_seconds.write += time.perf_counter() - drawn
            counts.frames_written += 1
            if self.window is not None:
                self.window.offer(image)
            if self.on_frame is not None:
                self.on_frame(counts.frames_written)

    def _thread(self, name: str, stage: Callable[[], None]) -> threading.Thread:
        """A thread for a stage, whose error ends the run."""

        def body() -> None:
            try:
                stage()
            except BaseException as error:
                self._errors.append(error)
                self._failed.set()

        # Daemons: a camera driver that hangs must not keep the process alive.
        return threading.Thread(target=body, name=name, daemon=True)

    def _outcome(self) -> Outcome:
        source, num_read, expected = self.source, self.counts.frames_read, self.source.frames_expected
        if self.stop.is_set():
            return Outcome("interrupted", "stopped by the user")
        if num_read == 0:
            raise InputError(f"{source.name}: not one frame could be read; is it a video, and whole?")
        if self._num_predicted == self.max_frames:
            return Outcome("complete", "")
        if self._source_lost:
            attempts = len(RETRY_DELAYS_S)
            return Outcome("source_lost", f"{source.name} was lost and did not come back in {attempts} attempts")
        if expected is not None and expected - num_read > tolerated_shortfall(expected, source.fps):
            return Outcome("truncated", f"{source.name} ended after {num_read} of {expected} frames")
        return Outcome("complete", "")


def frames_per_second(times: Sequence[float]) -> float:
    """The rate of events at the given times in seconds, 0 while there is only one."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def tolerated_shortfall(expected: int, fps: float) -> int:
    """Frames that a whole video may lack: Matroska and others only store a duration, which sound can lengthen."""
    return max(2, min(round(fps / 2), expected // 20))
