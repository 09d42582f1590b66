"""Frames as raw bytes on standard output, for another program."""

import os
import sys
import threading
from pathlib import Path

import numpy as np

from tools.streams.part_file import check_size


class PipeSink:
    """Raw BGR frames, 8 bits per channel, row by row; size and rate are said on stderr with the first one.

    While it is open, whatever prints to standard output reaches stderr, so that nothing comes between the frames.

    Arguments:
        fps: frames per second; only said.
        stop: is set when the program at the other end has closed the pipe.
    """

    keeps_times = False

    def __init__(self, fps: float, stop: threading.Event) -> None:
        self.path = Path("-")
        self.note = ""
        self.frames_written = 0
        self._fps, self._stop = fps, stop
        self._frame_hw = (0, 0)
        sys.stdout.flush()
        self._pipe = os.dup(1)
        os.dup2(2, 1)

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Passes on one frame `[H, W, 3]`.

        Raises:
            InputError: a frame of another size.
        """
        if self.frames_written == 0:
            self._frame_hw = image.shape[:2]
            height, width = self._frame_hw
            print(f"-: raw video, bgr24, {width}x{height}, {self._fps:g} frames/s", file=sys.stderr)
        check_size(self.path, self.frames_written, image.shape[:2], self._frame_hw)
        if self._stop.is_set() and self.note:
            return
        left = memoryview(image.tobytes())
        try:
            while left:
                left = left[os.write(self._pipe, left) :]
        except BrokenPipeError:
            self.note = "the program that read the pipe has closed it"
            self._stop.set()
            return
        self.frames_written += 1

    def close(self) -> None:
        """Ends the stream; the reader sees the end once this process's standard output is closed, too."""
        os.close(self._pipe)

    def abandon(self) -> None:
        self.close()
