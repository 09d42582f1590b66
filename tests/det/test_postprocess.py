"""Post-processing equals torchvision's and is a valid greedy suppression where ties leave a choice."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import box_iou

import det
import det.boxes
from backbone.errors import InputError
from backbone.inference import TorchEngine


@pytest.fixture(scope="module")
def torchvision_model():
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91).eval()


@pytest.fixture(scope="module")
def anchors() -> torch.Tensor:
    return det.create("ssdlite", num_classes=91, variant="torchvision").anchors


def heaped_raw(anchors: torch.Tensor, spread: float, background: float, heaps: int) -> det.RawDetections:
    """Raw output whose boxes crowd into few places (0: all apart), with few or many scores above the threshold."""
    logits = torch.randn(1, len(anchors), 91) * spread
    logits[..., 0] += background
    offsets = torch.randn(1, len(anchors), 4)
    if heaps:
        corners = torch.rand(heaps, 2) * 200
        places = torch.cat([corners, corners + 60], dim=1)[torch.randint(heaps, (len(anchors),))]
        offsets = det.boxes.encode(places + torch.randn(len(anchors), 4), anchors)[None]
    return det.RawDetections(logits, offsets)


def assert_torchvision_finds_the_same(
    model, raw: det.RawDetections, anchors: torch.Tensor, threshold: float = 0.001
) -> None:
    outputs = {"cls_logits": raw.class_logits, "bbox_regression": raw.box_offsets}
    model.score_thresh = threshold
    (expected,) = model.postprocess_detections(outputs, [anchors], [(320, 320)])
    process = det.PostProcess("softmax", background=True, score_threshold=threshold)
    (found,) = process(raw, anchors, (320, 320), [(320, 320)])
    assert torch.equal(found.scores, expected["scores"])
    assert torch.equal(found.boxes, expected["boxes"])
    assert torch.equal(found.labels + 1, expected["labels"])


@pytest.mark.parametrize(
    "spread, background, heaps, passing",
    [
        (1.0, 30.0, 0, "none"),
        (2.0, 13.0, 0, "some"),
        (2.0, 9.0, 0, "many"),
        (0.3, 0.0, 0, "all"),
        (2.0, 13.0, 2, "some"),  # few survive, so the first candidates are not enough
        (0.3, 0.0, 2, "all"),
    ],
)
@pytest.mark.parametrize("near", [1.0, 0.01])  # boxes near their anchors have many an IoU of just the threshold
@torch.inference_mode()
def test_detections_equal_torchvisions(torchvision_model, anchors, spread, background, heaps, passing, near):
    torch.manual_seed(0)
    raw = heaped_raw(anchors, spread, background, heaps)
    raw = raw._replace(box_offsets=raw.box_offsets * near)
    share = (raw.class_logits.softmax(dim=-1)[..., 1:] > 0.001).float().mean().item()
    low, high = {"none": (0, 0), "some": (1e-6, 0.2), "many": (0.15, 0.5), "all": (1, 1)}[passing]
    assert low <= share <= high
    assert_torchvision_finds_the_same(torchvision_model, raw, anchors)


@pytest.mark.parametrize("background", [3.0, 7.0, 12.0])
@pytest.mark.parametrize("heaps", [0, 2])
@torch.inference_mode()
def test_detections_above_a_half_equal_torchvisions(torchvision_model, anchors, background, heaps):
    torch.manual_seed(3)
    raw = heaped_raw(anchors, 4.0, background, heaps)
    passing = int((raw.class_logits.softmax(dim=-1)[..., 1:] > 0.5).sum())
    assert 20 < passing < 3000
    assert_torchvision_finds_the_same(torchvision_model, raw, anchors, threshold=0.5)


@pytest.mark.parametrize(("background", "step"), [(0.0, 0.5), (9.0, 1.0), (13.0, 1.0)])
@torch.inference_mode()
def test_equal_scores_come_in_torchvisions_order(torchvision_model, anchors, background, step):
    torch.manual_seed(0)
    raw = heaped_raw(anchors, 2.0, background, 0)
    raw = det.RawDetections((raw.class_logits / step).round() * step, raw.box_offsets * 0.01)
    assert_torchvision_finds_the_same(torchvision_model, raw, anchors)


@torch.inference_mode()
def test_one_class_does_not_take_more_than_its_candidates(torchvision_model, anchors):
    torch.manual_seed(1)
    raw = heaped_raw(anchors, 1.0, 0.0, 0)
    raw.class_logits[..., 7] += 9  # the best thousand are all of this class
    outputs = {"cls_logits": raw.class_logits, "bbox_regression": raw.box_offsets}
    (expected,) = torchvision_model.postprocess_detections(outputs, [anchors], [(320, 320)])
    (found,) = det.PostProcess("softmax", background=True)(raw, anchors, (320, 320), [(320, 320)])
    assert torch.equal(found.scores, expected["scores"])
    assert torch.equal(found.boxes, expected["boxes"])


@torch.inference_mode()
def test_equal_scores_still_give_a_valid_suppression(anchors):
    torch.manual_seed(2)
    raw = heaped_raw(anchors, 1.0, 0.0, 40)
    logits = (raw.class_logits[..., :3] * 2).round()  # few distinct values
    process = det.PostProcess("sigmoid", score_threshold=0.5, max_per_class=10_000)
    (found,) = process(det.RawDetections(logits, raw.box_offsets), anchors, (320, 320), [(320, 320)])
    assert (found.scores[:-1] >= found.scores[1:]).all()
    for label in range(3):
        mine = found.boxes[found.labels == label]
        overlap = box_iou(mine, mine).fill_diagonal_(0)
        assert overlap.max() <= 0.55 + 1e-3


@torch.inference_mode()
def test_boxes_are_in_the_original_images_pixels(anchors):
    raw = det.RawDetections(torch.full((2, len(anchors), 2), -20.0), torch.zeros(2, len(anchors), 4))
    index = 1500
    raw.class_logits[:, index, 1] = 3.0
    wide, tall = det.PostProcess("sigmoid")(raw, anchors, (320, 320), [(160, 640), (640, 320)])
    box = anchors[index].clamp(0, 320)
    torch.testing.assert_close(wide.boxes, (box * torch.tensor([2, 0.5, 2, 0.5]))[None])
    torch.testing.assert_close(tall.boxes, (box * torch.tensor([1, 2, 1, 2]))[None])
    assert wide.labels.tolist() == [1]
    assert wide.scores.item() == pytest.approx(1 / (1 + np.exp(-3)))


@torch.inference_mode()
def test_scores_of_each_kind(anchors):
    logits = torch.tensor([[[2.0, 1.0, 0.5]]])
    raw = det.RawDetections(logits, torch.zeros(1, 1, 4))
    arguments = (raw, anchors[1500:1501], (320, 320), [(320, 320)])

    def scores(kind: str, background: bool) -> list[float]:
        return det.PostProcess(kind, background)(*arguments)[0].scores.tolist()

    exponentials = logits[0, 0].exp()
    assert scores("softmax", False) == pytest.approx((exponentials / (1 + exponentials.sum())).tolist())
    assert scores("softmax", True) == pytest.approx((exponentials / exponentials.sum())[1:].tolist())
    assert scores("sigmoid", False) == pytest.approx(logits[0, 0].sigmoid().tolist())
    assert scores("sigmoid", True) == pytest.approx(logits[0, 0, 1:].sigmoid().tolist())


@torch.inference_mode()
def test_scores_that_are_not_numbers_are_no_detections(anchors):
    raw = det.RawDetections(torch.full((1, len(anchors), 2), torch.nan), torch.zeros(1, len(anchors), 4))
    (found,) = det.PostProcess("sigmoid")(raw, anchors, (320, 320), [(320, 320)])
    assert len(found.scores) == 0


@pytest.mark.parametrize("heaps", [0, 2, 30])
@torch.inference_mode()
def test_the_static_form_finds_the_same(anchors, heaps):
    torch.manual_seed(4)
    raws = [heaped_raw(anchors, 2.0, 15.5, heaps) for _ in range(2)]
    raw = det.RawDetections(*(torch.cat(parts) for parts in zip(*raws, strict=True)))
    passing = (raw.class_logits.softmax(dim=-1)[..., 1:] > 0.001).flatten(1).sum(dim=1)
    assert (passing > 50).all() and (passing <= 1000).all()
    found = det.StaticPostProcess(anchors, (320, 320), background=True)(*raw)
    expected = det.PostProcess(background=True)(raw, anchors, (320, 320), [(320, 320)] * 2)
    for image, wanted in enumerate(expected):
        valid = found.valid[image]
        assert valid.sum() == len(wanted.scores) and valid[: len(wanted.scores)].all()
        assert torch.equal(found.boxes[image][valid], wanted.boxes)
        assert torch.equal(found.scores[image][valid], wanted.scores)
        assert torch.equal(found.labels[image][valid], wanted.labels)
        assert not found.scores[image][~valid].any()


@torch.inference_mode()
def test_the_static_form_keeps_to_the_limit_per_class(anchors):
    torch.manual_seed(5)
    logits = torch.full((1, len(anchors), 3), -20.0)
    logits[0, :400, 1] = torch.randn(400)
    raw = det.RawDetections(logits, torch.randn(1, len(anchors), 4))
    arguments = {"kind": "sigmoid", "max_per_class": 100}
    found = det.StaticPostProcess(anchors, (320, 320), **arguments)(*raw)
    (expected,) = det.PostProcess(**arguments)(raw, anchors, (320, 320), [(320, 320)])
    assert torch.equal(found.scores[found.valid], expected.scores)


def test_the_static_form_exports_strictly():
    torch.manual_seed(6)
    model = det.create("ssdlite", backbone="mobilenet_v3_small", num_classes=2, width=0.35, image_size=64)
    static = det.StaticPostProcess(model.anchors, (64, 64), kind="sigmoid", max_candidates=50)
    raw = det.RawDetections(torch.randn(1, len(model.anchors), 2), torch.randn(1, len(model.anchors), 4))
    exported = torch.export.export(static, tuple(raw), strict=True).module()(*raw)
    for mine, theirs in zip(exported, static(*raw), strict=True):
        assert torch.equal(mine, theirs)


def test_more_static_candidates_than_can_be_equal_are_refused(anchors):
    with pytest.raises(InputError, match="between 1 and 1000"):
        det.StaticPostProcess(anchors, (320, 320), max_candidates=2000)


def test_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(InputError, match="sigmoid"):
        det.PostProcess("hinge")


def test_predictor_equals_the_plain_model_and_leaves_it_alone():
    torch.manual_seed(3)
    model = det.create("ssdlite", backbone="mobilenet_v3_small", num_classes=2, width=0.35, image_size=(96, 128))
    model(torch.randn(4, 3, 96, 128))  # norm statistics of its own
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    engine = TorchEngine(model, mean=(0.5,) * 3, std=(0.5,) * 3)
    predictor = det.Predictor(engine, model, ["cat", "dog"], kind="sigmoid", score_threshold=0.0)
    assert model.training
    result = predictor(frame)

    rgb = cv2.cvtColor(cv2.resize(frame, (128, 96)), cv2.COLOR_BGR2RGB)
    images = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        raw = model.eval()(images)
    expected = det.PostProcess("sigmoid", score_threshold=0.0)(raw, model.anchors, (96, 128), [(60, 80)])[0]
    assert predictor.task == "detection"
    np.testing.assert_allclose(result.scores[:20], expected.scores[:20].numpy(), atol=1e-4)
    assert result.boxes.dtype == np.float32 and result.boxes.shape == (len(result.scores), 4)
    assert result.labels.dtype == np.int64 and result.classes == ["cat", "dog"]


def test_drawing_marks_the_box_on_a_copy():
    frame = np.zeros((120, 160, 3), np.uint8)
    result = det.DetectionResult(
        np.array([[40, 50, 100, 90]], np.float32), np.array([0.8], np.float32), np.array([1]), ["a", "b"]
    )
    drawn = result.draw(frame)
    assert not frame.any()
    assert drawn[70, 40].any() and drawn[90, 70].any() and not drawn[75, 70].any() and not drawn[110, 150].any()
    assert not result.draw(frame, score_threshold=0.9).any()


def test_a_name_is_readable_at_the_right_edge():
    boxes = np.array([[20, 50, 30, 90], [150, 50, 160, 90]], np.float32)
    middle, edge = (
        det.DetectionResult(boxes[n : n + 1], np.array([0.8], np.float32), np.array([1]), ["a", "lamp"]).draw(
            np.zeros((120, 160, 3), np.uint8)
        )
        for n in (0, 1)
    )
    plates = [drawn[:49].any(axis=2).sum() for drawn in (middle, edge)]
    assert plates[0] == plates[1] > 0


def test_wrong_class_names_and_frames_are_refused():
    model = det.create("ssdlite", backbone="mobilenet_v3_small", num_classes=2, width=0.35)
    engine = TorchEngine(model, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(InputError, match="3 class names"):
        det.Predictor(engine, model, ["a", "b", "c"])
    with pytest.raises(ValueError, match="uint8"):
        det.Predictor(engine, model, ["a", "b"])(np.zeros((32, 32, 3), np.float32))
