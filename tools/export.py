"""Exports a model to a file that runs without this package, if the file's outputs are the model's.

    python -m tools.export --weights runs/large/best.safetensors --format onnx --size 512 1024
    python -m tools.export --weights best.safetensors --format openvino --size 512 1024 street.xml --output raw
    python -m tools.export --weights runs/det/best.safetensors --format onnx --images photos --score-threshold 0.3
    python -m tools.export --weights best.safetensors --format onnx --dynamic
    python -m tools.export --weights efficientnet_lite0 --format onnx --taps 5.expand last
    python -m tools.export --weights best.safetensors --format torch --size 512 1024 --aoti
    python -m tools.export --weights best.safetensors --format openvino --size 512 1024 --int8 --data /data/cityscapes
    python -m tools.export --weights both.safetensors --format openvino --int8 --segmentation camvid \\
        --classes camvid/classes.yaml --detection /data/coco

The file takes `image`, uint8 [N, H, W, 3]: normalisation is inside. It gives `labels` of every pixel, or `boxes`,
`scores` and `labels`; with --output raw, the network's own output. Classes, colors and how to use the file stand in it.
Before it is kept, its runtime runs it on images, and what it gives is compared with the model in float32; a file that
differs is deleted and the command ends with 1. OUT.parity.json records the comparison.

--int8 then makes the file compute in 8 bits, calibrated on the training pictures in --data, for a joint network in
--segmentation and --detection. Its outputs differ, so it is judged by its metric (mIoU, AP) on the validation pictures:
if that loses more than --max-loss, it is deleted.
"""

import argparse
import sys
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run
from tools.options import CHANNELS, FORMATS, OUTPUTS

HEADS = ("segmentation", "detection")
"""Of a joint network, each with data of its own."""
CALIBRATION = 100
"""Pictures that calibrate an int8 file."""
MAX_LOSS = 1.0
"""Points of 100 of the metric that an int8 file may lose."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without reading files is."""
    parser = command_parser("export", __doc__)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="the file; default: beside the weights")
    parser.add_argument(
        "--weights", required=True, type=Path, help="best.safetensors of a run, a published folder, or a name"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the file")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="height and width of the input in pixels; default: a detector's or a classifier's own",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="any number of images and, except for a detector, of any size"
    )
    parser.add_argument("--output", choices=OUTPUTS, help="default: final where the model and the format have it")
    parser.add_argument("--channels", choices=CHANNELS, default="bgr", help="order in the input; default: bgr")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="to compare on; default: painted street scenes")
    parser.add_argument(
        "--score-threshold", type=float, metavar="X", help="boxes that score above it, 0 to 1; default: 0.001"
    )
    parser.add_argument(
        "--no-nms",
        action="store_true",
        help="of a pico detector: the best boxes among neighbors, none suppressed",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="of onnx; default: 18")
    parser.add_argument("--aoti", action="store_true", help="of torch: compile to machine code for this processor")
    parser.add_argument(
        "--taps", nargs="+", metavar="TAP", help="of a classifier: give these, not logits; OUT before it"
    )
    parser.add_argument("--int8", action="store_true", help="of onnx and openvino: compute in 8 bits; needs --data")
    parser.add_argument("--data", type=Path, help="for --int8: folder like Cityscapes', COCO's, or of one's own data")
    for task in HEADS:
        parser.add_argument(
            f"--{task}", type=Path, metavar="DATA", help=f"for --int8 of a joint network: the {task} head's --data"
        )
    parser.add_argument("--classes", type=Path, help="for --int8: classes.yaml of one's own data")
    parser.add_argument(
        "--calibration", type=int, metavar="N", help=f"for --int8: training pictures; default: {CALIBRATION}"
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="POINTS",
        help=f"for --int8: percent of the metric that it may cost; default: {MAX_LOSS:g}",
    )
    arguments = parser.parse_args(argv)
    options = ("data", *HEADS, "classes", "calibration", "max_loss")
    given = [name for name in options if getattr(arguments, name) is not None]
    if given and not arguments.int8:
        raise InputError(f"--{given[0].replace('_', '-')}: is of --int8; add that, or leave it out")
    if arguments.int8 and not {"data", *HEADS} & {*given}:
        raise InputError("--int8: needs --data, a data set to calibrate with and to be judged on")
    if arguments.calibration is not None and arguments.calibration < 1:
        raise InputError(f"--calibration {arguments.calibration}: must be 1 or more")
    for option, name in (("opset", "onnx"), ("aoti", "torch")):
        if getattr(arguments, option) and arguments.format != name:
            raise InputError(f"--{option}: is of the format {name}, not of {arguments.format}; leave it out")
    threshold = arguments.score_threshold
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"--score-threshold {threshold:g}: must lie between 0 and 1")
    if arguments.out is not None and arguments.out.exists():
        raise InputError(f"{arguments.out}: exists already; remove it or give another name")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # After the arguments: torch takes seconds to import.
    from tools.exporting.export import choose_format, default_out, export, load_exportable, make_graph
    from tools.exporting.images import given_images, painted_images
    from tools.exporting.int8 import Int8, check_int8_installed, open_pictures

    chosen = choose_format(arguments.format, opset=arguments.opset, aoti=arguments.aoti)
    if arguments.int8:
        check_int8_installed(arguments.format)
    out = arguments.out or default_out(arguments.weights, f"_int8{chosen.suffix}" if arguments.int8 else chosen.suffix)
    if out.suffix != chosen.suffix:
        raise InputError(f"{out}: must end in {chosen.suffix}, as files of the format {arguments.format} do")
    given = None if arguments.images is None else given_images(arguments.images)
    model, description = load_exportable(arguments.weights, arguments.taps, nms=not arguments.no_nms)
    graph = make_graph(
        model,
        description,
        chosen,
        size_hw=arguments.size and tuple(arguments.size),
        dynamic=arguments.dynamic,
        output=arguments.output,
        channels=arguments.channels,
        score_threshold=arguments.score_threshold,
    )
    int8 = None
    if arguments.int8:
        data = {name: getattr(arguments, name) for name in ("data", *HEADS)}
        pictures = open_pictures(model, graph.description, data, arguments.classes)
        allowed = MAX_LOSS if arguments.max_loss is None else arguments.max_loss
        int8 = Int8(arguments.format, pictures, arguments.calibration or CALIBRATION, allowed)
    images = given or painted_images()
    exported = export(model, graph, out, chosen, images, weights=arguments.weights, int8=int8)
    if exported.fault is not None:
        print(f"error: {out}: is not the model and was deleted: {exported.fault}", file=sys.stderr)
        return 1
    console.print(f"{out}: {exported.record['bytes'] / 1e6:.1f} MB, gives {', '.join(graph.names)}", soft_wrap=True)
    console.print(f"{out}.parity.json: {exported.summary}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
