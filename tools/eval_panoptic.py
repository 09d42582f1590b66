"""Scores things and areas together by panoptic quality (PQ), for any file of COCO's panoptic format.

Examples:
    python -m tools.predict --weights joint.safetensors --source demo/cityscapes/leftImg8bit/val --output found \
        --save panoptic
    python -m tools.eval_panoptic --results found/panoptic.json --data demo/cityscapes
    python -m tools.eval_panoptic --results found/panoptic.json --truth /data/coco/annotations/panoptic_val2017.json

The truth are the instanceIds of a folder like Cityscapes', with its categories and its things, people and vehicles; or
a panoptic json with its PNGs in the folder beside it that has its name. A prediction matches where the IoU exceeds 0.5.
"""

from collections.abc import Sequence
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run, table


def main(argv: Sequence[str] | None = None) -> int:
    parser = command_parser("eval_panoptic", __doc__)
    parser.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="panoptic.json, beside it the folder panoptic"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the truth: a folder like Cityscapes'")
    parser.add_argument("--split", default="val", help="of --data; default: val")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="the truth: a panoptic json")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for metrics.json; default: beside the results")
    args = parser.parse_args(argv)
    if (args.data is None) == (args.truth is None):
        raise InputError("give --data or --truth, one of them")
    # Imported only now, so that --help and refusals come at once.
    import json

    from tools.io.files import replace_file
    from tools.scoring import panoptic

    if args.truth is None:
        truth, categories = panoptic.read_cityscapes(args.data, args.split)
        found, _ = panoptic.read_coco(args.results, lambda entry: panoptic.frame_name(entry["file_name"]))
    else:
        truth, categories = panoptic.read_coco(args.truth, lambda entry: str(entry["image_id"]))
        found, _ = panoptic.read_coco(args.results, lambda entry: str(entry["image_id"]))
    scores = panoptic.score(truth, found, categories, str(args.results))
    columns = ["", "PQ", "SQ", "RQ", "matched", "extra", "missed"]
    against = args.truth or args.data / "gtFine" / args.split
    title = f"{args.results} against {against}, {scores['images']} images, percent"
    console.print(table(title, columns, panoptic.averages(scores)))
    out = args.out or args.results.parent
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(scores, indent=2) + "\n"
    replace_file(out / "metrics.json", lambda part: part.write_text(text, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    run(main)
