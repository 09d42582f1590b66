"""Where frames come from: video files, cameras, network streams and images.

Every source has `name` (for messages), `fps`, `live`, `frames_expected` (None where it is not known), `close()`, and
`read()`, which gives the next `Frame`, or None when there are no more.
"""

import glob
import math
import re
import time
from pathlib import Path

import cv2

from backbone.data.images import IMAGE_SUFFIXES, image_size, read_image
from backbone.errors import InputError
from tools.streams.frames import Frame
from tools.streams.opencv_log import silence_opencv

DEFAULT_FPS = 30.0
OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 5000


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

    Arguments:
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
        self._position = 0
        self._first = 0.0  # time of the first frame by the container, milliseconds
        self._seconds = -1.0  # of the last frame

    def read(self) -> Frame | None:
        read, image = self._capture.read()
        if not read:
            return None
        index = self._position
        self._position += 1
        self._seconds = self._time(index)
        return Frame(image, index, self._seconds)

    def _time(self, index: int) -> float:
        """The time of the frame just read: the container's, or by the rate where that is none or runs backwards."""
        milliseconds = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if index == 0:
            self._first = milliseconds
        seconds = (milliseconds - self._first) / 1000
        return seconds if self._seconds < seconds < math.inf else max(index / self.fps, self._seconds)

    def close(self) -> None:
        self._capture.release()


class LiveStream:
    """A camera or a network stream, which goes on without us; `reopen` tries to get a lost one back.

    Arguments:
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
        self._position = 0
        self._start = 0.0  # of the first frame, by the clock

    def read(self) -> Frame | None:
        read, image = self._capture.read()
        if not read:
            return None
        now, index = time.monotonic(), self._position
        if index == 0:
            self._start = now
        self._position += 1
        return Frame(image, index, now - self._start)

    def reopen(self) -> None:
        """Connect again; whether that worked shows at the next `read`."""
        self._capture.release()
        self._capture = _capture(self._target)

    def close(self) -> None:
        self._capture.release()


class Images:
    """Images as the frames of a video, in the order given.

    Arguments:
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

    def read(self) -> Frame | None:
        index = self._position
        if index == len(self.paths):
            return None
        self._position += 1
        return Frame(read_image(self.paths[index]), index, index / self.fps, self.paths[index])

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
