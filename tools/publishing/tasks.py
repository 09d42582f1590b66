"""What a model card says of each task: the hub's words for it, its metrics, and the limits of every such model."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric that cards show."""

    key: str  # in metrics.json
    name: str  # in the text
    hub_type: str  # in the metadata


class CardTask(NamedTuple):
    """What a card says of a task."""

    pipeline: str  # the hub's name of the task
    does: str  # completes "A network that …"
    head: str | None  # `create`'s default, which a description may leave out
    metrics: tuple[Metric, ...]
    per_class: str  # the entry of metrics.json that has a metric of each class
    per_class_name: str
    limit: str
    evaluation: str  # the command


TASKS = {
    "segmentation": CardTask(
        pipeline="image-segmentation",
        does="gives each pixel of an image one of {count} classes",
        head="lraspp",
        metrics=(Metric("miou", "mIoU", "mean_iou"), Metric("pixel_accuracy", "pixel accuracy", "accuracy")),
        per_class="iou",
        per_class_name="IoU",
        limit="Every pixel gets one of the classes, also where the image shows something else.",
        evaluation="eval_seg",
    ),
    "detection": CardTask(
        pipeline="object-detection",
        does="finds objects of {count} classes in an image, as boxes with scores",
        head="ssdlite",
        metrics=(
            Metric("AP", "AP", "map"),
            Metric("AP50", "AP50", "map_50"),
            Metric("AP75", "AP75", "map_75"),
            Metric("APs", "AP, small objects", "map_small"),
            Metric("APm", "AP, medium objects", "map_medium"),
            Metric("APl", "AP, large objects", "map_large"),
        ),
        per_class="per_class",
        per_class_name="AP",
        limit="Every image is resized to the network's input, so that small objects in large images are lost.",
        evaluation="eval_det",
    ),
    "classification": CardTask(
        pipeline="image-classification",
        does="gives a whole image one of {count} classes",
        head=None,
        metrics=(Metric("top1", "top-1", "accuracy"), Metric("top5", "top-5", "top_5_accuracy")),
        per_class="top1_per_class",
        per_class_name="top-1",
        limit="Every image gets one of the classes, also where it shows something else.",
        evaluation="eval_backbone",
    ),
}
"""By a description's `task`."""

HEADS = {
    "lraspp": "LR-ASPP",
    "raspp": "R-ASPP",
    "fuse": "Fuse",
    "ssdlite": "SSDLite",
    "ssdlite_fpn": "SSDLite-FPN",
    "pico96": "Pico-96",
    "pico128": "Pico-128",
}
"""How the papers write them; others are called as in `create`."""
DEFAULT_BACKBONE = "mobilenet_v3_large"
"""`create`'s."""
