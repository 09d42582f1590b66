"""Sees every operation that reaches a device, and tells those whose result the host would wait for on a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2"}
"""What reads values back from the device, or has a shape that depends on them."""


class Recorder(TorchDispatchMode):
    """Notes the name of every operation that reaches a device while `listens`; an index by a mask counts as nonzero."""

    def __init__(self):
        super().__init__()
        self.operations, self.listens = [], True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.listens:
            self.operations.append(_name(func, args))
        return func(*args, **(kwargs or {}))


def _name(function, arguments):
    name = function.overloadpacket.__name__
    if name.strip("_").startswith("index"):
        indices = arguments[1] if isinstance(arguments[1], list | tuple) else ()
        masks = [index for index in indices if index is not None and index.dtype == torch.bool]
        name = "nonzero" if masks else name
    return name
