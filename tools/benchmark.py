"""Times this suite beside what a user would do with torchvision, alternating in one run.

    python -m tools.benchmark predict --weights best.safetensors --size 512 1024 --threads 1 2
    python -m tools.benchmark video --weights seg.safetensors --weights det.safetensors --source street.mp4
    python -m tools.benchmark video --weights seg.safetensors --source street.mp4 --resize 1280x720 --size 512 1024
    python -m tools.benchmark joint --backbone mobilenet_v3_large --detection pico96 --size 384 768
    python -m tools.benchmark joint --weights joint.safetensors --source street.mp4
    python -m tools.benchmark train seg configs/cityscapes/lraspp_large.yaml data.root=/data/cityscapes
    python -m tools.benchmark train det configs/coco/ssdlite_large.yaml data.root=/data/coco run.batch=8 --rounds 3
    python -m tools.benchmark backbone --compile
    python -m tools.benchmark seg-step --size 512 512 --batch 4 --compile
    python -m tools.benchmark det-eval
    python -m tools.benchmark det-step
    python -m tools.benchmark det-loader --data /data/coco
    python -m tools.benchmark postprocess
    python -m tools.benchmark seg-loader
    python -m tools.benchmark confusion
    python -m tools.benchmark label-map --weights runs/large/best.safetensors --data /data/cityscapes

`predict`: from a picture to labels or boxes in every engine that is installed, beside torchvision's model of the task
(and ultralytics' smallest detector where that is installed) and beside the bound: the network's multiply-adds at the
rate at which this machine multiplies matrices, measured in the same run. Latency by stage, throughput, memory and file
size; exported files can stand beside weights. A table, benchmark.json and latency.png. Everything runs on the CPU.

`video`: every frame through the models, drawn and written to a file, by `tools.video`'s pipeline, by its stages in turn
and by a plain loop with torchvision's eager models of the same tasks; with the processor time of a frame, and the bound
that follows from it. Peers have random weights unless --peer-weights gives a state dict.

`joint`: a joint network of random weights beside its heads, each with the same layers and a backbone of its own, and
beside the two models that are the default of these heads: a frame's milliseconds, memory, parameters, multiply-adds and
file; with --source, frames per second of `tools.video` too.
`train`: a run of a config as the training tools make it, with its data, log, average, evaluation and saving, beside a
bare loop of forward pass, backward pass and step over the same network, and torchvision's model and reference loop on
the same samples. Images per second, the overhead over the bare loop, our step by part, processor time and memory; a
table and benchmark-train.json. A round of each has as many steps as there are between two rows of the run's log.

`backbone`: building a classifier and its forward pass on 224x224, in evaluation mode as built, beside timm's of the
same network (an extra: pip install -e '.[dev]').

`seg-step`: a training step (forward, cross-entropy at full size, backward, SGD) of LR-ASPP Large in torchvision's
variant as `tools.train_seg` does it, and of torchvision's model as its reference script does it; each in a process of
its own.

`det-eval`: COCO's metrics of generated detections, from files to figures, by pycocotools as its documentation shows and
by `det.evaluate(…, fast=True)`, each in a process of its own.

`det-step`: a training step of SSDLite Large, from bytes to changed weights, beside torchvision's ssdlite320.
`det-loader`: samples from JPEG files by the training's augmentation and by torchvision's SSD preset, in one process.
`postprocess`: raw output to detections, with few and with all scores above the threshold.

`seg-loader`, `confusion`, `label-map`: a training sample from 1024x2048 images, an image's confusion matrix, and its
labels from logits, beside the ways these are usually done.
"""

import argparse
from pathlib import Path

from tools.benchmarks.timm_names import TIMM_NAMES
from tools.io.console import command_parser, run
from tools.options import ENGINES
from tools.video import width_height


def make_parser() -> argparse.ArgumentParser:
    """The command line; every option is named after an argument of its subject's `benchmark`."""
    parser = command_parser("benchmark", __doc__)
    subjects = parser.add_subparsers(dest="subject", metavar="subject", required=True)

    subject = subjects.add_parser("predict", help="latency, throughput and memory of a model in each engine")
    subject.add_argument("--weights", nargs="+", required=True, help="weights or exported files, of one task")
    subject.add_argument(
        "--engine", nargs="+", choices=ENGINES[1:], help="for weights; default: all installed, compiled left out"
    )
    subject.add_argument("--peer-weights", type=Path, help="state dict of torchvision's model; default: random")
    subject.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="network's input; default: the model's or picture's"
    )
    subject.add_argument("--source", type=Path, help="a picture, or a folder of them; default: a painted 1280x720")
    subject.add_argument("--batch", type=positive, nargs="+", default=[1, 4], help="for throughput; default: 1 4")
    subject.add_argument("--threads", type=positive, nargs="+", help="default: as torch chooses")
    subject.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder; default: runs/benchmark")
    add_rounds(subject, 21)

    subject = subjects.add_parser("video", help="frames per second from file to file")
    subject.add_argument("--weights", type=Path, action="append", required=True, help="best.safetensors; repeatable")
    subject.add_argument(
        "--peer-weights", type=Path, action="append", help="torchvision state dict, one for each --weights in order"
    )
    subject.add_argument("--source", required=True, help="video file")
    subject.add_argument("--engine", nargs="+", choices=ENGINES, default=["auto"], help="default: auto, the fastest")
    subject.add_argument(
        "--size",
        action="append",
        type=positive,
        nargs="+",
        metavar="PIXELS",
        help="network's input: height and width, or longer side; once for all models or once for each",
    )
    subject.add_argument("--resize", type=width_height, metavar="W|WxH", help="of the clip, before it is timed")
    subject.add_argument("--out", type=Path, metavar="FILE", help="for the figures in JSON")
    subject.add_argument("--frames", type=positive, default=100, help="per round; default: 100")
    add_rounds(subject, 3)

    subject = subjects.add_parser("joint", help="a joint network beside two models")
    subject.add_argument("--weights", type=Path, help="of a joint network; default: random ones")
    subject.add_argument("--backbone", default="mobilenet_v3_large", help="default: mobilenet_v3_large")
    subject.add_argument("--segmentation", default="lraspp", help="head; default: lraspp")
    subject.add_argument("--detection", default="pico96", help="head; default: pico96")
    subject.add_argument(
        "--size", type=positive, nargs=2, default=(384, 768), metavar=("H", "W"), help="of the input; default: 384 768"
    )
    subject.add_argument("--engine", nargs="+", choices=ENGINES[1:], help="default: all installed, compiled left out")
    subject.add_argument("--threads", type=positive, help="default: as torch chooses")
    subject.add_argument("--source", help="a video, to measure tools.video too")
    subject.add_argument("--frames", type=positive, default=60, help="of the video, per round; default: 60")
    subject.add_argument("--out", type=Path, metavar="FILE", help="for the figures in JSON")
    add_rounds(subject, 21)

    subject = subjects.add_parser("train", help="images per second of a training run, its overhead and its parts")
    subject.add_argument("task", choices=["seg", "det"])
    subject.add_argument("config", type=Path, help="YAML file; see configs/")
    subject.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys, e.g. run.batch=8")
    subject.add_argument("--steps", type=positive, help="of each contender in a round; default: run.log_every")
    subject.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder; default: runs/benchmark")
    add_rounds(subject, 5)

    subject = subjects.add_parser("backbone", help="building and forward pass of classifiers, beside timm's")
    subject.add_argument("--names", nargs="+", choices=list(TIMM_NAMES), default=list(TIMM_NAMES), help="default: all")
    subject.add_argument("--compile", action="store_true", help="torch.compile both as well; takes minutes")
    add_rounds(subject, 7)

    subject = subjects.add_parser("seg-step", help="seconds of a training step of LR-ASPP, and its memory")
    subject.add_argument(
        "--size", type=positive, nargs=2, default=(512, 512), help="height and width; default: 512 512"
    )
    subject.add_argument("--batch", type=positive, default=4, help="images; default: 4")
    subject.add_argument("--threads", type=positive, help="default: as torch chooses")
    subject.add_argument("--compile", action="store_true", help="also with run.compile=true; takes minutes")
    add_rounds(subject, 7)

    subject = subjects.add_parser("det-eval", help="seconds and memory of COCO's metrics")
    subject.add_argument("--images", type=positive, default=5000, help="default: 5000")
    subject.add_argument("--detections", type=positive, default=100, help="per image; default: 100")
    add_rounds(subject, 1)

    subject = subjects.add_parser("det-step", help="a detector's training step")
    subject.add_argument("--batch", type=positive, default=8, help="images; default: 8")
    subject.add_argument("--eager", action="store_true", help="leave the compiled step out, which takes a minute")
    add_rounds(subject, 7)

    subject = subjects.add_parser("det-loader", help="detection samples per second from JPEG files")
    subject.add_argument("--data", type=Path, required=True, help="folder with annotations/ and the images")
    subject.add_argument("--split", default="train2017", help="default: train2017")
    subject.add_argument("--images", type=positive, default=100, help="per round; default: 100")
    add_rounds(subject, 7)

    subject = subjects.add_parser("postprocess", help="raw detector output to boxes")
    add_rounds(subject, 21)

    subject = subjects.add_parser("seg-loader", help="processor time of a training sample, by four ways of loading")
    subject.add_argument("--data", type=Path, help="folder like Cityscapes', enlarged; default: the painted world")
    subject.add_argument("--images", type=positive, default=8, help="per round; default: 8")
    add_rounds(subject, 5)

    subject = subjects.add_parser("confusion", help="milliseconds of a confusion matrix")
    subject.add_argument("--images", type=positive, default=50, help="default: 50")

    subject = subjects.add_parser("label-map", help="milliseconds from logits to labels")
    subject.add_argument("--weights", type=Path, help="best.safetensors; without it, random logits only")
    subject.add_argument("--data", type=Path, default=Path("demo/cityscapes"), help="images for --weights")
    subject.add_argument("--classes", type=Path, help="classes.yaml of one's own data")
    add_rounds(subject, 5)
    return parser


def positive(text: str) -> int:
    """A number from 1 on, for argparse, which names the option and ends with exit code 2 if it cannot be."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number from 1 on")
    return int(text)


def add_rounds(subject: argparse.ArgumentParser, default: int) -> None:
    subject.add_argument("--rounds", type=positive, default=default, help=f"alternating; default: {default}")


def main(argv: list[str] | None = None) -> int:
    options = vars(make_parser().parse_args(argv))
    # Imported only now, so that --help and refusals come at once.
    from tools.benchmarks import (
        backbone,
        confusion,
        det_eval,
        det_loader,
        det_step,
        joint,
        label_map,
        postprocess,
        predict,
        seg_loader,
        seg_step,
        train,
        video,
    )

    subjects = {
        "predict": predict.benchmark,
        "video": video.benchmark,
        "joint": joint.benchmark,
        "train": train.benchmark,
        "backbone": backbone.benchmark,
        "seg-step": seg_step.benchmark,
        "det-eval": det_eval.benchmark,
        "det-step": det_step.benchmark,
        "det-loader": det_loader.benchmark,
        "postprocess": postprocess.benchmark,
        "seg-loader": seg_loader.benchmark,
        "confusion": confusion.benchmark,
        "label-map": label_map.benchmark,
    }
    subjects[options.pop("subject")](**options)
    return 0


if __name__ == "__main__":
    run(main)
