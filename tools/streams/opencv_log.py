"""Keeps OpenCV quiet about broken videos, which the sources and sinks report themselves."""

import os

import cv2


def silence_opencv() -> None:
    """Keep OpenCV and its FFmpeg from writing to stderr: what goes wrong is reported here, once and in words.

    FFmpeg's level is read when the process opens its first video, so this comes before that. A level that the user
    has set stays.
    """
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
