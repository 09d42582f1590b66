"""A trained segmenter applied to single frames as OpenCV gives them: prepare, network, finish."""

from collections.abc import Sequence
from typing import NamedTuple, overload

import cv2
import numpy as np
import torch
from torch import Tensor

from backbone.inference import Engine, Size, check_frame, check_size, input_size, run_in_batches
from seg.labeling import label_map
from seg.scores import winning_scores


class SegmentationResult(NamedTuple):
    """The label of each pixel of a frame."""

    labels: np.ndarray  # uint8 [H, W], indices into `classes`
    classes: list[str]
    colors: np.ndarray  # uint8 RGB [K, 3], by label
    scores: np.ndarray | None = None  # float32 [H, W], the label's probability, 0 to 1; None unless asked for

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

    A call is `finish(network(prepare(frame_bgr)), frame_hw)`; `network` takes images uint8 BGR [1, H, W, 3].

    Arguments:
        network: an engine that gives logits [N, K, h, w], or labels uint8 [N, H, W].
        classes: names by label.
        colors: RGB, 0 to 255, by label.
        size: of the network's input, (height, width) or the longer side, in pixels; by default the frame's.
        scores: results have `scores` too, for which the engine must give logits.

    Attributes:
        engine: the name of what runs the network.

    Raises:
        InputError: the size is none.
    """

    task = "segmentation"

    def __init__(
        self,
        network: Engine,
        *,
        classes: Sequence[str],
        colors: Sequence[Sequence[int]],
        size: Size = None,
        scores: bool = False,
    ) -> None:
        check_size(size)
        self.network, self.size, self.scores = network, size, scores
        self.classes, self.colors = list(classes), np.array(colors, np.uint8)

    @property
    def engine(self) -> str:
        return self.network.name

    @overload
    def __call__(self, frames_bgr: np.ndarray) -> SegmentationResult: ...
    @overload
    def __call__(self, frames_bgr: Sequence[np.ndarray]) -> list[SegmentationResult]: ...

    @torch.inference_mode()
    def __call__(self, frames_bgr: np.ndarray | Sequence[np.ndarray]) -> SegmentationResult | list[SegmentationResult]:
        """Labels the pixels of a frame of any size, uint8 BGR [H, W, 3]; of a list, those of each, as a batch."""
        if isinstance(frames_bgr, np.ndarray):
            return self.finish(self.network(self.prepare(frames_bgr)), frames_bgr.shape[:2])
        outputs = run_in_batches(self.network, [self.prepare(frame) for frame in frames_bgr])
        return [self.finish(raw, frame.shape[:2]) for raw, frame in zip(outputs, frames_bgr, strict=True)]

    def prepare(self, frame_bgr: np.ndarray) -> Tensor:
        """The network's input for a frame, uint8 BGR [1, H, W, 3]."""
        check_frame(frame_bgr)
        height, width = input_size(self.size, frame_bgr.shape[:2], frame_bgr.shape[:2])
        if (height, width) != frame_bgr.shape[:2]:
            frame_bgr = cv2.resize(frame_bgr, (width, height), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(np.require(frame_bgr, requirements=["C", "W"]))[None]

    def finish(self, raw: Tensor, frame_hw: tuple[int, int]) -> SegmentationResult:
        """The result for a frame of (height, width), from the network's output for its input."""
        scores = winning_scores(raw.float(), frame_hw)[0].cpu().numpy() if self.scores else None
        if raw.dtype == torch.uint8:
            labels = raw[0].cpu().numpy()
            if labels.shape != tuple(frame_hw):
                labels = cv2.resize(labels, frame_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        else:
            labels = label_map(raw.float(), frame_hw)[0].cpu().numpy()
        return SegmentationResult(labels, self.classes, self.colors, scores)
