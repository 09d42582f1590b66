"""What `tools.benchmark predict` compares: our engines, torchvision's model of the task, and ultralytics' detector."""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

import det
from backbone.weights.loading import read_weights
from tools.options import JOINT
from tools.predict import load

PEER, OTHER = "torchvision", "ultralytics"
OTHER_MODEL = "yolo11n.yaml"
"""Its smallest detector, with random weights: nothing is downloaded."""
BACKGROUND_BIAS = 10.0
"""Of a detector with random weights: a trained one finds little in most frames, a random one thousands of boxes."""
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Subject(NamedTuple):
    """What all contenders of a run have in common."""

    task: str
    num_classes: Mapping[str, int]  # by task, of which a joint network has two; a detector's without the background
    size_hw: tuple[int, int]  # of the network's input, pixels
    peer_weights: Path | None  # a state dict of torchvision's model; None: random


class Stages(NamedTuple):
    """Seconds of a frame's way from pixels to result."""

    prepare: float
    network: float
    finish: float


class Contender(Protocol):
    """A model that is timed."""

    def time_stages(self, frame_bgr: np.ndarray) -> Stages:
        """Predicts one frame, uint8 BGR [H, W, 3], and says how long each stage took."""
        ...

    def predict(self, frames_bgr: list[np.ndarray]) -> None:
        """Predicts several frames of one size at once."""
        ...


def timed(stages: Sequence[Callable[[Any], Any]], value: Any) -> Stages:
    """Sends a value through the three stages."""
    seconds = []
    for stage in stages:
        start = time.perf_counter()
        value = stage(value)
        seconds.append(time.perf_counter() - start)
    return Stages(*seconds)


class Engine:
    """A model of ours in one of its engines.

    Arguments:
        weights: a weights file or an exported one.
        engine: as `tools.predict.load` takes it; "auto" for an exported file.
        size_hw: (height, width) of the network's input, pixels.
    """

    def __init__(self, weights: str, engine: str, size_hw: tuple[int, int]) -> None:
        # torchvision's threshold: with a higher one there would be fewer boxes to suppress.
        self.model = load(weights, engine, size=size_hw, device="cpu", score_threshold=det.SCORE_THRESHOLD)

    @torch.inference_mode()
    def time_stages(self, frame_bgr: np.ndarray) -> Stages:
        frame_hw = frame_bgr.shape[:2]
        model = self.model
        return timed([model.prepare, model.network, lambda raw: model.finish(raw, frame_hw)], frame_bgr)

    def predict(self, frames_bgr: list[np.ndarray]) -> None:
        self.model(frames_bgr)


class TorchvisionSegmenter:
    """torchvision's LR-ASPP as its documentation shows: resized and normalised tensors, upsampling, argmax."""

    def __init__(self, subject: Subject) -> None:
        self.size_hw = subject.size_hw
        self.model = make_peer("segmentation", subject.num_classes["segmentation"], subject.peer_weights)

    def prepare(self, frames_bgr: list[np.ndarray]) -> Tensor:
        """Frames uint8 BGR [H, W, 3] -> [N, 3, h, w]."""
        images = F.resize(torch.stack([to_rgb(frame) for frame in frames_bgr]), list(self.size_hw), antialias=True)
        return F.normalize(F.to_dtype(images, torch.float32, scale=True), MEAN, STD)

    def finish(self, logits: Tensor, frame_hw: tuple[int, int]) -> np.ndarray:
        """Logits [N, K, h, w] -> labels [N, H, W]."""
        return nn.functional.interpolate(logits, frame_hw, mode="bilinear", align_corners=False).argmax(1).numpy()

    @torch.inference_mode()
    def time_stages(self, frame_bgr: np.ndarray) -> Stages:
        frame_hw = frame_bgr.shape[:2]
        network = self.model
        return timed(
            [self.prepare, lambda images: network(images)["out"], lambda logits: self.finish(logits, frame_hw)],
            [frame_bgr],
        )

    @torch.inference_mode()
    def predict(self, frames_bgr: list[np.ndarray]) -> None:
        self.finish(self.model(self.prepare(frames_bgr))["out"], frames_bgr[0].shape[:2])


class TorchvisionDetector:
    """torchvision's SSDLite; its forward pass is called part by part for the times of the stages."""

    def __init__(self, subject: Subject) -> None:
        self.model: Any = make_peer("detection", subject.num_classes["detection"], subject.peer_weights)
        # Its own size is 320x320; the transform is all that knows of it.
        self.model.transform.fixed_size = subject.size_hw[::-1]

    @torch.inference_mode()
    def time_stages(self, frame_bgr: np.ndarray) -> Stages:
        frame_hw = frame_bgr.shape[:2]
        return timed([self.prepare, self.network, lambda found: self.finish(found, frame_hw)], frame_bgr)

    def prepare(self, frame_bgr: np.ndarray) -> Any:
        """A frame uint8 BGR [H, W, 3] -> torchvision's ImageList of one image."""
        return self.model.transform([to_rgb(frame_bgr) / 255])[0]

    def network(self, images: Any) -> tuple[Any, list[Tensor], dict[str, Tensor]]:
        """An ImageList -> it, the features and the head's output."""
        features = list(self.model.backbone(images.tensors).values())
        return images, features, self.model.head(features)

    def finish(
        self, found: tuple[Any, list[Tensor], dict[str, Tensor]], frame_hw: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """The boxes, scores and labels of one frame."""
        images, features, output = found
        anchors = self.model.anchor_generator(images, features)
        detections = self.model.postprocess_detections(output, anchors, images.image_sizes)
        (result,) = self.model.transform.postprocess(detections, images.image_sizes, [frame_hw])
        return {name: values.numpy() for name, values in result.items()}

    @torch.inference_mode()
    def predict(self, frames_bgr: list[np.ndarray]) -> None:
        self.model([to_rgb(frame) / 255 for frame in frames_bgr])


class TorchvisionBoth:
    """torchvision's models of both tasks, one after the other: what a joint network takes the place of."""

    def __init__(self, subject: Subject) -> None:
        self.models = (TorchvisionSegmenter(subject), TorchvisionDetector(subject))

    def time_stages(self, frame_bgr: np.ndarray) -> Stages:
        return Stages(*map(sum, zip(*(model.time_stages(frame_bgr) for model in self.models), strict=True)))

    def predict(self, frames_bgr: list[np.ndarray]) -> None:
        for model in self.models:
            model.predict(frames_bgr)


class Ultralytics:
    """ultralytics' smallest detector on inputs of the longer side; only if the user has it (its licence is AGPL)."""

    def __init__(self, subject: Subject) -> None:
        from ultralytics import YOLO  # pyright: ignore[reportMissingImports] - never a dependency

        self.model = YOLO(OTHER_MODEL)
        self.options = {"imgsz": max(subject.size_hw), "device": "cpu", "verbose": False}

    def time_stages(self, frame_bgr: np.ndarray) -> Stages:
        (result,) = self.model(frame_bgr, **self.options)
        return Stages(*(result.speed[stage] / 1000 for stage in ("preprocess", "inference", "postprocess")))

    def predict(self, frames_bgr: list[np.ndarray]) -> None:
        self.model(frames_bgr, **self.options)


def peers(task: str) -> list[str]:
    """The names of others' models that there are to compare with."""
    return [PEER, OTHER] if task == "detection" and find_spec(OTHER) is not None else [PEER]


def make_other(name: str, subject: Subject) -> Contender:
    """One of `peers`."""
    if name == OTHER:
        return Ultralytics(subject)
    made = {"segmentation": TorchvisionSegmenter, "detection": TorchvisionDetector, JOINT: TorchvisionBoth}
    return made[subject.task](subject)


def make_peer(task: str, num_classes: int, weights: Path | None) -> nn.Module:
    """torchvision's model of a task in evaluation mode.

    Arguments:
        num_classes: of a detector, without the background.
        weights: a state dict; None: random, with a detector that finds next to nothing.
    """
    if task == "segmentation":
        model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
    else:
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes + 1
        )
        if weights is None:
            head: Any = model.head
            for level in head.classification_head.module_list:
                with torch.no_grad():
                    level[1].bias.view(-1, num_classes + 1)[:, 0] = BACKGROUND_BIAS
    if weights is not None:
        model.load_state_dict(read_weights(weights))
    return model.eval()


def to_rgb(frame_bgr: np.ndarray) -> Tensor:
    """A frame uint8 BGR [H, W, 3] as uint8 RGB [3, H, W]."""
    return torch.from_numpy(cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)
