"""One backbone, one forward pass and the union of two tap lists feed a segmentation and a detection head at once."""

import pytest
import torch

import backbone
import det
import det.heads
import seg
import seg.heads

NUM_CLASSES = 4


@pytest.mark.parametrize("seg_head", ["lraspp", "fuse", "fpn"])
@pytest.mark.parametrize("det_head", ["ssdlite", "ssdlite_fpn", "pico96"])
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
@torch.no_grad()
def test_two_heads_on_one_backbone_equal_the_two_models(name, seg_head, det_head, randomise):
    body = {"backbone": name, "width": 0.5, "tail": "full", "num_classes": NUM_CLASSES}
    segmenter = randomise(seg.create(seg_head, output_stride=32, **body))
    detector = randomise(det.create(det_head, image_size=(64, 96), **body))
    weights = segmenter.backbone.state_dict()
    shallower = detector.backbone.state_dict().keys()  # a head that takes no `last` has a body without it
    detector.backbone.load_state_dict({name: weights[name] for name in shallower})

    architecture = backbone.architecture(name)
    seg_taps = seg.heads.required_taps(seg_head, architecture)
    det_taps = det.heads.required_taps(det_head, architecture)
    union = tuple(dict.fromkeys((*seg_taps, *det_taps)))
    network = backbone.create(name, width=0.5, taps=union).eval()
    network.load_state_dict(weights)
    heads = (
        seg.heads.build_head(seg_head, [network.features[tap] for tap in seg_taps], num_classes=NUM_CLASSES),
        det.heads.build_head(det_head, [network.features[tap] for tap in det_taps], num_classes=NUM_CLASSES, width=0.5),
    )
    for head, model in zip(heads, (segmenter, detector), strict=True):
        head.load_state_dict(model.head.state_dict())
        head.eval()

    images = torch.randn(2, 3, 64, 96)
    features = network(images)  # once
    logits, raw = (
        head(*(features[tap] for tap in taps)) for head, taps in zip(heads, (seg_taps, det_taps), strict=True)
    )
    assert torch.equal(logits, segmenter(images))
    assert all(torch.equal(*pair) for pair in zip(raw, detector(images), strict=True))
    anchors = heads[1].anchors((64, 96))
    assert torch.equal(anchors, detector.anchors)
    boxes_xyxy = heads[1].decode(raw.box_offsets, anchors)
    assert boxes_xyxy.shape == (2, len(anchors), 4)
