"""A model as one ONNX file from the network's input to what the page shows: post-processing is in the graph."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from seg.model import Segmenter
from tools.exporting.graph import Boxes, Heads, ImageGraph, Raw, image_graph
from tools.exporting.onnx_format import write_onnx
from tools.joint.network import JointNetwork

if TYPE_CHECKING:
    from onnx import ModelProto

FRAME_SIZE = "frame_size"
"""The second input where a head segments."""
MOST_CANDIDATES = 300
"""Boxes that enter NMS, the best of all classes. It compares every two, which for the usual 1000 takes longer than the
network; crowded pictures of blood cells have 260 that score above 0.05."""


def page_graph(
    model: nn.Module, description: Mapping[str, Any], *, segmenter_hw: tuple[int, int], score_threshold: float
) -> ImageGraph:
    """The graph of a segmenter, a detector or a joint network, of which `write_page_graph` makes the page's file.

    Arguments:
        segmenter_hw: (height, width) of the input in pixels where no head detects; a detector has its own.
        score_threshold: boxes score above it.

    Raises:
        InputError: the size does not fit the model.
    """
    if isinstance(model, Segmenter):
        return image_graph(model, description, output="raw", channels="rgb", size_hw=segmenter_hw)
    detects = not isinstance(model, JointNetwork) or "detection" in model.tasks.values()
    graph = image_graph(
        model,
        description,
        output="final",
        channels="rgb",
        size_hw=None if detects else segmenter_hw,
        score_threshold=score_threshold,
    )
    if isinstance(model, JointNetwork):
        assert isinstance(graph.finish, Heads)
        for name, task in model.tasks.items():
            if task == "segmentation":
                graph.finish.finishes[name] = Raw()  # `write_page_graph` adds labels of any size
        graph.names = tuple("logits" if name == "labels" else name for name in graph.names)
    for part in graph.finish.modules():
        if isinstance(part, Boxes):
            part.postprocess.max_candidates = MOST_CANDIDATES
    return graph


def write_page_graph(graph: ImageGraph, path: Path) -> None:
    """Writes the page's file of a model; the names of its outputs tell what it gives.

    image           in      uint8 RGB [1, h, w, 3]
    frame_size      in      int64 [2], (height, width) of the labels in pixels; only where there are labels
    labels          out     uint8 [H, W], of logits upsampled as `seg.upsample` does
    boxes           out     float32 [1, D, 4], xyxy in pixels of the input, best first
    scores          out     float32 [1, D], 0 for padding, which comes last
    box_labels      out     int64 [1, D]
    """
    import onnx

    write_onnx(graph, path)
    proto = onnx.load(path)
    if "logits" in graph.names:
        _add_labels(proto)
    elif "labels" in graph.names:  # a detector's
        _rename_output(proto, "labels", "box_labels")
    del proto.metadata_props[:]  # they describe the file as it was
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _add_labels(proto: "ModelProto") -> None:
    """Puts `labels`, at the size that the input FRAME_SIZE names, in place of the output `logits` [1, K, h, w]."""
    from onnx import TensorProto, helper
    from onnx.helper import make_node

    graph = proto.graph
    logits = next(output for output in graph.output if output.name == "logits")
    count = logits.type.tensor_type.shape.dim[1].dim_value
    int64, uint8 = TensorProto.INT64, TensorProto.UINT8
    for name, values in {"label_planes": [1, count], "label_batch": [0]}.items():
        graph.initializer.append(helper.make_tensor(name, int64, [len(values)], values))
    graph.node.extend(
        [
            make_node("Concat", ["label_planes", FRAME_SIZE], ["label_size"], axis=0),
            # torch's bilinear, align_corners=False.
            make_node("Resize", [logits.name, "", "", "label_size"], ["label_logits"], mode="linear"),
            # ONNX Runtime's ArgMax over the last axis and a transposition take half the time of one over the planes.
            make_node("Transpose", ["label_logits"], ["label_pixels"], perm=[0, 2, 3, 1]),
            make_node("ArgMax", ["label_pixels"], ["label_numbers"], axis=3, keepdims=0),
            make_node("Cast", ["label_numbers"], ["label_bytes"], to=uint8),
            make_node("Squeeze", ["label_bytes", "label_batch"], ["labels"]),
        ]
    )
    graph.input.append(helper.make_tensor_value_info(FRAME_SIZE, int64, [2]))
    graph.output.remove(logits)
    graph.output.append(helper.make_tensor_value_info("labels", uint8, ["height", "width"]))


def _rename_output(proto: "ModelProto", name: str, other: str) -> None:
    """Gives an output another name, in the graph and in its list of outputs."""
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [other if known == name else known for known in names]
    for output in proto.graph.output:
        if output.name == name:
            output.name = other
