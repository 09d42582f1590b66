"""Where drawn frames go: a video file, an animated image, a folder of numbered images, or a pipe.

Every sink has `path`, `write(image, seconds)` for a drawn frame, uint8 BGR `[H, W, 3]`, and its time in the source,
`close()` for when all frames are written, `abandon()` for after a failure, `note`, a remark about the result, empty
if there is none, and `keeps_times`, whether the result has the times of the source's frames.
"""

import re
import threading
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from backbone.errors import InputError
from tools.io.packages import missing
from tools.streams.animation import FORMATS, AnimationSink
from tools.streams.opencv_log import silence_opencv
from tools.streams.part_file import check_count, check_size, claim, even, padding_note, take_name
from tools.streams.raw_pipe import PipeSink

# Only codecs that OpenCV's own wheels can write, in order of preference; they have no H.264 encoder.
CODECS = {".mp4": ("mp4v",), ".mov": ("mp4v",), ".mkv": ("mp4v", "VP90", "MJPG"), ".avi": ("MJPG", "XVID")}
H264_SUFFIXES = (".mp4", ".mov", ".mkv")
SUFFIXES = (*CODECS, *FORMATS)
EXTRA = "pip install 'taproot[video]'"
NO_H264 = f"browsers and chats do not play it: {EXTRA} gives H.264"


class VideoSink:
    """A video file by OpenCV's codecs, at a fixed rate.

    It is written beside its final name as `<stem>.part<suffix>` and renamed once it has been read back. A process that
    is killed leaves the part file: an .mkv or .avi can be read up to there, an .mp4 cannot.

    Arguments:
        path: the video; its suffix is a key of `CODECS`. Missing folders are made.
        fps: frames per second, above 0 and below 1000.
        overwrite: replace a file of that name.

    Raises:
        InputError: existing file, or a place that cannot be written.
    """

    keeps_times = False

    def __init__(self, path: Path, fps: float, overwrite: bool = False) -> None:
        silence_opencv()
        self.path = path
        self.part = claim(path, overwrite)
        self.frames_written = 0
        self.note = ""
        self._fps = fps
        self._frame_hw = (0, 0)  # of the first frame
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append one frame `[H, W, 3]`; the first one sets the size of the video, whose rate is fixed.

        Raises:
            InputError: no codec could be opened, or a frame of another size.
        """
        if self._writer is None:
            self._frame_hw = image.shape[:2]
            self._writer = self._open_writer(*even(image).shape[:2])
        # OpenCV would skip such a frame and say nothing.
        check_size(self.path, self.frames_written, image.shape[:2], self._frame_hw)
        image = even(image)
        self._writer.write(image)
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file, read it back and give it its name.

        Raises:
            InputError: fewer frames came back than were written; the part file stays.
        """
        if self._writer is None:
            return
        self._writer.release()
        check_count(self.path, self.part, _count_frames(self.part, self.frames_written), self.frames_written)
        take_name(self.part, self.path)

    def abandon(self) -> None:
        """Close after a failure; the frames so far stay in the part file."""
        if self._writer is not None:
            self._writer.release()

    def _open_writer(self, height: int, width: int) -> cv2.VideoWriter:
        notes = [padding_note(self._frame_hw), NO_H264 if self.path.suffix.lower() in H264_SUFFIXES else ""]
        self.note = "; ".join(filter(None, notes))
        for codec in CODECS[self.path.suffix.lower()]:
            fourcc = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(str(self.part), cv2.CAP_FFMPEG, fourcc, self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise InputError(
            f"--output {self.path}: OpenCV opened no codec for {width}x{height} at {self._fps:g} frames/s; "
            "check the disk, or write .avi or a folder"
        )


class ImageSink:
    """A folder of losslessly stored frames: 000000.png, 000001.png, ...

    Arguments:
        folder: made if missing.
        overwrite: remove numbered images that are there already, so that no old frame outlives a shorter run.

    Raises:
        InputError: a folder with numbered images in it, or a place that cannot be written.
    """

    note = ""
    keeps_times = False

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        self.path = folder
        self.frames_written = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._old = [path for path in folder.iterdir() if re.fullmatch(r"\d{6,}\.png", path.name)]
        except OSError as error:
            raise InputError(f"--output {folder} is no folder that can be written: {error.strerror}") from None
        if self._old and not overwrite:
            raise InputError(f"--output {folder} holds {len(self._old)} frames: give --overwrite to replace them")

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Store one frame `[H, W, 3]`; sizes may differ.

        Raises:
            InputError: the file cannot be written.
        """
        path = self.path / f"{self.frames_written:06}.png"
        # The lowest compression is several times faster than the default and about a fifth larger.
        _, encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        try:
            while self._old:  # only now that there is a new frame
                self._old.pop().unlink()
            path.write_bytes(encoded.tobytes())
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        self.frames_written += 1

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


class Sink(Protocol):
    """What all sinks have."""

    path: Path
    note: str
    frames_written: int
    keeps_times: bool

    def write(self, image: np.ndarray, seconds: float) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


def open_sink(
    output: Path,
    fps: float,
    overwrite: bool = False,
    *,
    stop: threading.Event,
    constant: bool = False,
    sound: Path | None = None,
) -> Sink:
    """The sink that a path asks for: a pipe for "-", a folder if it is one or has no suffix, a file otherwise.

    Arguments:
        fps: frames per second, above 0 and below 1000.
        overwrite: replace an output that exists.
        stop: is set when nobody reads a pipe any more.
        constant: give the frames equal distances at that rate, whatever their times.
        sound: a file whose sound is copied.

    Raises:
        InputError: unknown suffix, sound where there can be none, and as the sinks.
    """
    suffix = output.suffix.lower()
    h264 = suffix in H264_SUFFIXES and not output.is_dir()
    if sound is not None and not h264:
        raise InputError(f"--sound: --output {output} holds no sound; write {', '.join(H264_SUFFIXES)}")
    if sound is not None and missing(["av"]):
        raise InputError(f"--sound: needs the package av, not installed; {EXTRA}")
    if str(output) == "-":
        return PipeSink(fps, stop)
    if output.is_dir() or not suffix:
        return ImageSink(output, overwrite)
    if suffix in FORMATS:
        return AnimationSink(output, fps, overwrite, constant=constant)
    if suffix not in CODECS:
        raise InputError(f"--output {output}: a video ends in {', '.join(SUFFIXES)}; a folder has no suffix")
    if h264 and not missing(["av"]):
        from tools.streams.h264 import H264Sink  # needs PyAV

        return H264Sink(output, fps, overwrite, constant=constant, sound=sound)
    return VideoSink(output, fps, overwrite)


def _count_frames(path: Path, expected: int) -> int:
    """How many frames of a finished video can be read, trusting a header that says what is expected."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        return 0
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if count != expected:
        # Matroska stores a duration, which rounds: count what is really there.
        count = 0
        while capture.grab():
            count += 1
    capture.release()
    return count
