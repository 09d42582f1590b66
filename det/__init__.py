"""SSDLite object detection: model, loss, post-processing, COCO data, evaluation and prediction."""

from det.annotations import annotation_file, is_scored, picture_folder, read_results
from det.coco import Batch, CocoDetection, Sample, collate, input_sizes, scale_batch
from det.loss import SSDLoss
from det.matching import Targets
from det.metrics import evaluate, figures_of, has_fast, judge, load_ground_truth, self_check, to_results
from det.model import RawDetections, SSDLite, SSDLiteHead, create
from det.postprocess import NMS_IOU, Detections, PostProcess, StaticDetections, StaticPostProcess
from det.predictor import Predictor, Result
from det.transforms import Transformed, eval_transform, train_transform
from det.weights import from_weights, load_weights

__all__ = [
    "NMS_IOU",
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
    "annotation_file",
    "collate",
    "create",
    "eval_transform",
    "evaluate",
    "figures_of",
    "from_weights",
    "has_fast",
    "input_sizes",
    "is_scored",
    "judge",
    "load_ground_truth",
    "load_weights",
    "picture_folder",
    "read_results",
    "scale_batch",
    "self_check",
    "to_results",
    "train_transform",
]
