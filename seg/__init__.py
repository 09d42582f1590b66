"""Semantic segmentation: LR-ASPP and other heads, Cityscapes, losses, metrics and the predictor."""

from typing import TYPE_CHECKING

from backbone.lazy import lazy

if TYPE_CHECKING:  # for readers and type checkers; at run time `lazy` imports these when they are first used
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

_MODULES = {
    "Predictor": "predictor",
    "SegmentationResult": "predictor",
    "Segmenter": "model",
    "create": "model",
    "from_weights": "weights",
    "label_map": "labeling",
    "load_weights": "weights",
    "upsample": "model",
}
__getattr__, __dir__ = lazy(__name__, _MODULES)
