"""The teacher of a distillation: a trained model from whose output another one learns, beside the labels.

It is no part of the model that learns, nor of any checkpoint: a run that goes on reads it again and refuses another
file by its hash.
"""

import hashlib
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.errors import InputError
from backbone.inference import for_inference
from backbone.weights.names import resolve
from tools.predicting.models import PUBLISHED_FILE, load_model


class Teacher(nn.Module):
    """A frozen model in evaluation mode that takes images as they are normalised for the student.

    Arguments:
        path: its weights, a file or a name.
        task: "segmentation" or "detection".
        classes: the student's.
        mean, std: what the student's images are normalised with, RGB in 0..1.
        device: of the images.

    Attributes:
        model: its norms are folded into the convolutions.
        description: of its file.
        hash: the file's SHA-256, in hexadecimal.

    Raises:
        InputError: the file cannot be read or has a model of another task, or its classes are others.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        path: str,
        *,
        task: str,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        super().__init__()
        model, self.description = load_model(path, task=task)
        for number, (wanted, found) in enumerate(
            zip_longest(classes, self.description["classes"], fillvalue="missing")
        ):
            if wanted != found:
                raise InputError(
                    f"teacher {path}: its class {number} is {found}, the data's is {wanted}; "
                    "a teacher needs the same classes in the same order"
                )
        self.hash = hash_of(path)
        self.model = for_inference(model, device)
        own = [torch.tensor(self.description[key]).view(1, 3, 1, 1) for key in ("mean", "std")]
        shown = [torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std)]
        self.same_images = all(map(torch.equal, own, shown))
        # (value - own mean) / own std, of the value that the student's normalisation was computed from
        self.register_buffer("scale", (shown[1] / own[1]).to(device))
        self.register_buffer("shift", ((shown[0] - own[0]) / own[1]).to(device))
        self.marks: tuple[Any, Any] | None = None
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        """Images [N, 3, H, W], normalised for the student -> what the model gives for them, without gradients."""
        if torch.compiler.is_compiling():
            return self._answer(images)
        began = _mark(images.device)
        answer = self._answer(images)
        self.marks = began, _mark(images.device)
        return answer

    def seconds(self) -> float | None:
        """How long the last batch took on the device; None where it was part of a compiled step.

        A GPU has to have finished that batch, as it has when the step's loss is read.
        """
        if self.marks is None:
            return None
        began, ended = self.marks
        return ended - began if isinstance(ended, float) else began.elapsed_time(ended) / 1000

    def _answer(self, images: Tensor) -> Any:
        with torch.no_grad():
            return self.model(images if self.same_images else images * self.scale + self.shift)


def hash_of(path: str) -> str:
    """The SHA-256 of a weights file, or of the one that a name or a folder stands for, in hexadecimal."""
    file = Path(resolve(path))
    if file.is_dir():
        file = file / PUBLISHED_FILE
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _mark(device: torch.device) -> Any:
    """Now: seconds on a CPU, elsewhere an event that the device passes when it has come so far."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.Event(device.type, enable_timing=True)
    event.record()
    return event
