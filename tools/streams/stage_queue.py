"""The queue between two stages of the video pipeline."""

import queue
import threading
from typing import Any

# How often a waiting stage checks whether the run is over.
POLL_S = 0.1


class StageQueue:
    """A bounded queue between two stages whose waits also end when one of the given events is set.

    Arguments:
        size: how many items may wait.
    """

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue = queue.Queue(size)

    def put(self, item: object, *ends: threading.Event) -> bool:
        """Waits for room; whether the item went in, which it does not once an event is set."""
        while not any(end.is_set() for end in ends):
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def put_newest(self, item: object) -> int:
        """Puts without waiting, in place of the oldest item where the queue is full; how many items were removed.

        Only for a queue with a single producer: nobody else can fill the room that is made.
        """
        removed = 0
        if self._queue.full():
            try:
                self._queue.get_nowait()
                removed = 1
            except queue.Empty:  # the consumer was faster
                pass
        self._queue.put_nowait(item)
        return removed

    def get(self, *ends: threading.Event) -> Any:
        """The next item; None where the producer put None as its last one, or once an event is set."""
        while not any(end.is_set() for end in ends):
            try:
                return self._queue.get(timeout=POLL_S)
            except queue.Empty:
                continue
        return None

    def get_now(self) -> Any:
        """The next item without waiting; None if there is none."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None
