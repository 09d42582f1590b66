"""Turns published weights into one file of ours, which says itself what it is, and prints what was recognised.

python -m tools.convert_weights mobilenet_v3_large-5c1a4163.pth large.safetensors
python -m tools.convert_weights weights_mobilenet_v3_small_224_1.0_float.h5 small.safetensors
python -m tools.convert_weights v3-large_224_1.0_float/ema/model-540000.index large.safetensors
python -m tools.convert_weights model.pth same_padded.safetensors --padding same --norm-eps 1e-3
python -m tools.convert_weights lraspp_mobilenet_v3_large-d234d4ea.pth lraspp.safetensors
python -m tools.convert_weights deeplab_mnv3_large_cityscapes_trainfine/model.ckpt.index lraspp.safetensors
python -m tools.convert_weights ssdlite320_mobilenet_v3_large_coco-a79551df.pth ssdlite.safetensors
python -m tools.convert_weights ssd_mobilenet_v3_large_coco_2020_01_14/model.ckpt.index ssdlite.safetensors

Classifiers of torchvision, timm, mmpretrain, Keras, TF-slim, 1e100, d-li14 and Randl; LR-ASPP of torchvision and
DeepLab; SSDLite of torchvision and, on MobileNetV2 and V3, of TensorFlow's object-detection API. Class names are those
in the file, or the published ones where an LR-ASPP or SSDLite has as many classes as the published one, or numbers,
unless --classes gives them. A classifier's file is for backbone.from_weights and for the key `weights` of a training;
the others are also for tools.predict, tools.video and the evaluations.
"""

from pathlib import Path

from backbone.errors import InputError
from backbone.options import PADDINGS
from tools.io.console import command_parser, console, run, table


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("convert_weights", __doc__)
    parser.add_argument(
        "source", type=Path, metavar="IN", help="weights: .pth, .pt, .safetensors, Keras' .h5, or .index"
    )
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="the file to write; an old one is replaced")
    parser.add_argument("--padding", choices=PADDINGS, help="for timm's weights; default: by their name")
    parser.add_argument("--norm-eps", type=float, help="norm epsilon of timm's weights; default: by their name")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, one per line")
    arguments = parser.parse_args(argv)
    source, out = arguments.source, arguments.out
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: must end in .safetensors; give it that ending")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"{out}: is the file that is read; give another name for the one that is written")
    if arguments.norm_eps is not None and not arguments.norm_eps > 0:
        raise InputError(f"--norm-eps {arguments.norm_eps} must be above 0")
    # After the arguments: torch takes seconds to import.
    from tools.converters.weights import recognise, summary
    from tools.io.files import read_class_names
    from tools.io.model_file import save_model

    classes = None if arguments.classes is None else read_class_names(arguments.classes)
    found = recognise(source, padding=arguments.padding, norm_eps=arguments.norm_eps, classes=classes)
    console.print(table(str(source), ["", "recognised"], summary(found)))
    replaced = ", in place of the old one" if out.exists() else ""
    save_model(out, found.model, found.description)
    console.print(f"{out} ({out.stat().st_size / 1e6:.1f} MB){replaced}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run(main)
