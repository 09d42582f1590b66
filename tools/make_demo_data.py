"""Writes the demo world: painted street scenes in Cityscapes' and COCO's layouts, and a video of one street.

Examples:
    python -m tools.make_demo_data --out demo_data
    python -m tools.make_demo_data --out tiny --train 16 --val 8 --clip-frames 24 --height 128 --width 256
    python -m tools.make_demo_data --out other_streets --seed 7

What it writes:
    OUT/cityscapes/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
    OUT/cityscapes/gtFine/{train,val}/CITY/*_gtFine_{labelIds,instanceIds}.png and *_gtFine_polygons.json
    OUT/coco/{train2017,val2017}/*.jpg (the same scenes) and OUT/coco/annotations/instances_{train,val}2017.json
    OUT/street.mp4, a drive along another street of the same world, and OUT/street_tracks.txt, its objects' boxes with
        lasting ids in MOTChallenge's format, see tools.eval_tracks
    OUT/preview.png, three scenes with their boxes and labels, to look at
    OUT/demo_world.json, the settings; a second call with the same ones leaves everything as it is

The same settings always write the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from tools.demo_world.settings import WorldSettings
from tools.io.console import command_parser, console, run

DEFAULT = WorldSettings()


def make_demo_data(
    out: Path,
    *,
    num_train: int = DEFAULT.num_train,
    num_val: int = DEFAULT.num_val,
    num_clip_frames: int = DEFAULT.num_clip_frames,
    size_hw: tuple[int, int] = DEFAULT.size_hw,
    seed: int = DEFAULT.seed,
) -> bool:
    """Writes the demo world into a folder, unless the same one is already there.

    Arguments:
        out: the folder; made if missing. An earlier demo world in it with other settings is replaced.
        num_train, num_val: scenes per split.
        num_clip_frames: length of the video at 24 frames per second.
        size_hw: height and width of images and video in pixels, even numbers from 64.
        seed: everything is drawn from it.

    Returns:
        True if the world was painted, False if it was there.

    Raises:
        InputError: a number is out of range, the folder holds something else, or it cannot be written.
    """
    settings = WorldSettings(num_train, num_val, num_clip_frames, size_hw, seed)
    # Imported only now, so that --help and refusals come at once.
    from tools.demo_world.writer import write_world

    return write_world(out, settings)


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("make_demo_data", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, empty or with an earlier demo world")
    parser.add_argument(
        "--train", type=int, default=DEFAULT.num_train, help="scenes for training (default: %(default)s)"
    )
    parser.add_argument("--val", type=int, default=DEFAULT.num_val, help="scenes for validation (default: %(default)s)")
    parser.add_argument(
        "--clip-frames", type=int, default=DEFAULT.num_clip_frames, help="frames of video (default: %(default)s)"
    )
    parser.add_argument(
        "--height", type=int, default=DEFAULT.size_hw[0], help="of every image, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--width", type=int, default=DEFAULT.size_hw[1], help="of every image, pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT.seed, help="of all that is drawn by chance (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    painted = make_demo_data(
        args.out,
        num_train=args.train,
        num_val=args.val,
        num_clip_frames=args.clip_frames,
        size_hw=(args.height, args.width),
        seed=args.seed,
    )
    what = "painted" if painted else "already there with the same settings, kept"
    look = args.out / "preview.png"
    console.print(f"demo world {what}: {args.out} (look at {look})", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
