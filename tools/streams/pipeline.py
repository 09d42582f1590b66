"""Sends frames from a source through predictors into a sink: three overlapping stages, joined by short queues.

    read  --frames-->  infer  --predicted-->  draw and write  --newest-->  window

Each stage is a method of `Pipeline`. Reading, drawing and writing have threads of their own, and so has each lane: a
set of predictors that takes the next frame while others are still at theirs. The window stays in the caller's thread,
because windows work in the main thread only.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np

from backbone.errors import InputError
from tools.predicting.pairs import pairs
from tools.streams.frames import Frame
from tools.streams.overlay import Drawing, draw
from tools.streams.sources import LiveStream, Source
from tools.streams.stage_queue import StageQueue
from tools.streams.truth import Truth
from tools.streams.window import Window

if TYPE_CHECKING:
    from tools.tracking.tracker import Trackers

# Frames between two stages: enough to even out their times, at 4K still under 100 MB.
QUEUE_FRAMES = 4
# Waits before a lost camera or stream is opened again; after the last one it counts as lost.
RETRY_DELAYS_S = (0.5, 1.0, 2.0)
# How long the end of a failed run waits for a thread; a camera driver may hang for good.
JOIN_S = 5.0


class Predictor(Protocol):
    """A model that is ready for frames, as `tools.predict.load` gives it."""

    task: str  # "segmentation", "detection" or "joint"

    @property
    def engine(self) -> str:
        """The name of what runs it."""
        ...

    def __call__(self, frame_bgr: Any, /) -> Any:
        """The result for a frame, uint8 `[H, W, 3]`; for a list of frames those of all."""
        ...


class FrameWriter(Protocol):
    """What the pipeline needs of a sink."""

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Takes a drawn frame, uint8 BGR `[H, W, 3]`, and its time in the source."""
        ...


class ResultsSaver(Protocol):
    """What the pipeline needs of what saves results."""

    def write(self, frame: Frame, results: Sequence[tuple[str, Any]], drawn: np.ndarray) -> None:
        """Takes a frame, its results as pairs of task and result, and the frame with them drawn."""
        ...


@dataclass
class Seconds:
    """Time spent in each stage, of lanes the mean; the stages overlap, so the sum exceeds the elapsed time."""

    read: float = 0.0
    infer: float = 0.0
    draw: float = 0.0
    write: float = 0.0


@dataclass
class Counts:
    """What has happened so far; each number is changed by one thread only."""

    frames_read: int = 0
    frames_dropped: int = 0  # live sources only: a newer frame came before there was time for this one
    frames_repaired: int = 0  # FFmpeg reported errors while they were decoded: parts of them are made up
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
        predictors: detections are drawn over segmentations, whatever the order here, as `pairs` gives them.
        more_lanes: further copies of the predictors, for as many more frames at once; of no use to a live source.
        sink: None: frames are only drawn, for the window.
        counts: filled in as the run goes, so that it can be read after a failure too.
        stop: once set from outside, the run ends at the next frame; what was predicted is still written.
        max_frames: end after so many.
        resize: (width, height or None to keep proportions) that frames get once they are read, pixels.
        batch: frames of a recording that a predictor is called with at once.
        decoder_errors: gives the number of errors that the decoder has reported so far.
        trackers: give the objects ids that last; for results in the order of `pairs`.
        draw_trails: where tracked objects have been.
        window: also show the frames there; closing it stops the run.
        on_frame: called with the number of frames written, from the writing thread.
        saver: also takes every frame's results; it is not finished here.
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
        more_lanes: Sequence[Sequence[Predictor]] = (),
        max_frames: int | None = None,
        resize: tuple[int, int | None] | None = None,
        batch: int = 1,
        decoder_errors: Callable[[], int] | None = None,
        trackers: "Trackers | None" = None,
        draw_trails: bool = True,
        window: Window | None = None,
        on_frame: Callable[[int], None] | None = None,
        saver: ResultsSaver | None = None,
    ) -> None:
        self.source = source
        self.lanes = [list(lane) for lane in (predictors, *(() if source.live else more_lanes))]
        self.sink = sink
        self.counts = counts
        self.drawing = drawing
        self.truth = None if drawing.compare is None else Truth(drawing.compare)
        self.stop = stop
        self.max_frames = max_frames
        self.resize = resize
        self.decoder_errors = decoder_errors
        self.batch = 1 if source.live else batch
        self.trackers = trackers
        self.draw_trails = draw_trails
        self.window = window
        self.on_frame = on_frame
        self.saver = saver

        self._frames = StageQueue(1 if source.live else max(QUEUE_FRAMES, self.batch))
        self._predicted = StageQueue(QUEUE_FRAMES)  # of batches
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
        source, counts, retries, num_errors = self.source, self.counts, 0, 0
        while not (self._enough.is_set() or self.stop.is_set() or self._failed.is_set()):
            if not source.live and counts.frames_read == self.max_frames:
                break
            start = time.perf_counter()
            frame = source.read()
            if frame is not None and self.resize is not None:
                frame = frame._replace(image=resized(frame.image, self.resize))
            counts.stage_seconds.read += time.perf_counter() - start
            if self.decoder_errors is not None and (reported := self.decoder_errors()) > num_errors:
                num_errors = reported
                counts.frames_repaired += 1
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
        """Stage two: hands frames to lanes that are free; shows the newest drawn frame in between."""
        free: queue.SimpleQueue[list[Predictor]] = queue.SimpleQueue()
        # The first frame has the first lane for itself: engines prepare for its size, once for all lanes.
        free.put(self.lanes[0])
        waiting = self.lanes[1:]

        def predict(lane: list[Predictor], frames: list[Frame]) -> tuple[list[tuple[Frame, Any]], float]:
            start = time.perf_counter()
            try:
                if self.batch == 1:
                    found = [[predictor(frames[0].image)] for predictor in lane]
                else:
                    found = [predictor([frame.image for frame in frames]) for predictor in lane]
            finally:
                while waiting:
                    free.put(waiting.pop())
                free.put(lane)
            results = [pairs(lane, row) for row in zip(*found, strict=True)]
            return list(zip(frames, results, strict=True)), time.perf_counter() - start

        with ThreadPoolExecutor(len(self.lanes), "infer") as pool:
            while self._num_predicted != self.max_frames:
                lane = free.get()
                if self.window is not None and self.window.update():
                    self.stop.set()
                frames = self._next_frames()
                if not frames:
                    break
                self._predicted.put(pool.submit(predict, lane, frames), self._failed)
                self._num_predicted += len(frames)
        self._enough.set()
        self._predicted.put(None, self._failed)

    def _next_frames(self) -> list[Frame]:
        """The frames of the next batch; fewer, or none, where the source or the wish for frames ends."""
        frames: list[Frame] = []
        wanted = self.batch
        if self.max_frames is not None:
            wanted = min(wanted, self.max_frames - self._num_predicted)
        while len(frames) < wanted and (frame := self._frames.get(self._failed, self.stop)) is not None:
            frames.append(frame)
        if len(frames) < wanted:
            # None was the reader's last item: another `get` would wait for ever.
            self._frames.put(None, self._failed, self._enough, self.stop)
        return frames

    def _draw_and_write(self) -> None:
        """Stage three: results drawn on their frame, which goes to the sink and the window."""
        counts = self.counts
        started_at: deque[float] = deque(maxlen=30)  # the last frames, for the speed in the image
        for frame, results in self._results():
            start = time.perf_counter()
            started_at.append(start)
            # Here, not in the stage of inference, which is the slowest one.
            if self.trackers is not None:
                results = self.trackers(results, frame.seconds)
            trails = self.trackers.trails if self.trackers is not None and self.draw_trails else ()
            truth = None if self.truth is None else self.truth.labels(frame)
            speed = frames_per_second(started_at)
            image = draw(frame.image, results, self.drawing, speed, seconds=frame.seconds, truth=truth, trails=trails)
            drawn = time.perf_counter()
            counts.stage_seconds.draw += drawn - start
            counts.size_hw = image.shape[:2]
            if self.sink is not None:
                self.sink.write(image, frame.seconds)
            if self.saver is not None:
                self.saver.write(frame, confident(results, self.drawing.score_threshold), image)
            counts.stage_seconds.write += time.perf_counter() - drawn
            counts.frames_written += 1
            if self.window is not None:
                self.window.offer(image)
            if self.on_frame is not None:
                self.on_frame(counts.frames_written)

    def _results(self) -> Iterator[tuple[Frame, Any]]:
        """Frames in order with their results, pairs of task and result.

        Raises:
            Exception: what a predictor raised.
        """
        while (future := self._predicted.get(self._failed)) is not None:
            predicted, seconds = future.result()
            self.counts.stage_seconds.infer += seconds / len(self.lanes)
            yield from predicted

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


def resized(image: np.ndarray, size_wh: tuple[int, int | None]) -> np.ndarray:
    """An image `[H, W, 3]` at (width, height), or at the width with its proportions and an even height."""
    width, height = size_wh
    if height is None:
        height = max(2, round(image.shape[0] * width / image.shape[1] / 2) * 2)
    how = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def confident(results: Sequence[tuple[str, Any]], score_threshold: float) -> list[tuple[str, Any]]:
    """The results without the detections below a score, which only tracking and blurring asked for."""
    found = []
    for task, result in results:
        if task == "detection":
            kept = result.scores >= score_threshold
            tracks = None if result.tracks is None else result.tracks[kept]
            result = result._replace(
                boxes=result.boxes[kept], scores=result.scores[kept], labels=result.labels[kept], tracks=tracks
            )
        found.append((task, result))
    return found


def frames_per_second(times: Sequence[float]) -> float:
    """The rate of events at the given times in seconds, 0 while there is only one."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def tolerated_shortfall(expected: int, fps: float) -> int:
    """Frames that a whole video may lack: Matroska and others only store a duration, which sound can lengthen."""
    return max(2, min(round(fps / 2), expected // 20))
