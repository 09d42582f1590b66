"""Further augmentation of segmentation: labels follow, 255 where nothing is shown, and samples repeat."""

import pickle

import albumentations as A
import numpy as np
import pytest
from torch.utils.data import DataLoader

from backbone.data.more import ALLOWED, GEOMETRY, compose
from seg.data.cityscapes import Cityscapes
from seg.data.dataset import collate
from seg.data.transforms import TrainTransform

CROP_HW = (48, 64)


def plain(more: A.Compose | None) -> TrainTransform:
    """A transform that, up to a flip, changes nothing but what `more` does."""
    return TrainTransform(CROP_HW, scale=(1.0, 1.0), brightness=0, contrast=0, saturation=0, hue=0, more=more)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A BGR image of four stripes, and their labels 3, 7, 11, 15, at the size of the crop."""
    labels = np.repeat(np.array([3, 7, 11, 15], np.uint8), 16)[None].repeat(48, 0)
    return np.stack([labels * 16, 255 - labels * 16, labels * 8], axis=2), labels


@pytest.mark.parametrize("name", ALLOWED)
def test_labels_are_those_given_or_ignored(name):
    image, labels = scene()
    strong = {"Affine": {"rotate": [40, 50], "scale": [0.5, 0.6]}, "XYMasking": {"num_masks_x": 2, "mask_x_length": 9}}
    transform = plain(compose([{"name": name, "p": 1.0} | strong.get(name, {})]))
    seen = set()
    for seed in range(4):
        changed, mask = transform(image, labels, (seed,))
        assert changed.shape == (*CROP_HW, 3) and changed.dtype == np.uint8
        assert mask.shape == CROP_HW and mask.dtype == np.uint8
        if name not in (*GEOMETRY, "CoarseDropout", "Erasing", "GridDropout", "XYMasking"):
            assert (mask == labels).all() or (mask == labels[:, ::-1]).all()
        seen |= set(np.unique(mask).tolist())
    assert seen <= {3, 7, 11, 15, 255} and {3, 15} <= seen
    assert (255 in seen) == (name in ("Affine", "Rotate", "CoarseDropout", "Erasing", "GridDropout", "XYMasking"))


def test_labels_move_with_the_image():
    image, labels = scene()
    image = labels[..., None].repeat(3, axis=2) * 8
    transform = plain(compose([{"name": "Affine", "translate_percent": [-0.4, 0.4], "p": 1, "interpolation": 0}]))
    for seed in range(10):
        changed, mask = transform(image, labels, (seed,))
        assert (changed[mask != 255] == mask[mask != 255, None] * 8).all() and not changed[mask == 255].any()


def test_transforms_see_rgb():
    image = np.zeros((*CROP_HW, 3), np.uint8)
    image[..., 2] = 100  # red, last in BGR
    shifts = {"r_shift_limit": [50, 50], "g_shift_limit": [0, 0], "b_shift_limit": [0, 0]}
    changed, _ = plain(compose([{"name": "RGBShift", "p": 1.0} | shifts]))(image, scene()[1], (0,))
    assert (changed == (0, 0, 150)).all()


def test_the_flip_is_the_one_that_albumentations_draws_with_or_without_more():
    image, labels = scene()
    without, beside = plain(None), plain(A.Compose([A.NoOp(p=1)]))
    peer, flips = A.Compose([A.HorizontalFlip(p=0.5)]), 0
    for seed in range(200):
        peer.set_random_seed(int(np.random.SeedSequence((seed,)).generate_state(1)[0]))
        expected = peer(image=image, mask=labels)
        flips += expected["mask"][0, 0] == 15
        for transform in (without, beside):
            changed, mask = transform(image, labels, (seed,))
            np.testing.assert_array_equal(changed, expected["image"])
            np.testing.assert_array_equal(mask, expected["mask"])
    assert 70 < flips < 130


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_follow_from_seed_epoch_and_index(world, workers):
    more = [{"name": "RandomRain", "p": 0.5}, {"name": "GaussNoise", "p": 0.5}, {"name": "Rotate", "limit": 10}]

    def batches(seed: int) -> list[bytes]:
        transform = TrainTransform(CROP_HW, more=compose(more))
        data = Cityscapes(world / "cityscapes", "train", transform, seed=seed)
        order = [(epoch, number) for epoch in (0, 1) for number in range(4)]
        loader = DataLoader(data, batch_size=1, sampler=order, collate_fn=collate, num_workers=workers)
        return [batch.image.numpy().tobytes() + batch.labels.numpy().tobytes() for batch in loader]

    data = Cityscapes(world / "cityscapes", "train", TrainTransform(CROP_HW, more=compose(more)))
    samples = [data[epoch, number] for epoch in (0, 1) for number in range(4)]
    expected = [sample.image.numpy().tobytes() + sample.labels.numpy().tobytes() for sample in samples]
    assert batches(0) == expected and len(set(expected)) == 8
    assert not set(batches(1)) & set(expected)


def test_transforms_can_be_sent_to_loader_processes_that_start_fresh():
    image, labels = scene()
    transform = plain(compose([{"name": "GaussNoise", "p": 1.0}, {"name": "Rotate", "p": 1.0}]))
    copy = pickle.loads(pickle.dumps(transform))
    for one, other in zip(transform(image, labels, (5,)), copy(image, labels, (5,)), strict=True):
        np.testing.assert_array_equal(one, other)
