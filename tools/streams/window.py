"""A window that shows the newest frame, and whether this machine can have one."""

import os
import subprocess
import sys

import cv2
import numpy as np

from tools.streams.stage_queue import StageQueue

TITLE = "taproot"
STOP_KEYS = (ord("q"), 27)  # 27: Escape


class Window:
    """Shows frames that another thread offers; OpenCV's windows work in the main thread only."""

    def __init__(self) -> None:
        self._newest = StageQueue(1)

    def offer(self, image: np.ndarray) -> None:
        """Leaves an image, uint8 BGR `[H, W, 3]`, to be shown, in place of an older one; from one other thread."""
        self._newest.put_newest(image)

    def update(self) -> bool:
        """Shows the newest image, if there is one; whether the user wants to stop (q, Escape, or closed)."""
        image = self._newest.get_now()
        if image is None:
            return False
        cv2.imshow(TITLE, image)
        return cv2.waitKey(1) & 0xFF in STOP_KEYS or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1

    def close(self) -> None:
        cv2.destroyAllWindows()


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
