"""Keeps OpenCV quiet about broken videos, which the sources and sinks report themselves, and counts what it says."""

import ctypes
import os
import platform
import re
import sys
import threading

import cv2

LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
GLIBC = platform.libc_ver()[0] == "glibc"
QUIET, ERRORS = "-8", "16"  # FFmpeg's levels: nothing, errors


def silence_opencv() -> None:
    """Keep OpenCV and its FFmpeg from writing to the terminal: what goes wrong is reported here, once and in words.

    FFmpeg's level is read when the process opens its first video, so this comes before that. A level that the user
    has set stays.
    """
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault(LEVEL, QUIET)


class DecoderErrors:
    """Counts the errors that FFmpeg writes, the only sign of frames that it made up from damaged packets.

    OpenCV prints them by C's stdout. As a context, before the process opens its first video, this puts another stream
    in its place, which leaves what Python writes alone. FFmpeg's lines go no further unless the user has set `LEVEL`;
    others, and these, go to stderr. Where the C library is not glibc nothing is counted.

    Attributes:
        count: lines so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "DecoderErrors":
        if not GLIBC:
            return self
        self._level_before = os.environ.get(LEVEL)
        self._shown = self._level_before not in (None, QUIET)
        if not self._shown:
            os.environ[LEVEL] = ERRORS
        self._libc = libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        source, target = os.pipe()
        stream = ctypes.c_void_p(libc.fdopen(target, b"w"))
        libc.setvbuf(stream, None, 1, 0)  # 1: _IOLBF of glibc, a line at a time
        self._stdout = ctypes.c_void_p.in_dll(libc, "stdout")
        self._before, self._stdout.value = self._stdout.value, stream.value
        self._thread = threading.Thread(target=self._read, args=(source,), name="decoder errors", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not GLIBC:
            return
        # Else a second run would take our level for the user's and show the lines.
        if self._level_before is None:
            os.environ.pop(LEVEL, None)
        else:
            os.environ[LEVEL] = self._level_before
        stream = ctypes.c_void_p(self._stdout.value)
        self._stdout.value = self._before
        self._libc.fclose(stream)  # ends the thread
        self._thread.join()

    def _read(self, source: int) -> None:
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                level = re.match(rb"\[OPENCV:FFMPEG:(\d+)\]", line)
                if level is not None:
                    self.count += int(level[1]) <= int(ERRORS)
                if level is None or self._shown:
                    sys.stderr.write(line.decode(errors="replace"))
