"""Short clips as animated images, .gif or .webp, which play wherever an image is shown."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backbone.errors import InputError
from tools.streams.part_file import check_size, claim, take_name

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
MAX_FRAMES = 300
"""Frames are kept in memory until the end, and files grow to megabytes per second."""

MAX_SIDE = 640
"""Pixels; larger frames are reduced."""


class AnimationSink:
    """An animated image with the times of the source's frames, written at the end.

    Arguments:
        path: its suffix is a key of `FORMATS`.
        fps: frames per second; how long the last frame is shown, and with `constant` each.
        overwrite: replace a file of that name.
        constant: give the frames equal distances, whatever their times.

    Raises:
        InputError: existing file, or a place that cannot be written.
    """

    def __init__(self, path: Path, fps: float, overwrite: bool = False, *, constant: bool = False) -> None:
        self.path = path
        self.part = claim(path, overwrite)
        self.frames_written = 0
        self.note = ""
        self.keeps_times = not constant
        self._fps = fps
        self._frame_hw = (0, 0)
        self._images: list[Image.Image] = []
        self._seconds: list[float] = []

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append one frame `[H, W, 3]`; those after the first `MAX_FRAMES` are left out, which the note says.

        Raises:
            InputError: a frame of another size.
        """
        if not self._images:
            self._frame_hw = image.shape[:2]
        check_size(self.path, self.frames_written, image.shape[:2], self._frame_hw)
        if len(self._images) < MAX_FRAMES:
            height, width = self._frame_hw
            if (scale := MAX_SIDE / max(height, width)) < 1:
                size = max(1, round(width * scale)), max(1, round(height * scale))
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            picture = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            if self.path.suffix.lower() == ".gif":
                picture = picture.quantize(256, Image.Quantize.FASTOCTREE)
            self._images.append(picture)
            self._seconds.append(seconds if self.keeps_times else self.frames_written / self._fps)
        self.frames_written += 1

    def close(self) -> None:
        """Write the file and give it its name.

        Raises:
            InputError: it cannot be written.
        """
        if not self._images:
            return
        notes = []
        if (most := max(self._frame_hw)) > MAX_SIDE:
            notes.append(f"reduced from {most} to {MAX_SIDE} pixels")
        if self.frames_written > MAX_FRAMES:
            notes.append(f"only the first {MAX_FRAMES} of {self.frames_written} frames are in it; write .mp4 for all")
        self.note = "; ".join(notes)
        # Rounded times, not rounded distances: these would add up. GIF counts in hundredths of a second.
        unit = 10 if self.path.suffix.lower() == ".gif" else 1
        ends = [*self._seconds[1:], self._seconds[-1] + 1 / self._fps]
        times = [round((seconds - self._seconds[0]) * 1000 / unit) * unit for seconds in (self._seconds[0], *ends)]
        durations = [max(unit, after - before) for before, after in pairwise(times)]
        first, *others = self._images
        try:
            with self.part.open("wb") as file:
                first.save(
                    file,
                    format=FORMATS[self.path.suffix.lower()],
                    save_all=True,
                    append_images=others,
                    duration=durations,
                    loop=0,
                )
        except OSError as error:
            raise InputError(f"--output {self.path} cannot be written: {error.strerror}") from None
        take_name(self.part, self.path)

    def abandon(self) -> None:
        """Nothing is written after a failure."""
