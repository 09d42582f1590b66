"""SSDLite object detection: model, loss, post-processing, COCO data, evaluation and prediction."""

from typing import TYPE_CHECKING

from backbone.lazy import lazy

if TYPE_CHECKING:  # for readers and type checkers; at run time `lazy` imports these when they are first used
    from det.criterion import make_loss
    from det.data.annotations import annotation_file, image_folder, is_scored, read_results
    from det.data.coco import Batch, CocoDetection, Sample, collate, input_sizes, scale_batch
    from det.data.transforms import Transformed, eval_transform, train_transform
    from det.heads.ssdlite import SSDLiteHead
    from det.loss import DetectionLoss
    from det.matching import Targets
    from det.metrics import coco_metrics, evaluate, has_fast, load_ground_truth, run_coco_eval, self_check, to_results
    from det.model import Detector, RawDetections, create
    from det.postprocess import NMS_IOU, SCORE_THRESHOLD, Detections, PostProcess, StaticDetections, StaticPostProcess
    from det.predictor import DetectionResult, Predictor
    from det.weights import from_weights, load_weights

__all__ = [
    "NMS_IOU",
    "SCORE_THRESHOLD",
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
    "make_loss",
    "read_results",
    "run_coco_eval",
    "scale_batch",
    "self_check",
    "to_results",
    "train_transform",
]

_MODULES = {
    "NMS_IOU": "postprocess",
    "SCORE_THRESHOLD": "postprocess",
    "Batch": "data.coco",
    "CocoDetection": "data.coco",
    "DetectionLoss": "loss",
    "DetectionResult": "predictor",
    "Detections": "postprocess",
    "Detector": "model",
    "PostProcess": "postprocess",
    "Predictor": "predictor",
    "RawDetections": "model",
    "SSDLiteHead": "heads.ssdlite",
    "Sample": "data.coco",
    "StaticDetections": "postprocess",
    "StaticPostProcess": "postprocess",
    "Targets": "matching",
    "Transformed": "data.transforms",
    "annotation_file": "data.annotations",
    "coco_metrics": "metrics",
    "collate": "data.coco",
    "create": "model",
    "eval_transform": "data.transforms",
    "evaluate": "metrics",
    "from_weights": "weights",
    "has_fast": "metrics",
    "image_folder": "data.annotations",
    "input_sizes": "data.coco",
    "is_scored": "data.annotations",
    "load_ground_truth": "metrics",
    "load_weights": "weights",
    "make_loss": "criterion",
    "read_results": "data.annotations",
    "run_coco_eval": "metrics",
    "scale_batch": "data.coco",
    "self_check": "metrics",
    "to_results": "metrics",
    "train_transform": "data.transforms",
}
__getattr__, __dir__ = lazy(__name__, _MODULES)
