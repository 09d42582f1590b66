"""Times this suite beside what a user would do with torchvision, alternating in one run.

    python -m tools.benchmark video --weights seg.safetensors --weights det.safetensors --source street.mp4
    python -m tools.benchmark backbone --compile
    python -m tools.benchmark seg-step --size 512 512 --batch 4 --compile
    python -m tools.benchmark det-eval
    python -m tools.benchmark det-step
    python -m tools.benchmark det-loader --data /data/coco
    python -m tools.benchmark postprocess
    python -m tools.benchmark seg-loader
    python -m tools.benchmark confusion
    python -m tools.benchmark label-map --weights runs/large/best.safetensors --data /data/cityscapes

`video`: every frame through the models, drawn and written to a file, by `tools.video`'s pipeline and by a plain loop
with torchvision's eager models of the same tasks. Peers have random weights unless --peer-weights gives a state dict.

`backbone`: building a classifier and its forward pass on 224x224, in evaluation mode as built, beside timm's of the
same network (an extra: pip install -e '.[dev]').

`seg-step`: a training step (forward, cross-entropy at full size, backward, SGD) of LR-ASPP Large in torchvision's
variant as `tools.train_seg` does it, and of torchvision's model as its reference script does it; each in a process of
its own.

`det-eval`: generated detections judged by pycocotools as its documentation shows and by `det.evaluate(…, fast=True)`,
from files to figures, each in a process of its own.

`det-step`: a training step of SSDLite Large, from bytes to changed weights, beside torchvision's ssdlite320.
`det-loader`: samples from JPEG files by the training's augmentation and by torchvision's SSD preset, in one process.
`postprocess`: raw output to detections, with few and with all scores above the threshold.

`seg-loader`, `confusion`, `label-map`: a training sample from 1024x2048 images, an image's confusion matrix, and its
labels from logits, beside the ways these are usually done.
"""

import argparse
import contextlib
import ctypes
import io
import itertools
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import backbone as backbones
import det.metrics
import seg.loss
from backbone.inference import normalise
from backbone.weights.loading import read_weights
from seg.data.cityscapes import COLORS
from tools.benchmarks.seg import add_commands
from tools.io.console import console, progress, run, table
from tools.predict import load
from tools.run.config import Optim
from tools.run.loop import make_optimizer, single_thread
from tools.streams.video_io import open_sink, open_source
from tools.video import Counts, Drawing, process

SCORE = 0.5


def time_pipeline(models: list, source: str, output: Path, num_frames: int) -> int:
    """Sends the frames through `tools.video`'s pipeline; returns how many were written."""
    stream, counts = open_source(source), Counts()
    sink = open_sink(output, stream.fps, True)
    process(stream, models, sink, counts=counts, drawing=Drawing(), stop=threading.Event(), max_frames=num_frames)
    sink.close()
    return counts.frames_written


def make_peer(task: str, num_classes: int, weights: Path | None) -> nn.Module:
    """torchvision's model of a task, built and used as its documentation shows."""
    if task == "segmentation":
        model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes
        )
    else:
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes + 1
        )
        if weights is None:  # a trained detector finds little in most frames: random ones must not pay for thousands
            for level in model.head.classification_head.module_list:
                with torch.no_grad():
                    level[1].bias.view(-1, num_classes + 1)[:, 0] = 10.0
    if weights is not None:
        model.load_state_dict(read_weights(weights))
    return model.eval()


def time_plain_loop(peers: list[tuple[str, nn.Module, list[str]]], source: str, output: Path, num_frames: int) -> int:
    """Reads, predicts, draws and writes frame after frame with eager models; returns how many were written."""
    capture = cv2.VideoCapture(source)
    size_wh = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), 24, size_wh)
    palette = np.array(COLORS, np.uint8)[:, ::-1]
    written = 0
    while written < num_frames:
        read, frame = capture.read()
        if not read:
            break
        rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1) / 255
        for task, model, classes in peers:
            with torch.no_grad():
                if task == "segmentation":
                    image = F.normalize(rgb, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
                    labels = model(image[None])["out"].argmax(1)[0].numpy()
                    frame = cv2.addWeighted(frame, 0.5, palette[labels], 0.5, 0)
                else:
                    found = model([rgb])[0]
                    for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
                        if score >= SCORE:
                            left, top, right, bottom = (round(value) for value in box.tolist())
                            cv2.rectangle(frame, (left, top), (right, bottom), (0, 255, 0), 2)
                            text = f"{classes[label - 1]} {score:.2f}"
                            cv2.putText(frame, text, (left, top), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 0))
        writer.write(frame)
        written += 1
    capture.release()
    writer.release()
    return written


def video(arguments: argparse.Namespace) -> None:
    """The comparison on a video."""
    models = [load(path) for path in arguments.weights]
    given = arguments.peer_weights or []
    peers = [
        (model.task, make_peer(model.task, len(model.classes), weights), model.classes)
        for model, weights in itertools.zip_longest(models, given[: len(models)])
    ]
    speeds: dict[str, list[float]] = {"taproot": [], "torchvision, plain loop": []}
    with tempfile.TemporaryDirectory() as folder, progress() as bar:
        task = bar.add_task("video", total=2 * arguments.rounds)
        for _ in range(arguments.rounds):
            contenders: list[tuple[str, Callable, list]] = [
                ("taproot", time_pipeline, models),
                ("torchvision, plain loop", time_plain_loop, peers),
            ]
            for name, contender, loaded in contenders:
                start = time.perf_counter()
                written = contender(loaded, arguments.source, Path(folder) / f"{len(name)}.mp4", arguments.frames)
                speeds[name].append(written / (time.perf_counter() - start))
                bar.advance(task)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    rows = [[name, f"{medians[name]:.2f}", f"{min(v):.2f} to {max(v):.2f}"] for name, v in speeds.items()]
    console.print(table(f"frames per second, {arguments.source}", ["", "median", "range"], rows))
    ratio = medians["taproot"] / medians["torchvision, plain loop"]
    console.print(
        f"{ratio:.2f}x; {torch.get_num_threads()} threads, {arguments.frames} frames, {arguments.rounds} rounds"
    )


TIMM_NAMES = {
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mnasnet_a1": "semnasnet_100",
    "mobilenet_v4_conv_small": "mobilenetv4_conv_small",
}


def backbone(arguments: argparse.Namespace) -> None:
    """The comparison of classifiers with timm's."""
    import timm

    keep_memory()
    batches = (1, 32)
    rows = []
    with progress() as bar, torch.inference_mode():
        for name in bar.track(arguments.names, description="backbone"):
            makers = (partial(backbones.classifier, name), partial(timm.create_model, TIMM_NAMES[name]))
            models = [make().eval() for make in makers]
            ratios = [compare(makers, arguments.rounds)]
            for compiled in (False, True)[: 1 + arguments.compile]:
                runners = [torch.compile(model) if compiled else model for model in models]
                for batch in batches:
                    images = torch.randn(batch, 3, 224, 224)
                    rounds = arguments.rounds if batch > 1 else 5 * arguments.rounds
                    ratios.append(compare([partial(runner, images) for runner in runners], rounds))
            rows.append([name, *(f"{ours:.1f} / {theirs:.1f} = {ours / theirs:.2f}" for ours, theirs in ratios)])
    columns = ["", "building", *(f"eager, batch {n}" for n in batches)]
    columns += [f"compiled, batch {n}" for n in batches] if arguments.compile else []
    title = f"milliseconds, taproot / timm; {torch.get_num_threads()} threads, {arguments.rounds} rounds"
    console.print(table(title, columns, rows))


def keep_memory() -> None:
    """Lets the process keep what it frees (glibc).

    Else large maps are pages that the system gives anew in every forward pass, a third of its time, and of two
    contenders in one process the one pays that finds the memory given back by the other: seen to shift ratios by 0.15.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing is mapped by itself
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def compare(contenders: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each contender, called in turn, after one call that does not count."""
    times: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for index in range(len(contenders)):
            place = (index + number) % len(contenders)  # who comes first changes
            start = time.perf_counter()
            contenders[place]()
            if number:
                times[place].append(1000 * (time.perf_counter() - start))
    return [statistics.median(values) for values in times]


def make_seg_step(contender: str, size_hw: tuple[int, int], batch: int) -> Callable[[], None]:
    """A training step of "torchvision", "taproot" or "taproot compiled" on random images of 19 classes."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size_hw)
    labels = torch.randint(0, 19, (batch, *size_hw), dtype=torch.uint8)
    if contender == "torchvision":
        model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=19
        ).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-6)

        def loss() -> torch.Tensor:
            return cross_entropy(model(images)["out"], labels.long(), ignore_index=255)
    else:
        plain = seg.create(variant="torchvision").train().to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer = make_optimizer(plain, Optim(name="sgd", lr=0.01, weight_decay=1e-6))
        stepped = torch.compile(plain) if contender == "taproot compiled" else plain

        def loss() -> torch.Tensor:
            return seg.loss.cross_entropy(stepped(images), labels)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def serve_seg_steps(pipe: Connection, contender: str, size_hw: tuple[int, int], batch: int, threads: int) -> None:
    """In a process of its own: does a step for every message and answers with its seconds, at the end with its memory.

    The first answer is the time to the end of the first step, compilation included; one more step warms up.
    """
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step = make_seg_step(contender, size_hw, batch)
    step()
    first = time.perf_counter() - start
    step()
    pipe.send(first)
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def seg_step(arguments: argparse.Namespace) -> None:
    """The comparison of training steps."""
    context = multiprocessing.get_context("spawn")
    contenders = ["torchvision", "taproot"] + ["taproot compiled"] * arguments.compile
    pipes, first = {}, {}
    for contender in contenders:  # one after the other: nothing runs beside a first step
        pipes[contender], theirs = context.Pipe()
        settings = (theirs, contender, tuple(arguments.size), arguments.batch, arguments.threads)
        context.Process(target=serve_seg_steps, args=settings, daemon=True).start()
        first[contender] = pipes[contender].recv()
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    with progress() as bar:
        for _ in bar.track(range(arguments.rounds), description="rounds"):
            for contender in contenders:
                pipes[contender].send(True)
                seconds[contender].append(pipes[contender].recv())
    rows, medians = [], {contender: statistics.median(values) for contender, values in seconds.items()}
    for contender, values in seconds.items():
        pipes[contender].send(False)
        ratio = medians["torchvision"] / medians[contender]
        memory = f"{pipes[contender].recv():.0f} MiB"
        times = [f"{medians[contender]:.2f} s", f"{min(values):.2f} to {max(values):.2f}", f"{ratio:.2f}x"]
        rows.append([contender, *times, memory, f"{first[contender]:.0f} s"])
    height, width = arguments.size
    title = f"training step, {arguments.batch} images of {height}x{width}, {arguments.threads} threads"
    console.print(table(title, ["", "median", "range", "speed", "peak memory", "first step"], rows))


def generate_detections(folder: Path, *, images: int, per_image: int, classes: int = 80) -> tuple[Path, Path]:
    """Writes annotations (7.25 boxes an image on average, 1 % crowds) and results json of that size."""
    random = np.random.default_rng(0)
    category_ids = np.arange(1, classes + 1) + np.arange(classes) // 8  # with gaps, as COCO's
    annotations, results = [], []
    for image_id in range(1, images + 1):
        count = min(random.poisson(7.25), per_image)
        corners, sides = random.uniform(0, 400, (count, 2)), random.lognormal(4, 1, (count, 2)).clip(2, 240)
        boxes = np.concatenate([corners, sides], axis=1)
        labels = random.integers(classes, size=count)
        for box, label in zip(boxes.tolist(), labels, strict=True):
            crowd = int(random.random() < 0.01)
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(category_ids[label])}
            annotations.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd})
        near = boxes * random.normal(1, 0.1, boxes.shape)
        far = np.concatenate(
            [random.uniform(0, 400, (per_image - count, 2)), random.uniform(5, 200, (per_image - count, 2))], axis=1
        )
        found = np.concatenate([near, far]).round(2)
        found_labels = np.concatenate([labels, random.integers(classes, size=per_image - count)])
        scores = np.concatenate([random.beta(4, 2, count), random.beta(1, 6, per_image - count)]).round(4)
        for box, label, score in zip(found.tolist(), found_labels, scores.tolist(), strict=True):
            results.append({"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score})
    truth = {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 640, "width": 640} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": int(number), "name": f"class {number}"} for number in category_ids],
    }
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


def judge_by_pycocotools(truth: Path, results: Path) -> list[float]:
    """The twelve figures, the way pycocotools' demo computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        judge = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


def judge_fast(truth: Path, results: Path) -> list[float]:
    """The twelve figures by this suite's quick evaluation."""
    figures = det.evaluate(truth, det.read_results(results), fast=True)
    return [figures[name] for name in det.metrics.FIGURES]


class Measured(NamedTuple):
    """What a judge found and took."""

    figures: list[float]
    seconds: float
    processor_seconds: float
    peak_gb: float


def measure(judge: Callable[[Path, Path], list[float]], files: tuple[Path, Path]) -> Measured:
    """Let a judge judge."""
    start, processor_start = time.perf_counter(), time.process_time()
    figures = judge(*files)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Measured(figures, seconds, processor_seconds, peak)


def det_eval(arguments: argparse.Namespace) -> None:
    """The comparison of detection evaluations."""
    judges = {"taproot, fast": judge_fast, "pycocotools": judge_by_pycocotools}
    measured: dict[str, list[Measured]] = {name: [] for name in judges}
    with tempfile.TemporaryDirectory() as folder, progress() as bar:
        files = generate_detections(Path(folder), images=arguments.images, per_image=arguments.detections)
        task = bar.add_task("det-eval", total=len(judges) * arguments.rounds)
        for _ in range(arguments.rounds):
            for name, judge in judges.items():
                # A process of its own for each, so that the peak of memory is that judge's.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    measured[name].append(pool.apply(measure, (judge, files)))
                bar.advance(task)
    rows, processor_seconds = [], {}
    for name, runs in measured.items():
        seconds, processor_seconds[name] = (
            statistics.median(getattr(run, clock) for run in runs) for clock in ("seconds", "processor_seconds")
        )
        peak = max(run.peak_gb for run in runs)
        rows.append(
            [name, f"{seconds:.1f}", f"{processor_seconds[name]:.1f}", f"{peak:.2f}", f"{runs[0].figures[0]:.6f}"]
        )
    title = f"{arguments.images} images x {arguments.detections} detections"
    console.print(table(title, ["", "seconds", "of a processor", "peak GB", "AP"], rows))
    figures = [run.figures for runs in measured.values() for run in runs]
    difference = max(abs(one - other) for run in figures for one, other in zip(run, figures[0], strict=True))
    ratio = processor_seconds["pycocotools"] / processor_seconds["taproot, fast"]
    console.print(f"{ratio:.2f}x in processor time; the twelve figures differ by at most {difference:.1e}")


def alternate(
    contenders: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each round of each contender, taken in turn after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with progress() as bar:
        task = bar.add_task("rounds", total=(rounds + 1) * len(contenders))
        for number in range(rounds + 1):
            for name, contender in contenders.items():
                start = clock()
                contender()
                if number:
                    seconds[name].append(clock() - start)
                bar.advance(task)
    return seconds


def print_times(title: str, seconds: dict[str, list[float]], peer: str) -> None:
    """A table of milliseconds; ratios to the peer are of medians."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        [
            name,
            f"{1000 * medians[name]:.1f}",
            f"{1000 * min(v):.1f} to {1000 * max(v):.1f}",
            f"{medians[peer] / medians[name]:.2f}x",
        ]
        for name, v in seconds.items()
    ]
    console.print(table(f"{title}, ms", ["", "median", "range", "ratio"], rows))
    console.print(f"{torch.get_num_threads()} threads, {len(seconds[peer])} alternating rounds")


def det_step(arguments: argparse.Namespace) -> None:
    """The comparison of training steps; the images have torchvision's own transform's size already."""
    batch, num_classes, side = arguments.batch, 90, 320
    generator = np.random.default_rng(0)
    batch_images = torch.from_numpy(generator.integers(0, 256, (batch, 3, side, side), np.uint8))
    samples = []
    for number in range(batch):
        corners = generator.uniform(0, 240, (7, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(8, 80, (7, 2))], axis=1)
        labels = torch.from_numpy(generator.integers(0, num_classes, 7))
        samples.append(
            det.Sample(batch_images[number], torch.tensor(boxes, dtype=torch.float32), labels, number, (side, side))
        )

    def ours(compile_: bool) -> Callable[[], object]:
        torch.manual_seed(0)
        model = det.create(num_classes=num_classes + 1, variant="torchvision").to(memory_format=torch.channels_last)
        criterion = det.DetectionLoss("softmax", background=True)
        optimizer = make_optimizer(model, Optim(name="sgd", lr=0.01))

        def loss(model: nn.Module, batch: det.Batch) -> dict[str, torch.Tensor]:
            images = normalise(batch.images, (0.5,) * 3, (0.5,) * 3)
            return criterion(model(images), model.anchors, batch.targets)

        if compile_:
            loss = torch.compile(loss, dynamic=False, fullgraph=True)

        def step() -> None:
            total = sum(loss(model, det.collate(samples)).values())
            total.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    def theirs() -> Callable[[], object]:
        torch.manual_seed(0)
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=num_classes + 1
        ).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)

        def step() -> None:
            images = [sample.image.float() / 255 for sample in samples]
            targets = [{"boxes": sample.boxes, "labels": sample.labels + 1} for sample in samples]
            total = sum(model(images, targets).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()

        return step

    contenders = {"torchvision": theirs(), "taproot": ours(False)}
    if not arguments.eager:
        contenders["taproot, compiled"] = ours(True)
    seconds = alternate(contenders, arguments.rounds)
    print_times(f"a training step of {batch} images", seconds, "torchvision")


def det_loader(arguments: argparse.Namespace) -> None:
    """The comparison of data loading.

    torchvision's is the preset "ssd" of its references, on Pillow's images, their default, and on tensors (--backend
    tensor). It leaves resizing to the model, which does it image by image, bilinear on the float tensor; here the
    preset ends with that, so that all give 320x320. Theirs are float32, ours uint8: the training step normalises them.
    """
    single_thread(0)
    side = 320
    ours = det.CocoDetection(arguments.data, arguments.split, transform=det.train_transform(side))
    plain = det.CocoDetection(arguments.data, arguments.split)
    rounds = itertools.count()
    indices = range(min(arguments.images, len(ours)))

    def load_ours() -> None:
        epoch = next(rounds)
        for index in indices:
            ours[(epoch, index)]

    def load_theirs(preset: v2.Compose) -> None:
        for index in indices:
            with Image.open(plain.folder / str(plain.files[index])) as file:
                image = file.convert("RGB")
            mine = slice(plain.first[index], plain.first[index + 1])
            boxes = tv_tensors.BoundingBoxes(plain.boxes[mine], format="XYXY", canvas_size=(image.height, image.width))
            preset(image, {"boxes": boxes, "labels": torch.from_numpy(plain.labels[mine])})

    augment = [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill=[123, 117, 104]),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
    ]
    finish = [
        v2.ToDtype(torch.float32, scale=True),
        v2.SanitizeBoundingBoxes(),
        v2.Resize((side, side), antialias=False),
        v2.ToPureTensor(),
    ]
    contenders = {
        "torchvision, Pillow": partial(load_theirs, v2.Compose([*augment, v2.PILToTensor(), *finish])),
        "torchvision, tensors": partial(load_theirs, v2.Compose([v2.PILToTensor(), *augment, *finish])),
        "taproot": load_ours,
    }
    seconds = alternate(contenders, arguments.rounds, time.process_time)
    print_times(f"{len(indices)} samples, processor time", seconds, "torchvision, Pillow")
    rate = len(indices) / statistics.median(seconds["taproot"])
    console.print(f"taproot: {rate:.0f} samples/s and core")


def postprocess(arguments: argparse.Namespace) -> None:
    """The comparison of post-processing, on random output of ssdlite320."""
    peer = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=91
    ).eval()
    anchors = det.create(num_classes=91, variant="torchvision").anchors
    finish = det.PostProcess("softmax", background=True)
    for spread, background in ((1.0, 30.0), (2.0, 13.0), (2.0, 9.0), (0.3, 0.0)):
        torch.manual_seed(0)
        logits = torch.randn(1, len(anchors), 91) * spread
        logits[..., 0] += background
        raw = det.RawDetections(logits, torch.randn(1, len(anchors), 4))
        contenders = {
            "torchvision": partial(
                peer.postprocess_detections,
                {"cls_logits": raw.class_logits, "bbox_regression": raw.box_offsets},
                [anchors],
                [(320, 320)],
            ),
            "taproot": partial(finish, raw, anchors, (320, 320), [(320, 320)]),
        }
        with torch.inference_mode():
            passing = int((logits.softmax(dim=-1)[..., 1:] > 0.001).sum())
            seconds = alternate(contenders, arguments.rounds)
        print_times(f"{passing} of {logits[..., 1:].numel()} scores pass", seconds, "torchvision")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("video", help="frames per second from file to file")
    command.add_argument("--weights", type=Path, action="append", required=True, help="best.safetensors; repeatable")
    command.add_argument(
        "--peer-weights", type=Path, action="append", help="torchvision state dict, one for each --weights in order"
    )
    command.add_argument("--source", required=True, help="video file")
    command.add_argument("--frames", type=int, default=100, help="per round; default: 100")
    command.add_argument("--rounds", type=int, default=3, help="alternating; default: 3")
    command.set_defaults(run=video)
    command = commands.add_parser("backbone", help="building and forward pass of classifiers, beside timm's")
    command.add_argument("--names", nargs="+", choices=list(TIMM_NAMES), default=list(TIMM_NAMES), help="default: all")
    command.add_argument("--compile", action="store_true", help="torch.compile both as well; takes minutes")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.set_defaults(run=backbone)
    command = commands.add_parser("seg-step", help="seconds of a training step of LR-ASPP, and its memory")
    command.add_argument("--size", type=int, nargs=2, default=(512, 512), help="height and width; default: 512 512")
    command.add_argument("--batch", type=int, default=4, help="images; default: 4")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: as torch chooses")
    command.add_argument("--compile", action="store_true", help="also with run.compile=true; takes minutes")
    command.set_defaults(run=seg_step)
    command = commands.add_parser("det-eval", help="seconds and memory of COCO's figures")
    command.add_argument("--images", type=int, default=5000, help="default: 5000")
    command.add_argument("--detections", type=int, default=100, help="per image; default: 100")
    command.add_argument("--rounds", type=int, default=1, help="alternating; default: 1")
    command.set_defaults(run=det_eval)
    command = commands.add_parser("det-step", help="a detector's training step")
    command.add_argument("--batch", type=int, default=8, help="images; default: 8")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.add_argument("--eager", action="store_true", help="leave the compiled step out, which takes a minute")
    command.set_defaults(run=det_step)
    command = commands.add_parser("det-loader", help="detection samples per second from JPEG files")
    command.add_argument("--data", type=Path, required=True, help="folder with annotations/ and the images")
    command.add_argument("--split", default="train2017", help="default: train2017")
    command.add_argument("--images", type=int, default=100, help="per round; default: 100")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.set_defaults(run=det_loader)
    command = commands.add_parser("postprocess", help="raw detector output to boxes")
    command.add_argument("--rounds", type=int, default=21, help="alternating; default: 21")
    command.set_defaults(run=postprocess)
    add_commands(commands)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    run(main)
