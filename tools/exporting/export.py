"""An export: the model and its graph, the file under a temporary name, the comparison, and only then the file."""

import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import backbone
from backbone.errors import InputError
from backbone.weights.names import is_name
from det.model import Detector
from det.postprocess import SCORE_THRESHOLD
from seg.model import Segmenter
from tools.exporting import any_size
from tools.exporting.formats import COMPILED, FORMATS, Format
from tools.exporting.graph import TRACED_HW, ImageGraph, image_graph
from tools.exporting.images import NUM_NOISE, Images, batches
from tools.exporting.int8 import Int8, fault_of, summary_of
from tools.exporting.onnx_format import write_onnx
from tools.exporting.parity import Comparison, compare
from tools.io.files import replace_file
from tools.io.model_file import find_description, results_folder
from tools.io.packages import versions
from tools.joint.network import JointNetwork
from tools.predicting.models import keep_predictors, load_model
from tools.scoring.classification import load_classifier

NOT_RUN = "not run"
"""What the record says of a format that cannot be run on this system."""


class Exported(NamedTuple):
    """What came of an export."""

    record: dict[str, Any]  # the content of OUT.parity.json
    summary: str  # of the comparison
    fault: str | None  # why the file was not kept, on one line


def default_out(weights: Path, suffix: str) -> Path:
    """Where a file goes for which no name was given: beside the weights; of weights by name, in runs/NAME."""
    if weights.is_dir():
        return weights / f"model{suffix}"
    name = "model" if is_name(weights) else weights.stem
    return results_folder(weights) / f"{name}{suffix}"


def choose_format(name: str, *, opset: int | None, aoti: bool) -> Format:
    """A row of FORMATS with what the options change of it.

    Raises:
        InputError: a package that it needs is missing.
    """
    chosen = COMPILED if aoti else FORMATS[name]
    chosen.check()
    return chosen if opset is None else chosen._replace(write=functools.partial(write_onnx, opset=opset))


def load_exportable(weights: Path, taps: Sequence[str] | None, *, nms: bool = True) -> tuple[Any, dict[str, Any]]:
    """The model in a weights file, or of a name, and its description.

    Arguments:
        taps: for a classifier, its body with these instead of the whole.
        nms: for a detector, as `tools.predict.load` takes it.

    Raises:
        InputError: the file cannot be read, or the options do not fit it.
    """
    # Here, as torchvision's tables take a second that our own files need not wait for.
    from tools.converters.weights import recognise

    description = find_description(weights)
    if description is None and is_name(weights):
        found = recognise(weights)
        model, description = found.model, found.description
    elif description is not None and description["task"] == "classification":
        model, description = load_classifier(weights)
    else:
        model, description = load_model(weights)
    if not nms and not isinstance(model, Detector):
        raise InputError(f"--no-nms: is of detectors, not of {weights}; leave it out")
    description = keep_predictors(model, description, nms=nms, source=weights)
    if taps is None:
        return model, description
    if not isinstance(model, backbone.Classifier):
        raise InputError(f"--taps: fit a classifier's weights, not {weights}, a model for {description['task']}")
    of_head = ("num_classes", "dropout", "hidden")
    arguments = {key: value for key, value in description["model"].items() if key not in of_head}
    body = backbone.create(**arguments, taps=taps)
    state = model.backbone.state_dict()
    body.load_state_dict({name: state[name] for name in body.state_dict()})
    return body, description


def make_graph(
    model: Any,
    description: dict[str, Any],
    chosen: Format,
    *,
    size_hw: tuple[int, int] | None,
    dynamic: bool,
    output: str | None,
    channels: str,
    score_threshold: float | None,
) -> ImageGraph:
    """The model's graph, by default with the final output where model and format have one.

    Raises:
        InputError: an option does not fit the model or the format.
    """
    tasks = _tasks(model)
    detector = "detection" in tasks
    if dynamic and not chosen.free_sizes:
        raise InputError(f"--dynamic: a file {chosen.suffix} has one size; give --size HEIGHT WIDTH")
    if dynamic and size_hw is not None and not (detector or isinstance(model, JointNetwork)):
        raise InputError("--size: does not fit --dynamic, which leaves the size open; give one of them")
    segmenter = "segmentation" in tasks
    has_labels, has_boxes = chosen.final_labels or not segmenter, chosen.final_boxes or not detector
    has_final = bool(tasks) and has_labels and has_boxes
    if output == "final" and tasks and not has_final:
        lacking = "the choice of boxes" if has_labels else "labels of pixels"
        raise InputError(f"--output final: a file {chosen.suffix} cannot hold {lacking}; give raw")
    output = output or ("final" if has_final else "raw")
    if score_threshold is not None and not (detector and output == "final"):
        raise InputError("--score-threshold: only the final output of a detector has one; leave it out")
    return image_graph(
        model,
        description,
        output=output,
        channels=channels,
        size_hw=size_hw,
        dynamic=dynamic,
        score_threshold=SCORE_THRESHOLD if score_threshold is None else score_threshold,
    )


def _tasks(model: Any) -> set[str]:
    """The tasks of a model's heads."""
    if isinstance(model, JointNetwork):
        return set(model.tasks.values())
    return {task for task, kind in (("segmentation", Segmenter), ("detection", Detector)) if isinstance(model, kind)}


def export(
    model: Any,
    graph: ImageGraph,
    out: Path,
    chosen: Format,
    images: Images,
    *,
    weights: Path,
    int8: Int8 | None = None,
) -> Exported:
    """Writes a graph to `out` if the file's outputs are the model's, and the record of it to `OUT.parity.json`.

    Arguments:
        int8: quantise the file once it has been compared, and keep it if its metric holds.

    Raises:
        InputError: something of that name exists already, or the folder cannot be written.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; remove it or give another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            written = Path(folder) / out.name
            chosen.write(graph, written)
            parts = sorted(Path(folder).iterdir())
            for part in parts:
                if (out.parent / part.name).exists():
                    raise InputError(f"{out.parent / part.name}: exists already; remove it or give another name")
            # A part may be a folder.
            files = (file for part in parts for file in (part, *part.rglob("*")) if file.is_file())
            size = sum(file.stat().st_size for file in files)
            comparison = None
            if chosen.open is not None:
                comparison = check(model, graph, chosen.open(written), images)
            record = make_record(graph, chosen, images, comparison, weights=weights, file=out.name, size=size)
            if comparison is not None and comparison.fault is not None:
                return Exported(record, comparison.summary, comparison.fault)
            if int8 is not None:
                cost = int8.replace(written)
                record |= {"bytes": sum(part.stat().st_size for part in parts), "int8": cost}
                if (fault := fault_of(cost)) is not None:
                    return Exported(record, summary_of(cost), fault)
            text = json.dumps(record, indent=2) + "\n"
            replace_file(out.with_name(f"{out.name}.parity.json"), lambda temporary: temporary.write_text(text))
            for part in parts:
                os.replace(part, out.parent / part.name)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error
    if int8 is not None:
        return Exported(record, summary_of(record["int8"]), None)
    return Exported(record, NOT_RUN if comparison is None else comparison.summary, None)


def check(model: Any, graph: ImageGraph, run: Callable[..., Any], images: Images) -> Comparison:
    """Compares a file that runs as `run` with its model, at several sizes where it takes several."""
    sizes = [graph.size_hw or TRACED_HW]
    if graph.size_hw is None:  # a small one, and one with several of LR-ASPP's windows
        sizes += [(any_size.LEAST_SIDE, 2 * any_size.LEAST_SIDE), (832, 1184)]
    return compare(model, graph.description, run, batches(images.images, sizes, graph.batch))


def make_record(
    graph: ImageGraph,
    chosen: Format,
    images: Images,
    comparison: Comparison | None,
    *,
    weights: Path,
    file: str,
    size: int,
) -> dict[str, Any]:
    """What OUT.parity.json says."""
    return {
        "file": file,
        "bytes": size,
        "weights": weights.name if weights.exists() else str(weights),
        "export": graph.description["export"],
        "parity": NOT_RUN if comparison is None else comparison.figures,
        "images": {"source": images.source, "names": images.names, "noise": NUM_NOISE},
        "versions": versions(("torch", *chosen.distributions)),
    }
