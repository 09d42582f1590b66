"""Scores the heads of a joint network by the protocols of the single models."""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

import det
from backbone.errors import InputError
from seg.data.opening import open_data
from seg.predictor import SegmentationResult
from tools.engines.exported import ExportedEngine
from tools.io.console import console
from tools.io.files import replace_file
from tools.joint.data import cityscapes_boxes
from tools.joint.predictor import Predictor
from tools.joint.weights import head_description, load
from tools.options import JOINT
from tools.predicting.models import load as load_predictor
from tools.predicting.models import runs_plainly
from tools.scoring import detection, report_det, report_seg, segmentation
from tools.scoring.metrics_file import Evaluated, nested
from tools.scoring.page import page


class Scored(NamedTuple):
    """A head's part of the metrics and of the report."""

    evaluated: Evaluated
    metrics: Mapping[str, Any]  # as JSON can hold them
    summary: str
    parts: list[str]  # of the report, as HTML; empty where none is asked for


class Subjects(NamedTuple):
    """The heads of a joint network, whatever runs it; None where it has no such head."""

    segmentation: segmentation.Subject | None
    detection: detection.Subject | None


def open_subjects(weights: Path, engine: str | None, device: torch.device) -> Subjects:
    """The heads of the joint network in a weights file or an exported file.

    Arguments:
        engine: one of `tools.options.ENGINES`; None: torch, or an exported file's own.

    Raises:
        InputError: the file or the engine cannot be used, or it is no joint network.
    """
    if not runs_plainly(weights, engine):
        return _predicting(weights, engine or "auto")
    network, description = load(weights)
    network = network.to(device).eval()
    found: dict[str, Any] = dict.fromkeys(Subjects._fields)
    for name in found.keys() & network.tasks:
        model, single = network.single(name), head_description(description, name)
        if isinstance(model, det.Detector):
            find = detection.model_detections(model, single, device)
            transform = det.eval_transform(model.image_size_hw, model.resize)
            found[name] = detection.Subject(find, transform, single["classes"], lambda: "torch", "")
        else:
            label = segmentation.model_labels(
                model, mean=single["mean"], std=single["std"], device=device, inference=segmentation.WHOLE_IMAGES
            )
            found[name] = segmentation.Subject(label, single["classes"], lambda: "torch")
    return Subjects(**found)


def _predicting(weights: Path, engine: str) -> Subjects:
    """The heads as predictors have them.

    Of weights, each head sees images as a model with that head alone: labels are computed at the image's own size. A
    file has one size.
    """
    predictor = load_predictor(weights, engine, score_threshold=det.SCORE_THRESHOLD)
    if not isinstance(predictor, Predictor):
        raise InputError(f"{weights}: is a model for {predictor.task}, not a joint network; give a joint run's file")
    found: dict[str, Any] = dict.fromkeys(Subjects._fields)
    for name in found.keys() & predictor.parts.keys():
        head = predictor.head(name)
        if isinstance(head, det.Predictor):
            found[name] = detection.predictor_subject(head, predictor.network)
            continue
        if isinstance(predictor.network, ExportedEngine):
            label = _labels_of(lambda frame: predictor(frame).areas)
        else:
            head.size = None
            label = _labels_of(head)
        found[name] = segmentation.Subject(label, head.classes, lambda: predictor.engine)
    return Subjects(**found)


def _labels_of(predict: Callable[[np.ndarray], SegmentationResult]) -> Callable[[Tensor], np.ndarray]:
    """The function from an image uint8 RGB [3, H, W] to labels uint8 [H, W] by one from frames to results."""
    return lambda image: predict(image.permute(1, 2, 0).flip(-1).numpy()).labels


def score_segmentation(arguments: Namespace, subject: segmentation.Subject, accelerator: Accelerator) -> Scored:
    """Scores the segmentation head on whole images and prints the table.

    Arguments:
        arguments: of `tools.eval_joint`.

    Raises:
        InputError: the data cannot be read, have no labels or other classes.
    """
    dataset = open_data(arguments.segmentation, arguments.split_segmentation, classes=arguments.classes)
    if not dataset.has_labelled_pixels():
        raise InputError(f"{arguments.segmentation}: no pixel of split {arguments.split_segmentation} counts")
    if subject.classes != dataset.classes:
        raise InputError(
            f"{arguments.weights}: its segmentation head knows other classes ({', '.join(subject.classes[:3])}, …) "
            f"than the data have ({', '.join(dataset.classes[:3])}, …); --classes names those of one's own data"
        )
    evaluation = segmentation.evaluate(
        subject.label,
        dataset,
        accelerator=accelerator,
        workers=arguments.workers,
        instances=True,
        num_worst=segmentation.NUM_WORST * arguments.report,
    )
    evaluated = Evaluated(
        task="segmentation",
        source=arguments.weights,
        data=arguments.segmentation,
        split=arguments.split_segmentation,
        images=len(dataset),
        protocol=segmentation.protocol(segmentation.WHOLE_IMAGES),
        engine=subject.engine(),
    )
    if accelerator.is_main_process:
        segmentation.print_metrics(evaluation, dataset.classes)
    parts = report_seg.report_parts(evaluated.facts(), dataset, evaluation) if arguments.report else []
    official = {"cityscapes": nested(evaluation.official)} if evaluation.official else {}
    metrics = nested(evaluation.metrics) | {"confusion": evaluation.confusion.tolist()} | official
    return Scored(evaluated, metrics, f"mIoU {evaluation.metrics['miou']:.4f}", parts)


def score_detection(arguments: Namespace, subject: detection.Subject, accelerator: Accelerator, out: Path) -> Scored:
    """Scores the detection head at its input size and prints the table; Cityscapes' boxes are written into `out`.

    Arguments:
        arguments: of `tools.eval_joint`.

    Raises:
        InputError: the data cannot be read or have classes that the head does not know.
    """
    annotations = images = None
    if arguments.boxes == "cityscapes":
        with accelerator.main_process_first():  # the others find what it wrote
            annotations, images = cityscapes_boxes(arguments.detection, arguments.split_detection, out)
    dataset = det.CocoDetection(
        arguments.detection,
        arguments.split_detection,
        annotations=annotations,
        images=images,
        transform=subject.transform,
        categories=subject.classes,
    )
    if not det.is_scored(dataset.annotation_file):
        raise InputError(f"{dataset.annotation_file}: has no boxes to score against; tools.split and tools.eval_det do")
    ground_truth = det.load_ground_truth(dataset.annotation_file)
    det.self_check(ground_truth, dataset)
    results = detection.evaluate(subject.find, dataset, accelerator=accelerator, workers=arguments.workers)
    coco_eval = det.run_coco_eval(ground_truth, results)
    metrics, per_class = detection.split_metrics(det.coco_metrics(coco_eval))
    evaluated = Evaluated(
        task="detection",
        source=arguments.weights,
        data=arguments.detection,
        split=arguments.split_detection,
        images=len(ground_truth.imgs),
        protocol=f"COCO boxes by pycocotools, all images of the split{subject.note}",
        engine=subject.engine(),
    )
    if accelerator.is_main_process:
        detection.print_metrics(metrics, per_class)
    parts = report_det.report_parts(evaluated.facts(), coco_eval, dataset.folder) if arguments.report else []
    summary = f"AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}"
    return Scored(evaluated, metrics | {"per_class": per_class}, summary, parts)


def finish_joint(out: Path, source: Path, scored: Mapping[str, Scored], *, report: bool) -> None:
    """Writes metrics.json, and report.html if asked for, into the folder `out` and says so."""
    content: dict[str, Any] = {"task": JOINT, "source": str(source)}
    for name, one in scored.items():
        content[name] = {
            "protocol": one.evaluated.protocol,
            "data": str(one.evaluated.data),
            "split": one.evaluated.split,
            "images": one.evaluated.images,
            "engine": one.evaluated.engine,
            **one.metrics,
        }
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(content, indent=1)))
    if report:
        html = page("Joint network", [text for one in scored.values() for text in one.parts])
        replace_file(out / "report.html", lambda part: part.write_text(html, encoding="utf-8"))
        console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    found = "; ".join(f"{one.summary} on {one.evaluated.images} images" for one in scored.values())
    console.print(f"{found}; {out / 'metrics.json'}", soft_wrap=True)
