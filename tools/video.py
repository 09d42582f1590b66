"""Runs segmenters and detectors over a video, camera, stream or images, and draws what they see.

Examples:
    python -m tools.video --weights seg.safetensors --source in.mp4 --output out.mp4
    python -m tools.video --weights seg.safetensors --weights det.safetensors --source in.mp4 --output out.mkv
    python -m tools.video --weights det.safetensors --source in.mp4 --output out.mp4 --track
    python -m tools.video --weights det.safetensors --source 0 --show
    python -m tools.video --weights det.safetensors --source rtsp://192.0.2.7/live --output seen.mkv --max-frames 1000
    python -m tools.video --weights seg.safetensors --source "images/*.jpg" --output drawn/ --fps 10

A killed process leaves out.part.mp4, which plays up to there. Without PyAV (pip install 'taproot[video]') that holds
for .mkv and .avi only, and what is written plays in no browser.

Exit codes: 0 complete; 2 bad input; 3 the source ended before the length it promises; 4 camera or stream lost;
130 stopped by Ctrl-C, SIGTERM, or q in the window. In the cases 3, 4 and 130 the output is finished and can be used.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import run
from tools.options import ENGINES, TRACKERS, VIEWS, class_names, network_sizes
from tools.predicting.settings import SAVES, Saving, parse_saves


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
    _add_tracking(parser.add_argument_group("tracking"))
    _add_saving(parser.add_argument_group("results as files"))
    args = parser.parse_args(argv)
    if args.max_frames is not None and args.max_frames < 1:
        raise InputError(f"--max-frames {args.max_frames}: must be at least 1")
    if args.end is not None and args.end <= args.start:
        raise InputError(f"--end {args.end:g}: must come after --start {args.start:g}")
    if args.skip < 0:
        raise InputError(f"--skip {args.skip}: must be 0 or more")
    if args.batch < 1:
        raise InputError(f"--batch {args.batch}: must be at least 1")
    args.size = network_sizes(args.size, len(args.weights))
    if args.fps is not None and not 0 < args.fps < 1000:
        raise InputError(f"--fps {args.fps:g}: must be above 0 and below 1000")
    for option, value in (("--score-threshold", args.score_threshold), ("--opacity", args.opacity)):
        if not 0 <= value <= 1:
            raise InputError(f"{option} {value:g}: must lie between 0 and 1")
    if args.compare is not None and args.view != "overlay":
        raise InputError(f"--compare does not go with --view {args.view}: it has a view of its own")
    if args.sound and args.fps is not None:
        raise InputError("--sound does not go with --fps: frames at another rate would not match it")
    if args.output is None and not args.show and args.save_to is None:
        raise InputError("nothing to do with the frames: give --output PATH, --show, or --save with --save-to")
    if (args.save is None) != (args.save_to is None):
        raise InputError("--save says what and --save-to DIR where; give both")
    return args


def seconds(text: str) -> float:
    """A time as seconds, mm:ss or hh:mm:ss, for argparse."""
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = [-1.0]
    if len(parts) > 3 or not all(0 <= value < 1e6 for value in values):
        raise argparse.ArgumentTypeError(f"{text} must be seconds, mm:ss or hh:mm:ss")
    total = 0.0
    for value in values:
        total = 60 * total + value
    return total


def width_height(text: str) -> tuple[int, int | None]:
    """W or WxH in pixels, for argparse."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or min(sides) < 2 or max(sides) > 16384:
        raise argparse.ArgumentTypeError(f"{text} must be a width, or width x height as 1280x720, of 2 to 16384 pixels")
    return sides[0], sides[1] if len(sides) == 2 else None


def _add_models(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--weights", action="append", required=True, type=Path, metavar="FILE", help="trained model; repeat for more"
    )
    group.add_argument(
        "--engine", default="auto", choices=ENGINES, help="what runs the models (default: %(default)s, the fastest)"
    )
    group.add_argument(
        "--size",
        action="append",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="the network's input: height and width, or one number for the longer side; once for all models or\n"
        "once for each (default: the frame's for a segmenter, the one trained at for a detector)",
    )
    group.add_argument(
        "--batch", type=int, default=1, metavar="N", help="frames of a recording in a call, for GPUs (default: 1)"
    )
    group.add_argument(
        "--no-nms",
        action="store_true",
        help="of a pico detector: the best boxes among neighbors, none suppressed",
    )
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")


def _add_source(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source", required=True, help="video file, camera index (0), URL, image, folder of images, quoted glob"
    )
    group.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    group.add_argument("--start", type=seconds, default=0.0, metavar="TIME", help="seconds, mm:ss or hh:mm:ss")
    group.add_argument("--end", type=seconds, metavar="TIME", help="where reading stops, likewise")
    group.add_argument(
        "--skip", type=int, default=0, metavar="N", help="leave N frames out after each taken; the speed stays right"
    )
    group.add_argument(
        "--resize", type=width_height, metavar="W|WxH", help="of the frames as read, so of what is drawn and written"
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help=".mp4, .mkv, .mov, .avi, .gif or .webp, a folder for PNGs, or - for raw frames on stdout",
    )
    group.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    group.add_argument("--show", action="store_true", help="show the frames in a window; q stops")
    group.add_argument(
        "--fps",
        type=float,
        metavar="RATE",
        help="constant frames per second of the output (default: the source's times, 30 for images)",
    )
    group.add_argument("--sound", action="store_true", help="copy the source's sound into .mp4, .mkv or .mov")
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
    group.add_argument(
        "--view",
        default="overlay",
        choices=VIEWS,
        help="results over the frame, beside it, in turn with it, or combined to single things",
    )
    group.add_argument(
        "--compare", type=Path, metavar="LABELS", help="folder of true label images: draw truth and errors, too"
    )
    group.add_argument(
        "--blur", type=class_names, default=(), metavar="CLASSES", help="make these unrecognisable, as person,car"
    )
    group.add_argument("--no-legend", action="store_true", help="no strip with class names and speed")


def _add_tracking(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--track",
        nargs="?",
        const=TRACKERS[0],
        choices=TRACKERS,
        help=f"give detected objects lasting ids, count them and draw where they were (plain --track: {TRACKERS[0]})",
    )
    group.add_argument("--no-trails", action="store_true", help="do not draw where tracked objects were")


def _add_saving(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--save", type=parse_saves, metavar="LIST", help=f"of {','.join(SAVES)}; see python -m tools.predict"
    )
    group.add_argument("--save-to", type=Path, metavar="DIR", help="folder for these files")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    # Imported only now, so that --help and refusals come at once.
    from tools.streams.overlay import Drawing
    from tools.streams.run_video import run_video
    from tools.streams.settings import Predicting, Reading, Tracking, Writing

    return run_video(
        Reading(args.source, args.max_frames, args.start, args.end, args.skip, args.resize),
        Predicting(args.weights, args.engine, args.device, args.size, args.batch, nms=not args.no_nms),
        Writing(
            output=args.output,
            overwrite=args.overwrite,
            fps=args.fps,
            sound=args.sound,
            show=args.show,
            status=args.status,
        ),
        Drawing(
            args.opacity,
            args.score_threshold,
            legend=not args.no_legend,
            view=args.view,
            blur=args.blur,
            compare=args.compare,
        ),
        None if args.track is None else Tracking(args.track, trails=not args.no_trails),
        None if args.save_to is None else Saving(args.save_to, args.save, overwrite=args.overwrite),
    )


if __name__ == "__main__":
    run(main)
