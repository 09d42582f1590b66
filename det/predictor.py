"""A trained detector applied to single frames as OpenCV gives them: prepare, network, finish; and drawing."""

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, overload

import cv2
import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.inference import Engine, Size, check_frame, check_size, input_size, run_in_batches
from backbone.lettering import letters, readable_on, write
from det.boxes import RawDetections
from det.data.transforms import resize
from det.model import Detector
from det.postprocess import NMS_IOU, Detections, PostProcess, StaticDetections


class DetectionResult(NamedTuple):
    """Objects found in one frame, best first."""

    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of the frame
    scores: np.ndarray  # [n] float32, 0 to 1
    labels: np.ndarray  # [n] int64, indices into classes
    classes: list[str]
    tracks: np.ndarray | None = None  # [n] int64, the same for an object in all frames of a video, -1 for none yet

    def draw(
        self,
        frame_bgr: np.ndarray,
        score_threshold: float = 0.0,
        show_scores: bool = True,
        colors: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> np.ndarray:
        """A copy of the frame, uint8 BGR [H, W, 3], with boxes, class names, ids of tracks and scores.

        Arguments:
            score_threshold: boxes below this score are left out.
            show_scores: write scores beside the names; annotations have none to show.
            colors: BGR by class name, 0 to 255, where a class should not have its own, as one that a segmenter knows.
        """
        canvas = frame_bgr.copy()
        own = class_colors(len(self.classes))
        for index in np.flatnonzero(self.scores >= score_threshold)[::-1]:  # best last, on top
            name = self.classes[self.labels[index]]
            words = [name]
            if self.tracks is not None and self.tracks[index] >= 0:
                words.append(str(self.tracks[index]))
            if show_scores:
                words.append(f"{self.scores[index]:.2f}")
            text = " ".join(words)
            draw_box(canvas, self.boxes[index], text, (colors or {}).get(name, own[self.labels[index]]))
        return canvas


def draw_box(canvas_bgr: np.ndarray, box_xyxy: np.ndarray, text: str, color: tuple[int, int, int]) -> None:
    """Draws a box, and a text on a filled background, into an image.

    Arguments:
        canvas_bgr: uint8 BGR [H, W, 3]; is changed.
        box_xyxy: in pixels.
        color: BGR, 0 to 255.
    """
    # Relative to the frame, so that text is as readable on a thumbnail as on a 4K frame.
    thickness = max(1, round(min(canvas_bgr.shape[:2]) / 300))
    line = max(14, round(min(canvas_bgr.shape[:2]) / 28))
    left, top, right, bottom = (round(float(value)) for value in box_xyxy)
    text_width = letters(text, line).shape[1] + line // 2
    cv2.rectangle(canvas_bgr, (left, top), (right, bottom), color, thickness)
    plate_top = max(0, top - line)
    plate_left = max(0, min(left, canvas_bgr.shape[1] - text_width))
    plate = (plate_left, plate_top), (plate_left + text_width - 1, plate_top + line - 1)
    cv2.rectangle(canvas_bgr, *plate, color, cv2.FILLED)
    write(canvas_bgr, text, plate_left + line // 4, plate_top, line, readable_on(color))


class Predictor:
    """A detector ready for use: `predictor(frame_bgr)` gives the frame's `DetectionResult`.

    A call is `finish(network(prepare(frame_bgr)), frame_hw)`; `network` takes images uint8 BGR [1, h, w, 3].

    Arguments:
        network: an engine that gives `RawDetections`, or `StaticDetections` of at least the score threshold's.
        model: the detector, for its anchors and for how images become inputs; its weights do not matter.
        classes: names of the object classes by label.
        kind: "softmax" or "sigmoid", as `PostProcess`.
        score_threshold: only detections with higher scores are kept, 0 to 1.
        nms_iou: of two boxes of a class with a larger IoU, the lower-scored is suppressed; None, for the
            cells of pico heads: as `det.PostProcess`.
        size: of the network's input, (height, width) or the longer side, in pixels; by default the model's
            `image_size_hw`.
        category_ids: COCO's by label, for files of results; by default from 1.

    Attributes:
        engine: the name of what runs the network.

    Raises:
        InputError: the number of classes is not the model's, or the size is none.
    """

    task = "detection"

    def __init__(
        self,
        network: Engine,
        model: Detector,
        classes: Sequence[str],
        *,
        kind: str = "softmax",
        score_threshold: float = 0.3,
        nms_iou: float | None = NMS_IOU,
        size: Size = None,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        if len(classes) != model.num_objects:
            raise InputError(f"there are {len(classes)} class names for a model of {model.num_objects} object classes")
        check_size(size)
        self.network, self.size = network, size
        self.classes = list(classes)
        self.category_ids = list(range(1, 1 + len(classes)) if category_ids is None else category_ids)
        self.image_size_hw = model.image_size_hw
        self.anchors_for = lru_cache(maxsize=16)(model.anchors_for)  # 1 ms for each size
        self.postprocess = PostProcess(
            kind,
            model.background,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            resize=model.resize,
            decode=model.head.decode,
        )

    @property
    def engine(self) -> str:
        return self.network.name

    @overload
    def __call__(self, frames_bgr: np.ndarray) -> DetectionResult: ...
    @overload
    def __call__(self, frames_bgr: Sequence[np.ndarray]) -> list[DetectionResult]: ...

    @torch.inference_mode()
    def __call__(self, frames_bgr: np.ndarray | Sequence[np.ndarray]) -> DetectionResult | list[DetectionResult]:
        """Finds the objects in a frame of any size, uint8 BGR [H, W, 3]; in each of a list, as a batch."""
        if isinstance(frames_bgr, np.ndarray):
            return self.finish(self.network(self.prepare(frames_bgr)), frames_bgr.shape[:2])
        outputs = run_in_batches(self.network, [self.prepare(frame) for frame in frames_bgr])
        return [self.finish(raw, frame.shape[:2]) for raw, frame in zip(outputs, frames_bgr, strict=True)]

    def input_size_hw(self, frame_hw: Sequence[int]) -> tuple[int, int]:
        """The (height, width) of the network's input for a frame of (height, width), in pixels."""
        return input_size(self.size, frame_hw, self.image_size_hw)

    def prepare(self, frame_bgr: np.ndarray) -> Tensor:
        """The network's input for a frame, uint8 BGR [1, h, w, 3]."""
        check_frame(frame_bgr)
        image = resize(frame_bgr, self.input_size_hw(frame_bgr.shape[:2]), self.postprocess.resize)
        return torch.from_numpy(np.require(image, requirements=["C", "W"]))[None]

    def finish(self, raw: RawDetections | StaticDetections, frame_hw: Sequence[int]) -> DetectionResult:
        """The result for a frame of (height, width), from the network's output for its input."""
        (found,) = self.detections(raw, [frame_hw])
        return DetectionResult(
            found.boxes.cpu().numpy(), found.scores.cpu().numpy(), found.labels.cpu().numpy(), self.classes
        )

    def detections(
        self, raw: RawDetections | StaticDetections, frame_sizes_hw: Sequence[Sequence[int]]
    ) -> list[Detections]:
        """What is found in each of a batch of frames of (height, width), whose inputs have one size."""
        size_hw = self.input_size_hw(frame_sizes_hw[0])
        if isinstance(raw, StaticDetections):
            return self.postprocess.unpad(raw, size_hw, frame_sizes_hw)
        anchors = self.anchors_for(size_hw).to(raw.class_logits.device)
        return self.postprocess(raw, anchors, size_hw, frame_sizes_hw)


def class_colors(count: int) -> list[tuple[int, int, int]]:
    """A BGR color for each class: hues a golden angle apart, so that neighbors in the list differ most."""
    colors = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.75, 0.95)
        colors.append((round(blue * 255), round(green * 255), round(red * 255)))
    return colors
