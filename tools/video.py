"""Runs segmenters and detectors over a video, camera, stream or images, and draws what they see.

Examples:
    python -m tools.video --weights seg.safetensors --source in.mp4 --output out.mp4
    python -m tools.video --weights seg.safetensors --weights det.safetensors --source in.mp4 --output out.mkv
    python -m tools.video --weights det.safetensors --source 0 --show
    python -m tools.video --weights det.safetensors --source rtsp://192.0.2.7/live --output seen.mkv --max-frames 1000
    python -m tools.video --weights seg.safetensors --source "images/*.jpg" --output drawn/ --fps 10

Videos are H.264 where PyAV is installed (pip install 'taproot[video]'). A killed process leaves out.part.mp4, which
plays up to there; without PyAV an .mp4 cannot be read before it is finished, and .mkv is safer.

Exit codes: 0 complete; 2 bad input; 3 the source ended before the length it promises; 4 camera or stream lost;
130 stopped by Ctrl-C, SIGTERM, or q in the window. In the cases 3, 4 and 130 the output is finished and can be used.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import run
from tools.options import ENGINES


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked as far as it can be without opening anything.

    Raises:
        InputError: a value out of range, or neither an output nor a window.
    """
    description, examples = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        "python -m tools.video", description=description, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    _add_models(parser.add_argument_group("models"))
    _add_source(parser.add_argument_group("source"))
    _add_output(parser.add_argument_group("output"))
    _add_drawing(parser.add_argument_group("drawing"))
    args = parser.parse_args(argv)
    if args.max_frames is not None and args.max_frames < 1:
        raise InputError(f"--max-frames {args.max_frames}: must be at least 1")
    if args.fps is not None and not 0 < args.fps < 1000:
        raise InputError(f"--fps {args.fps:g}: must be above 0 and below 1000")
    for option, value in (("--score-threshold", args.score_threshold), ("--opacity", args.opacity)):
        if not 0 <= value <= 1:
            raise InputError(f"{option} {value:g}: must lie between 0 and 1")
    if args.output is None and not args.show:
        raise InputError("nothing to do with the frames: give --output PATH, --show, or both")
    return args


def _add_models(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights", action="append", required=True, type=Path, metavar="FILE", help="trained model; repeat for more"
    )
    group.add_argument(
        "--engine", default="auto", choices=ENGINES, help="what runs the models (default: %(default)s, the fastest)"
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")


def _add_source(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source", required=True, help="video file, camera index (0), URL, image, folder of images, quoted glob"
    )
    group.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="file .mp4, .mkv, .mov, .avi, .gif or .webp; folder for numbered PNGs; - for raw frames on stdout",
    )
    group.add_argument("--sound", action="store_true", help="copy the sound of the source")
    group.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    group.add_argument("--show", action="store_true", help="show the frames in a window; q stops")
    group.add_argument(
        "--fps",
        type=float,
        metavar="RATE",
        help="frames per second of the output, at a fixed rate (default: the source's times, 30 a second for images)",
    )
    group.add_argument(
        "--status",
        type=Path,
        metavar="FILE",
        help="report in JSON (default: OUTPUT.status.json, or status.json in the output folder)",
    )


def _add_drawing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="draw detections from this score on (default: %(default)s)",
    )
    group.add_argument(
        "--opacity",
        type=float,
        default=0.5,
        metavar="O",
        help="of the segmentation's colors, 0 to 1 (default: %(default)s)",
    )
    group.add_argument("--no-legend", action="store_true", help="no class names and no speed in the image")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    # Imported only now, so that --help and refusals come at once.
    from tools.streams.overlay import Drawing
    from tools.streams.run_video import run_video
    from tools.streams.settings import Predicting, Reading, Writing

    return run_video(
        Reading(source=args.source, max_frames=args.max_frames),
        Predicting(weights=args.weights, engine=args.engine, device=args.device),
        Writing(
            output=args.output,
            sound=args.sound,
            overwrite=args.overwrite,
            fps=args.fps,
            show=args.show,
            status=args.status,
        ),
        Drawing(args.opacity, args.score_threshold, legend=not args.no_legend),
    )


if __name__ == "__main__":
    run(main)
