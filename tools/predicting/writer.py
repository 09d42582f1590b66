"""Writes results in threads, so that the next image is predicted meanwhile, and records them in order."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from tools.predicting.files import ImageFiles, Results
from tools.predicting.items import Item
from tools.predicting.journal import Journal

WAITING = 3
"""Images in memory for each thread, being written or waiting for it."""


class ResultsWriter:
    """Writes the files of images in threads and appends their records in the order of `submit`.

    Arguments:
        workers: threads.
    """

    def __init__(self, files: ImageFiles, journal: Journal, workers: int) -> None:
        self.files, self.journal = files, journal
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="save")
        self._most = WAITING * workers
        self._pending: deque[Future[dict[str, Any]]] = deque()

    def submit(self, item: Item, image: np.ndarray, results: Results, drawn: np.ndarray | None = None) -> None:
        """Takes the results of an image; waits while too many are being written.

        Raises:
            InputError: an earlier image's files cannot be written.
        """
        self._pending.append(self._pool.submit(self.files.write, item, image, results, drawn))
        while len(self._pending) > self._most or (self._pending and self._pending[0].done()):
            self.journal.append(self._pending.popleft().result())

    def close(self) -> None:
        """Waits until all is written.

        Raises:
            InputError: a file cannot be written.
        """
        try:
            while self._pending:
                self.journal.append(self._pending.popleft().result())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Ends without waiting for what has not begun."""
        self._pool.shutdown(cancel_futures=True)
        self.journal.close()
