"""COCO data: what is read and cleaned, what is refused and how, and augmentation that follows pixels and seeds."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import det
from backbone.errors import InputError
from det.data.transforms import MIN_OVERLAPS, crop, zoom_out
from tests.builders.coco_data import HEIGHT, WIDTH, content, dataset, write


def test_boxes_labels_and_ids_are_those_of_the_file(tmp_path):
    data = dataset(write(tmp_path, content()))
    assert len(data) == 3
    assert data.classes == ["person", "car", "tooth"] and data.category_ids == [1, 3, 90]
    assert data.image_ids == [10, 20, 30]
    sample = data[0]
    assert sample.image.shape == (3, HEIGHT, WIDTH) and sample.image.dtype == torch.uint8
    assert sample.boxes.tolist() == [[5, 6, 35, 26], [50, 30, 70, 50]]
    assert sample.labels.tolist() == [2, 1]
    assert (sample.image_id, sample.original_size_hw) == (10, (HEIGHT, WIDTH))
    assert data[2].boxes.shape == (0, 4)


def test_images_are_rgb(tmp_path):
    root = write(tmp_path, content())
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 2] = 255  # red, as OpenCV orders
    cv2.imwrite(str(root / "val2017" / "1.png"), image)
    assert dataset(root)[0].image[:, 0, 0].tolist() == [255, 0, 0]


def test_boxes_are_clipped_to_the_image(tmp_path):
    text = json.dumps(content()).replace("[5, 6, 30, 20]", "[-5, 6, 30, 200]")
    assert dataset(write(tmp_path, text))[0].boxes[0].tolist() == [0, 6, 25, HEIGHT]


def test_crowds_are_clipped_to_a_crop_and_do_not_guide_it():
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[10, 10, 30, 30], [0, 0, 100, 100]], np.float32)
    transform = det.train_transform(64)
    for seed in range(40):
        alone = transform(image, boxes[:1], np.array([2]), seed)
        both = transform(image, boxes, np.array([2, -1]), seed)
        np.testing.assert_array_equal(both.image, alone.image)
        np.testing.assert_array_equal(both.boxes[both.labels == 2], alone.boxes)
        assert (both.labels == -1).sum() == 1  # some of it is in every window, its centre in few


def test_images_in_subfolders_are_found(tmp_path):
    root = write(tmp_path, content())
    (root / "val2017" / "deep").mkdir()
    (root / "val2017" / "1.png").rename(root / "val2017" / "deep" / "1.png")
    nested = content()
    nested["images"][0]["file_name"] = "deep/1.png"
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(nested))
    assert dataset(root)[0].image.shape == (3, HEIGHT, WIDTH)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"instances_val2017\.json"):
        dataset(tmp_path)
    root = write(tmp_path, content())
    with pytest.raises(InputError, match="nowhere: no such folder"):
        dataset(root, images=root / "nowhere")


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path):
    root = write(tmp_path, content())
    cv2.imwrite(str(root / "val2017" / "2.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(InputError, match=r"2.png: the image is 60x80 \(turned .* says 80x60"):
        dataset(root)[1]


def test_imposed_classes_keep_their_labels(tmp_path):
    root = write(tmp_path, content())
    data = dataset(root, categories=["cat", "tooth", "car", "person"])
    assert data.classes == ["cat", "tooth", "car", "person"] and data.category_ids == [-1, 90, 3, 1]
    assert data[0].labels.tolist() == [1, 2]
    with pytest.raises(InputError, match="person are not among the model's 2 classes"):
        dataset(root, categories=["tooth", "car"])


def test_batches_are_padded_to_a_bucket(tmp_path):
    data = dataset(write(tmp_path, content()))
    batch = det.collate([data[0], data[2]])
    assert batch.images.shape == (2, 3, HEIGHT, WIDTH)
    assert batch.targets.boxes.shape == (2, 8, 4)
    assert batch.targets.valid.sum(dim=1).tolist() == [2, 0]
    assert batch.targets.labels[0, :2].tolist() == [2, 1]
    assert batch.image_ids.tolist() == [10, 30] and batch.original_sizes_hw.tolist() == [[HEIGHT, WIDTH]] * 2
    crowded = data[0]._replace(boxes=torch.rand(1500, 4), labels=torch.zeros(1500, dtype=torch.int64))
    assert det.collate([crowded]).targets.valid.shape == (1, 2048)


def test_eval_transform_stretches_image_and_boxes(tmp_path):
    data = dataset(write(tmp_path, content()), transform=det.eval_transform((120, 240)))
    sample = data[0]
    assert sample.image.shape == (3, 120, 240) and sample.original_size_hw == (HEIGHT, WIDTH)
    assert sample.boxes.tolist() == [[15, 12, 105, 52], [150, 60, 210, 100]]


@pytest.mark.parametrize("strength", ["ssd", "crop", "flip", "none"])
def test_boxes_follow_the_pixels(strength):
    """A bright rectangle on black stays where its box says, through crop, zoom-out, flip and stretch."""
    image = np.zeros((150, 200, 3), np.uint8)
    image[40:90, 50:120] = 255
    boxes, labels = np.array([[50, 40, 120, 90]], np.float32), np.array([0])
    transform = det.train_transform((96, 128), strength)
    seen = set()
    for seed in range(60):
        pixels, moved, kept = transform(image, boxes, labels, seed)
        assert pixels.shape == (96, 128, 3) and pixels.dtype == np.uint8
        assert len(kept) == 1
        black = transform(np.zeros_like(image), boxes, labels, seed).image
        rows, columns = np.nonzero((pixels.astype(int) - black > 55).all(axis=2))  # half of what contrast leaves of 255
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(moved[0], found, atol=1.5)
        seen.add(tuple(moved[0].round().astype(int)))
    assert {"ssd": 30, "crop": 30, "flip": 2, "none": 1}[strength] <= len(seen)


def test_augmented_boxes_are_inside_and_never_slivers():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (120, 160, 3), np.uint8)
    corners = random.uniform(0, 100, (40, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 20, (40, 2))], axis=1).astype(np.float32)
    transform = det.train_transform(64)
    for seed in range(50):
        _, moved, kept = transform(image, boxes, np.arange(40), seed)
        assert moved.dtype == np.float32 and len(moved) == len(kept)
        assert (moved >= 0).all() and (moved <= 64).all()
        assert (moved[:, 2:] - moved[:, :2] >= 1).all()


def test_images_without_boxes_can_be_augmented():
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for seed in range(20):
        result = det.train_transform(32)(np.zeros((50, 70, 3), np.uint8), *nothing, seed)
        assert result.boxes.shape == (0, 4) and result.image.shape == (32, 32, 3)


def test_crops_keep_ssds_promises():
    random = np.random.default_rng(0)
    window = np.array([0, 0, 200, 100], np.float32)
    box = np.array([[80, 30, 120, 70]], np.float32)
    wholes = 0
    for _ in range(300):
        part = crop(window, box, random)
        if (part == window).all():
            wholes += 1
            continue
        width, height = part[2:] - part[:2]
        assert 0.5 - 1e-4 <= width / height <= 2 + 1e-4
        assert part[0] < 100 < part[2] and part[1] < 50 < part[3]  # the box's centre
        assert (part[:2] >= 0).all() and (part[2:] <= window[2:] + 1e-3).all()
    assert 300 / len(MIN_OVERLAPS) / 2 < wholes < 250


def test_zoom_out_contains_the_image():
    random = np.random.default_rng(0)
    window = np.array([0, 0, 80, 60], np.float32)
    zoomed = np.array([zoom_out(window, random) for _ in range(200)])
    assert (zoomed[:, :2] <= 0).all() and (zoomed[:, 2:] >= window[2:] - 1e-3).all()
    factors = (zoomed[:, 2] - zoomed[:, 0]) / 80
    assert 60 < (factors == 1).sum() < 140 and 3.5 < factors.max() <= 4.0001


def _augmented(root: Path, workers: int) -> list[bytes]:
    data = dataset(root, transform=det.train_transform(32), seed=5)
    order = [(epoch, index) for epoch in (0, 1) for index in range(3)]
    loader = DataLoader(data, batch_size=1, sampler=order, collate_fn=det.collate, num_workers=workers)
    return [batch.images.numpy().tobytes() + batch.targets.boxes.numpy().tobytes() for batch in loader]


def test_augmentation_differs_by_sample_and_epoch_and_not_by_number_of_workers(tmp_path):
    root = write(tmp_path, content())
    for number in (2, 3):  # the same image everywhere, so that only the augmentation differs
        (root / "val2017" / f"{number}.png").write_bytes((root / "val2017" / "1.png").read_bytes())
    alone = _augmented(root, 0)
    assert len(set(alone)) == 6
    assert _augmented(root, 1) == alone and _augmented(root, 2) == alone


def test_another_seed_augments_otherwise(tmp_path):
    root = write(tmp_path, content())
    one, other = (dataset(root, transform=det.train_transform(32), seed=seed) for seed in (0, 1))
    assert torch.equal(one[0].image, one[(0, 0)].image)
    assert not torch.equal(one[0].image, other[0].image)


def test_unknown_augmentation_is_refused_with_the_choices():
    with pytest.raises(InputError, match="ssd, crop, flip, none"):
        det.train_transform(320, "strong")
