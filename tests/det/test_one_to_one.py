"""One-to-one predictors: how they are trained beside the others, and boxes without suppression."""

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torchvision.ops import box_iou

import det
from backbone.errors import InputError
from det.aligned_loss import AlignedLoss
from det.boxes import place
from tests.builders.boxes import CROSSING, CROWDED, NOTHING, random_raw, targets_of

SIZE_HW = (64, 96)
CREATE = {"head": "pico96", "backbone": "mobilenet_v3_small", "width": 0.35, "num_classes": 3, "image_size": SIZE_HW}


def make(**arguments):
    torch.manual_seed(0)
    return det.create(**CREATE, **arguments)


@pytest.fixture
def model(randomise):
    """A model whose scores and boxes differ from place to place."""
    model = randomise(make(one_to_one=True))
    for layers in model.head.output_layers():
        for layer in layers:
            torch.nn.init.normal_(layer.weight, std=0.3)
            torch.nn.init.zeros_(layer.bias)
    return model


@pytest.fixture
def batch():
    return torch.randn(3, 3, *SIZE_HW), targets_of([CROSSING, CROWDED, NOTHING])


def test_each_set_of_predictors_can_be_left_alone(model, batch):
    with torch.inference_mode():
        both = model(batch[0], both=True)
        for part, want in zip(model(batch[0]), both.one_to_many, strict=True):
            assert torch.equal(part, want)
        assert not torch.equal(both.one_to_many.class_logits, both.one_to_one.class_logits)
        names = make().state_dict().keys()
        for one_to_one in (False, True):
            other = make(one_to_one=True).eval()
            other.load_state_dict(model.state_dict())
            other.keep(one_to_one=one_to_one)
            assert other.state_dict().keys() == names and not other.one_to_one
            for part, want in zip(other(batch[0]), both[one_to_one], strict=True):
                assert torch.equal(part, want)


def test_a_head_without_them_is_taken_as_it_is_or_told_so():
    plain = make()
    before = copy.deepcopy(plain.state_dict())
    for one_to_one in (False, True):
        plain.keep(one_to_one=one_to_one)
        assert plain.state_dict().keys() == before.keys()
    anchored = det.create("ssdlite", backbone="mobilenet_v3_small", width=0.35, num_classes=3, image_size=SIZE_HW)
    anchored.keep(one_to_one=False)
    with pytest.raises(InputError, match="boxes of a head with anchors need NMS; train a pico head"):
        anchored.keep(one_to_one=True)
    with pytest.raises(InputError, match=r"no one-to-one predictors; train a pico head with model\.one_to_one=true"):
        plain(torch.zeros(1, 3, *SIZE_HW), both=True)


def test_the_loss_is_that_of_both_sets_in_changing_shares(model, batch):
    raw = model(batch[0], both=True)
    criterion = det.make_loss(model, box_weight=3.0)
    for done, share in ((0.0, 0.8), (0.5, 0.45), (1.0, 0.1)):
        criterion.set_progress(done)
        losses = criterion(raw, model.anchors, batch[1])
        many = AlignedLoss(box_weight=3.0)(raw.one_to_many, model.anchors, batch[1])
        one = AlignedLoss(box_weight=3.0, one_to_one=True)(raw.one_to_one, model.anchors, batch[1])
        expected = {name: share * loss for name, loss in many.items()}
        expected |= {f"one_{name}": (1 - share) * loss for name, loss in one.items()}
        torch.testing.assert_close(losses, expected)
        assert all(loss > 0 for loss in losses.values())


def test_one_to_one_predictors_do_not_train_backbone_and_neck(model, batch):
    losses = det.make_loss(model)(model(batch[0], both=True), model.anchors, batch[1])
    sum(loss for name, loss in losses.items() if name.startswith("one_")).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("head.one_to_one.")}


def test_the_loss_compiles_once_for_all_shares(model, batch):
    criterion = det.make_loss(model)
    with torch.no_grad():
        raw = model(batch[0], both=True)
    counter = CompileCounter()
    compiled = torch.compile(criterion, backend=counter, fullgraph=True, dynamic=False)
    for done in (0.0, 0.3, 1.0):
        criterion.set_progress(done)
        arguments = (raw, model.anchors, batch[1])
        torch.testing.assert_close(compiled(*arguments), criterion(*arguments))
    assert counter.frame_count == 1


def without_suppression(logits, cells, boxes, threshold, most):
    """The detections of one image in plain loops: (score, label, box)."""
    scores = logits.sigmoid()
    strides = cells[:, 2] - cells[:, 0]
    found = []
    for cell, row in enumerate(scores.tolist()):
        # Itself and those of the same stride that touch it, by a side or a corner.
        around = (strides == strides[cell]) & ((cells - cells[cell]).abs() <= strides[cell]).all(dim=1)
        for label, score in enumerate(row):
            if score > threshold and score >= scores[around, label].max():
                found.append((score, label, boxes[cell].tolist()))
    return sorted(found, reverse=True)[:most]


@pytest.mark.parametrize(("threshold", "most"), [(0.001, 20), (0.6, 300)])
def test_without_nms_the_best_scores_are_the_detections(threshold, most):
    model = make()
    settings = {"kind": "sigmoid", "score_threshold": threshold, "nms_iou": None, "decode": model.head.decode}
    raw = random_raw(model, 3)
    boxes = model.head.decode(raw.box_offsets, model.anchors)
    boxes = boxes.clamp(min=0).minimum(torch.tensor([96.0, 64, 96, 64]))
    found = det.PostProcess(max_detections=most, **settings)(raw, model.anchors, SIZE_HW, [SIZE_HW] * 3)
    static = det.StaticPostProcess(model.anchors, SIZE_HW, max_detections=most, **settings)(*raw)
    assert static.scores.shape == (3, most)
    for image in range(3):
        expected = without_suppression(raw.class_logits[image], model.anchors, boxes[image], threshold, most)
        assert len(found[image].scores) == len(expected) > 10
        assert found[image].labels.tolist() == [label for _, label, _ in expected]
        torch.testing.assert_close(found[image].scores, torch.tensor([score for score, _, _ in expected]))
        torch.testing.assert_close(found[image].boxes, torch.tensor([box for _, _, box in expected]))
        valid = static.valid[image]
        assert (static.scores[image] > 0).equal(valid) and valid.equal(valid.sort(descending=True).values)
        for part, want in zip(static[:3], found[image], strict=True):
            assert torch.equal(part[image][valid], want)


def test_boxes_without_nms_are_placed_in_letterboxed_images():
    model = make()
    settings = {"kind": "sigmoid", "score_threshold": 0.5, "nms_iou": None, "decode": model.head.decode}
    raw = random_raw(model, 1)
    finish = det.PostProcess(resize="letterbox", **settings)
    (found,) = finish(raw, model.anchors, SIZE_HW, [(100, 100)])
    static = det.StaticPostProcess(model.anchors, SIZE_HW, **settings)(*raw)
    (unpadded,) = finish.unpad(static, SIZE_HW, [(100, 100)])
    assert place((100, 100), SIZE_HW, "letterbox").width == 64 and len(found.scores) > 5
    assert (found.boxes >= 0).all() and (found.boxes <= 100).all()
    for part, want in zip(unpadded, found, strict=True):
        torch.testing.assert_close(part, want)


def test_a_training_starts_from_files_with_and_without_them(model):
    plain, source = make(), make()
    with pytest.raises(InputError, match=r"head\.one_to_one\."):
        det.load_weights(make(one_to_one=True), source.state_dict())
    with pytest.raises(InputError, match=r"head\.one_to_one\."):
        det.load_weights(plain, model.state_dict())
    det.load_weights(plain, model.state_dict(), as_start=True)
    assert torch.equal(plain.head.towers[0][0].project.conv.weight, model.head.towers[0][0].project.conv.weight)
    started = make(one_to_one=True)
    det.load_weights(started, source.state_dict(), as_start=True)
    for name, value in started.state_dict().items():
        assert torch.equal(value, source.state_dict()[name.replace("one_to_one.", "")]), name
    det.load_weights(started, model.state_dict(), as_start=True)
    for name, value in started.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_a_few_steps_teach_it_one_box():
    torch.manual_seed(0)
    model = det.create(**CREATE | {"image_size": 64}, one_to_one=True)
    images = torch.zeros(4, 3, 64, 64)
    images[:, :, 16:48, 8:40] = 2.0
    targets = targets_of([(np.array([[8.0, 16, 40, 48]]), np.array([1]), np.zeros(1))] * 4)
    criterion, optimizer = det.make_loss(model), torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        criterion.set_progress(step / 59)
        optimizer.zero_grad()
        sum(criterion(model(images, both=True), model.anchors, targets).values()).backward()
        optimizer.step()
    model.keep(one_to_one=True)  # still in training mode: the norms' running statistics lag behind 60 steps
    raw = det.RawDetections(*(part.detach() for part in model(images)))
    finish = det.PostProcess("sigmoid", score_threshold=0.3, nms_iou=None, decode=model.head.decode)
    (found, *_) = finish(raw, model.anchors, (64, 64), [(64, 64)] * 4)
    assert found.labels.tolist() == [1]
    assert box_iou(found.boxes, targets.boxes[0, :1]) > 0.7
