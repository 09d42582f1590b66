"""Converts boxes from other formats to COCO's json, strictly: the first thing wrong is named, never guessed at.

    python -m tools.convert_annotations voc VOC2012/Annotations data/annotations/instances_train.json
    python -m tools.convert_annotations yolo set/labels/train data/annotations/instances_train.json --classes names.txt
    python -m tools.convert_annotations labelme photos data/annotations/instances_train.json
    python -m tools.convert_annotations csv boxes.csv data/annotations/instances_train.json --images photos
    python -m tools.convert_annotations cityscapes cityscapes/gtFine/val data/annotations/instances_val.json

Where pixels lie: COCO's boxes, and so what is written, are x, y, width, height with 0, 0 at the top left corner of the
image. Read are
  voc         *.xml: corners are pixels counted from 1, both inside the box, so width is xmax - xmin + 1. Objects marked
              difficult become crowds: evaluation ignores them, and training does not take them for background.
  yolo        NAME.txt of the image NAME.*: lines of class number from 0, and centre and size as shares of the
              image. An image without a file, or with an empty one, has no boxes.
  labelme     *.json: rectangles and polygons, whose corners are points and whose box is their extent.
  csv         a header, then rows of file,class,xmin,ymin,xmax,ymax: edges of the box, so width is xmax - xmin. A row
              with nothing but a file is an image without boxes.
  cityscapes  *_instanceIds.png: the extent of each instance's pixels, of the eight classes with instances; pixels of
              a group that nobody told apart are one crowd.

Sizes are read from the images; a box may pass the edge by half a pixel and is clipped. Training looks for the
images in the folder of the split's name beside annotations/; a link to where they are will do.
"""

import json
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run, table

FORMATS = ("voc", "yolo", "labelme", "csv", "cityscapes")


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("convert_annotations", __doc__)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("source", type=Path, help="folder of the annotations, or the csv file")
    parser.add_argument("out", type=Path, help="json to write: ROOT/annotations/instances_SPLIT.json")
    parser.add_argument("--images", type=Path, help="folder of the images; default: where the format has them")
    parser.add_argument(
        "--classes",
        nargs="+",
        help="in the order of the labels: names, or a file with one per line; default: those that occur, by name",
    )
    arguments = parser.parse_args(argv)
    source = arguments.source.resolve()
    if not source.exists():
        raise InputError(f"{arguments.source}: does not exist; give the annotations to convert")
    # After the arguments: torch takes seconds to import.
    from tools.converters import annotations
    from tools.io.files import replace_file

    folder = (arguments.images or annotations.FORMATS[arguments.format].images(source)).resolve()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images; say where they are with --images FOLDER")
    classes = annotations.INSTANCE_CLASSES if arguments.format == "cityscapes" else None
    if arguments.classes is not None:
        file = Path(arguments.classes[0])
        listed = len(arguments.classes) == 1 and file.is_file()
        lines = annotations.read_text(file).splitlines() if listed else arguments.classes
        classes = [line.strip() for line in lines if line.strip()]
        if not classes or len(set(classes)) < len(classes):
            raise InputError(
                f"--classes {', '.join(arguments.classes)}: names must be there and differ from each other"
            )

    content = annotations.convert(arguments.format, source, folder, classes)
    replace_file(arguments.out, lambda part: part.write_text(json.dumps(content)))
    counts = dict.fromkeys((row["id"] for row in content["categories"]), 0)
    for row in content["annotations"]:
        counts[row["category_id"]] += 1
    rows = [[row["name"], str(counts[row["id"]])] for row in content["categories"]]
    console.print(table("boxes", ["class", "boxes"], rows))
    crowds = sum(row["iscrowd"] for row in content["annotations"])
    console.print(f"{len(content['images'])} images, {len(content['annotations'])} boxes, {crowds} of them crowds")
    console.print(f"{arguments.out}, for the images in {folder}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
