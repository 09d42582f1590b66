"""A step whose loss or gradient is not finite changes nothing; a few such steps in a row end the run.

Processes need no message of their own to agree on it: where the loss of one is not finite, its gradients are made so,
and the exchange of gradients, which every step makes anyway, carries that to all others.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from tools.run.optimizer import Pairs, average_weight

NON_FINITE = 20
"""Exit code of a run that stopped because its loss or gradients were not finite numbers."""
IN_A_ROW = 3
"""So many steps without a finite loss and gradient, one after the other, end a run."""
IN_A_ROW_FP16 = 20
"""The same in fp16, where gradients overflow now and then until their scaler has halved its factor often enough."""


class Guard:
    """Makes the optimizer's step and updates the average, unless the gradients are not finite.

    On a CPU, looking at a number costs nothing, and neither does it in fp16, where the gradients' scaler has done it:
    the step is left out. On a GPU the host would have to wait for it: there the step is made and taken back to the bit.

    Attributes:
        counts: int64 [3] on the device: how many steps were left out in a row up to now, the number (from 0) of the
            first of these, and how many were left out in the whole run.
        limit: a run ends after so many steps in a row.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedModel | None,
        decay: float,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.pairs = None if average is None else Pairs(average, model)
        self.decay = decay
        self.reads_at_once = accelerator.device.type != "cuda" or accelerator.scaler is not None
        self.limit = IN_A_ROW if accelerator.scaler is None else IN_A_ROW_FP16
        self.counts = torch.zeros(3, dtype=torch.int64, device=accelerator.device)
        self.buffers = list(model.buffers())
        self.buffers_before = [buffer.clone() for buffer in self.buffers]
        self.statistics = [buffer for buffer in self.buffers if buffer.is_floating_point()]

    def begin(self) -> None:
        """Notes what a forward pass in training mode changes: the norms' statistics."""
        torch._foreach_copy_(self.buffers_before, self.buffers)  # pyright: ignore[reportPrivateImportUsage]

    def backward(self, total: Tensor) -> None:
        """Adds a loss's gradients up; they are not finite where the loss or the norms' statistics are not.

        Arguments:
            total: the loss, a scalar.
        """
        sound = total.detach().isfinite()
        if self.statistics:
            sound = sound & get_total_norm(self.statistics).isfinite()
        self.accelerator.backward(total, gradient=torch.where(sound, 1.0, torch.nan).to(total.dtype))

    def take_back(self) -> None:
        """Forgets what the forward and backward passes since `begin` have changed."""
        torch._foreach_copy_(self.buffers, self.buffers_before)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.zero_grad()

    def step(self, step: int, clip: float) -> Tensor:
        """Makes step number `step` with the gradients that there are, or changes nothing, and forgets the gradients.

        Arguments:
            clip: the largest norm of the gradient; 0 does not clip.
        Returns:
            The norm of the gradient before clipping, a scalar on the device.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        if clip:
            norm = self.accelerator.clip_grad_norm_(parameters, clip)
            assert norm is not None  # only DeepSpeed gives none
        else:
            self.accelerator.unscale_gradients()
            norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        bad = ~norm.isfinite()
        if not self.reads_at_once:
            self._step_and_take_back(bad)
        elif self._step_or_leave_out(bad):
            bad = torch.ones_like(bad)
        in_a_row = (self.counts[0] + 1) * bad
        first = torch.where(in_a_row == 1, step, self.counts[1])
        self.counts = torch.stack([in_a_row, first, self.counts[2] + bad])
        self.optimizer.zero_grad()
        return norm

    def _step_or_leave_out(self, bad: Tensor) -> bool:
        """Whether the step was left out."""
        if self.accelerator.scaler is not None:
            self.optimizer.step()  # the scaler leaves it out where it should be, and lowers its factor
            left_out = self.accelerator.optimizer_step_was_skipped
        else:
            left_out = bool(bad)
            if not left_out:
                self.optimizer.step()
        if left_out:
            torch._foreach_copy_(self.buffers, self.buffers_before)  # pyright: ignore[reportPrivateImportUsage]
        else:
            self.update_average()
        return left_out

    def update_average(self) -> None:
        """Moves the average towards the weights that there are now."""
        if self.pairs is not None:
            self.pairs.update(self.decay)

    def _step_and_take_back(self, bad: Tensor) -> None:
        """Makes the step and, where `bad`, writes everything that was before over it, without asking the device."""
        parameters = list(self.model.parameters())
        before = {id(tensor): tensor.detach().clone() for tensor in [*parameters, *self._optimizer_tensors()]}
        self.optimizer.step()
        changed = [*(parameter.detach() for parameter in parameters), *self._optimizer_tensors()]
        # What the optimizer made in its first step began as zeros.
        old = [
            before[id(tensor)] if id(tensor) in before else torch.zeros_like(tensor)
            for tensor in [*parameters, *self._optimizer_tensors()]
        ]
        select(bad, [*old, *self.buffers_before], [*changed, *self.buffers])
        if self.pairs is not None:
            count = self.pairs.count
            self.pairs.blend(average_weight(count, self.decay) * ~bad)
            count += (~bad).to(count.dtype)

    def _optimizer_tensors(self) -> list[Tensor]:
        """The optimizer's state, as tensors."""
        states = [self.optimizer.state[p] for group in self.optimizer.param_groups for p in group["params"]]
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]


def select(take_back: Tensor, old: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    """Writes `old` over `new` where the scalar `take_back` is true, to the bit and without asking the device.

    As integers, since no arithmetic on floats gets rid of a NaN: new + (old - new) * 1 is old, also where it overflows.
    """
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for one, other in zip(old, new, strict=True):
        kind = integers[other.element_size()]
        olds, news = groups.setdefault(kind, ([], []))
        olds.append(one.view(kind))
        news.append(other.view(kind))
    for kind, (olds, news) in groups.items():
        difference = torch._foreach_sub(olds, news)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(difference, take_back.to(kind))  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(news, difference)  # pyright: ignore[reportPrivateImportUsage]
