"""Keeps OpenCV quiet about broken videos, which the sources and sinks report themselves, and counts what it says."""

import ctypes
import os
import platform
import re
import sys
import threading
from functools import cache

import cv2

LEVEL = "OPENCV_FFMPEG_LOGLEVEL"
GLIBC = platform.libc_ver()[0] == "glibc"
QUIET, ERRORS = "-8", "16"  # FFmpeg's levels: nothing, errors
MARK = b"[counted up to here]\n"


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

    """

    def __init__(self) -> None:
        self._count, self._counted = 0, threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def count(self) -> int:
        """Lines so far, with all that were written before the question: it waits until the thread has read them."""
        if self._thread is not None and self._thread.is_alive():
            self._counted.clear()
            os.write(self._descriptor, MARK)
            while self._thread.is_alive() and not self._counted.wait(0.1):
                pass
        return self._count

    def __enter__(self) -> "DecoderErrors":
        if not GLIBC:
            return self
        self._level_before = os.environ.get(LEVEL)
        self._shown = self._level_before not in (None, QUIET)
        if not self._shown:
            os.environ[LEVEL] = ERRORS
        source, target = os.pipe()
        self._descriptor, self._stream = _lasting_stream()
        os.dup2(target, self._descriptor, inheritable=False)
        os.close(target)
        self._stdout = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stdout")
        self._before, self._stdout.value = self._stdout.value, self._stream
        self._thread = thread = threading.Thread(target=self._read, args=(source,), name="decoder errors", daemon=True)
        thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        # Else a second run would take our level for the user's and show the lines.
        if self._level_before is None:
            os.environ.pop(LEVEL, None)
        else:
            os.environ[LEVEL] = self._level_before
        self._stdout.value = self._before
        ctypes.CDLL(None).fflush(ctypes.c_void_p(self._stream))
        _send_nowhere(self._descriptor)  # closes the pipe, which ends the thread
        self._thread.join()

    def _read(self, source: int) -> None:
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                if line == MARK:
                    self._counted.set()
                    continue
                level = re.match(rb"\[OPENCV:FFMPEG:(\d+)\]", line)
                if level is not None:
                    self._count += int(level[1]) <= int(ERRORS)
                if level is None or self._shown:
                    sys.stderr.write(line.decode(errors="replace"))


@cache
def _lasting_stream() -> tuple[int, int]:
    """The descriptor and the address of a stream of C that is written a line at a time and never closed.

    Libraries that are loaded while it is stdout keep its address, and flush it when the process ends: torchvision's
    copy of nvjpeg does. A closed one is freed memory then, and the process hangs or crashes after all is done.
    """
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    descriptor = os.open(os.devnull, os.O_WRONLY)
    stream = libc.fdopen(descriptor, b"w")
    libc.setvbuf(ctypes.c_void_p(stream), None, 1, 0)  # 1: _IOLBF of glibc
    return descriptor, stream


def _send_nowhere(descriptor: int) -> None:
    """Makes a descriptor one of the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor, inheritable=False)
    os.close(nowhere)
