"""Losses: torch's and the library's numbers, hard pixels as a plain rule picks them, nothing where nothing counts."""

import math

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional as F

from seg.loss import LOSSES, balanced_weights, cross_entropy, ohem
from seg.pixel_scores import _PixelScores
from seg.resizing import upsample


def some_batch(coarse: tuple[int, int], fine: tuple[int, int], classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that require gradients, and labels of which a third do not count."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, classes, *coarse, generator=generator)
    labels = torch.randint(0, classes, (2, *fine), generator=generator, dtype=torch.uint8)
    labels[torch.rand(2, *fine, generator=generator) < 0.3] = 255
    return logits.requires_grad_(), labels


def assert_same(loss: torch.Tensor, expected: torch.Tensor, logits: torch.Tensor) -> None:
    """Values and gradients are equal."""
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    (got,), (wanted,) = (torch.autograd.grad(value, logits) for value in (loss, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.0, 0.1, 3.0]])
@pytest.mark.parametrize(
    ("coarse", "fine"), [((4, 6), (31, 47)), ((16, 16), (16, 16)), ((1, 1), (5, 7)), ((40, 40), (500, 300))]
)
def test_cross_entropy_equals_torchs_on_resized_logits(coarse, fine, weights, label_smoothing):
    logits, labels = some_batch(coarse, fine)
    loss = cross_entropy(logits, labels, class_weights=weights, label_smoothing=label_smoothing)
    expected = F.cross_entropy(
        upsample(logits, fine),
        labels.long(),
        weight=None if weights is None else torch.tensor(weights),
        ignore_index=255,
        label_smoothing=label_smoothing,
    )
    assert_same(loss, expected, logits)


def test_cross_entropy_is_finite_for_large_logits_and_half_precision():
    logits, labels = some_batch((4, 4), (32, 32))
    expected = F.cross_entropy(upsample(100 * logits, (32, 32)), labels.long(), ignore_index=255)
    assert_same(cross_entropy(100 * logits, labels), expected, logits)
    half = logits.detach().bfloat16().requires_grad_()
    cross_entropy(half, labels).backward()
    assert half.grad.dtype == torch.bfloat16 and half.grad.isfinite().all()


def test_cross_entropys_gradient_is_the_slope():
    logits, labels = some_batch((2, 3), (7, 8), classes=3)
    double = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(_PixelScores.apply, (double, labels.long() % 3))


def hardest(logits: torch.Tensor, labels: torch.Tensor, threshold: float, min_kept: int) -> torch.Tensor:
    """The mean loss of hard pixels by the plain rule: sort probabilities, take the lowest."""
    fine = upsample(logits, labels.shape[-2:])
    losses = F.cross_entropy(fine, labels.long(), ignore_index=255, reduction="none")[labels != 255]
    probabilities = (-losses.detach()).exp()
    kept = probabilities < threshold
    kept[probabilities.argsort()[:min_kept]] = True
    return losses[kept].mean()


@pytest.mark.parametrize("threshold", [0.001, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [0, 1, 100, 1500, 10**6])
def test_ohem_keeps_the_pixels_that_sorting_keeps(threshold, min_kept):
    logits, labels = some_batch((5, 7), (30, 40))
    expected = hardest(logits, labels, threshold, min_kept)
    if expected.isnan():  # no pixel is hard
        expected = logits.sum() * 0
    assert_same(ohem(logits, labels, threshold=threshold, min_kept=min_kept), expected, logits)


def test_ohem_with_all_pixels_is_cross_entropy():
    logits, labels = some_batch((5, 7), (30, 40))
    weights = [1.0, 2.0, 3.0, 1.0, 0.5, 0.1]
    every = ohem(logits, labels, min_kept=labels.numel(), class_weights=weights)
    assert_same(every, cross_entropy(logits, labels, class_weights=weights), logits)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("dice", smp.losses.DiceLoss("multiclass", ignore_index=255)),
        ("jaccard", smp.losses.JaccardLoss("multiclass", ignore_index=255)),
        ("lovasz", smp.losses.LovaszLoss("multiclass", ignore_index=255)),
        ("focal", smp.losses.FocalLoss("multiclass", gamma=2.0, ignore_index=255)),
    ],
)
def test_the_librarys_losses_are_the_librarys(name, theirs):
    logits, labels = some_batch((4, 6), (30, 40))
    assert_same(LOSSES[name](logits, labels), theirs(upsample(logits, (30, 40)), labels.long()), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_gives_zero_loss_and_gradient(name):
    logits = torch.randn(2, 4, 8, 8, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((2, 32, 32), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.shape == () and loss.item() == 0 and not logits.grad.any()


def test_balanced_weights_are_enets():
    assert balanced_weights([0, 0, 10**9]) == pytest.approx(
        [1 / math.log(1.02), 1 / math.log(1.02), 1 / math.log(2.02)]
    )
