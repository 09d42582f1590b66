"""Scores a detector, or detections from anywhere, on COCO or on data in its layout.

    python -m tools.eval_det --weights runs/large/best.safetensors --data /data/coco
    python -m tools.eval_det --weights best.safetensors --data /data/coco --save-predictions detections.json
    python -m tools.eval_det --weights best.safetensors --data /data/coco --engine openvino
    python -m tools.eval_det --weights best.onnx --data /data/coco
    python -m tools.eval_det --weights best.safetensors --data /data/coco --no-nms
    python -m tools.eval_det --results detections.json --data /data/coco --split val2017 --report
    python -m tools.eval_det --weights best.safetensors --data /data/coco --split test-dev2017 --name taproot

COCO's twelve metrics by pycocotools, on every image of the split, boxes in the images' own pixels. For splits whose
boxes are secret (image_info_SPLIT.json) detections_SPLIT_NAME_results.json is written for COCO's server, not scored.
"""

import argparse
import json
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, num_workers, run
from tools.options import ENGINES


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without looking at files is."""
    parser = command_parser("eval_det", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", type=Path, help="best.safetensors of a run, or an exported file")
    what.add_argument("--results", type=Path, help="COCO results json to score without a model")
    parser.add_argument("--data", required=True, type=Path, help="folder with annotations/ and the images")
    parser.add_argument("--split", default="val2017", help="default: val2017")
    parser.add_argument("--out", type=Path, help="folder for metrics.json; default: beside the weights or results")
    parser.add_argument("--save-predictions", type=Path, metavar="FILE", help="write COCO results json there")
    parser.add_argument("--report", action="store_true", help="write report.html, which opens offline, into --out")
    parser.add_argument("--fast", action="store_true", help="count with faster-coco-eval; metrics are equal to 1e-12")
    parser.add_argument("--name", default="taproot", help="the detector's in a file for the server; default: taproot")
    parser.add_argument("--engine", choices=ENGINES, help="what runs the weights; default: torch, or an export's own")
    parser.add_argument(
        "--no-nms",
        action="store_true",
        help="of a pico head: the best boxes among neighbors",
    )
    parser.add_argument("--workers", type=num_workers, default=1, help="loader processes; default: 1")
    arguments = parser.parse_args(argv)
    if arguments.report and arguments.fast:
        raise InputError("--report shows pycocotools' matches, which --fast does without; leave one of them out")
    if arguments.weights is None and arguments.engine is not None:
        raise InputError("--engine needs --weights; --results are scored as they are")
    if arguments.weights is None and arguments.no_nms:
        raise InputError("--no-nms needs --weights; --results are scored as they are")
    if arguments.weights is None and arguments.save_predictions is not None:
        raise InputError("--save-predictions needs --weights; --results is such a file already")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    # After the arguments: torch takes seconds to import.
    import det
    from tools.io.files import open_folder, replace_file
    from tools.io.model_file import results_folder
    from tools.run.loading import told_in_one_line
    from tools.run.processes import make_accelerator
    from tools.scoring.detection import evaluate, open_subject, print_metrics, split_metrics
    from tools.scoring.metrics_file import Evaluated, finish
    from tools.scoring.report_det import write_report

    source = arguments.weights or arguments.results
    out = arguments.out or results_folder(source)
    annotations = det.annotation_file(arguments.data, arguments.split)
    scored = det.is_scored(annotations)
    if not scored and arguments.weights is None:
        raise InputError(f"{annotations}: has no boxes to score against; upload {arguments.results} to COCO's server")
    engine, note = None, ""
    if arguments.weights is not None:
        accelerator = make_accelerator()
        subject = open_subject(arguments.weights, arguments.engine, accelerator.device, nms=not arguments.no_nms)
        dataset = det.CocoDetection(
            arguments.data, arguments.split, transform=subject.transform, categories=subject.classes
        )
        ground_truth = det.load_ground_truth(annotations)
        det.self_check(ground_truth, dataset)
        if scored and accelerator.is_main_process:
            open_folder(out)
        with told_in_one_line(arguments.workers, training=False):
            results = evaluate(subject.find, dataset, accelerator=accelerator, workers=arguments.workers)
        engine, note = subject.engine(), subject.note
        if not accelerator.is_main_process:
            return 0
        written = arguments.save_predictions
        if written is None and not scored:
            written = out / f"detections_{arguments.split}_{arguments.name}_results.json"
        if written is not None:
            replace_file(written, lambda part: part.write_text(json.dumps(results)))
        if not scored:
            console.print(f"not scored: {annotations} has no boxes. Detections: {written}", soft_wrap=True)
            return 0
    else:
        results = det.read_results(arguments.results)
        ground_truth = det.load_ground_truth(annotations)

    coco_eval = det.run_coco_eval(ground_truth, results, fast=arguments.fast)
    metrics, per_class = split_metrics(det.coco_metrics(coco_eval))
    print_metrics(metrics, per_class)
    counted_by = "faster-coco-eval" if arguments.fast else "pycocotools"
    evaluated = Evaluated(
        task="detection",
        source=source,
        data=arguments.data,
        split=arguments.split,
        images=len(ground_truth.imgs),
        protocol=f"COCO boxes by {counted_by}, all images of the split{note}",
        engine=engine,
    )
    folder = det.image_folder(arguments.data, arguments.split)
    finish(
        out,
        evaluated,
        metrics | {"per_class": per_class},
        summary=f"AP {metrics['AP']:.4f}, AP50 {metrics['AP50']:.4f}",
        report=write_report(evaluated.facts(), coco_eval, folder) if arguments.report else None,
    )
    return 0


if __name__ == "__main__":
    run(main)
