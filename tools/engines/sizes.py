"""How many sizes of images an engine prepares itself for, as each takes seconds, before torch takes the others."""

import sys
from collections.abc import Callable

from backbone.inference import TorchEngine

MOST_SIZES = 4


class SizeLimit:
    """The sizes that an engine has seen, and the torch engine for those beyond `MOST_SIZES`.

    Arguments:
        name: the engine's.
        make_torch: makes the torch engine of the same model, when it is first needed.
    """

    def __init__(self, name: str, make_torch: Callable[[], TorchEngine]) -> None:
        self.name, self.make_torch = name, make_torch
        self.seen: set[tuple[int, ...]] = set()
        self.torch: TorchEngine | None = None

    def beyond(self, size: tuple[int, ...]) -> TorchEngine | None:
        """The torch engine where it is to run images of this size; says so the first time."""
        if size in self.seen:
            return None
        if len(self.seen) < MOST_SIZES:
            self.seen.add(size)
            return None
        if self.torch is None:
            print(
                f"engine {self.name}: prepared for {MOST_SIZES} sizes of images, those of other sizes run in torch; "
                "with a size for the network's input all have one",
                file=sys.stderr,
            )
            self.torch = self.make_torch()
        return self.torch
