"""Signals that end a run after the step it is in."""

import signal
from types import FrameType

import torch
from accelerate import Accelerator

from tools.run.processes import gather_values


class StopSignal:
    """Remembers SIGTERM and SIGINT while it is entered, so that a run ends after the step it is in."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> "StopSignal":
        self.before = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def agreed(self, accelerator: Accelerator) -> int:
        """The signal that any process got, 0 for none; the same answer in all of them."""
        if accelerator.num_processes == 1:  # without waiting for a device
            return self.signal
        return int(max(gather_values(accelerator, torch.tensor(self.signal, device=accelerator.device))))
