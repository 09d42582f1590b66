"""Distillation of detectors: which scores and boxes are learned, and which pairs of models are refused."""

import pytest
import torch
from torch.nn import functional as F

import det
from backbone import InputError
from det.boxes import RawDetections
from det.distill import CONFIDENT, DistillLoss, make_distill_loss

KINDS = [
    ("softmax", False, False),
    ("softmax", True, False),
    ("sigmoid", False, False),
    ("sigmoid", False, True),
]


def raw(seed, *, distributions=False, anchors=6):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, anchors, 4, generator=generator)
    return RawDetections(logits, torch.randn(2, anchors, 32 if distributions else 4, generator=generator))


@pytest.mark.parametrize("score, background, distributions", KINDS)
def test_who_answers_as_the_teacher_has_no_loss_and_who_does_not_is_led_there(score, background, distributions):
    loss = DistillLoss(score, background=background, distributions=distributions)
    teacher = raw(0, distributions=distributions)
    assert sum(loss(teacher, teacher).values()).item() == pytest.approx(0, abs=1e-5)
    student = RawDetections(*(value.clone().requires_grad_() for value in raw(1, distributions=distributions)))
    first = loss(student, teacher)
    assert all(term > 0.01 for term in first.values())
    optimizer = torch.optim.Adam(student, lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        sum(loss(student, teacher).values()).backward()
        optimizer.step()
    last = loss(student, teacher)
    assert all(last[name] < 0.02 * first[name] for name in first)


def test_a_softmax_without_a_background_column_has_logit_0_for_it():
    student, teacher = raw(0), raw(1)
    with_column = [RawDetections(F.pad(one.class_logits, (1, 0)), one.box_offsets) for one in (student, teacher)]
    losses = DistillLoss("softmax", background=False, distributions=False)(student, teacher)
    others = DistillLoss("softmax", background=True, distributions=False)(*with_column)
    assert losses == others


@pytest.mark.parametrize("score, background, distributions", KINDS)
def test_boxes_are_learned_where_the_teacher_is_confident(score, background, distributions):
    loss = DistillLoss(score, background=background, distributions=distributions)
    teacher = raw(0, distributions=distributions)
    teacher.class_logits[:, ::2] = -6.0
    teacher.class_logits[:, ::2, 0] = 6.0 if background else -6.0  # at every other anchor there is nothing
    teacher.class_logits[:, 1::2, 1] = 6.0
    student = RawDetections(*(value.requires_grad_() for value in raw(1, distributions=distributions)))
    loss(student, teacher)["distill_box_loss"].backward()
    assert not student.box_offsets.grad[:, ::2].any()
    assert student.box_offsets.grad[:, 1::2].any(dim=-1).all()
    assert student.class_logits.grad is None


def test_scores_are_divided_by_the_confidence_of_the_boxes():
    """An image of twice as many objects and anchors weighs as much as the other."""
    loss = DistillLoss("sigmoid", background=False, distributions=False)
    student, teacher = raw(0, anchors=40), raw(1, anchors=40)
    assert (teacher.class_logits.sigmoid() > CONFIDENT).any()
    twice = [RawDetections(*(torch.cat([value, value], 1) for value in one)) for one in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*twice))


@pytest.mark.parametrize("score, background, distributions", KINDS)
def test_a_teacher_that_finds_nothing_gives_a_finite_loss(score, background, distributions):
    loss = DistillLoss(score, background=background, distributions=distributions)
    teacher = raw(0, distributions=distributions)
    teacher.class_logits[:] = -50.0
    teacher.class_logits[..., 0] = 50.0 if background else -50.0
    losses = loss(raw(1, distributions=distributions), teacher)
    assert losses["distill_box_loss"] == 0 and 0 < losses["distill_class_loss"] < 1e3


@pytest.mark.parametrize("score, background, distributions", KINDS)
def test_the_loss_compiles_as_one_graph(score, background, distributions):
    loss = DistillLoss(score, background=background, distributions=distributions)
    student, teacher = raw(0, distributions=distributions), raw(1, distributions=distributions)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")(student, teacher)
    torch.testing.assert_close(compiled, loss(student, teacher))


def detector(head="ssdlite", **others):
    return det.create(head, backbone="mobilenet_v3_small", num_classes=4, image_size=96, width=0.35, **others)


def test_heads_of_the_same_anchors_fit_whatever_their_size():
    small, large = detector("pico96"), detector("pico128")
    loss = make_distill_loss(small, large, kind="aligned", scores=("sigmoid", "sigmoid"), source="large.safetensors")
    assert loss.distributions
    images = torch.randn(2, 3, 96, 96)
    assert loss(small(images), large(images))["distill_class_loss"].isfinite()
    wide = det.create("ssdlite", backbone="efficientnet_lite0", num_classes=4, image_size=96, padding="same")
    loss = make_distill_loss(detector(), wide, kind="softmax", scores=("softmax", "softmax"), source="wide")
    assert not loss.distributions and loss(detector()(images), wide(images))["distill_box_loss"].isfinite()


@pytest.mark.parametrize(
    "teacher, scores, message",
    [
        (("ssdlite", "torchvision"), ("softmax", "softmax"), r"large\.safetensors: its anchors are not the student's"),
        (("ssdlite_fpn", "paper"), ("softmax", "softmax"), r"same kind of head \(ssdlite, ssdlite_fpn or pico\)"),
        (("pico96", "paper"), ("softmax", "sigmoid"), r"its anchors are not the student's \(\d+ and \d+ at 96x96\)"),
        (("ssdlite", "paper"), ("softmax", "sigmoid"), r"sigmoid scores.*loss\.kind=focal or quality_focal"),
        (("ssdlite", "paper"), ("sigmoid", "softmax"), r"softmax scores.*loss\.kind=softmax"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(teacher, scores, message):
    head, variant = teacher
    other = detector(head, variant=variant)
    with pytest.raises(InputError, match=message) as error:
        make_distill_loss(detector(), other, kind="softmax", scores=scores, source="large.safetensors")
    assert "\n" not in str(error.value)
