"""Outputs that are no video files: animated pictures, and raw frames on standard output."""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backbone.errors import InputError
from tools.streams.places import part_of, prepare_place

SUFFIXES = (".gif", ".webp")
MOST_FRAMES = 500
"""Of an animated picture: all are held in memory, and players load them whole."""


class AnimationSink:
    """An animated GIF or WebP of at most `MOST_FRAMES` frames, each shown for as long as in the source.

    Arguments:
        path: ends in one of `SUFFIXES`.
        fps: frames per second: how long the last frame is shown, and the others where `keep_times` is false.
        keep_times: the times of the source.
        overwrite: replace a file of that name.

    Raises:
        InputError: an existing file, or a place that cannot be written.
    """

    def __init__(self, path: Path, fps: float, *, keep_times: bool = True, overwrite: bool = False) -> None:
        self.path, self.part = path, part_of(path)
        self.frames_written = 0
        self.note = ""
        self.keeps_times = keep_times
        self._fps = fps
        self._frames: list[Image.Image] = []
        self._seconds: list[float] = []
        prepare_place(path, overwrite)

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append one frame `[H, W, 3]`; those after `MOST_FRAMES` are left out, and the note says so.

        Raises:
            InputError: a frame of another size.
        """
        if self._frames and self._frames[0].size != image.shape[1::-1]:
            raise InputError(
                f"--output {self.path}: frame {self.frames_written} has another size than the first; write to a folder "
                "instead"
            )
        if len(self._frames) < MOST_FRAMES:
            self._frames.append(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
            self._seconds.append(seconds if self.keeps_times else self.frames_written / self._fps)
        else:
            self.note = f"an animated picture holds {MOST_FRAMES} frames, later ones were left out: write a video"
        self.frames_written += 1

    def close(self) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        if not self._frames:
            return
        ends = [*self._seconds[1:], self._seconds[-1] + 1 / self._fps]
        durations = [max(1, round(1000 * (end - start))) for start, end in zip(self._seconds, ends, strict=True)]
        first, *others = self._frames
        try:
            first.save(self.part, save_all=True, append_images=others, duration=durations, loop=0)
            self.part.replace(self.path)
        except OSError as error:
            raise InputError(f"--output {self.path} cannot be written: {error.strerror or error}") from None

    def abandon(self) -> None:
        pass


class PipeClosed(Exception):
    """Who reads our standard output has gone."""


class PipeSink:
    """Raw frames on standard output, BGR, row by row, for another program.

    Arguments:
        fps: frames per second, for the line that tells how to read them.
    """

    keeps_times = False
    note = ""
    path = Path("-")

    def __init__(self, fps: float) -> None:
        self.frames_written = 0
        self._fps = fps
        self._shape: tuple[int, ...] = ()
        self._out = sys.stdout.buffer

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Write one frame `[H, W, 3]`; before the first, its size and format are said on standard error.

        Raises:
            InputError: a frame of another size.
            PipeClosed: nobody reads any more.
        """
        if not self._shape:
            self._shape = image.shape
            height, width = image.shape[:2]
            print(f"-: frames of {width}x{height}, bgr24, {self._fps:g} frames/s", file=sys.stderr, flush=True)
        if image.shape != self._shape:
            raise InputError("--output -: a frame has another size than the first; give --resize")
        try:
            self._out.write(np.ascontiguousarray(image).data)
            self._out.flush()
        except BrokenPipeError:
            raise PipeClosed from None
        self.frames_written += 1

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass
