"""Scores the heads of a joint network by the protocols of the single models."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

import det
from backbone.errors import InputError
from seg.data.opening import open_data
from tools.io.console import console
from tools.io.files import replace_file
from tools.joint.data import cityscapes_boxes
from tools.joint.network import JointNetwork
from tools.joint.weights import head_description
from tools.options import JOINT
from tools.scoring import detection, report_det, report_seg, segmentation
from tools.scoring.metrics_file import Evaluated, nested
from tools.scoring.page import page


class Scored(NamedTuple):
    """A head's part of the metrics and of the report."""

    evaluated: Evaluated
    metrics: Mapping[str, Any]  # as JSON can hold them
    summary: str
    parts: list[str]  # of the report, as HTML; empty where none is asked for


def score_segmentation(
    arguments: Namespace, network: JointNetwork, description: Mapping[str, Any], accelerator: Accelerator
) -> Scored:
    """Scores the segmentation head on whole images and prints the table.

    Arguments:
        arguments: of `tools.eval_joint`.

    Raises:
        InputError: the data cannot be read, have no labels or other classes.
    """
    single = head_description(description, "segmentation")
    dataset = open_data(arguments.segmentation, arguments.split_segmentation, classes=arguments.classes)
    if not dataset.has_labelled_pixels():
        raise InputError(f"{arguments.segmentation}: no pixel of split {arguments.split_segmentation} counts")
    if single["classes"] != dataset.classes:
        raise InputError(
            f"{arguments.weights}: its segmentation head knows other classes ({', '.join(single['classes'][:3])}, …) "
            f"than the data have ({', '.join(dataset.classes[:3])}, …); --classes names those of one's own data"
        )
    label = segmentation.model_labels(
        network.single("segmentation"),
        mean=single["mean"],
        std=single["std"],
        device=accelerator.device,
        inference=segmentation.WHOLE_IMAGES,
    )
    evaluation = segmentation.evaluate(
        label,
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
        engine="torch",
    )
    if accelerator.is_main_process:
        segmentation.print_metrics(evaluation, dataset.classes)
    parts = report_seg.report_parts(evaluated.facts(), dataset, evaluation) if arguments.report else []
    official = {"cityscapes": nested(evaluation.official)} if evaluation.official else {}
    metrics = nested(evaluation.metrics) | {"confusion": evaluation.confusion.tolist()} | official
    return Scored(evaluated, metrics, f"mIoU {evaluation.metrics['miou']:.4f}", parts)


def score_detection(
    arguments: Namespace, network: JointNetwork, description: Mapping[str, Any], accelerator: Accelerator, out: Path
) -> Scored:
    """Scores the detection head at its input size and prints the table; Cityscapes' boxes are written into `out`.

    Arguments:
        arguments: of `tools.eval_joint`.

    Raises:
        InputError: the data cannot be read or have classes that the head does not know.
    """
    single = head_description(description, "detection")
    detector = network.single("detection")
    assert isinstance(detector, det.Detector)
    annotations = images = None
    if arguments.boxes == "cityscapes":
        with accelerator.main_process_first():  # the others find what it wrote
            annotations, images = cityscapes_boxes(arguments.detection, arguments.split_detection, out)
    dataset = det.CocoDetection(
        arguments.detection,
        arguments.split_detection,
        annotations=annotations,
        images=images,
        transform=det.eval_transform(detector.image_size_hw, detector.resize),
        categories=single["classes"],
    )
    if not det.is_scored(dataset.annotation_file):
        raise InputError(f"{dataset.annotation_file}: has no boxes to score against; tools.split and tools.eval_det do")
    ground_truth = det.load_ground_truth(dataset.annotation_file)
    det.self_check(ground_truth, dataset)
    find = detection.model_detections(detector, single, accelerator.device)
    results = detection.evaluate(find, dataset, accelerator=accelerator, workers=arguments.workers)
    coco_eval = det.run_coco_eval(ground_truth, results)
    metrics, per_class = detection.split_metrics(det.coco_metrics(coco_eval))
    evaluated = Evaluated(
        task="detection",
        source=arguments.weights,
        data=arguments.detection,
        split=arguments.split_detection,
        images=len(ground_truth.imgs),
        protocol="COCO boxes by pycocotools, all images of the split",
        engine="torch",
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
            **one.metrics,
        }
    replace_file(out / "metrics.json", lambda part: part.write_text(json.dumps(content, indent=1)))
    if report:
        html = page("Joint network", [text for one in scored.values() for text in one.parts])
        replace_file(out / "report.html", lambda part: part.write_text(html, encoding="utf-8"))
        console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    found = "; ".join(f"{one.summary} on {one.evaluated.images} images" for one in scored.values())
    console.print(f"{found}; {out / 'metrics.json'}", soft_wrap=True)
