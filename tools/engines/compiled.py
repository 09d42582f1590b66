"""The engine that torch's compiler makes: constants frozen in, normalisation and network in one graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbone.inference import Affine, TorchEngine, for_inference, map_outputs, take_bgr
from tools.engines.sizes import SizeLimit
from tools.io.packages import require_compiler


class CompiledEngine(nn.Module):
    """A model by torch.compile; the first image of each size takes up to a minute, in later processes some seconds.

    On a GPU it computes in half precision. On a CPU batches run image by image, which costs nothing there.

    Arguments:
        model: is copied.
        mean, std: of the RGB values scaled to 0..1, as in training.

    Raises:
        InputError: there is no C++ compiler, which torch's needs on a CPU.
    """

    name = "compiled"

    def __init__(
        self, model: nn.Module, *, mean: Sequence[float], std: Sequence[float], device: str | torch.device
    ) -> None:
        super().__init__()
        self.device = torch.device(device)
        if self.device.type == "cpu":
            require_compiler("engine compiled", "choose engine torch")
        network = take_bgr(for_inference(model, self.device))
        self.in_half_precision = self.device.type != "cpu"
        graph = nn.Sequential(Affine(mean, std).to(self.device), network)
        self.compiled = torch.compile(graph, dynamic=False, options={"freezing": True})
        self.limit = SizeLimit(self.name, lambda: TorchEngine(model, mean=mean, std=std, device=device))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Any:
        """Images uint8 BGR [N, H, W, 3], on any device -> what the model gives, float32, on the engine's."""
        if self.in_half_precision:
            return self._run(images)
        outputs = [self._run(image[None]) for image in images]
        return map_outputs(lambda *parts: torch.cat(parts), *outputs)

    def _run(self, images: Tensor) -> Any:
        if (torch_engine := self.limit.beyond(tuple(images.shape))) is not None:
            return torch_engine(images)
        with torch.autocast(self.device.type, torch.float16, enabled=self.in_half_precision):
            output = self.compiled(images.to(self.device))
        return map_outputs(Tensor.float, output)
