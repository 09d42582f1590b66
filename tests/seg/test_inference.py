"""Sliding windows, scales and mirror images: equal to the plain way where they must be, and covering every pixel."""

import pytest
import torch
from torch import nn

import seg
from backbone import InputError
from seg.inference import Inference, default_stride, window_starts


class Coarse(nn.Module):
    """Logits at stride 4 that depend on a pixel's surroundings and colors, not on its place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Coarse().requires_grad_(False)


@pytest.fixture
def lraspp(randomise):
    torch.manual_seed(0)
    return randomise(seg.create("lraspp", backbone="mobilenet_v3_small", num_classes=6)).requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 96), (31, 47)])
def test_a_window_that_covers_the_image_changes_nothing(lraspp, size):
    images = torch.rand(2, 3, *size)
    plain = Inference()
    covering = Inference(window_hw=(100, 96), stride_hw=(50, 96))
    assert torch.equal(covering.scores(lraspp, images), plain.scores(lraspp, images))
    assert torch.equal(covering.labels(lraspp, images), plain.labels(lraspp, images))


def test_windows_are_the_mean_of_what_each_of_them_sees(model):
    images = torch.rand(1, 3, 40, 70)
    scores = Inference(window_hw=(40, 40), stride_hw=(40, 30)).scores(model, images)
    left, right = (seg.upsample(model(images[..., start : start + 40]), (40, 40)) for start in (0, 30))
    assert torch.equal(scores[..., :30], left[..., :30])
    assert torch.equal(scores[..., 40:], right[..., 10:])
    assert torch.allclose(scores[..., 30:40], (left[..., 30:] + right[..., :10]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "window", "stride"), [(100, 30, 20), (100, 30, 30), (90, 30, 30), (31, 30, 1), (7, 7, 3)]
)
def test_windows_cover_every_pixel_and_stay_inside(side, window, stride):
    starts = window_starts(side, window, stride)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered == set(range(side)) and len(set(starts)) == len(starts)


def test_the_flip_of_a_symmetric_image_is_symmetric(lraspp):
    half = torch.rand(1, 3, 47, 32)
    images = torch.cat([half, half.flip(-1)], -1)
    inference = Inference(scales=(0.75, 1.0, 1.5), flip=True)
    scores = inference.scores(lraspp, images)
    assert torch.allclose(scores, scores.flip(-1), atol=1e-6)
    flip_only = Inference(flip=True).labels(lraspp, images)
    assert torch.equal(flip_only, flip_only.flip(-1))


def test_flipping_the_image_flips_the_result(model):
    images = torch.rand(1, 3, 40, 63)
    inference = Inference(scales=(0.5, 1.0), flip=True)
    mirrored = inference.scores(model, images.flip(-1)).flip(-1)
    assert torch.allclose(inference.scores(model, images), mirrored, atol=1e-6)


def test_scores_over_scales_are_probabilities(model):
    scores = Inference(scales=(0.5, 2.0)).scores(model, torch.rand(1, 3, 31, 47))
    assert scores.shape == (1, 6, 31, 47)
    assert torch.allclose(scores.sum(1), torch.ones(1, 31, 47), atol=1e-5)


def test_one_scale_twice_is_that_scale_once(model):
    images = torch.rand(1, 3, 31, 47)
    twice = Inference(scales=(1.0, 1.0)).labels(model, images)
    assert torch.equal(twice, Inference().labels(model, images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride_hw": (8, 8)}, "a stride needs a window"),
        ({"window_hw": (0, 8)}, "window 0 8: both must be 1 or more"),
        ({"window_hw": (8, 8), "stride_hw": (8, 9)}, "leaving gaps"),
        ({"scales": (0.0,)}, "scale 0: must lie between"),
        ({"scales": (float("nan"),)}, "scale nan: must lie between"),
        ({"scales": ()}, "give at least one"),
    ],
)
def test_faulty_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Inference(**settings)


def test_a_protocol_says_what_was_done():
    assert Inference().describe() == "whole images"
    text = Inference((512, 1024), scales=(0.75, 1.0), flip=True).describe()
    assert text == "windows of 512x1024 every 341x682 (height x width); scales 0.75, 1; mean with the mirror image"
    assert default_stride((1, 1)) == (1, 1)
