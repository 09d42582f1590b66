"""Writes what models find in images or a video into files: labels, boxes, confidence, drawn images.

    python -m tools.predict --weights seg.safetensors --source images --output found --save labels,color
    python -m tools.predict --weights seg.safetensors --weights det.safetensors --source list.txt --output found
    python -m tools.predict --weights det.safetensors --source in.mp4 --output found --save json,csv
    python -m tools.predict --weights joint.safetensors --source images --output found --save overlay,json,panoptic
    python -m tools.predict --weights seg.safetensors --source list.txt --output found --ray local

The source is an image, a folder with all below it, a quoted glob, a text file of one image per line (relative to the
text's folder), or a video. --save takes, separated by commas:

    overlay  the image with all results drawn on it         labels  PNG of label ids: Cityscapes' for its 19 classes,
    color    the same ids as a PNG in the classes' colors           the model's own indices for others
    scores   PNG of the winning class's probability, 255: 1 json    detections.json, COCO's results
    panoptic areas and boxes as single things, COCO's PNG   csv     detections.csv
             and panoptic.json, approximately

A run that was killed goes on when it is started again: what is done is not done again. In Python:

    from tools.predict import load
    model = load("best.safetensors")
    result = model(frame_bgr)         # uint8 [H, W, 3]
    image = result.draw(frame_bgr)

A joint network's result has `labels` of the pixels, and `boxes`, `scores` and `box_labels`.
Exit codes: 0 complete; 2 bad input; 130 stopped by Ctrl-C.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import InputError
from tools.io.console import command_parser, num_workers, run
from tools.options import ENGINES
from tools.predicting.settings import SAVES, Saving, Task, parse_saves

if TYPE_CHECKING:
    import torch

    import det
    import seg
    from backbone.inference import Size
    from tools.joint.predictor import Predictor as JointPredictor


def load(
    path: str | Path,
    engine: str = "auto",
    *,
    size: "Size" = None,
    device: "str | torch.device | None" = None,
    score_threshold: float = 0.3,
    nms: bool = True,
    scores: bool = False,
) -> "seg.Predictor | det.Predictor | JointPredictor":
    """A predictor: call it with an image, uint8 BGR [H, W, 3], for its result, or with a list of images for a list.

    What it finds is in the pixels of the image, whatever the size of the network's input. `model.engine` is the name
    of what runs it.

    Arguments:
        path: the best.safetensors of a run, a folder that tools.publish made, a name of published weights, or an
            exported file: .onnx, OpenVINO's .xml, .pt2.
        engine: "torch"; "compiled" by torch's compiler; the runtimes "onnxruntime" and "openvino"; or "auto" for the
            fastest one installed. An exported file comes with its own.
        size: of the network's input: (height, width), or one number for the longer side, in pixels; by default the
            image's own for a segmenter, and the size it was trained at for a detector and for a joint network's.
        device: by default a GPU if there is one. The runtimes run on the CPU.
        score_threshold: a detector gives boxes that score above this; a segmenter has no use for it.
        nms: a detector's boxes are chosen by non-maximum suppression; else they are those of its one-to-one predictors
            (trained with model.one_to_one=true), which need none. An exported file is one or the other.
        scores: a segmenter also gives each pixel's probability, which takes longer, and a joint network gives it as
            `label_scores`; boxes always have scores.

    Raises:
        InputError: a file, name, engine or size cannot be used.
    """
    from tools.predicting.models import load

    return load(path, engine, size=size, device=device, score_threshold=score_threshold, nms=nms, scores=scores)


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line, checked as far as it can be without opening anything.

    Raises:
        InputError: a value out of range, or options that exclude each other.
    """
    parser = command_parser("predict", __doc__)
    parser.add_argument(
        "--weights", action="append", required=True, type=Path, metavar="FILE", help="trained model; one for each task"
    )
    parser.add_argument("--source", required=True, help="image, folder, quoted glob, .txt list of images, or video")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for all files")
    parser.add_argument(
        "--save",
        type=parse_saves,
        metavar="LIST",
        help=f"of {','.join(SAVES)}; default: labels of a segmenter, json of a detector",
    )
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="default: auto, the fastest installed")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one")
    parser.add_argument(
        "--size", nargs="+", type=int, metavar="N", help="of the network's input: H W, or the longer side, in pixels"
    )
    parser.add_argument(
        "--score-threshold", type=float, default=0.3, metavar="S", help="boxes that score above it; default: 0.3"
    )
    parser.add_argument(
        "--no-nms",
        action="store_true",
        help="of a pico detector: the best boxes among neighbors, none suppressed",
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images at a time; default: 1")
    parser.add_argument(
        "--workers", type=num_workers, default=2, help="threads that read images, and that write files; default: 2"
    )
    parser.add_argument(
        "--skip-damaged", action="store_true", help="pass over images that cannot be read; names in DIR/damaged.txt"
    )
    parser.add_argument("--overwrite", action="store_true", help="delete what an earlier run predicted into DIR")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="share the images among the machines of a Ray cluster; local: this machine"
    )
    parser.add_argument("--ray-workers", type=int, metavar="N", help="models at work; default: one for each machine")
    args = parser.parse_args(argv)
    if not 0 <= args.score_threshold <= 1:
        raise InputError(f"--score-threshold {args.score_threshold:g}: must lie between 0 and 1")
    for option, value, least in (
        ("--batch", args.batch, 1),
        ("--workers", args.workers, 1),
        ("--ray-workers", args.ray_workers, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"{option} {value}: must be at least {least}")
    if args.size is not None and len(args.size) > 2:
        raise InputError(f"--size {' '.join(map(str, args.size))}: give height and width, or the longer side")
    if args.ray_workers is not None and args.ray is None:
        raise InputError("--ray-workers needs --ray; --workers are the threads of a run without it")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    # Imported only now, so that --help and refusals come at once.
    from tools.predicting.run import predict

    size = None if args.size is None else args.size[0] if len(args.size) == 1 else tuple(args.size)
    task = Task(
        weights=args.weights,
        source=args.source,
        engine=args.engine,
        device=args.device,
        size=size,
        score_threshold=args.score_threshold,
        nms=not args.no_nms,
        batch=args.batch,
        workers=args.workers,
        skip_damaged=args.skip_damaged,
    )
    saving = Saving(folder=args.output, kinds=args.save, overwrite=args.overwrite)
    return predict(task, saving, ray_address=args.ray, ray_workers=args.ray_workers)


if __name__ == "__main__":
    run(main)
