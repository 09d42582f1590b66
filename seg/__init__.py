"""Semantic segmentation: LR-ASPP and other heads, Cityscapes, losses, metrics and the predictor."""

from seg import encoders  # noqa: F401 - makes our networks known to segmentation-models-pytorch
from seg.labeling import label_map
from seg.model import Segmenter, create, upsample
from seg.predictor import Predictor, SegmentationResult
from seg.weights import from_weights, load_weights

__all__ = [
    "Predictor",
    "SegmentationResult",
    "Segmenter",
    "create",
    "from_weights",
    "label_map",
    "load_weights",
    "upsample",
]
