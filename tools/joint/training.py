"""A joint network as a task to train: each head on its own data, all through one backbone."""

import dataclasses
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import det
from backbone.errors import InputError
from backbone.inference import normalise
from seg.data.dataset import SegDataset
from seg.data.opening import open_data
from tools.joint import weights
from tools.joint.data import BoxFiles, JointBatch, JointDataset, cityscapes_boxes, collate, shares
from tools.joint.gradients import GradientComparison
from tools.joint.network import OF_THE_BODY, SINGLE_ONLY, JointNetwork, create
from tools.run import detection, segmentation
from tools.run.config import DetConfig, DetData, DetModel, JointConfig, SegConfig, SegData, SegModel
from tools.run.loading import check_damage, damage_limit
from tools.run.samples import draw_detection, draw_segmentation
from tools.run.task import Task
from tools.scoring.detection import SCORE_OF_LOSS, model_detections
from tools.scoring.detection import evaluate_model as evaluate_detector
from tools.scoring.segmentation import WHOLE_IMAGES, model_labels
from tools.scoring.segmentation import evaluate_model as evaluate_segmenter

METRIC = {"segmentation": "miou", "detection": "AP"}
SCORE = "score"
"""The metric by which the best weights are kept: the mean of the heads' METRIC by the factors of the key `best`."""


def make_task(config: JointConfig, accelerator: Accelerator) -> Task:
    """The data, network and losses of a settled experiment.

    Raises:
        InputError: the data cannot be read, or the settings do not fit it or each other.
    """
    mean, std = config.mean, config.std
    assert mean is not None and std is not None
    learning, kept = heads_of(config)
    batches = shares(config.run, learning, config.detection.batch, accelerator.num_processes)
    notes: list[str] = []
    keywords: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, Any]] = {}
    train_sets: dict[str, SegDataset | det.CocoDetection] = {}
    val_sets: dict[str, SegDataset | det.CocoDetection] = {}
    for name in kept:
        assert config.weights is not None  # heads_of sees to it
        keywords[name], tables[name] = kept_head(weights.saved_head(config.weights, name))
        notes.append(f"the {name} head stays as in {config.weights} and is not evaluated")
        if config.run.freeze != "body" or config.run.freeze_steps is not None:
            notes.append(f"the backbone learns, so what the {name} head gives will change; run.freeze=body keeps it")
    if "segmentation" in learning:
        own = segmentation_config(config)
        faults: list[str] | None = [] if config.data.damaged == "skip" else None
        train_set = segmentation.make_train_set(own, faults)
        left_out = [f"left out: {fault}" for fault in faults or ()]
        check_damage(faults or (), damage_limit(len(train_set) + len(left_out)))
        notes += left_out
        data = own.data
        val_sets["segmentation"] = open_data(
            data.root, data.val_split, classes=data.classes, prepared=data.prepared, limit=data.val_limit
        )
        train_sets["segmentation"] = train_set
        keywords["segmentation"] = vars(config.segmentation.model) | {"num_classes": len(train_set.classes)}
        tables["segmentation"] = {"classes": train_set.classes, "colors": train_set.colors}
        class_weights = segmentation.class_weights(own, train_set)
        losses = segmentation.make_losses(own, class_weights)
    if "detection" in learning:
        boxes, boxes_val = box_files(config, accelerator)
        own_boxes = detection_config(config)
        boxes_set = detection.make_train_set(own_boxes, *boxes)
        val_sets["detection"] = boxes_val_set = detection.make_val_set(own_boxes, boxes_set.classes, *boxes_val)
        ground_truth = det.load_ground_truth(boxes_val_set.annotation_file)
        det.self_check(ground_truth, boxes_val_set)
        train_sets["detection"] = boxes_set
        background = config.detection.model.variant != "paper"
        keywords["detection"] = vars(config.detection.model) | {"num_classes": len(boxes_set.classes) + background}
        tables["detection"] = {"classes": boxes_set.classes, "category_ids": boxes_set.category_ids}
        notes += detection.notes_of(boxes_set)

    body = config.model
    assert body.padding is not None  # `pretrained.settle` fills it in
    ordered = {name: keywords[name] for name in config.model.heads}
    network = create(body.backbone, heads=ordered, width=body.width, tail=body.tail, padding=body.padding)
    for name in kept:
        network.get_submodule(name).requires_grad_(False)
    if "detection" in learning:
        detector = network.single("detection")
        assert isinstance(detector, det.Detector)
        criterion = det.make_loss(detector, **dataclasses.asdict(config.detection.loss))
        tables["detection"]["score"] = SCORE_OF_LOSS[criterion.kind]
        sizes_hw = detection.training_sizes(config.detection.model.image_size, config.detection.augment.input_scale)
        anchors = {size_hw: detector.anchors_for(size_hw).to(accelerator.device) for size_hw in sizes_hw}
    description = weights.describe(network, tables, mean=mean, std=std)
    comparison = GradientComparison(network, 0 if config.run.compile else config.compare_gradients)

    def loss(model: nn.Module, batch: JointBatch) -> dict[str, Tensor]:
        images: dict[str, Tensor] = {}
        if batch.segmentation is not None:
            images["segmentation"] = normalise(
                batch.segmentation.image, mean, std, channels_last=config.run.channels_last
            )
        if batch.detection is not None:
            pixels = normalise(batch.detection.images, mean, std, channels_last=config.run.channels_last)
            size_hw = detection.drawn_size(sizes_hw)
            images["detection"], targets = det.scale_batch(pixels, batch.detection.targets, size_hw)
        with accelerator.autocast():
            raw = model(images)
        terms: dict[str, dict[str, Tensor]] = {}
        if batch.segmentation is not None:
            labels = batch.segmentation.labels
            terms["segmentation"] = {f"{name}_loss": term(raw["segmentation"], labels) for name, term in losses.items()}
        if batch.detection is not None:
            terms["detection"] = criterion(raw["detection"], anchors[size_hw], targets)
        factors = {"segmentation": config.segmentation.weight, "detection": config.detection.weight}
        scaled = {name: {key: factors[name] * term for key, term in own.items()} for name, own in terms.items()}
        if comparison.due:
            comparison.look({name: reduce(torch.add, own.values()) for name, own in scaled.items()})
        return reduce(dict.__or__, scaled.values())

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, JointNetwork)
        metrics: dict[str, float] = {}
        if "segmentation" in learning:
            one, dataset = model.single("segmentation"), val_sets["segmentation"]
            assert isinstance(dataset, SegDataset)
            metrics |= evaluate_segmenter(one, dataset, mean=mean, std=std, accelerator=accelerator).metrics
        if "detection" in learning:
            one, described = model.single("detection"), weights.head_description(description, "detection")
            results = evaluate_detector(one, boxes_val_set, described, accelerator=accelerator)
            metrics |= det.evaluate(ground_truth, results, fast=det.has_fast())
        return {SCORE: combined(metrics, config.best)} | metrics

    val_set = JointDataset(val_sets, batches)

    def draw(model: nn.Module, number: int) -> np.ndarray:
        """What the head finds whose truth the image has."""
        assert isinstance(model, JointNetwork)
        dataset, own = val_set.locate(number)
        if isinstance(dataset, SegDataset):
            one = model.single("segmentation")
            label = model_labels(one, mean=mean, std=std, device=accelerator.device, inference=WHOLE_IMAGES)
            return draw_segmentation(label, dataset, own)
        described = weights.head_description(description, "detection")
        return draw_detection(model_detections(model.single("detection"), described, accelerator.device), dataset, own)

    classes = {name: tables[name]["classes"] for name in tables}
    return Task(
        model=network,
        load_weights=lambda sources: weights.load_initial(network, classes, sources),
        train_set=JointDataset(train_sets, batches),
        val_set=val_set,
        collate=collate,
        loss=loss,
        evaluate=evaluate,
        score=SCORE,
        description=description,
        next_command="tools.eval_joint" + next_options(config, learning),
        notes=tuple(notes),
        draw=draw,
        before_step=comparison.before_step,
        measured=comparison.measured,
    )


def heads_of(config: JointConfig) -> tuple[list[str], list[str]]:
    """The heads that learn, and those that are kept as the weights have them.

    Raises:
        InputError: none learns, one is named twice, or one is to be kept and there are no weights.
    """
    names = config.model.heads
    if not names or len(set(names)) < len(names):
        raise InputError(f"model.heads is {names}; name one or both of segmentation and detection, each once")
    factors = {"segmentation": config.segmentation.weight, "detection": config.detection.weight}
    learning = [name for name in names if factors[name]]
    kept = [name for name in names if not factors[name]]
    if not learning:
        raise InputError(
            f"{', '.join(f'{name}.weight' for name in kept)}: 0, so that nothing learns; raise one of them"
        )
    if kept and config.weights is None:
        raise InputError(f"{kept[0]}.weight is 0, which keeps the head as in the weights; give weights too")
    if not any(config.best.get(METRIC[name], 0) for name in learning):
        raise InputError(f"best {config.best} rates no head that learns; give {METRIC[learning[0]]} a factor above 0")
    return learning, kept


def kept_head(single: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords of a head and what its file says of it, from the description of its single model."""
    own = {key: value for key, value in single["model"].items() if key not in (*OF_THE_BODY, *SINGLE_ONLY)}
    about = ("classes", "colors", "category_ids", "score", "nms_iou")
    return own, {key: single[key] for key in about if key in single}


def segmentation_config(config: JointConfig) -> SegConfig:
    """The segmentation head's part of an experiment, as the experiment of a segmenter."""
    part = config.segmentation
    return SegConfig(
        data=SegData(**vars(part.data), **vars(config.data)),
        model=SegModel(**vars(part.model), backbone=config.model.backbone),
        augment=part.augment,
        loss=part.loss,
        loss_settings=part.loss_settings,
        run=config.run,
    )


def detection_config(config: JointConfig) -> DetConfig:
    """The detection head's part of an experiment, as the experiment of a detector."""
    part = config.detection
    source = {key: value for key, value in vars(part.data).items() if key != "layout"}
    return DetConfig(
        data=DetData(**source, **vars(config.data)),
        model=DetModel(**vars(part.model), backbone=config.model.backbone),
        augment=part.augment,
        loss=part.loss,
        run=config.run,
    )


def box_files(config: JointConfig, accelerator: Accelerator) -> list[BoxFiles] | list[tuple[None, None]]:
    """Where the boxes of the training and the validation split are, if not where COCO has them."""
    data, out = config.detection.data, Path(config.run.out)
    if data.layout == "coco":
        return [(None, None), (None, None)]
    with accelerator.main_process_first():  # the others find what it wrote
        return [cityscapes_boxes(data.root, split, out) for split in (data.train_split, data.val_split)]


def combined(metrics: Mapping[str, float], factors: Mapping[str, float]) -> float:
    """The mean of the metrics that `factors` name, of those that there are."""
    present = {name: factor for name, factor in factors.items() if name in metrics}
    return sum(factor * metrics[name] for name, factor in present.items()) / sum(present.values())


def next_options(config: JointConfig, learning: list[str]) -> str:
    """The data that was trained on, as options of `tools.eval_joint`."""
    text = ""
    if "segmentation" in learning:
        data = config.segmentation.data
        text += f" --segmentation {data.root}" + ("" if data.classes is None else f" --classes {data.classes}")
    if "detection" in learning:
        data = config.detection.data
        text += f" --detection {data.root}" + (" --boxes cityscapes" if data.layout == "cityscapes" else "")
    return text
