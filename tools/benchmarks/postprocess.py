"""Raw detector output to detections, beside torchvision's ssdlite320; few to all scores pass the threshold."""

from functools import partial

import torch
import torchvision

import det
from tools.benchmarks.timing import alternate, print_times


def benchmark(*, rounds: int) -> None:
    """Prints the comparison for random output of one image, four times with more scores that pass."""
    peer = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=91
    ).eval()
    anchors = det.create(num_classes=91, variant="torchvision").anchors_for((320, 320))
    finish = det.PostProcess("softmax", background=True)
    for spread, background in ((1.0, 30.0), (2.0, 13.0), (2.0, 9.0), (0.3, 0.0)):
        torch.manual_seed(0)
        logits = torch.randn(1, len(anchors), 91) * spread
        logits[..., 0] += background
        raw = det.RawDetections(logits, torch.randn(1, len(anchors), 4))
        contenders = {
            "torchvision": partial(
                peer.postprocess_detections,
                {"cls_logits": raw.class_logits, "bbox_regression": raw.box_offsets},
                [anchors],
                [(320, 320)],
            ),
            "taproot": partial(finish, raw, anchors, (320, 320), [(320, 320)]),
        }
        with torch.inference_mode():
            num_passing = int((logits.softmax(dim=-1)[..., 1:] > 0.001).sum())
            seconds = alternate(contenders, rounds)
        print_times(f"{num_passing} of {logits[..., 1:].numel()} scores pass", seconds, "torchvision")
