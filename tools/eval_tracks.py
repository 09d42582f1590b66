"""Scores tracks of a video's objects against the truth: MOTA, IDF1, HOTA and switches of ids.

Examples:
    python -m tools.eval_tracks --truth demo_data/street_tracks.txt --tracks found/detections.csv
    python -m tools.eval_tracks --truth MOT17-09/gt/gt.txt --tracks tracks.txt --out scores

Files are MOTChallenge's (frame from 1, id, left, top, width, height, scored or not, ...) or the detections.csv that
tools.predict writes of a video with --track. A box is right from an IoU of 0.5 on; classes are not compared.
"""

from collections.abc import Sequence
from pathlib import Path

from tools.io.console import command_parser, console, run, table


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("eval_tracks", __doc__)
    parser.add_argument("--truth", type=Path, required=True, metavar="FILE", help="the true boxes, with lasting ids")
    parser.add_argument("--tracks", type=Path, required=True, metavar="FILE", help="what a tracker found")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write metrics.json there")
    args = parser.parse_args(argv)
    # Imported only now, so that --help and refusals come at once.
    import json

    from backbone.errors import InputError
    from tools.io.files import replace_file
    from tools.tracking.scoring import read_tracks, score_tracks
    from tools.tracking.tracker import require_trackers

    require_trackers("tools.eval_tracks")
    truth = read_tracks(args.truth)
    if not any(boxes.scored.any() for boxes in truth.values()):
        raise InputError(f"{args.truth}: holds no box to be scored; give the file of the truth")
    scores = score_tracks(truth, read_tracks(args.tracks))
    rows = [[name, f"{value:.3f}" if isinstance(value, float) else str(value)] for name, value in scores.items()]
    console.print(table(f"{args.tracks} against {args.truth}", ["", "value"], rows))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(scores, indent=2) + "\n"
        replace_file(args.out / "metrics.json", lambda part: part.write_text(text, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    run(main)
