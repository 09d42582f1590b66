"""Whether the heads of a joint network pull its backbone the same way."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tools.joint.network import JointNetwork


class GradientComparison:
    """Compares the gradients that the heads' losses have on the backbone, in some steps.

    Arguments:
        every: compares in every so manieth step; 0 for never.
    """

    def __init__(self, network: JointNetwork, every: int) -> None:
        self.network, self.every = network, every
        self.due = False
        self.newest: dict[str, float] = {}

    def before_step(self, step: int) -> None:
        """Called with a step's number, from 0."""
        self.due = self.every > 0 and (step + 1) % self.every == 0

    def look(self, losses: Mapping[str, Tensor]) -> None:
        """Notes norms and cosine, if the step is one to compare in; takes one more backward pass for each loss.

        Arguments:
            losses: scalars by head, each as it is added to the total, before `backward`.
        """
        parameters = [one for one in self.network.backbone.parameters() if one.requires_grad]
        if not self.due or len(losses) < 2 or not parameters:
            return
        gradients = []
        for loss in losses.values():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(found, parameters, strict=True)
            gradients.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
        one, other = gradients
        norms = [gradient.norm() for gradient in gradients]
        self.newest = {f"gradient/{name}": norm.item() for name, norm in zip(losses, norms, strict=True)}
        self.newest["gradient/cosine"] = (one.dot(other) / (norms[0] * norms[1]).clamp_min(1e-12)).item()

    def measured(self) -> dict[str, float]:
        """What was found since the last call: the norm by head, and the cosine of the angle between the two."""
        found, self.newest = self.newest, {}
        return found
