"""A trained detector applied to single frames as OpenCV gives them: prepare, network, finish; and drawing."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from backbone.errors import InputError
from backbone.inference import for_inference, network_input
from det.boxes import RawDetections
from det.data.transforms import resize
from det.model import Detector
from det.postprocess import NMS_IOU, PostProcess

FONT = cv2.FONT_HERSHEY_SIMPLEX


class DetectionResult(NamedTuple):
    """Objects found in one frame, best first."""

    boxes: np.ndarray  # [n, 4] float32, xyxy in pixels of the frame
    scores: np.ndarray  # [n] float32, 0 to 1
    labels: np.ndarray  # [n] int64, indices into classes
    classes: list[str]

    def draw(self, frame_bgr: np.ndarray, score_threshold: float = 0.0, show_scores: bool = True) -> np.ndarray:
        """A copy of the frame, uint8 BGR [H, W, 3], with boxes, class names and scores.

        Arguments:
            score_threshold: boxes below this score are left out.
            show_scores: write scores beside the names; annotations have none to show.
        """
        canvas = frame_bgr.copy()
        colors = class_colors(len(self.classes))
        for index in np.flatnonzero(self.scores >= score_threshold)[::-1]:  # best last, on top
            name = self.classes[self.labels[index]]
            text = f"{name} {self.scores[index]:.2f}" if show_scores else name
            draw_box(canvas, self.boxes[index], text, colors[self.labels[index]])
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
    font_scale = max(0.4, min(canvas_bgr.shape[:2]) / 1000)
    left, top, right, bottom = (round(float(value)) for value in box_xyxy)
    blue, green, red = color
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, font_scale, thickness)
    cv2.rectangle(canvas_bgr, (left, top), (right, bottom), color, thickness)
    text_bottom = max(top, text_height + baseline)
    text_left = max(0, min(left, canvas_bgr.shape[1] - 1 - text_width))
    plate = (text_left, text_bottom - text_height - baseline), (text_left + text_width, text_bottom)
    cv2.rectangle(canvas_bgr, *plate, color, cv2.FILLED)
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)
    origin = (text_left, text_bottom - baseline)
    cv2.putText(canvas_bgr, text, origin, FONT, font_scale, ink, max(1, thickness // 2), cv2.LINE_AA)


class Predictor:
    """A detector ready for use: `predictor(frame_bgr)` gives the frame's `DetectionResult`.

    A call is `finish(network(prepare(frame_bgr)), frame_hw)`; `network` takes normalised images [1, 3, h, w] of the
    model's `image_size_hw` and gives `RawDetections`.

    Arguments:
        model: is copied, its norms folded into the convolutions.
        classes: names of the object classes by label.
        kind: "softmax" or "sigmoid", as `PostProcess`.
        mean, std: of the RGB values scaled to 0..1, as in training.
        score_threshold: only detections with higher scores are kept, 0 to 1.
        nms_iou: of two boxes of a class with a larger IoU, the lower-scored is suppressed.
        device: where the network runs.

    Raises:
        InputError: the number of classes is not the model's.
    """

    task = "detection"

    def __init__(
        self,
        model: Detector,
        classes: Sequence[str],
        *,
        kind: str = "softmax",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        score_threshold: float = 0.3,
        nms_iou: float = NMS_IOU,
        device: str | torch.device = "cpu",
    ) -> None:
        if len(classes) != model.num_objects:
            raise InputError(f"there are {len(classes)} class names for a model of {model.num_objects} object classes")
        self.classes = list(classes)
        self.mean, self.std = tuple(mean), tuple(std)
        self.device = torch.device(device)
        self.image_size_hw = model.image_size_hw
        self.network = for_inference(model, self.device)
        self.anchors = model.anchors.to(self.device)
        self.postprocess = PostProcess(
            kind,
            model.background,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            resize=model.resize,
            decode=model.head.decode,
        )

    @torch.inference_mode()
    def __call__(self, frame_bgr: np.ndarray) -> DetectionResult:
        """Finds the objects in a frame of any size, uint8 BGR [H, W, 3]."""
        return self.finish(self.network(self.prepare(frame_bgr)), frame_bgr.shape[:2])

    def prepare(self, frame_bgr: np.ndarray) -> Tensor:
        """The network's input for a frame: normalised float32 [1, 3, h, w], channels last, on the device."""
        image = resize(frame_bgr, self.image_size_hw, self.postprocess.resize)
        return network_input(image, mean=self.mean, std=self.std, device=self.device)

    def finish(self, raw: RawDetections, frame_hw: tuple[int, int]) -> DetectionResult:
        """The result for a frame of (height, width), from the raw output for its input."""
        (found,) = self.postprocess(raw, self.anchors, self.image_size_hw, [frame_hw])
        return DetectionResult(
            found.boxes.cpu().numpy(), found.scores.cpu().numpy(), found.labels.cpu().numpy(), self.classes
        )


def class_colors(count: int) -> list[tuple[int, int, int]]:
    """A BGR color for each class: hues a golden angle apart, so that neighbors in the list differ most."""
    colors = []
    for index in range(count):
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.75, 0.95)
        colors.append((round(blue * 255), round(green * 255), round(red * 255)))
    return colors
