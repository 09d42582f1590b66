"""Distillation of segmenters: the loss against a plain computation, what is ignored, strides and gradients."""

import math

import pytest
import torch

from seg.distill import distill_loss
from seg.resizing import resize


def plainly(logits, teacher_logits, labels, temperature):
    """The divergence pixel by pixel, in Python's floats."""
    divergences = []
    for number, row, column in (labels != 255).nonzero().tolist():
        one, other = (
            [math.exp(value / temperature) for value in values[number, :, row, column].tolist()]
            for values in (teacher_logits, logits)
        )
        wanted, found = ([value / sum(values) for value in values] for values in (one, other))
        divergences.append(sum(p * math.log(p / q) for p, q in zip(wanted, found, strict=True)))
    return temperature**2 * sum(divergences) / len(divergences)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_a_plain_computation_over_the_pixels_that_count(temperature):
    generator = torch.Generator().manual_seed(0)
    logits, wanted = (3 * torch.randn(2, 5, 4, 6, generator=generator) for _ in range(2))
    labels = torch.randint(5, (2, 4, 6), generator=generator)
    labels[0, 1:] = 255
    loss = distill_loss(logits, wanted, labels, temperature=temperature)
    assert loss.item() == pytest.approx(plainly(logits, wanted, labels, temperature), rel=1e-5)


def test_ignored_pixels_have_no_gradient_and_alone_no_loss():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[..., :16] = 255  # the left half, two columns of logits
    wanted = torch.randn(1, 3, 4, 4)
    distill_loss(logits, wanted, labels, temperature=2.0).backward()
    assert not logits.grad[..., :2].any() and logits.grad[..., 2:].all()
    loss = distill_loss(logits, wanted, torch.full_like(labels, 255), temperature=2.0)
    logits.grad = None
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_a_place_counts_by_its_share_of_labelled_pixels():
    wanted = torch.tensor([4.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    labels = torch.zeros(1, 8, 16)
    labels[:, 2:, :8] = 255  # a quarter of the left place is labelled
    distill_loss(logits, wanted, labels, temperature=1.0).backward()
    left, right = logits.grad[0, 0, 0].tolist()
    assert left == pytest.approx(right / 4)


def test_a_teacher_of_another_stride_is_resized():
    coarse = torch.randn(1, 4, 3, 5)
    labels = torch.zeros(1, 48, 80)
    fine = resize(coarse, (6, 10))
    assert distill_loss(fine, coarse, labels, temperature=2.0).item() == pytest.approx(0, abs=1e-6)
    assert distill_loss(fine, coarse.flip(3), labels, temperature=2.0) > 0.1


def test_gradients_stay_as_large_at_a_higher_temperature_and_never_reach_the_teacher():
    labels = torch.zeros(1, 8, 8)
    sizes = []
    for temperature in (4.0, 8.0):
        logits = torch.linspace(-1, 1, 5).view(1, 5, 1, 1).requires_grad_()
        wanted = torch.linspace(1, -1, 5).view(1, 5, 1, 1).requires_grad_()
        distill_loss(logits, wanted, labels, temperature=temperature).backward()
        assert wanted.grad is None
        sizes.append(logits.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_half_precision_is_computed_in_float32():
    logits, wanted = torch.randn(2, 1, 19, 4, 4)
    labels = torch.zeros(1, 32, 32)
    exact = distill_loss(logits.bfloat16().float(), wanted.bfloat16().float(), labels, temperature=2.0)
    loss = distill_loss(logits.bfloat16(), wanted.bfloat16(), labels, temperature=2.0)
    assert loss.dtype == torch.float32 and torch.equal(loss, exact)
