"""Semantic segmentation: LR-ASPP, Cityscapes, losses, metrics and the predictor."""

from seg.label_map import label_map
from seg.model import LRASPP, create, upsample
from seg.predictor import Predictor, SegResult
from seg.weights import from_weights, load_weights

__all__ = ["LRASPP", "Predictor", "SegResult", "create", "from_weights", "label_map", "load_weights", "upsample"]
