"""A trained segmenter applied to single frames as OpenCV gives them: prepare, network, finish."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from backbone.inference import for_inference, network_input
from seg.labeling import label_map


class SegmentationResult(NamedTuple):
    """The label of each pixel of a frame."""

    labels: np.ndarray  # uint8 [H, W], indices into `classes`
    classes: list[str]
    colors: np.ndarray  # uint8 RGB [K, 3], by label

    def draw(self, frame_bgr: np.ndarray, opacity: float = 0.5) -> np.ndarray:
        """A copy of the frame, uint8 BGR [H, W, 3], tinted in the classes' colors.

        Arguments:
            opacity: of the tint, 0 to 1.
        """
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(self.colors), 0] = self.colors[:, ::-1]
        tint = cv2.LUT(cv2.merge([self.labels] * 3), table)
        return cv2.addWeighted(frame_bgr, 1 - opacity, tint, opacity, 0)


class Predictor:
    """A segmenter ready for use: `predictor(frame_bgr)` gives the frame's `SegmentationResult`.

    A call is `finish(network(prepare(frame_bgr)), frame_hw)`; `network` takes normalised images [1, 3, H, W] and gives
    logits [1, K, h, w].

    Arguments:
        model: is copied, its norms folded into the convolutions.
        classes: names by label.
        colors: RGB, 0 to 255, by label.
        mean, std: of the RGB values scaled to 0..1, as in training.
        device: where the network runs.
    """

    task = "segmentation"

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: list[str],
        colors: list[tuple[int, int, int]],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: str | torch.device = "cpu",
    ) -> None:
        self.classes, self.colors = classes, np.array(colors, np.uint8)
        self.mean, self.std, self.device = mean, std, torch.device(device)
        self.network = for_inference(model, self.device)

    @torch.inference_mode()
    def __call__(self, frame_bgr: np.ndarray) -> SegmentationResult:
        """Labels the pixels of a frame of any size, uint8 BGR [H, W, 3]."""
        return self.finish(self.network(self.prepare(frame_bgr)), frame_bgr.shape[:2])

    def prepare(self, frame_bgr: np.ndarray) -> Tensor:
        """The network's input for a frame: normalised float32 [1, 3, H, W], channels last, on the device."""
        return network_input(frame_bgr, mean=self.mean, std=self.std, device=self.device)

    def finish(self, raw: Tensor, frame_hw: tuple[int, int]) -> SegmentationResult:
        """The result for a frame of (height, width), from the logits [1, K, h, w] for its input."""
        labels = label_map(raw, frame_hw)[0]
        return SegmentationResult(labels.cpu().numpy(), self.classes, self.colors)
