"""Augmentation is distributed as torchvision's SSD preset, letterboxing is exact, and mixtures keep their boxes."""

import albumentations as A
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import det
from backbone.data.more import ALLOWED, compose
from backbone.errors import InputError
from backbone.inference import TorchEngine
from det.boxes import place
from det.data.transforms import CROWD, Colors, crop, distort, draw_colors, mixup, mosaic, zoom_out

DRAWS = 1000
IMAGE_HW = (480, 640)
BOXES = np.array([[40, 60, 200, 300], [300, 100, 620, 420], [500, 20, 560, 60]], np.float32)


def assert_same_distribution(one: list, other: list) -> None:
    """Kolmogorov and Smirnov's test for two samples, at a level of 0.1 % (fixed seeds: it passes or it does not)."""
    one, other = np.sort(one), np.sort(other)
    values = np.concatenate([one, other])
    shares = [np.searchsorted(sample, values, side="right") / len(sample) for sample in (one, other)]
    limit = 1.95 * np.sqrt(1 / len(one) + 1 / len(other))
    assert np.abs(shares[0] - shares[1]).max() < limit


def sample_of(boxes: np.ndarray) -> list:
    """What torchvision's transforms draw their parameters from."""
    image = tv_tensors.Image(torch.zeros(3, *IMAGE_HW, dtype=torch.uint8))
    return [image, tv_tensors.BoundingBoxes(torch.tensor(boxes), format="XYXY", canvas_size=IMAGE_HW)]


def window_figures(left: float, top: float, width: float, height: float) -> list[float]:
    """A window's place and shape, cut off to whole pixels as torchvision's are."""
    left, top, width, height = (int(value + 1e-3) for value in (left, top, width, height))
    whole = (height, width) == IMAGE_HW
    return [left, top, width, height, width / height, float(whole)]


def test_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    theirs, sample = [], sample_of(BOXES)
    draw = v2.RandomIoUCrop()
    for _ in range(DRAWS):
        found = draw.make_params(sample)
        left, top = found.get("left", 0), found.get("top", 0)
        theirs.append(window_figures(left, top, found.get("width", IMAGE_HW[1]), found.get("height", IMAGE_HW[0])))
    whole = np.array([0, 0, IMAGE_HW[1], IMAGE_HW[0]], np.float32)
    windows = [crop(whole, BOXES, rng) for _ in range(DRAWS)]
    ours = [window_figures(*window[:2], *(window[2:] - window[:2])) for window in windows]
    for one, other in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        assert_same_distribution(one, other)


def test_zooming_out_is_distributed_as_torchvisions():
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    theirs, sample = [], sample_of(BOXES)
    draw = v2.RandomZoomOut()
    for _ in range(DRAWS):
        if torch.rand(1) >= draw.p:  # as its `transform` asks before it draws
            theirs.append([0.0, 0.0, 1.0])
            continue
        left, top, right, _ = draw.make_params(sample)["padding"]
        theirs.append([left / IMAGE_HW[1], top / IMAGE_HW[0], (left + right) / IMAGE_HW[1] + 1])
    window = np.array([0, 0, IMAGE_HW[1], IMAGE_HW[0]], np.float32)
    zoomed = [zoom_out(window, rng) for _ in range(DRAWS)]
    ours = [[-w[0] / IMAGE_HW[1], -w[1] / IMAGE_HW[0], (w[2] - w[0]) / IMAGE_HW[1]] for w in zoomed]
    for one, other in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        assert_same_distribution(one.round(2), other.round(2))  # torchvision cuts off to whole pixels


def test_colors_are_distributed_as_torchvisions():
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    theirs, ours = [], []
    draw = v2.RandomPhotometricDistort()
    for _ in range(DRAWS):
        found = draw.make_params(sample_of(BOXES))
        drawn = [-1.0 if found[name] is None else float(found[name]) for name in names]
        channels = found["channel_permutation"]
        theirs.append(
            [*drawn, bool(found["contrast_before"]), -1 if channels is None else 10 * channels[0] + channels[1]]
        )
        *drawn, first, channels = draw_colors(rng)
        drawn = [-1.0 if value is None else value for value in drawn]
        ours.append([*drawn, first, -1 if channels is None else 10 * channels[0] + channels[1]])
    for one, other in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        assert_same_distribution(one, other)


def test_flips_are_even():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, :10] = 255
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    transform = det.train_transform(20, "flip")
    flipped = sum(transform(image, *nothing, seed).image[0, 0, 0] == 0 for seed in range(1000))
    assert 450 < flipped < 550


@pytest.mark.parametrize(
    "colors",
    [
        Colors(1.1, None, None, None, True, None),
        Colors(None, 0.6, None, None, True, None),
        Colors(0.9, 1.4, 0.5, None, True, np.array([2, 0, 1])),
        Colors(0.9, 0.7, 1.3, None, False, None),
        Colors(None, None, None, 0.05, True, None),
        Colors(1.1, 0.6, 0.6, -0.04, True, np.array([1, 0, 2])),
        Colors(0.9, 0.7, 0.8, 0.03, False, None),
    ],
)
def test_a_distortion_is_torchvisions_with_the_same_draws(colors):
    """Colors that no step drives out of range, where one matrix and torchvision's steps must agree."""
    pixels = np.random.default_rng(0).integers(70, 170, (40, 50, 3), np.uint8)
    # In floating point: on bytes torchvision cuts off after every step.
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    steps = [
        (colors.brightness, F.adjust_brightness),
        (colors.contrast if colors.contrast_first else None, F.adjust_contrast),
        (colors.saturation, F.adjust_saturation),
        (colors.hue, F.adjust_hue),
        (None if colors.contrast_first else colors.contrast, F.adjust_contrast),
    ]
    for value, step in steps:
        if value is not None:
            expected = step(expected, value)
    expected = expected.permute(1, 2, 0).numpy() * 255
    if colors.channels is not None:
        expected = expected[..., colors.channels]
    difference = np.abs(distort(pixels, colors, pixels).astype(int) - expected)
    # Hue and saturation are kept in 8 bits on the way.
    assert difference.mean() < (1.0 if colors.hue else 0.3)
    assert difference.max() < (6 if colors.hue else 1)


def test_the_surroundings_keep_their_color():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    box = np.array([[5, 5, 35, 25]], np.float32)
    transform = det.train_transform(64, "ssd")
    zoomed = 0
    for seed in range(60):
        edge = transform(image, box, np.array([0]), seed).image[[0, 0, -1, -1], [0, -1, 0, -1]]
        zoomed += (edge == 127).all(axis=1).any()
    assert zoomed > 10


@pytest.mark.parametrize("image_hw", [(480, 640), (640, 480), (333, 1000), (7, 7), (1, 900)])
@pytest.mark.parametrize("input_hw", [(320, 320), (256, 512)])
def test_letterboxing_keeps_proportions_and_gives_boxes_back_exactly(image_hw, input_hw):
    left, top, width, height = place(image_hw, input_hw, "letterbox")
    assert width == input_hw[1] or height == input_hw[0]
    assert min(left, top) >= 0 and left + width <= input_hw[1] and top + height <= input_hw[0]
    assert abs(left - (input_hw[1] - left - width)) <= 1 and abs(top - (input_hw[0] - top - height)) <= 1
    if min(height, width) > 10:
        assert width / image_hw[1] == pytest.approx(height / image_hw[0], rel=0.5 / min(width, height))

    box = np.array([[0, 0, image_hw[1], image_hw[0]]], np.float32)
    image = np.full((*image_hw, 3), 255, np.uint8)
    pixels, moved, _ = det.eval_transform(input_hw, "letterbox")(image, box, np.array([0]), 0)
    rows, columns = np.nonzero((pixels == 255).all(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, left + width, top + height)
    if min(height, width) > 1:
        np.testing.assert_allclose(moved[0], [left, top, left + width, top + height], rtol=1e-5, atol=1e-4)

    anchors = torch.tensor([[left, top, left + width, top + height]], dtype=torch.float32)
    raw = det.RawDetections(torch.full((1, 1, 1), 4.0), torch.zeros(1, 1, 4))
    (found,) = det.PostProcess("sigmoid", resize="letterbox")(raw, anchors, input_hw, [image_hw])
    torch.testing.assert_close(found.boxes, torch.tensor(box), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("strength", ["ssd", "crop", "flip", "none"])
def test_letterboxed_training_images_keep_their_proportions(strength):
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 90:110] = 255
    box = np.array([[90, 40, 110, 60]], np.float32)
    transform = det.train_transform((96, 96), strength, "letterbox")
    for seed in range(30):
        width, height = np.diff(transform(image, box, np.array([0]), seed).boxes[0].reshape(2, 2), axis=0)[0]
        clipped = strength in ("ssd", "crop")
        assert width == pytest.approx(height, rel=0.02) or clipped


def test_a_predictor_letterboxes_as_its_model_says():
    torch.manual_seed(0)
    model = det.create(
        backbone="mobilenet_v3_small", num_classes=2, width=0.35, image_size=(96, 128), resize="letterbox"
    )
    frame = np.random.default_rng(0).integers(0, 256, (60, 200, 3), np.uint8)
    engine = TorchEngine(model, mean=(0.5,) * 3, std=(0.5,) * 3)
    predictor = det.Predictor(engine, model, ["cat", "dog"], kind="sigmoid", score_threshold=0.0)
    prepared = predictor.prepare(frame)[0] / 127.5 - 1
    assert prepared.shape == (96, 128, 3)
    assert prepared[:29].abs().max() < 0.01 and prepared[29:67].abs().mean() > 0.3
    boxes = predictor(frame).boxes
    assert len(boxes) and boxes.min() >= 0 and (boxes <= np.array([200, 60, 200, 60]) + 1e-4).all()


def four_parts() -> list[det.Transformed]:
    parts = []
    for level in (50, 100, 150, 200):
        image = np.zeros((64, 96, 3), np.uint8)
        image[16:48, 24:72] = level
        parts.append(det.Transformed(image, np.array([[24, 16, 72, 48]], np.float32), np.array([level])))
    return parts


def test_a_mosaic_shows_four_images_with_their_boxes():
    for seed in range(10):
        image, boxes, labels = mosaic(four_parts(), np.random.default_rng(seed))
        assert image.shape == (64, 96, 3) and sorted(labels) == [50, 100, 150, 200]
        for box, level in zip(boxes, labels, strict=True):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            assert image[y, x, 0] == level
            assert (image[y, [round(box[0]) - 3, round(box[2]) + 2], 0] != level).all()
            assert (image[[round(box[1]) - 3, round(box[3]) + 2], x, 0] != level).all()


def test_mixup_keeps_the_boxes_of_both():
    one, other = four_parts()[0], four_parts()[3]
    image, boxes, labels = mixup([one, other], np.random.default_rng(0))
    assert labels.tolist() == [50, 200] and len(boxes) == 2
    assert 50 < image[32, 48, 0] <= 125


def test_input_sizes_are_multiples_of_32_around_the_models():
    assert det.input_sizes([320, 320], [0.9, 1.1]) == [(288, 288), (320, 320), (352, 352)]
    assert det.input_sizes([256, 512], [0.75, 0.875]) == [(192, 384), (192, 416), (224, 448)]
    with pytest.raises(InputError, match="smaller factor first"):
        det.input_sizes([320, 320], [1.5, 1.0])


def test_boxes_are_scaled_with_the_batch():
    images = torch.zeros(2, 3, 64, 96)
    images[:, :, 16:48, 24:72] = 1
    targets = det.Targets(torch.tensor([[[24.0, 16, 72, 48]]] * 2), *torch.zeros(3, 2, 1))
    images, targets = det.scale_batch(images, targets, (96, 192))
    rows, columns = (images[0, 0] > 0.5).nonzero(as_tuple=True)
    left, top, right, bottom = targets.boxes[1, 0].tolist()
    assert (left, top, right, bottom) == (48, 24, 144, 72)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)


MANY = np.array([[0, 0, 3, 3], [10.5, 4.25, 40, 30], [60, 20, 61, 60], [90, 0, 96, 64], [20, 40, 80, 64]], np.float32)


@pytest.mark.parametrize("name", ALLOWED)
def test_boxes_stay_sound_under_every_further_transform(name):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    strong = {"Affine": {"rotate": [-60, 60], "translate_percent": [-0.5, 0.5]}, "GridDropout": {"ratio": 0.8}}
    entries = [{"name": name, "p": 1.0} | strong.get(name, {})]
    transform = det.train_transform((64, 96), "flip", more=compose(entries))
    labels = np.array([3, 0, CROWD, 7, 7])
    for seed in range(8):
        pixels, boxes, left = transform(image, MANY, labels, seed)
        assert pixels.shape == (64, 96, 3) and pixels.dtype == np.uint8
        assert boxes.dtype == np.float32 and boxes.shape == (len(left), 4) and left.dtype == np.int64
        assert np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= np.array([96, 64, 96, 64])).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all() and set(left.tolist()) <= set(labels.tolist())
    none = transform(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0)
    assert none.boxes.shape == (0, 4) and none.labels.shape == (0,)


def test_boxes_are_untouched_by_what_moves_nothing():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    plain = det.train_transform((64, 96))
    noisy = det.train_transform((64, 96), more=compose([{"name": "GaussNoise", "p": 1.0}]))
    for seed in range(10):
        one, other = (transform(image, MANY, np.arange(5), seed) for transform in (plain, noisy))
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert (one.image != other.image).mean() > 0.5


def test_boxes_follow_geometry_and_a_callers_own_composition():
    """A white square on black: its box must be found around it wherever it went; a crowd's follows likewise."""
    image = np.zeros((96, 128, 3), np.uint8)
    image[40:56, 50:80] = 255
    box = np.array([[50, 40, 80, 56]], np.float32)
    given = A.Compose(
        [A.OneOf([A.VerticalFlip(p=1), A.Affine(scale=(0.7, 1.3), translate_percent=(-0.2, 0.2), p=1)], p=1)],
        bbox_params=A.BboxParams("coco"),
    )
    for label in (4, CROWD):
        transform = det.train_transform((96, 128), "flip", more=given)
        for seed in range(30):
            pixels, boxes, labels = transform(image, box, np.array([label]), seed)
            rows, columns = np.nonzero(pixels[..., 0] > 127)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(boxes[0], found, atol=1.01)
            assert labels.tolist() == [label]


def test_objects_that_leave_the_image_lose_their_boxes():
    image = np.zeros((64, 96, 3), np.uint8)
    boxes = np.array([[0, 10, 20, 30], [50, 10, 90, 30]], np.float32)
    moved = {"name": "Affine", "translate_percent": {"x": [-0.19, -0.19], "y": [0, 0]}, "p": 1.0}
    transform = det.train_transform((64, 96), "none", more=compose([moved]))
    found = transform(image, boxes, np.array([0, 1]), 0)
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.boxes[0], [50 - 18, 10, 90 - 18, 30], atol=0.5)


@pytest.mark.parametrize("workers", [0, 2])
def test_further_augmentation_follows_from_seed_epoch_and_index(world, workers):
    entries = [{"name": "RandomRain", "p": 0.5}, {"name": "GaussNoise", "p": 0.5}, {"name": "Rotate", "limit": 10}]

    def dataset() -> det.CocoDetection:
        transform = det.train_transform((48, 96), more=compose(entries))
        return det.CocoDetection(world / "coco", "train2017", transform=transform, mosaic=0.5)

    order = [(epoch, index) for epoch in (0, 1) for index in range(4)]
    loader = DataLoader(dataset(), batch_size=1, sampler=order, collate_fn=det.collate, num_workers=workers)
    data = dataset()
    expected = [det.collate([data[key]]) for key in order]
    assert len({batch.images.numpy().tobytes() for batch in expected}) == 8
    for batch, other in zip(loader, expected, strict=True):
        assert torch.equal(batch.images, other.images) and torch.equal(batch.targets.boxes, other.targets.boxes)


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_samples_follow_from_seed_epoch_and_index(world, workers):
    def batches(**keywords) -> list[bytes]:
        transform = det.train_transform((48, 96))
        data = det.CocoDetection(world / "coco", "train2017", transform=transform, **keywords)
        order = [(epoch, index) for epoch in (0, 1) for index in range(4)]
        loader = DataLoader(data, batch_size=1, sampler=order, collate_fn=det.collate, num_workers=workers)
        return [batch.images.numpy().tobytes() + batch.targets.boxes.numpy().tobytes() for batch in loader]

    mixed = batches(mosaic=0.6, mixup=0.6)
    assert len(set(mixed)) == 8
    assert batches(mosaic=0.6, mixup=0.6) == mixed
    plain, other = batches(), batches(mosaic=0.6, mixup=0.6, seed=1)
    assert 1 <= sum(one == two for one, two in zip(mixed, plain, strict=True)) <= 5
    assert not set(other) & set(mixed)
