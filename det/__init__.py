"""SSDLite object detection: model, loss, post-processing, COCO data, evaluation and prediction."""

from det.data.annotations import annotation_file, image_folder, is_scored, read_results
from det.data.coco import Batch, CocoDetection, Sample, collate, input_sizes, scale_batch
from det.data.transforms import Transformed, eval_transform, train_transform
from det.loss import DetectionLoss
from det.matching import Targets
from det.metrics import coco_metrics, evaluate, has_fast, load_ground_truth, run_coco_eval, self_check, to_results
from det.model import Detector, RawDetections, SSDLiteHead, create
from det.postprocess import NMS_IOU, Detections, PostProcess, StaticDetections, StaticPostProcess
from det.predictor import DetectionResult, Predictor
from det.weights import from_weights, load_weights

__all__ = [
    "NMS_IOU",
    "Batch",
    "CocoDetection",
    "DetectionLoss",
    "DetectionResult",
    "Detections",
    "Detector",
    "PostProcess",
    "Predictor",
    "RawDetections",
    "SSDLiteHead",
    "Sample",
    "StaticDetections",
    "StaticPostProcess",
    "Targets",
    "Transformed",
    "annotation_file",
    "coco_metrics",
    "collate",
    "create",
    "eval_transform",
    "evaluate",
    "from_weights",
    "has_fast",
    "image_folder",
    "input_sizes",
    "is_scored",
    "load_ground_truth",
    "load_weights",
    "read_results",
    "run_coco_eval",
    "scale_batch",
    "self_check",
    "to_results",
    "train_transform",
]
