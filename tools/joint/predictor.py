"""A joint network applied to single frames as OpenCV gives them: one input, one forward pass, what each head finds."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import cv2
import numpy as np
import torch
from torch import Tensor

import det
import seg
from backbone.errors import InputError
from backbone.inference import Engine, Size, check_frame, input_size, run_in_batches
from det.boxes import place
from det.data.transforms import resize
from det.predictor import DetectionResult
from seg.predictor import SegmentationResult
from tools.joint.network import Raw
from tools.joint.panoptic import PanopticResult, combine
from tools.options import JOINT

Result = TypeVar("Result", SegmentationResult, DetectionResult)


@dataclass(frozen=True)
class JointResult:
    """What a joint network found in a frame.

    The properties are those of the first head of their task; `heads` has the results of all.

    Attributes:
        heads: by name, as a model with that head alone gives them.
    """

    heads: dict[str, SegmentationResult | DetectionResult]

    @property
    def areas(self) -> SegmentationResult:
        """The labels of pixels, as a segmenter gives them."""
        return self._first(SegmentationResult, "segments")

    @property
    def objects(self) -> DetectionResult:
        """The boxes, as a detector gives them."""
        return self._first(DetectionResult, "detects")

    @property
    def labels(self) -> np.ndarray:
        """The label of each pixel, uint8 [H, W], indices into `classes`."""
        return self.areas.labels

    @property
    def classes(self) -> list[str]:
        """Names of the pixels' labels."""
        return self.areas.classes

    @property
    def colors(self) -> np.ndarray:
        """Of the pixels' labels, uint8 RGB [K, 3]."""
        return self.areas.colors

    @property
    def label_scores(self) -> np.ndarray | None:
        """The probability of each pixel's label, float32 [H, W]; None unless asked for."""
        return self.areas.scores

    @property
    def boxes(self) -> np.ndarray:
        """The objects' boxes, float32 [n, 4], xyxy in pixels of the frame, best first."""
        return self.objects.boxes

    @property
    def scores(self) -> np.ndarray:
        """Of the boxes, float32 [n], 0 to 1."""
        return self.objects.scores

    @property
    def box_labels(self) -> np.ndarray:
        """Of the boxes, int64 [n], indices into `box_classes`."""
        return self.objects.labels

    @property
    def box_classes(self) -> list[str]:
        """Names of the boxes' labels."""
        return self.objects.classes

    def draw(self, frame_bgr: np.ndarray, opacity: float = 0.5, score_threshold: float = 0.0) -> np.ndarray:
        """A copy of the frame, uint8 BGR [H, W, 3], with areas tinted and boxes over them; a class has one color.

        Arguments:
            opacity: of the tint, 0 to 1.
            score_threshold: boxes below this score are left out.
        """
        image = frame_bgr
        colors: dict[str, tuple[int, int, int]] = {}
        for result in self.heads.values():
            if isinstance(result, SegmentationResult):
                image = result.draw(image, opacity)
                for name, (red, green, blue) in zip(result.classes, result.colors.tolist(), strict=True):
                    colors.setdefault(name, (blue, green, red))
        for result in self.heads.values():
            if isinstance(result, DetectionResult):
                image = result.draw(image, score_threshold, colors=colors)
        return image

    def _first(self, kind: type[Result], does: str) -> Result:
        """The result of the first head of a kind."""
        for result in self.heads.values():
            if isinstance(result, kind):
                return result
        raise InputError(f"no head of the network {does}; its heads are {', '.join(self.heads)}")

    def panoptic(self) -> PanopticResult:
        """Areas and boxes combined to things with identity, approximately.

        Raises:
            InputError: no class is known to both.
        """
        return combine(self.areas, self.objects)


class HeadEngine:
    """An engine of a joint network as one of a model with one of its heads."""

    def __init__(self, network: Engine, head: str) -> None:
        self.network, self.head = network, head

    @property
    def name(self) -> str:
        return self.network.name

    def __call__(self, images: Tensor) -> Raw:
        """Images uint8 BGR [N, H, W, 3] -> what the head gives."""
        return self.network(images)[self.head]


class Predictor:
    """A joint network ready for use: `predictor(frame_bgr)` gives the frame's `JointResult`.

    A call is `finish(network(prepare(frame_bgr)), frame_hw)`; `network` takes images uint8 BGR [1, h, w, 3].

    Arguments:
        network: an engine that gives, by the heads' names, what a single model's engine gives.
        parts: by the heads' names, predictors of single models; they finish what the network gives. All have the
            size that this one has.
        size: of the network's input, (height, width) or the longer side, in pixels; None: the frame's.
        multiple: of the frame's sides, where these are the input's.

    Attributes:
        engine: the name of what runs the network.
    """

    task = JOINT

    def __init__(
        self, network: Engine, parts: Mapping[str, seg.Predictor | det.Predictor], *, size: Size, multiple: int = 1
    ) -> None:
        self.network, self.parts, self.size, self.multiple = network, dict(parts), size, multiple
        how = [part.postprocess.resize for part in self.parts.values() if isinstance(part, det.Predictor)]
        self.resize = how[0] if how else "stretch"

    @property
    def engine(self) -> str:
        return self.network.name

    @overload
    def __call__(self, frames_bgr: np.ndarray) -> JointResult: ...
    @overload
    def __call__(self, frames_bgr: Sequence[np.ndarray]) -> list[JointResult]: ...

    @torch.inference_mode()
    def __call__(self, frames_bgr: np.ndarray | Sequence[np.ndarray]) -> JointResult | list[JointResult]:
        """What is in a frame of any size, uint8 BGR [H, W, 3]; in each of a list, as a batch."""
        if isinstance(frames_bgr, np.ndarray):
            return self.finish(self.network(self.prepare(frames_bgr)), frames_bgr.shape[:2])
        outputs = run_in_batches(self.network, [self.prepare(frame) for frame in frames_bgr])
        return [self.finish(raw, frame.shape[:2]) for raw, frame in zip(outputs, frames_bgr, strict=True)]

    def head(self, name: str) -> seg.Predictor | det.Predictor:
        """The predictor of one head as of a model with that head alone, run by this one's network."""
        part = copy.copy(self.parts[name])
        part.network = HeadEngine(self.network, name)
        return part

    def input_size_hw(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of the network's input for a frame of (height, width), in pixels."""
        own = (frame_hw[0] // self.multiple * self.multiple, frame_hw[1] // self.multiple * self.multiple)
        return input_size(self.size, frame_hw, own)

    def prepare(self, frame_bgr: np.ndarray) -> Tensor:
        """The network's input for a frame, uint8 BGR [1, h, w, 3]."""
        check_frame(frame_bgr)
        size_hw = self.input_size_hw(frame_bgr.shape[:2])
        image = frame_bgr if size_hw == frame_bgr.shape[:2] else resize(frame_bgr, size_hw, self.resize)
        return torch.from_numpy(np.require(image, requirements=["C", "W"]))[None]

    def finish(self, raw: Mapping[str, Raw], frame_hw: tuple[int, int]) -> JointResult:
        """The result for a frame of (height, width), from the network's output for its input."""
        return JointResult({name: self._finish(part, raw[name], frame_hw) for name, part in self.parts.items()})

    def _finish(
        self, part: seg.Predictor | det.Predictor, raw: Raw, frame_hw: tuple[int, int]
    ) -> SegmentationResult | DetectionResult:
        if isinstance(part, det.Predictor) or self.resize == "stretch":
            return part.finish(raw, frame_hw)  # pyright: ignore[reportArgumentType] - of the part's task
        size_hw = self.input_size_hw(frame_hw)
        return in_frame(part.finish(raw, size_hw), frame_hw, size_hw, self.resize)  # pyright: ignore[reportArgumentType] - of the part's task


def in_frame(
    result: SegmentationResult, frame_hw: tuple[int, int], size_hw: tuple[int, int], how: str
) -> SegmentationResult:
    """The result for a frame from that for a network's input, both (height, width), which it fills as `place` says."""
    left, top, width, height = place(frame_hw, size_hw, how)
    labels = _enlarged(result.labels[top : top + height, left : left + width], frame_hw, cv2.INTER_NEAREST_EXACT)
    scores = result.scores
    if scores is not None:
        scores = _enlarged(scores[top : top + height, left : left + width], frame_hw, cv2.INTER_LINEAR)
    return result._replace(labels=labels, scores=scores)


def _enlarged(image: np.ndarray, size_hw: tuple[int, int], how: int) -> np.ndarray:
    """A map [h, w] at (height, width)."""
    return cv2.resize(np.ascontiguousarray(image), size_hw[::-1], interpolation=how)
