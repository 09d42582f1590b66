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
# A frame this little before a time counts as at it: containers round times to milliseconds.
ROUNDING = 0.002
# Where a search for a time begins before it, so that the frame found is known to be the first one.
SEEK_MARGIN_S = 1.0


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
    """A recorded video, read from `start` to `end`; nothing is dropped but what `skip` leaves out.

    Frames carry the times of the container, so variable rates are kept, and index over rate where it has none.

    Arguments:
        name: what messages call it.
        capture: the opened `cv2.VideoCapture`.
        start: seconds; the first frame read is the first one at this time or later.
        end: seconds; frames from this time on are not read.
        skip: frames left out after each that is read.

    Attributes:
        fps: frames per second as they are read: of the source over `skip` + 1.

    Raises:
        InputError: the video ends before `start`.
    """

    live = False

    def __init__(
        self, name: str, capture: cv2.VideoCapture, *, start: float = 0.0, end: float | None = None, skip: int = 0
    ) -> None:
        self.name = name
        self._rate = guarded_fps(capture.get(cv2.CAP_PROP_FPS))
        self.fps = self._rate / (skip + 1)
        self._capture, self._end, self._skip = capture, end, skip
        self._position = 0
        self._last: float | None = None  # time of the last frame, seconds
        self._trusted = True  # the container's times are usable
        self._grabbed = False  # a frame is decoded, but not fetched yet
        self._num_read = 0
        if start > 0:
            self._seek(start)
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frames_expected: int | None = None
        if count > 0:  # a container without an index answers 0 or a negative number
            last = count if end is None else min(count, math.ceil(end * self._rate - ROUNDING))
            self.frames_expected = max(0, math.ceil((last - self._position) / (skip + 1)))

    def read(self) -> Frame | None:
        if self._num_read:
            for _ in range(self._skip):
                if not self._capture.grab():
                    return None
                self._take_time()
        read, image = self._capture.retrieve() if self._grabbed else self._capture.read()
        if not read:
            return None
        if not self._grabbed:
            self._take_time()
        self._grabbed = False
        assert self._last is not None  # the time just taken
        if self._end is not None and self._last >= self._end - ROUNDING:
            self.frames_expected = self._num_read  # at variable rates it was an estimate
            return None
        self._num_read += 1
        return Frame(image, self._position - 1, self._last)

    def close(self) -> None:
        self._capture.release()

    def _take_time(self) -> None:
        """Notes place and time of the frame just decoded."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        later = self._last is None or seconds > self._last
        # One time that cannot be (NaN, negative, not later) makes all that follow doubtful.
        self._trusted = self._trusted and math.isfinite(seconds) and seconds >= 0 and later
        if not self._trusted:
            seconds = self._position / self._rate
            if self._last is not None:
                seconds = max(seconds, self._last + 1 / self._rate)
        self._last = seconds
        self._position += 1

    def _seek(self, start: float) -> None:
        """Decodes the first frame at `start` or later; what lies long before it is not decoded where that works."""
        capture = self._capture
        for leap in (max(0.0, start - SEEK_MARGIN_S), 0.0):
            capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * leap)
            self._last, self._trusted, num_grabbed = None, True, 0
            self._position = round(leap * self._rate)
            while capture.grab():
                self._take_time()
                if num_grabbed == 0 and self._trusted and self._last is not None:
                    self._position = round(self._last * self._rate) + 1
                num_grabbed += 1
                if self._last is not None and self._last >= start - ROUNDING:
                    break
            else:
                continue
            if num_grabbed > 1 or leap == 0:
                self._grabbed = True
                return
        raise InputError(f"{self.name}: ends before --start {start:g} seconds; give an earlier time")


class LiveStream:
    """A camera or a network stream, which goes on without us; `reopen` tries to get a lost one back.

    Arguments:
        name: what messages call it.
        target: camera index or URL.
        capture: the opened `cv2.VideoCapture`.
        skip: frames left out after each that is read.
    """

    live = True
    frames_expected = None

    def __init__(self, name: str, target: int | str, capture: cv2.VideoCapture, *, skip: int = 0) -> None:
        self.name = name
        self.fps = guarded_fps(capture.get(cv2.CAP_PROP_FPS)) / (skip + 1)
        self._target, self._skip = target, skip
        self._capture = capture
        self._position = 0
        self._start = 0.0  # of the first frame, by the clock

    def read(self) -> Frame | None:
        for _ in range(self._skip if self._position else 0):
            if not self._capture.grab():
                return None
            self._position += 1
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
        start, end, skip: as `VideoFile`, of a video of `DEFAULT_FPS` frames per second.

    Raises:
        InputError: a file is not a readable image; here or, where only its pixels are damaged, in `read`. Or there
            are no images from `start` to `end`.
    """

    live = False

    def __init__(
        self, name: str, paths: list[Path], *, start: float = 0.0, end: float | None = None, skip: int = 0
    ) -> None:
        first = math.ceil(start * DEFAULT_FPS - ROUNDING)
        last = len(paths) if end is None else min(len(paths), math.ceil(end * DEFAULT_FPS - ROUNDING))
        self._indices = range(first, last, skip + 1)
        if not self._indices:
            raise InputError(
                f"{name}: has no image from --start on; {len(paths)} images last {len(paths) / DEFAULT_FPS:.1f} seconds"
            )
        self.paths = [paths[index] for index in self._indices]
        for path in self.paths:
            image_size(path)
        self.name = name
        self.fps = DEFAULT_FPS / (skip + 1)
        self.frames_expected = len(self.paths)
        self._num_read = 0

    def read(self) -> Frame | None:
        if self._num_read == len(self.paths):
            return None
        path, index = self.paths[self._num_read], self._indices[self._num_read]
        self._num_read += 1
        return Frame(read_image(path), index, index / DEFAULT_FPS, path)

    def close(self) -> None:
        pass


Source = VideoFile | LiveStream | Images


def open_source(source: str, *, start: float = 0.0, end: float | None = None, skip: int = 0) -> Source:
    """Open what the user named: a camera index, a URL, a folder or glob of images, an image, or a video file.

    Arguments:
        start, end: seconds of a recording between which frames are read.
        skip: frames left out after each that is read.

    Raises:
        InputError: it is not there, cannot be opened, holds no image, or nothing between the times.
    """
    silence_opencv()
    name = without_password(source)
    if source.isdecimal():
        _refuse_times(name, start, end)
        return _open_camera(name, int(source), skip)
    if is_url(source):
        capture = _open_url(name, source)
        # A recording behind a URL knows its length and waits for us; a stream does neither.
        if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
            return VideoFile(name, capture, start=start, end=end, skip=skip)
        _refuse_times(name, start, end)
        return LiveStream(name, source, capture, skip=skip)
    path = Path(source)
    if path.is_dir():
        paths = _images(name, sorted(path.iterdir(), key=_natural_order), "the folder holds no image")
        return Images(name, paths, start=start, end=end, skip=skip)
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return Images(name, [path], start=start, end=end, skip=skip)
    if path.is_file():
        return VideoFile(name, _open_file(name, path), start=start, end=end, skip=skip)
    if glob.has_magic(source):
        matches = [Path(match) for match in glob.glob(source, recursive=True)]
        paths = _images(name, sorted(matches, key=_natural_order), "no image matches")
        return Images(name, paths, start=start, end=end, skip=skip)
    raise InputError(f"{name}: no such file; --source takes a video, a camera index, a URL, a folder or a quoted glob")


def _refuse_times(name: str, start: float, end: float | None) -> None:
    if start > 0 or end is not None:
        raise InputError(f"{name}: is live and has no --start and --end; give --max-frames")


def _open_camera(name: str, index: int, skip: int) -> LiveStream:
    capture = _capture(index)
    if not capture.isOpened():
        raise InputError(
            f"camera {name} cannot be opened: connect it, close programs that use it, or try another index"
        )
    return LiveStream(f"camera {name}", index, capture, skip=skip)


def _open_url(name: str, url: str) -> cv2.VideoCapture:
    capture = _capture(url)
    if not capture.isOpened():
        raise InputError(
            f"{name} cannot be opened within {OPEN_TIMEOUT_MS / 1000:g} s: check address, network and password"
        )
    return capture


def _open_file(name: str, path: Path) -> cv2.VideoCapture:
    capture = _capture(str(path))
    if not capture.isOpened():
        raise InputError(
            f"{name} is not a video that OpenCV can read, or its end is missing (a cut .mp4 has lost its index): "
            "copy or record it again"
        )
    return capture


def _images(name: str, candidates: list[Path], complaint: str) -> list[Path]:
    paths = [path for path in candidates if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    if not paths:
        raise InputError(f"{name}: {complaint}; known are {', '.join(IMAGE_SUFFIXES)}")
    return paths


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
