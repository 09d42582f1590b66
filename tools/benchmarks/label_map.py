"""Labels from coarse logits: `seg.label_map` beside upsampling and argmax."""

from functools import partial
from pathlib import Path

import cv2
import torch

import seg
from backbone.inference import normalise
from seg.data.opening import open_data
from tools.benchmarks.timing import alternate, medians
from tools.io.console import console, table
from tools.predicting.models import load_model

SIZES_HW = ((1024, 2048), (1023, 2047))


@torch.inference_mode()
def benchmark(*, weights: Path | None, data: Path, classes: Path | None, rounds: int) -> None:
    """Prints the comparison for random logits and for a trained model's.

    Arguments:
        weights: the trained model; None: random logits only.
        data, classes: its images, as `open_data` takes them.
    """
    cases = {f"random, {h}x{w}": (torch.randn(1, 19, -(-h // 8), -(-w // 8)), (h, w)) for h, w in SIZES_HW}
    if weights is not None:
        model, description = load_model(weights, task="segmentation")
        dataset = open_data(data, "val", classes=classes)
        for number, (h, w) in enumerate(SIZES_HW):
            image = cv2.resize(dataset.read(number * len(dataset) // 2)[0], (w, h), interpolation=cv2.INTER_CUBIC)
            rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None]
            images = normalise(rgb, description["mean"], description["std"], channels_last=True)
            cases[f"trained, {h}x{w}"] = (model.eval()(images).float(), (h, w))
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, (logits, size_hw) in cases.items():
            contenders = {
                "peer": partial(upsampled_argmax, logits, size_hw),
                "ours": partial(seg.label_map, logits, size_hw),
            }
            num_differing = int((contenders["peer"]() != contenders["ours"]()).sum())
            seconds = medians(alternate(contenders, rounds))
            figures = [f"{1000 * value:.1f}" for value in seconds.values()]
            ratio = seconds["peer"] / seconds["ours"]
            rows.append([name, str(threads), *figures, f"{ratio:.1f}x", str(num_differing)])
    columns = ["logits at stride 8", "threads", "upsample, argmax: ms", "label_map: ms", "", "differing pixels"]
    console.print(table("labels from logits, 19 classes", columns, rows))


def upsampled_argmax(logits: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Labels `[N, H, W]` of logits `[N, C, h, w]` the usual way."""
    return seg.upsample(logits, size_hw).argmax(1)
