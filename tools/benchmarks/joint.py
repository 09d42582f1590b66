"""A joint network beside two models, one for each task: the cost of a frame, and of a video."""

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import det
import seg
from tools.benchmarks.predict import SCENE_HW, one_process, peak_mib
from tools.benchmarks.timing import alternate
from tools.benchmarks.video import run_pipeline, warm_up
from tools.demo_world.writer import make_scene
from tools.engines.choice import MODULES, is_installed
from tools.io.console import console, table
from tools.io.files import replace_file
from tools.io.model_file import save_model
from tools.joint import weights as joint_weights
from tools.joint.network import JointNetwork, create
from tools.network_summary.counts import count_macs
from tools.predict import load
from tools.streams.run_video import load_predictors, set_thread_counts, share_cores, thread_counts
from tools.streams.settings import Predicting
from tools.streams.sources import open_source

CREATE = {"segmentation": seg.create, "detection": det.create}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NUM_CLASSES = {"segmentation": 19, "detection": 8}
"""Of networks with random weights: Cityscapes', and its things'."""
SCORE = 0.5
JOINT, TOGETHER, ALONE = "joint", "both heads of it", "two models"


class Model(NamedTuple):
    """A weights file that is measured."""

    path: str
    task: str
    parameters: int
    multiply_adds: float


def benchmark(
    *,
    weights: Path | None,
    backbone: str,
    segmentation: str,
    detection: str,
    size: Sequence[int],
    engine: list[str] | None,
    threads: int | None,
    source: str | None,
    frames: int,
    rounds: int,
    out: Path | None,
) -> None:
    """Prints the comparison, and writes it as JSON to `out`.

    Three things are compared: the joint network; its heads, each with a backbone of its own and the same layers; and
    the models that `seg.create` and `det.create` make by default, whose tail and output stride may be others.

    Arguments:
        weights: of a joint network, which is compared with its heads only; None: random ones.
        backbone, segmentation, detection: the network with random weights, as `create` takes them.
        size: (height, width) of all networks' input, pixels.
        engine: names of engines; None: torch and the runtimes that are installed.
        threads: of every measurement; None: as many as torch chooses.
        source: a video, whose frames per second are measured too.
        frames: of the source, in each round.
    """
    engines = engine or ["torch", *(name for name in MODULES if is_installed(name))]
    size_hw = (size[0], size[1])
    with tempfile.TemporaryDirectory() as folder:
        if weights is None:
            network = make_joint(backbone, segmentation, detection, size_hw)
            description = describe(network)
        else:
            network, description = joint_weights.load(weights)
        groups = write_models(network, description, Path(folder), size_hw, alone=weights is None)
        threads = threads or torch.get_num_threads()
        report: dict[str, Any] = {"network_hw": list(size_hw), "threads": threads, "models": {}, "engines": {}}
        for group, models in groups.items():
            report["models"][group] = {
                "parameters": sum(model.parameters for model in models),
                "multiply_adds": sum(model.multiply_adds for model in models),
                "file_bytes": sum(Path(model.path).stat().st_size for model in models),
            }
        for name in engines:
            with one_process(threads) as call:
                milliseconds = call(measure, groups, name, size_hw, rounds)
            memory = {}
            for group, models in groups.items():
                with one_process(threads) as call:
                    memory[group] = call(peak_memory, models, name, size_hw)
            report["engines"][name] = {"ms": milliseconds, "memory_mib": memory}
            if source is not None:
                with one_process(threads) as call:
                    rates = call(measure_video, groups, name, size_hw, source, frames, max(3, rounds // 7))
                report["engines"][name]["frames_per_second"] = rates
    title = f"{backbone}, {segmentation}, {detection}" if weights is None else str(weights)
    print_report(report, f"{title} at {size_hw[0]}x{size_hw[1]}, {threads} threads")
    if out is not None:
        replace_file(out, lambda part: part.write_text(json.dumps(report, indent=1)))


def make_joint(backbone: str, segmentation: str, detection: str, size_hw: tuple[int, int]) -> JointNetwork:
    """A joint network with random weights.

    Raises:
        InputError: a name is unknown, or the heads do not fit.
    """
    heads = {
        "segmentation": {"head": segmentation, "num_classes": NUM_CLASSES["segmentation"]},
        "detection": {"head": detection, "num_classes": NUM_CLASSES["detection"], "image_size": list(size_hw)},
    }
    return create(backbone, heads=heads)


def describe(network: JointNetwork) -> dict[str, Any]:
    """A description for a network with random weights."""
    return joint_weights.describe(network, {task: classes(task) for task in CREATE}, mean=MEAN, std=STD)


def classes(task: str) -> dict[str, Any]:
    """What the description of a model says of the classes."""
    names = [str(label) for label in range(NUM_CLASSES[task])]
    if task == "segmentation":
        return {"classes": names, "colors": [[label, label, label] for label in range(len(names))]}
    return {"classes": names, "category_ids": list(range(1, 1 + len(names))), "score": "sigmoid"}


def write_models(
    network: JointNetwork, description: Mapping[str, Any], folder: Path, size_hw: tuple[int, int], *, alone: bool
) -> dict[str, list[Model]]:
    """Writes what is compared, each a list of models of which a frame passes all.

    Arguments:
        alone: also the models that `create` makes by default of the same heads and backbone.
    """

    def write(group: str, model: nn.Module, described: Mapping[str, Any]) -> Model:
        path = folder / f"{group} {described['task']}.safetensors"
        save_model(path, model, dict(described))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return Model(str(path), described["task"], parameters, count_macs(model.to("meta"), size_hw))

    singles = [joint_weights.split(network, description, name) for name in network.tasks]
    groups = {JOINT: [write(JOINT, network, description)]}
    groups[TOGETHER] = [write(TOGETHER, model, described) for model, described in singles]
    if alone:
        groups[ALONE] = []
        for _, described in singles:
            of_body = ("tail", "output_stride")
            keywords = {key: value for key, value in described["model"].items() if key not in of_body}
            model = CREATE[described["task"]](**keywords)
            groups[ALONE].append(write(ALONE, model, {**described, "model": keywords}))
    return groups


def open_models(models: Sequence[Model], engine: str, size_hw: tuple[int, int]) -> list[Any]:
    """Their predictors."""
    return [load(model.path, engine, size=size_hw, device="cpu", score_threshold=SCORE) for model in models]


def frame() -> np.ndarray:
    """A painted street, uint8 BGR [H, W, 3]."""
    return np.asarray(make_scene("val", 0, SCENE_HW, seed=0).view.image)


def measure(
    groups: Mapping[str, Sequence[Model]], engine: str, size_hw: tuple[int, int], rounds: int
) -> dict[str, dict[str, float]]:
    """Medians of milliseconds from a frame to its results, `total`, and of the networks alone, `network`."""
    image = frame()
    calls: dict[str, Callable[[], object]] = {}
    for group, models in groups.items():
        predictors = open_models(models, engine, size_hw)
        inputs = [predictor.prepare(image) for predictor in predictors]
        calls[f"{group} total"] = partial(predict_all, predictors, image)
        calls[f"{group} network"] = partial(run_all, predictors, inputs)
    seconds = alternate(calls, rounds)
    return {
        group: {what: 1000 * statistics.median(seconds[f"{group} {what}"]) for what in ("total", "network")}
        for group in groups
    }


def predict_all(predictors: Sequence[Any], image: np.ndarray) -> None:
    """Sends a frame through all."""
    for predictor in predictors:
        predictor(image)


@torch.inference_mode()
def run_all(predictors: Sequence[Any], inputs: Sequence[torch.Tensor]) -> None:
    """Runs the networks of all."""
    for predictor, prepared in zip(predictors, inputs, strict=True):
        predictor.network(prepared)


def peak_memory(models: Sequence[Model], engine: str, size_hw: tuple[int, int]) -> float:
    """The most memory, MiB, of a process that predicts with all; runs in a process of its own."""
    open_models(models, engine, size_hw)  # a runtime's file is built here, or in the process before
    predictors, image = open_models(models, engine, size_hw), frame()
    for _ in range(3):
        predict_all(predictors, image)
    return peak_mib()


def measure_video(
    groups: Mapping[str, Sequence[Model]],
    engine: str,
    size_hw: tuple[int, int],
    source: str,
    frames: int,
    rounds: int,
) -> dict[str, float]:
    """Frames per second of `tools.video` from file to file, medians; runs in a process of its own."""
    calls: dict[str, Callable[[], object]] = {}
    counts: list[int] = []
    before = thread_counts()
    with tempfile.TemporaryDirectory() as folder:
        for group, models in groups.items():
            asked = Predicting([Path(model.path) for model in models], engine, "cpu", [size_hw] * len(models))
            num_lanes = share_cores(open_source(source), asked)
            shared = thread_counts()
            lanes = [load_predictors(asked, score_threshold=SCORE) for _ in range(num_lanes)]
            warm_up(lanes, source)
            set_thread_counts(*before)

            def run(lanes: Any = lanes, shared: tuple[int, int] = shared) -> None:
                counts.append(run_pipeline(lanes, shared, source, Path(folder) / "out.mp4", frames)[0])

            calls[group] = run
        seconds = alternate(calls, rounds, warm_up=False)
    return {group: counts[0] / statistics.median(spent) for group, spent in seconds.items()}


def print_report(report: Mapping[str, Any], title: str) -> None:
    """Prints what the models are, what they cost in each engine, and the joint network's share of the others'."""
    models = report["models"]
    others = [group for group in models if group != JOINT]
    rows = [
        ["parameters, M", *(f"{found['parameters'] / 1e6:.2f}" for found in models.values())],
        ["multiply-adds, G", *(f"{found['multiply_adds'] / 1e9:.3f}" for found in models.values())],
        ["file, MiB", *(f"{found['file_bytes'] / 2**20:.1f}" for found in models.values())],
    ]
    for engine, found in report["engines"].items():
        rows.append([f"{engine}, ms a frame", *(f"{found['ms'][group]['total']:.1f}" for group in models)])
        rows.append([f"{engine}, ms network", *(f"{found['ms'][group]['network']:.1f}" for group in models)])
        rows.append([f"{engine}, memory, MiB", *(f"{found['memory_mib'][group]:.0f}" for group in models)])
        if "frames_per_second" in found:
            rows.append(
                [f"{engine}, video, frames/s", *(f"{found['frames_per_second'][group]:.1f}" for group in models)]
            )
    for row in rows:
        values = [float(value) for value in row[1:]]
        row += [f"{values[0] / values[list(models).index(group)]:.2f}" for group in others]
    columns = ["", *models, *(f"of {group}" for group in others)]
    console.print(table(title, columns, rows))
