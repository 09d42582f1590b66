"""Small models with every part that an export must get right, and their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import backbone
import det
import seg
from backbone.inference import normalise
from tools.io.model_file import save_model

BODY = "ds_k3_s2_c16 ir_k3_s2_e4_c24_se0.25 ir_r2_k3_s2_e4_c40_nhs ir_k3_s2_e6_c80"
SIZE = (64, 96)
COMMON = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "segmentation": {
        "model": {"head": "lraspp", "backbone": BODY, "num_classes": 4},
        "classes": ["road", "car", "tree", "sky"],
        "colors": [[128, 64, 128], [0, 0, 142], [107, 142, 35], [70, 130, 180]],
    },
    "detection": {
        "model": {"head": "ssdlite", "backbone": BODY, "num_classes": 3, "image_size": list(SIZE)},
        "classes": ["car", "bus", "dog"],
        "category_ids": [1, 2, 3],
        "score": "sigmoid",
    },
    "classification": {
        "model": {"name": "mobilenet_v3_small", "num_classes": 5, "width": 0.35},
        "classes": ["a", "b", "c", "d", "e"],
        "size": 64,
        "crop_pct": 0.875,
        "interpolation": "bilinear",
    },
}


def description_of(task: str) -> dict[str, Any]:
    """What the header of a file of that task says."""
    return {"task": task, **COMMON, **DESCRIPTIONS[task]}


def make_model(task: str, randomise: Callable[[nn.Module], nn.Module]) -> Any:
    """A model with random weights; a segmenter's and a detector's decisions differ from place to place."""
    torch.manual_seed(0)
    create = {"segmentation": seg.create, "detection": det.create, "classification": backbone.classifier}[task]
    model = randomise(create(**DESCRIPTIONS[task]["model"]))
    if isinstance(model, seg.Segmenter):  # by chance one class would win everywhere
        with torch.no_grad():
            model.head.classify_low.bias -= network_output(model, images(4)).mean((0, 2, 3))
    if isinstance(model, det.Detector):  # fresh class logits are nearly equal everywhere
        classes, offsets = model.head.output_layers()
        for layer in classes + offsets:
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.zeros_(layer.bias)
    return model


def save(folder: Path, task: str, model: nn.Module) -> Path:
    """The model's weights file."""
    path = folder / f"{task}.safetensors"
    save_model(path, model, description_of(task))
    return path


def images(count: int, size_hw: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise, uint8 BGR [N, H, W, 3]."""
    return np.random.default_rng(1).integers(0, 256, (count, *size_hw, 3), np.uint8)


def network_output(model: nn.Module, images_bgr: np.ndarray) -> Any:
    """What the model gives for images uint8 BGR [N, H, W, 3], normalised as in training."""
    rgb = torch.from_numpy(np.ascontiguousarray(images_bgr[..., ::-1])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return model.eval()(normalise(rgb, COMMON["mean"], COMMON["std"], channels_last=False))
