"""Scores a segmenter, or label maps from anywhere, on Cityscapes, on data in its layout, or on one's own.

    python -m tools.eval_seg --weights runs/large/best.safetensors --data /data/cityscapes
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --report
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --save-predictions predictions
    python -m tools.eval_seg --predictions predictions --data /data/cityscapes --split val
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --scales 0.75 1 1.25 --flip
    python -m tools.eval_seg --weights best.safetensors --data garden --classes garden/classes.yaml
    python -m tools.eval_seg --weights best.safetensors --data /data/cityscapes --engine openvino
    python -m tools.eval_seg --weights best.onnx --data /data/cityscapes

Whole images at native resolution, one confusion matrix over the set. Predictions are label_id PNGs named
CITY_SEQ_FRAME*.png, as Cityscapes' test server takes them, below a folder of the city where several cities have a frame
of that name; for the test split, whose labels are secret, they are written and not scored. `miou` is over the classes
in the labels; the official evaluation's metrics stand beside it.
"""

import argparse
from pathlib import Path

from backbone.errors import InputError
from seg.options import ANNOTATIONS
from tools.io.console import command_parser, console, num_workers, run
from tools.options import ENGINES


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without looking at files is."""
    parser = command_parser("eval_seg", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, help="best.safetensors of a run, or an exported file")
    what.add_argument("--predictions", type=Path, help="folder of label_id PNGs to score without a model")
    parser.add_argument(
        "--data", required=True, type=Path, help="folder with leftImg8bit/ and gtFine/, or of one's own data"
    )
    parser.add_argument("--classes", type=Path, help="classes.yaml of one's own data; without it, Cityscapes")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--labels", default="gtFine", choices=ANNOTATIONS, help="of Cityscapes; default: gtFine")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights or predictions")
    parser.add_argument("--save-predictions", type=Path, metavar="DIR", help="write label_id PNGs there")
    parser.add_argument("--report", action="store_true", help="write report.html, which opens offline, into --out")
    parser.add_argument("--window", nargs=2, type=int, metavar=("H", "W"), help="slide a window over the image")
    parser.add_argument("--stride", nargs=2, type=int, metavar=("H", "W"), help="of the window; default: two thirds")
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0], metavar="S", help="mean over these scales")
    parser.add_argument("--flip", action="store_true", help="mean with the mirrored image's result")
    parser.add_argument("--engine", choices=ENGINES, help="what runs the weights; default: torch, or an export's own")
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)
    changed = arguments.window or arguments.stride or arguments.scales != [1.0] or arguments.flip
    if arguments.weights is None and changed:
        raise InputError("--window, --stride, --scales and --flip need --weights; files are scored as they are")
    if arguments.weights is None and arguments.engine is not None:
        raise InputError("--engine needs --weights; files are scored as they are")
    if arguments.weights is None and arguments.save_predictions is not None:
        raise InputError("--save-predictions needs --weights; --predictions are files already")
    if arguments.predictions is not None and not arguments.predictions.is_dir():
        raise InputError(f"{arguments.predictions}: no such folder of predictions")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # After the arguments: torch takes seconds to import.
    from seg.data.opening import open_data
    from seg.inference import Inference
    from tools.io.files import open_folder
    from tools.io.model_file import results_folder
    from tools.run.loading import told_in_one_line
    from tools.run.processes import make_accelerator
    from tools.scoring.metrics_file import Evaluated, finish, nested
    from tools.scoring.report_seg import write_report
    from tools.scoring.segmentation import (
        NUM_WORST,
        evaluate,
        evaluate_files,
        open_subject,
        print_metrics,
        protocol,
    )

    window, stride = (None if sides is None else tuple(sides) for sides in (arguments.window, arguments.stride))
    inference = Inference(window, stride, tuple(arguments.scales), arguments.flip)
    dataset = open_data(arguments.data, arguments.split, classes=arguments.classes, annotation=arguments.labels)
    scored = dataset.has_labelled_pixels()
    if not scored and arguments.save_predictions is None:
        raise InputError(
            f"{arguments.data}: no pixel of split {arguments.split} counts, its labels are dummies, never scored;"
            " write --save-predictions DIR with --weights and upload that folder to the test server"
        )
    source = arguments.weights or arguments.predictions
    out = arguments.out or (results_folder(source) if arguments.weights else source)
    accelerator = make_accelerator()
    num_worst = NUM_WORST * arguments.report
    engine = None
    if arguments.weights is None:
        evaluation = evaluate_files(arguments.predictions, dataset, accelerator=accelerator, num_worst=num_worst)
    else:
        subject = open_subject(arguments.weights, arguments.engine, inference, accelerator.device)
        if subject.classes != dataset.classes:
            raise InputError(
                f"{arguments.weights}: was trained on other classes ({', '.join(subject.classes[:3])}, …) than "
                f"the data has ({', '.join(dataset.classes[:3])}, …); --classes names those of one's own data"
            )
        if scored and accelerator.is_main_process:
            open_folder(out)
        with told_in_one_line(arguments.workers, training=False):
            evaluation = evaluate(
                subject.label,
                dataset,
                accelerator=accelerator,
                workers=arguments.workers,
                instances=True,
                num_worst=num_worst,
                save_to=arguments.save_predictions,
            )
        engine = subject.engine()
    if not accelerator.is_main_process:
        return 0
    if not scored:
        console.print(f"not scored: the labels are dummies. Predictions: {arguments.save_predictions}", soft_wrap=True)
        return 0

    print_metrics(evaluation, dataset.classes)
    evaluated = Evaluated(
        task="segmentation",
        source=source,
        data=arguments.data,
        split=arguments.split,
        images=len(dataset),
        protocol=protocol(inference),
        engine=engine,
    )
    official = {"cityscapes": nested(evaluation.official)} if evaluation.official else {}
    finish(
        out,
        evaluated,
        nested(evaluation.metrics) | {"confusion": evaluation.confusion.tolist()} | official,
        summary=f"mIoU {evaluation.metrics['miou']:.4f}",
        report=write_report(evaluated.facts(), dataset, evaluation) if arguments.report else None,
    )
    return 0


if __name__ == "__main__":
    run(main)
