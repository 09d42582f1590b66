"""A trained segmenter applied to single images as OpenCV gives them."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from backbone.inference import for_inference, network_input
from seg.labeling import label_map


class SegmentationResult(NamedTuple):
    """The label of each pixel of an image."""

    labels: np.ndarray  # uint8 [H, W], indices into `classes`
    classes: list[str]
    colors: np.ndarray  # uint8 RGB [K, 3]

    def draw(self, frame_bgr: np.ndarray, opacity: float = 0.5) -> np.ndarray:
        """A copy of the image, uint8 BGR [H, W, 3], tinted by class."""
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(self.colors), 0] = self.colors[:, ::-1]
        tint = cv2.LUT(cv2.merge([self.labels] * 3), table)
        return cv2.addWeighted(frame_bgr, 1 - opacity, tint, opacity, 0)


class Predictor:
    """`predictor(frame_bgr)` labels an image of any size, uint8 BGR [H, W, 3]; the model is copied, not changed."""

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
        self.model = for_inference(model, self.device)

    @torch.inference_mode()
    def __call__(self, frame_bgr: np.ndarray) -> SegmentationResult:
        images = network_input(frame_bgr, mean=self.mean, std=self.std, device=self.device)
        labels = label_map(self.model(images), frame_bgr.shape[:2])[0]
        return SegmentationResult(labels.cpu().numpy(), self.classes, self.colors)
