"""Read frames from videos, live streams and images; write frames to a video or to numbered images.

Frames are uint8 BGR `[H, W, 3]`, as everywhere in OpenCV. `read()` gives the next one, or None when there are no more.
"""

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from backbone.data.images import IMAGE_SUFFIXES, image_size, read_image
from backbone.errors import InputError

# Only codecs that OpenCV's own wheels can write, in order of preference; they have no H.264 encoder.
CODECS = {".mp4": ("mp4v",), ".mkv": ("mp4v", "VP90", "MJPG"), ".avi": ("MJPG", "XVID")}
DEFAULT_FPS = 30.0
OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 5000


def silence_opencv() -> None:
    """Keep OpenCV and its FFmpeg from writing to stderr: what goes wrong is reported here, once and in words.

    FFmpeg's level is read when the process opens its first video, so this comes before that. A level that the user
    has set stays.
    """
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def guarded_fps(fps: float) -> float:
    """The frame rate as given, or 30 where it is no rate: containers and cameras also say 0, NaN or 90000."""
    return fps if 0 < fps < 1000 else DEFAULT_FPS


def is_url(text: str) -> bool:
    """Whether the text begins with a scheme, as rtsp://."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def without_password(text: str) -> str:
    """The source as it may be shown and stored: the user and password of a stream's URL are starred out."""
    return re.sub(r"://[^/]*@", "://***@", text) if is_url(text) else text


class VideoFile:
    """A recorded video, read from its first frame to its last; nothing is dropped.

    Args:
        name: what messages call it.
        capture: the opened `cv2.VideoCapture`.
    """

    live = False

    def __init__(self, name: str, capture: cv2.VideoCapture) -> None:
        self.name = name
        self.fps = guarded_fps(capture.get(cv2.CAP_PROP_FPS))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # A container without an index answers 0 or a negative number.
        self.frames_expected = int(count) if count > 0 else None
        self._capture = capture

    def read(self) -> np.ndarray | None:
        read, frame = self._capture.read()
        return frame if read else None

    def close(self) -> None:
        self._capture.release()


class LiveStream:
    """A camera or a network stream, which goes on without us; `reopen` tries to get a lost one back.

    Args:
        name: what messages call it.
        target: camera index or URL.
        capture: the opened `cv2.VideoCapture`.
    """

    live = True
    frames_expected = None

    def __init__(self, name: str, target: int | str, capture: cv2.VideoCapture) -> None:
        self.name = name
        self.fps = guarded_fps(capture.get(cv2.CAP_PROP_FPS))
        self._target = target
        self._capture = capture

    def read(self) -> np.ndarray | None:
        read, frame = self._capture.read()
        return frame if read else None

    def reopen(self) -> None:
        """Connect again; whether that worked shows at the next `read`."""
        self._capture.release()
        self._capture = _capture(self._target)

    def close(self) -> None:
        self._capture.release()


class Images:
    """Images as the frames of a video, in the order given.

    Args:
        name: what messages call it.
        paths: the files; the header of each is checked at once, so that a bad one is known before the work begins.

    Raises:
        InputError: a file is not a readable image; here or, where only its pixels are damaged, in `read`.
    """

    live = False
    fps = DEFAULT_FPS

    def __init__(self, name: str, paths: list[Path]) -> None:
        for path in paths:
            image_size(path)
        self.name = name
        self.paths = paths
        self.frames_expected = len(paths)
        self._position = 0

    def read(self) -> np.ndarray | None:
        if self._position == len(self.paths):
            return None
        self._position += 1
        return read_image(self.paths[self._position - 1])

    def close(self) -> None:
        pass


Source = VideoFile | LiveStream | Images


def open_source(source: str) -> Source:
    """Open what the user named: a camera index, a URL, a folder or glob of images, an image, or a video file.

    Raises:
        InputError: it is not there, cannot be opened, or holds no image.
    """
    silence_opencv()
    name = without_password(source)
    if source.isdecimal():
        return _open_camera(name, int(source))
    if is_url(source):
        return _open_url(name, source)
    path = Path(source)
    if path.is_dir():
        return _open_images(name, sorted(path.iterdir(), key=_natural_order), "the folder holds no image")
    if path.is_file():
        return _open_file(name, path)
    if glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(source, recursive=True)]
        return _open_images(name, sorted(matches, key=_natural_order), "no image matches")
    raise InputError(f"{name}: no such file; --source takes a video, a camera index, a URL, a folder or a quoted glob")


def _open_camera(name: str, index: int) -> LiveStream:
    capture = _capture(index)
    if not capture.isOpened():
        raise InputError(
            f"camera {name} cannot be opened: connect it, close programs that use it, or try another index"
        )
    return LiveStream(f"camera {name}", index, capture)


def _open_url(name: str, url: str) -> LiveStream | VideoFile:
    capture = _capture(url)
    if not capture.isOpened():
        raise InputError(
            f"{name} cannot be opened within {OPEN_TIMEOUT_MS / 1000:g} s: check address, network and password"
        )
    # A recording behind a URL knows its length and waits for us; a stream does neither.
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
        return VideoFile(name, capture)
    return LiveStream(name, url, capture)


def _open_file(name: str, path: Path) -> VideoFile | Images:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Images(name, [path])
    capture = _capture(str(path))
    if not capture.isOpened():
        raise InputError(
            f"{name} is not a video that OpenCV can read, or its end is missing (a cut .mp4 has lost its index): "
            "copy or record it again"
        )
    return VideoFile(name, capture)


def _open_images(name: str, candidates: list[Path], complaint: str) -> Images:
    paths = [path for path in candidates if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    if not paths:
        raise InputError(f"{name}: {complaint}; known are {', '.join(IMAGE_SUFFIXES)}")
    return Images(name, paths)


def _natural_order(path: Path) -> list[str | int]:
    """Sort key that puts frame2 before frame10."""
    # The split alternates text and digits, so keys never compare a number with a string.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _capture(target: int | str) -> cv2.VideoCapture:
    if isinstance(target, int):
        return cv2.VideoCapture(target)
    # Without time limits a server that accepts and stays silent would hold the process for ever.
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
    return cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)


class VideoSink:
    """A video file, written beside its final name as `<stem>.part<suffix>` and renamed once it has been read back.

    A process that is killed leaves the part file: an .mkv or .avi can be read up to there, an .mp4 cannot.

    Args:
        path: the video; its suffix is a key of `CODECS`. Missing folders are made.
        fps: frames per second, above 0 and below 1000.
        overwrite: replace a file of that name.

    Raises:
        InputError: unknown suffix, existing file, or a place that cannot be written.
    """

    def __init__(self, path: Path, fps: float, overwrite: bool = False) -> None:
        if path.suffix.lower() not in CODECS:
            raise InputError(f"--output {path}: a video ends in {', '.join(CODECS)}; a folder has no suffix")
        if path.exists() and not overwrite:
            raise InputError(f"--output {path} exists: give --overwrite to replace it")
        silence_opencv()
        self.path = path
        self.part = path.with_name(f"{path.stem}.part{path.suffix}")
        self.frames_written = 0
        self.note = ""  # what the reader of the result should know about its images
        self._fps = fps
        self._frame_hw: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None
        if self.part.exists() and not overwrite:
            raise InputError(
                f"--output {path}: another run is writing {self.part} or was killed: give --overwrite to replace it"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Tells now, not after the model is loaded, whether the place can be written.
            with self.part.open("ab"):
                pass
            if self.part.stat().st_size == 0:
                self.part.unlink()
        except OSError as error:
            raise InputError(f"--output {path} cannot be written: {error.strerror}") from None

    def write(self, frame: np.ndarray) -> None:
        """Append one frame `[H, W, 3]`; the first one sets the size of the video.

        Raises:
            InputError: no codec could be opened, or a frame of another size.
        """
        height, width = frame.shape[:2]
        if self._writer is None:
            self._frame_hw = (height, width)
            self._writer = self._open_writer(height + height % 2, width + width % 2)
        if self._frame_hw != (height, width):
            # OpenCV would skip such a frame and say nothing.
            raise InputError(
                f"--output {self.path}: frame {self.frames_written} is {width}x{height}, the first was "
                f"{self._frame_hw[1]}x{self._frame_hw[0]}; a video has one size, write to a folder instead"
            )
        if height % 2 or width % 2:
            frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(frame)
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
        if (height, width) != self._frame_hw:
            # Video codecs store color at half size; OpenCV would cut the last row or column off.
            self.note = f"padded to the even size {width}x{height} by repeating the last row or column"
        for codec in CODECS[self.path.suffix.lower()]:
            fourcc = cv2.VideoWriter_fourcc(*codec)
            writer = cv2.VideoWriter(str(self.part), cv2.CAP_FFMPEG, fourcc, self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise InputError(
            f"--output {self.path}: OpenCV opened no codec for {width}x{height} at {self._fps:g} frames/s; "
            "check the disk, or write .avi or a folder"
        )


class ImageSink:
    """A folder of losslessly stored frames: 000000.png, 000001.png, ...

    Args:
        folder: made if missing.
        overwrite: remove numbered images that are there already, so that no old frame outlives a shorter run.

    Raises:
        InputError: a folder with numbered images in it, or a place that cannot be written.
    """

    note = ""

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

    def write(self, frame: np.ndarray) -> None:
        """Store one frame `[H, W, 3]`; sizes may differ.

        Raises:
            InputError: the file cannot be written.
        """
        path = self.path / f"{self.frames_written:06}.png"
        # The lowest compression is several times faster than the default and about a fifth larger.
        _, encoded = cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        try:
            while self._old:  # only now that there is a new frame
                self._old.pop().unlink()
            path.write_bytes(encoded)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        self.frames_written += 1

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


Sink = VideoSink | ImageSink


def open_sink(output: Path, fps: float, overwrite: bool = False) -> Sink:
    """The sink that a path asks for: a folder if it is one or has no suffix, a video otherwise.

    Raises:
        InputError: as `VideoSink` and `ImageSink`.
    """
    if output.is_dir() or not output.suffix:
        return ImageSink(output, overwrite)
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


def has_display() -> bool:
    """Whether `cv2.imshow` works here.

    Without a display Qt aborts the whole process, which no `except` can catch, so a child process tries it first.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    trial = "import cv2; cv2.namedWindow('trial'); cv2.destroyAllWindows()"
    try:
        child = subprocess.run([sys.executable, "-c", trial], capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return False
    return child.returncode == 0
