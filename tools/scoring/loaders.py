"""The loader that evaluations, checks and preparations share: every item once, in order, none of it random."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

from tools.run.processes import single_thread

TIMEOUT = 300
"""Seconds after which a loader process that gives nothing counts as hung."""


def unchanged(item: Any) -> Any:
    """What becomes of an item that is not put into a batch; torch's default would convert it."""
    return item


def each_once(
    dataset: Dataset,
    *,
    workers: int,
    indices: Sequence[int] | None = None,
    batch: int | None = None,
    collate: Callable[[Any], Any] = unchanged,
) -> "EachOnce":
    """Goes through a data set once, in order.

    Arguments:
        workers: loader processes, of one thread each; 0 loads in this one.
        indices: of the items, as a process's shard; all of them by default.
        batch: items in a batch, which `collate` makes; None gives single items.
    """
    loader = DataLoader(
        dataset if indices is None else Subset(dataset, indices),
        batch_size=batch,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=single_thread,
        timeout=TIMEOUT * (workers > 0),
    )
    return EachOnce(loader)


class EachOnce:
    """The items of a loader; a dead worker is torch's RuntimeError about it, which `told_in_one_line` knows."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.loader)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            # A worker that dies between announcing an item and handing it over leaves a broken connection.
            except (ConnectionError, FileNotFoundError, EOFError) as error:
                if self.loader.num_workers == 0 or str(error).startswith("Caught "):  # the data set's own
                    raise
                raise RuntimeError("DataLoader worker exited, its connection is broken") from error
            yield item
