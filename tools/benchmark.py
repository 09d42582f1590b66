"""Times this suite beside what a user would do with torchvision, alternating in one run.

    python -m tools.benchmark video --weights seg.safetensors --weights det.safetensors --source street.mp4

    python -m tools.benchmark det-step
    python -m tools.benchmark det-loader --data /data/coco
    python -m tools.benchmark postprocess

`video`: every frame through the models, drawn and written to a file, by `tools.video`'s pipeline and by a plain loop
with torchvision's eager models of the same tasks. Peers have random weights unless --peer-weights gives a state dict.
`det-step`: a training step of SSDLite Large, from bytes to changed weights, beside torchvision's ssdlite320.
`det-loader`: samples from JPEG files by the training's augmentation and by torchvision's SSD preset, in one process.
`postprocess`: raw output to detections, with few and with all scores above the threshold.
"""

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import det
from backbone.inference import normalise
from backbone.weights import read_weights
from seg.cityscapes import COLORS
from tools.config import Optim
from tools.console import console, progress, run, table
from tools.loop import make_optimizer, single_thread
from tools.predict import load
from tools.video import Counts, Drawing, process
from tools.video_io import open_sink, open_source

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
    """The comparison of training steps; the pictures have torchvision's own transform's size already."""
    batch, num_classes, side = arguments.batch, 90, 320
    generator = np.random.default_rng(0)
    pictures = torch.from_numpy(generator.integers(0, 256, (batch, 3, side, side), np.uint8))
    samples = []
    for number in range(batch):
        corners = generator.uniform(0, 240, (7, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(8, 80, (7, 2))], axis=1)
        labels = torch.from_numpy(generator.integers(0, num_classes, 7))
        samples.append(
            det.Sample(pictures[number], torch.tensor(boxes, dtype=torch.float32), labels, number, (side, side))
        )

    def ours(compile_: bool) -> Callable[[], object]:
        torch.manual_seed(0)
        model = det.create(num_classes=num_classes + 1, variant="torchvision").to(memory_format=torch.channels_last)
        criterion = det.SSDLoss("softmax", background=True)
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
    print_times(f"a training step of {batch} pictures", seconds, "torchvision")


def det_loader(arguments: argparse.Namespace) -> None:
    """The comparison of data loading; torchvision decodes with Pillow, as its references do."""
    single_thread(0)
    ours = det.CocoDetection(arguments.data, arguments.split, transform=det.train_transform(320))
    preset = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=[123, 117, 104]),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((320, 320), antialias=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    plain = det.CocoDetection(arguments.data, arguments.split)
    rounds = itertools.count()
    indices = range(min(arguments.pictures, len(ours)))

    def load_ours() -> None:
        epoch = next(rounds)
        for index in indices:
            ours[(epoch, index)]

    def load_theirs() -> None:
        for index in indices:
            with Image.open(plain.folder / str(plain.files[index])) as picture:
                image = picture.convert("RGB")
            mine = slice(plain.first[index], plain.first[index + 1])
            boxes = tv_tensors.BoundingBoxes(plain.boxes[mine], format="XYXY", canvas_size=(image.height, image.width))
            preset(image, {"boxes": boxes, "labels": torch.from_numpy(plain.labels[mine])})

    seconds = alternate({"torchvision": load_theirs, "taproot": load_ours}, arguments.rounds, time.process_time)
    print_times(f"{len(indices)} samples, processor time", seconds, "torchvision")
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
    command = commands.add_parser("det-step", help="a detector's training step")
    command.add_argument("--batch", type=int, default=8, help="pictures; default: 8")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.add_argument("--eager", action="store_true", help="leave the compiled step out, which takes a minute")
    command.set_defaults(run=det_step)
    command = commands.add_parser("det-loader", help="detection samples per second from JPEG files")
    command.add_argument("--data", type=Path, required=True, help="folder with annotations/ and the pictures")
    command.add_argument("--split", default="train2017", help="default: train2017")
    command.add_argument("--pictures", type=int, default=100, help="per round; default: 100")
    command.add_argument("--rounds", type=int, default=7, help="alternating; default: 7")
    command.set_defaults(run=det_loader)
    command = commands.add_parser("postprocess", help="raw detector output to boxes")
    command.add_argument("--rounds", type=int, default=21, help="alternating; default: 21")
    command.set_defaults(run=postprocess)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    run(main)
