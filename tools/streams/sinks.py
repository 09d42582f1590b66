"""Where drawn frames go: a video file, an animated picture, a folder of numbered images, or standard output.

Every sink has `path`, `write(image, seconds)` for a drawn frame, uint8 BGR `[H, W, 3]`, and its time in the source,
`close()` for when all frames are written, `abandon()` for after a failure, `note`, a remark about the result, empty if
there is none, and `keeps_times`: whether a frame is shown at its time in the source rather than at a fixed rate.
"""

import os
import re
from pathlib import Path

import cv2
import numpy as np

from backbone.errors import InputError
from tools.io.packages import missing
from tools.streams import encoded, short
from tools.streams.encoded import EncodedSink
from tools.streams.opencv_log import silence_opencv
from tools.streams.places import pad_to_even, padding_note, part_of, prepare_place
from tools.streams.short import AnimationSink, PipeSink

# Only codecs that OpenCV's own wheels can write, in order of preference; they have no H.264 encoder.
CODECS = {".mp4": ("mp4v",), ".mkv": ("mp4v", "VP90", "MJPG"), ".avi": ("MJPG", "XVID")}
SUFFIXES = tuple(dict.fromkeys((*encoded.SUFFIXES, *CODECS, *short.SUFFIXES)))
WITHOUT_H264 = "its codec, MPEG-4 part 2, is one that browsers do not play; for H.264: pip install 'taproot[video]'"
STDOUT = Path("-")


class VideoSink:
    """A video by OpenCV, written as `<stem>.part<suffix>` and renamed once it has been read back.

    A process that is killed leaves the part file: an .mkv or .avi can be read up to there, an .mp4 cannot.

    Arguments:
        path: the video; its suffix is a key of `CODECS`. Missing folders are made.
        fps: frames per second, above 0 and below 1000.
        overwrite: replace a file of that name.

    Raises:
        InputError: an existing file, or a place that cannot be written.
    """

    keeps_times = False

    def __init__(self, path: Path, fps: float, overwrite: bool = False) -> None:
        silence_opencv()
        self.path, self.part = path, part_of(path)
        self.frames_written = 0
        self.note = WITHOUT_H264 if path.suffix.lower() in encoded.SUFFIXES else ""
        self._fps = fps
        self._frame_hw = (0, 0)  # of the first frame
        self._writer: cv2.VideoWriter | None = None
        prepare_place(path, overwrite)

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append one frame `[H, W, 3]`; the first one sets the size of the video, whose rate is fixed.

        Raises:
            InputError: no codec could be opened, or a frame of another size.
        """
        height, width = image.shape[:2]
        if self._writer is None:
            self._frame_hw = (height, width)
            self._writer = self._open_writer(height + height % 2, width + width % 2)
        if self._frame_hw != (height, width):
            # OpenCV would skip such a frame and say nothing.
            raise InputError(
                f"--output {self.path}: frame {self.frames_written} is {width}x{height}, the first was "
                f"{self._frame_hw[1]}x{self._frame_hw[0]}; a video has one size, write to a folder instead"
            )
        self._writer.write(pad_to_even(image))
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file, read it back and give it its name.

        Raises:
            InputError: fewer frames came back than were written; the part file stays.
        """
        if self._writer is None:
            return
        self._writer.release()
        readable = _count_frames(self.part, self.frames_written)
        if readable != self.frames_written:
            raise InputError(
                f"--output {self.path}: {readable} of {self.frames_written} frames can be read back from {self.part}; "
                "is the disk full?"
            )
        try:
            os.replace(self.part, self.path)
        except OSError as error:
            raise InputError(f"--output {self.path} cannot take the name of {self.part}: {error.strerror}") from None

    def abandon(self) -> None:
        """Close after a failure; the frames so far stay in the part file."""
        if self._writer is not None:
            self._writer.release()

    def _open_writer(self, height: int, width: int) -> cv2.VideoWriter:
        # OpenCV would cut the last row or column off.
        self.note = "; ".join(filter(None, (self.note, padding_note(*self._frame_hw))))
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
    keeps_times = True  # in so far as no frame is shown

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


Sink = EncodedSink | VideoSink | AnimationSink | ImageSink | PipeSink


def open_sink(
    output: Path,
    fps: float,
    *,
    overwrite: bool = False,
    keep_times: bool = True,
    sound_from: Path | None = None,
) -> Sink:
    """The sink that a path asks for: a folder if it is one or has no suffix, standard output for "-", else by suffix.

    Arguments:
        fps: frames per second, above 0 and below 1000.
        overwrite: replace an output that exists.
        keep_times: show frames at their times in the source where the file can, rather than at a fixed rate.
        sound_from: a video whose sound is copied.

    Raises:
        InputError: an unknown suffix, an output without sound or extra for it, or what the sinks raise.
    """
    suffix = output.suffix.lower()
    has_encoder = not missing(["av"])
    if sound_from is not None:
        if suffix not in encoded.SUFFIXES:
            raise InputError(f"--sound: {output} can have none; write one of {', '.join(encoded.SUFFIXES)}")
        if not has_encoder:
            raise InputError("--sound: needs PyAV, not installed; pip install 'taproot[video]'")
    if output == STDOUT:
        return PipeSink(fps)
    if output.is_dir() or not suffix:
        return ImageSink(output, overwrite)
    if suffix in short.SUFFIXES:
        return AnimationSink(output, fps, keep_times=keep_times, overwrite=overwrite)
    if suffix in encoded.SUFFIXES and has_encoder:
        return EncodedSink(output, fps, keep_times=keep_times, sound_from=sound_from, overwrite=overwrite)
    if suffix in CODECS:
        return VideoSink(output, fps, overwrite)
    valid = [each for each in SUFFIXES if each in (*CODECS, *short.SUFFIXES) or has_encoder]
    raise InputError(f"--output {output}: a video ends in {', '.join(valid)}; a folder has no suffix")


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
