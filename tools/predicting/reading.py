"""Reads images ahead of the models, in batches that are the same whatever was done before."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from backbone.data.images import read_image
from backbone.errors import InputError
from tools.predicting.items import Item, frame_item
from tools.streams.sources import VideoFile


class Loaded(NamedTuple):
    """An image that was read."""

    item: Item
    image: np.ndarray | None  # uint8 BGR [H, W, 3]; None where it is damaged
    fault: str  # what is wrong with a damaged one


def load_item(item: Item) -> Loaded:
    """Reads an image; a damaged one is told by its fault."""
    assert item.path is not None  # frames are not read here
    try:
        return Loaded(item, read_image(item.path), "")
    except InputError as error:
        return Loaded(item, None, str(error))


def read_batches(
    items: Sequence[Item], is_done: Callable[[Item], bool], *, batch: int, workers: int
) -> Iterator[list[Loaded]]:
    """Batches of consecutive images, without those of which nothing is left to do.

    A batch with an image that is not done is read whole: with others beside it, the image's results could differ in
    their last digits.

    Arguments:
        workers: threads that read ahead.
    """
    groups = (list(items[start : start + batch]) for start in range(0, len(items), batch))
    waiting: deque[list[Future[Loaded]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="read") as pool:
        try:
            for group in groups:
                if all(map(is_done, group)):
                    continue
                waiting.append([pool.submit(load_item, item) for item in group])
                if sum(map(len, waiting)) > max(2 * workers, batch):
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def read_frames(
    video: VideoFile, name: str, is_done: Callable[[Item], bool], *, batch: int, seen: list[Item]
) -> Iterator[list[Loaded]]:
    """As `read_batches`, of a video's frames; one is read while another is predicted.

    Arguments:
        name: the video's.
        seen: gets the item of every frame, done or not.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        future = pool.submit(video.read)
        group: list[Loaded] = []
        while (frame := future.result()) is not None:
            future = pool.submit(video.read)
            item = frame_item(name, frame.index, frame.seconds)
            seen.append(item)
            group.append(Loaded(item, frame.image, ""))
            if len(group) == batch:
                if not all(is_done(loaded.item) for loaded in group):
                    yield group
                group = []
        if not all(is_done(loaded.item) for loaded in group):
            yield group
