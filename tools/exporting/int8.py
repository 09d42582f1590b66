"""int8 files: post-training quantisation with pictures of a data set, and the metric that it costs.

A float32 file of `onnx_format` or `openvino_format` becomes one of the same inputs, outputs and metadata whose
convolutions compute in 8 bits. What stays in floating point is where MobileNetV3 is known to lose:

    - squeeze-and-excite and pooled branches, whole layers on maps of 1x1: nothing to compute, and an error in a gate
      scales a whole channel;
    - hard-swish and hard sigmoid, in ONNX files: ONNX Runtime has no 8-bit kernel for them;
    - the classifying convolutions and what follows them: their error is the output's;
    - in ONNX files the first convolution: its output is the largest map, and converting it costs more than is saved.

Weights are quantised per channel (a depthwise convolution's channels differ by orders of magnitude), activations with a
zero point (hard-swish is lopsided).
"""

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import det
import seg
from backbone.errors import InputError, check_choice
from backbone.inference import Engine
from backbone.weights.description import KEY
from det.data.transforms import resize
from seg.data.opening import open_data
from tools.engines.exported import ExportedEngine, open_file
from tools.engines.openvino_core import openvino_core
from tools.exporting.graph import INPUT
from tools.io.console import console
from tools.io.packages import require
from tools.joint.network import JointNetwork
from tools.joint.predictor import HeadEngine, in_frame
from tools.joint.weights import single_models
from tools.run.processes import make_accelerator
from tools.scoring import detection, segmentation


class Pictures(Protocol):
    """A data set as a file's input takes it, and how well the file does on it.

    Attributes:
        metric: the name of what `score` gives.
        num_scored: the number of pictures in the validation split.
        num_calibrating: the number of pictures in the training split.
    """

    metric: str
    num_scored: int
    num_calibrating: int

    def inputs(self, count: int) -> Iterator[np.ndarray]:
        """`count` inputs uint8 [1, H, W, 3] from all over the training split."""
        ...

    def score(self, network: Engine) -> float:
        """The metric on the validation split, 0 to 1, of a file, as `eval_seg` and `eval_det` score it."""
        ...


class SegmentationPictures:
    """Pictures with label maps, for a segmenter's file; see `Pictures`.

    Arguments:
        description: of the file, with its `export` entry.
        root, classes: as `seg.data.opening.open_data` takes them.
        resize: how a picture becomes an input: "stretch", or the "letterbox" of a joint network's detector.

    Raises:
        InputError: the data set is not as it should be, or has other classes than the model.
    """

    metric = "miou"

    def __init__(
        self, description: Mapping[str, Any], root: Path, classes: Path | None, resize: str = "stretch"
    ) -> None:
        self.train, self.val = (open_data(root, split, classes=classes) for split in ("train", "val"))
        if self.val.classes != description["classes"]:
            raise InputError(f"{root}: has other classes than the model; --classes names those of one's own data")
        self.description, self.entry, self.resize = description, description["export"], resize
        self.num_scored, self.num_calibrating = len(self.val), len(self.train)

    def inputs(self, count: int) -> Iterator[np.ndarray]:
        for index in spread(len(self.train), count):
            yield in_order(self._input(self.train.read(index)[0]), self.entry)

    def score(self, network: Engine) -> float:
        finish = seg.Predictor(network, classes=self.description["classes"], colors=self.description["colors"]).finish

        def label(image: Tensor) -> np.ndarray:
            image_bgr = image.permute(1, 2, 0).flip(-1).numpy()
            taken, frame_hw = self._input(image_bgr), image_bgr.shape[:2]
            if self.resize == "stretch":
                return finish(network(taken), frame_hw).labels
            input_hw = taken.shape[1], taken.shape[2]
            return in_frame(finish(network(taken), input_hw), frame_hw, input_hw, self.resize).labels

        return segmentation.evaluate(label, self.val, accelerator=make_accelerator()).metrics[self.metric]

    def _input(self, image_bgr: np.ndarray) -> Tensor:
        """The input for an image uint8 BGR [H, W, 3], of about its size where the file takes any."""
        height, width = self.entry["size"] or [nearest_multiple(side, self.entry) for side in image_bgr.shape[:2]]
        return torch.from_numpy(resize(image_bgr, (height, width), self.resize))[None]


class DetectionPictures:
    """Pictures with boxes, for a detector's file; see `Pictures`.

    Arguments:
        model: what was exported.
        description: of the file, with its `export` entry.
        root: as `det.CocoDetection` takes it.

    Raises:
        InputError: the data set is not as it should be, or has other classes than the model.
    """

    metric = "AP"

    def __init__(self, model: det.Detector, description: Mapping[str, Any], root: Path) -> None:
        self.model, self.description, self.entry = model, description, description["export"]
        transform = det.eval_transform(self.entry["size"], model.resize)
        self.train, self.val = (
            det.CocoDetection(root, split, transform=transform, categories=description["classes"])
            for split in ("train2017", "val2017")
        )
        self.truth = det.load_ground_truth(det.annotation_file(root, "val2017"))
        self.num_scored, self.num_calibrating = len(self.val), len(self.train)

    def inputs(self, count: int) -> Iterator[np.ndarray]:
        for index in spread(len(self.train), count):
            yield in_order(self.train[index].image.permute(1, 2, 0).flip(-1)[None], self.entry)

    def score(self, network: Engine) -> float:
        predictor = det.Predictor(
            network,
            self.model,
            self.description["classes"],
            kind=self.description["score"],
            nms_iou=self.description.get("nms_iou", det.NMS_IOU),
            score_threshold=det.SCORE_THRESHOLD,
            size=self.entry["size"],
        )
        find = detection.predictor_detections(predictor)
        results = detection.evaluate(find, self.val, accelerator=make_accelerator())
        return det.coco_metrics(det.run_coco_eval(self.truth, results))[self.metric]


def open_pictures(
    model: nn.Module, description: Mapping[str, Any], data: Mapping[str, Path | None], classes: Path | None
) -> dict[str, Pictures]:
    """The data sets for a model's file, by the names of its heads, of which a single model has one: its task.

    Arguments:
        description: of the file, with its `export` entry.
        data: the folders: "data" of a single model, "segmentation" and "detection" of a joint network's heads.
        classes: as `seg.data.opening.open_data` takes it.

    Raises:
        InputError: the model has no task, a folder is missing or one too many, or a data set does not fit.
    """
    if isinstance(model, JointNetwork):
        wanted = model.tasks
    elif isinstance(model, (det.Detector, seg.Segmenter)):
        wanted = {description["task"]: "data"}
    else:
        raise InputError("int8 needs a segmenter or a detector, whose metric shows what it costs")
    roots = {name: root for name, root in data.items() if root is not None}
    for option in wanted.values():
        if option not in roots:
            raise InputError(f"--int8: needs --{option}, a data set to calibrate with and to be judged on")
    for option in roots:
        if option not in wanted.values():
            raise InputError(f"--{option}: is no data of this model, which has --{' and --'.join(wanted.values())}")
    singles = single_models(model, description)
    how = next((one.resize for one, _ in singles.values() if isinstance(one, det.Detector)), "stretch")
    found: dict[str, Pictures] = {}
    for name, (single, of_head) in singles.items():
        root = roots[wanted[name]]
        export = description["export"]
        described = {**of_head, "export": {**export, **export["heads"][name]} if "heads" in export else export}
        if isinstance(single, det.Detector):
            found[name] = DetectionPictures(single, described, root)
        else:
            found[name] = SegmentationPictures(described, root, classes, how)
    return found


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, from all over the range."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def nearest_multiple(side: int, entry: Mapping[str, Any]) -> int:
    """The side of an input for a picture's, in pixels, where the file takes any size."""
    multiple = entry["multiple"]
    return max(entry["least"], round(side / multiple) * multiple)


def in_order(image_bgr: Tensor, entry: Mapping[str, Any]) -> np.ndarray:
    """An input uint8 BGR [1, H, W, 3] in the channel order of the file."""
    return (image_bgr if entry["channels"] == "bgr" else image_bgr.flip(-1)).contiguous().numpy()


def quantise_onnx(source: Path, path: Path, inputs: Iterable[np.ndarray]) -> None:
    """Writes the int8 form of an ONNX file.

    Arguments:
        source: the float32 file.
        inputs: for calibration, uint8 [1, H, W, 3].
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            image = next(self.rest, None)
            return None if image is None else {INPUT: image}

    prepared = path.with_name(f"{path.stem}.prepared.onnx")
    try:
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Add", "Relu", "Clip"],
            nodes_to_quantize=quantised_nodes(graph),
        )
    finally:
        prepared.unlink(missing_ok=True)
    written = onnx.load(path)
    onnx.helper.set_model_props(written, {KEY: with_int8(metadata_of_onnx(source))})
    onnx.save(written, path)


def quantised_nodes(graph: Any) -> list[str]:
    """The names of the nodes of an onnx.GraphProto that are to compute in 8 bits."""
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    leads_to_convolution: dict[str, bool] = {}  # by the name of a value
    for node in reversed(graph.node):  # nodes stand in the order of computation
        leads = any(
            user.op_type == "Conv" or leads_to_convolution.get(user.output[0], False)
            for name in node.output
            for user in users.get(name, [])
        )
        leads_to_convolution.update(dict.fromkeys(node.output, leads))
    single = {  # maps of one pixel
        value.name
        for value in graph.value_info
        if [dim.dim_value for dim in value.type.tensor_type.shape.dim][2:] == [1, 1]
    }
    chosen = [
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "Add", "Relu", "Clip")
        and leads_to_convolution[node.output[0]]
        and node.output[0] not in single
    ]
    first = next(node.name for node in graph.node if node.op_type == "Conv")
    return [name for name in chosen if name != first]


def metadata_of_onnx(path: Path) -> str:
    """What an ONNX file holds under `KEY`."""
    import onnx

    return next(entry.value for entry in onnx.load(path).metadata_props if entry.key == KEY)


def quantise_openvino(source: Path, path: Path, inputs: Iterable[np.ndarray]) -> None:
    """Writes the int8 form of an OpenVINO file, an .xml and the .bin beside it.

    Arguments:
        source: the float32 file's .xml.
        inputs: for calibration, uint8 [1, H, W, 3].
    """
    # nncf's import lets torch say that there is no GPU, and sets its own level; then it tells of every operation.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino_core().read_model(source)
    described = str(model.get_rt_info(KEY).astype(str))
    images = list(inputs)
    quantised = nncf.quantize(
        model,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,  # activations with a zero point
        subset_size=len(images),
        # Some of these are of kinds that nncf never quantises, and so not in its own graph.
        ignored_scope=nncf.IgnoredScope(names=float_operations(model), validate=False),
    )
    quantised.set_rt_info(with_int8(described), KEY)
    openvino.save_model(quantised, path, compress_to_fp16=False)


def float_operations(model: Any) -> list[str]:
    """The names of the operations of an openvino.Model that are to stay in floating point."""
    convolutions = ("Convolution", "GroupConvolution")
    leads_to_convolution: dict[str, bool] = {}
    names = []
    for operation in reversed(model.get_ordered_ops()):
        users = [user.get_node() for output in operation.outputs() for user in output.get_target_inputs()]
        leads = any(user.get_type_name() in convolutions or leads_to_convolution[user.get_name()] for user in users)
        leads_to_convolution[operation.get_name()] = leads
        if operation.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        shape = operation.get_output_partial_shape(0)
        single = shape.rank.is_static and len(shape) == 4 and str(shape[2]) == str(shape[3]) == "1"
        if not leads or (single and operation.get_type_name() in convolutions):
            names.append(operation.get_friendly_name())
    return names


def with_int8(described: str) -> str:
    """A file's metadata with the entry that says that it computes in 8 bits."""
    description = json.loads(described)
    description["export"]["int8"] = True
    return json.dumps(description)


PACKAGES = {"onnx": "onnxruntime", "openvino": "nncf"}
"""What quantises, by format."""
QUANTISERS = {"onnx": quantise_onnx, "openvino": quantise_openvino}
"""By format; each takes a float32 file, the path of the int8 one, and inputs."""


def check_int8_installed(format: str) -> None:
    """Raises an InputError where the format has no int8 form, or what quantises is not installed."""
    check_choice("--int8: format", format, tuple(QUANTISERS))
    require(f"int8 of format {format}", (PACKAGES[format],), f"run pip install 'taproot[{format}]'")


class Int8(NamedTuple):
    """How a file is quantised, and what it may cost."""

    format: str  # one of QUANTISERS
    pictures: Mapping[str, Pictures]  # by the model's heads
    calibration: int  # pictures
    max_loss: float  # points of 100 of each head's metric

    def replace(self, path: Path) -> dict[str, Any]:
        """Puts a float32 file's int8 form in its place, and gives what it costs, as the parity record has it."""
        shares = self.shares()
        counts, scored = (
            " and ".join(map(str, numbers))
            for numbers in (shares.values(), (part.num_scored for part in self.pictures.values()))
        )
        console.print(f"int8: calibrating on {counts} pictures, scoring {scored} before and after")
        quantised = path.with_name(f"int8{path.suffix}")
        inputs = (image for name, part in self.pictures.items() for image in part.inputs(shares[name]))
        QUANTISERS[self.format](path, quantised, inputs)
        heads = self.costs(open_file(path), open_file(quantised))
        for suffix in {path.suffix, ".bin"} if path.suffix == ".xml" else {path.suffix}:
            os.replace(quantised.with_suffix(suffix), path.with_suffix(suffix))
        quantiser = PACKAGES[self.format]
        return {
            "quantiser": f"{quantiser} {metadata.version(quantiser)}",
            "calibration_images": sum(shares.values()),
            "points_allowed": self.max_loss,
            "heads": heads,
        }

    def shares(self) -> dict[str, int]:
        """How many pictures of each head's data calibrate."""
        each = math.ceil(self.calibration / len(self.pictures))
        return {name: min(each, part.num_calibrating) for name, part in self.pictures.items()}

    def costs(self, before: ExportedEngine, after: ExportedEngine) -> dict[str, dict[str, Any]]:
        """By the heads' names: the metric of the float32 file and of the int8 one."""
        found = {}
        for name, part in self.pictures.items():
            float32, int8 = (
                part.score(network if network.heads is None else HeadEngine(network, name))
                for network in (before, after)
            )
            found[name] = {
                "metric": part.metric,
                "images": part.num_scored,
                "float32": float32,
                "int8": int8,
                "points_lost": 100 * (float32 - int8),
            }
        return found


def fault_of(cost: Mapping[str, Any]) -> str | None:
    """Why a file of `Int8.replace` is refused, on one line; None where it may stay."""
    allowed = cost["points_allowed"]
    faults = [
        f"{_in_words(head)}, {head['points_lost']:.2f} points less; allowed are {allowed:g}"
        for head in cost["heads"].values()
        if not head["points_lost"] <= allowed
    ]
    return "; ".join(faults) or None


def summary_of(cost: Mapping[str, Any]) -> str:
    """What `Int8.replace` found, in a few words."""
    return "; ".join(map(_in_words, cost["heads"].values()))


def _in_words(head: Mapping[str, Any]) -> str:
    return f"{head['metric']} on {head['images']} pictures {head['float32']:.4f} in float32, {head['int8']:.4f} in int8"
