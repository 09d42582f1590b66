"""Scores a classifier, ours or published weights, on a folder of images by class: top-1 and top-5.

    python -m tools.eval_backbone --weights runs/large/best.safetensors --data /data/imagenet
    python -m tools.eval_backbone --weights mobilenet_v3_large-5c1a4163.pth --data /data/imagenet
    python -m tools.eval_backbone --weights tf_mobilenetv3_small_100.safetensors --data imagenette --classes wnids.txt

Size, crop, interpolation and normalisation are those that the weights expect: what one of our files says, timm's
config.json beside its weights (that of testing), or the publisher's usual ones.
"""

import argparse
from pathlib import Path

from backbone.errors import InputError
from backbone.options import INTERPOLATIONS
from tools.io.console import command_parser, console, num_workers, run, table

NUM_LOWEST = 20  # classes in the printed table


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without looking at files is."""
    parser = command_parser("eval_backbone", __doc__)
    parser.add_argument("--weights", required=True, type=Path, help="best.safetensors of a run, or published weights")
    parser.add_argument("--data", required=True, type=Path, help="folder with SPLIT/CLASS/ and images in them")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--classes", type=Path, help="text file: the name of each output's class folder, a line each")
    parser.add_argument("--size", type=int, help="height and width of the crop; default: the weights'")
    parser.add_argument("--crop-pct", type=float, help="share of the shorter side in the crop; default: the weights'")
    parser.add_argument("--interpolation", choices=INTERPOLATIONS, help="default: the weights'")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights")
    parser.add_argument("--save-predictions", type=Path, metavar="CSV", help="write image, class and probability")
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)
    if arguments.size is not None and arguments.size < 8:
        raise InputError(f"--size {arguments.size}: give a size of at least 8")
    if arguments.crop_pct is not None and not 0 < arguments.crop_pct <= 1:
        raise InputError(f"--crop-pct {arguments.crop_pct}: give a share above 0, up to 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # After the arguments: torch takes seconds to import.
    import torch

    from backbone.data.folder import ImageFolder
    from backbone.data.transforms import eval_transform, shorter_side
    from tools.io.files import open_folder, read_class_names, replace_file
    from tools.io.model_file import results_folder
    from tools.run.loading import told_in_one_line
    from tools.run.processes import make_accelerator
    from tools.scoring.classification import evaluate_model, load_classifier, write_predictions
    from tools.scoring.metrics_file import Evaluated, finish

    model, description = load_classifier(arguments.weights)
    in_channels = model.backbone.stem.conv.in_channels
    if in_channels != 3:
        raise InputError(f"{arguments.weights}: takes {in_channels} input channels; images have 3; give weights of RGB")
    names = description["classes"] if arguments.classes is None else read_class_names(arguments.classes)
    size = description["size"] if arguments.size is None else arguments.size
    crop_pct = description["crop_pct"] if arguments.crop_pct is None else arguments.crop_pct
    # Runs did not always record it: those that do not were evaluated on bilinear images.
    interpolation = arguments.interpolation or description.get("interpolation", "bilinear")
    transform = eval_transform(size, crop_pct=crop_pct, interpolation=interpolation)
    dataset = ImageFolder(arguments.data, arguments.split, transform, classes=names)
    outputs = model.output.out_features
    first_class = outputs - len(dataset.classes)
    if first_class not in (0, 1) or (first_class == 1 and outputs != 1001):
        raise InputError(
            f"{arguments.weights}: has {outputs} outputs, the data {len(dataset.classes)} classes; "
            "--classes FILE names the class folder of each output"
        )
    out = arguments.out or results_folder(arguments.weights)
    accelerator = make_accelerator()
    if accelerator.is_main_process:
        open_folder(out)
    with told_in_one_line(arguments.workers, training=False):
        evaluation = evaluate_model(
            model.to(accelerator.device).to(memory_format=torch.channels_last).eval(),
            dataset,
            mean=description["mean"],
            std=description["std"],
            accelerator=accelerator,
            workers=arguments.workers,
            first_class=first_class,
        )
    if not accelerator.is_main_process:
        return 0
    lowest = sorted(evaluation.per_class.items(), key=lambda item: item[1])[:NUM_LOWEST]
    rows = [[name, f"{100 * value:.2f}"] for name, value in lowest]
    console.print(table(f"lowest top-1 of {len(evaluation.per_class)} classes", ["class", "top-1"], rows))
    if arguments.save_predictions is not None:
        replace_file(arguments.save_predictions, lambda part: write_predictions(part, dataset, evaluation))
    metrics = evaluation.metrics
    evaluated = Evaluated(
        task="classification",
        source=arguments.weights,
        data=arguments.data,
        split=arguments.split,
        images=len(dataset),
        protocol=f"centre crop {size} of shorter side {shorter_side(size, crop_pct)}, {interpolation}",
    )
    summary = f"top-1 {metrics['top1']:.4f}, top-5 {metrics['top5']:.4f}"
    finish(out, evaluated, metrics | {"top1_per_class": evaluation.per_class}, summary=summary)
    return 0


if __name__ == "__main__":
    run(main)
