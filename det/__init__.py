"""SSDLite object detection: model, loss, post-processing, COCO data, evaluation and prediction."""

from det.annotations import read_results
from det.coco import Batch, CocoDetection, Sample, collate, input_sizes, scale_batch
from det.loss import SSDLoss
from det.matching import Targets
from det.metrics import evaluate, load_ground_truth, self_check, to_results
from det.model import RawDetections, SSDLite, SSDLiteHead, create
from det.postprocess import Detections, PostProcess, StaticDetections, StaticPostProcess
from det.predictor import Predictor, Result
from det.transforms import Transformed, eval_transform, train_transform
from det.weights import load_weights

__all__ = [
    "Batch",
    "CocoDetection",
    "Detections",
    "PostProcess",
    "Predictor",
    "RawDetections",
    "Result",
    "SSDLite",
    "SSDLiteHead",
    "SSDLoss",
    "Sample",
    "StaticDetections",
    "StaticPostProcess",
    "Targets",
    "Transformed",
    "collate",
    "create",
    "eval_transform",
    "evaluate",
    "input_sizes",
    "load_ground_truth",
    "load_weights",
    "read_results",
    "scale_batch",
    "self_check",
    "to_results",
    "train_transform",
]
