"""Cityscapes from its folders: what is read, what is refused, and augmentation that depends on the sample alone."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from backbone import InputError
from seg.data import cityscapes
from seg.data.cityscapes import CLASSES, NAMES, Cityscapes
from seg.data.dataset import collate
from seg.data.transforms import TrainTransform
from tools.run.config import Run
from tools.run.order import SampleOrder
from tools.run.processes import single_thread


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


def test_the_table_is_cityscapes_own():
    from cityscapesscripts.helpers.labels import labels

    official = [(row.name, row.id, row.trainId, row.category, row.color) for row in labels if row.id >= 0]
    assert official == [tuple(row) for row in CLASSES]


def test_a_sample_is_the_image_and_its_train_ids(world):
    dataset = Cityscapes(world / "cityscapes", "val")
    sample = dataset[2]
    raw = np.asarray(Image.open(dataset.labels[2]))
    expected = np.full(raw.shape, 255)
    for row in CLASSES:
        expected[raw == row.label_id] = row.train_id
    assert (sample.labels.numpy() == expected).all()
    assert (sample.image.permute(1, 2, 0).numpy() == cv2.imread(str(dataset.images[2]))[:, :, ::-1]).all()
    assert len(dataset) == 5 and dataset.classes == NAMES


def test_train_id_files_and_jpg_images_are_read_where_that_is_all_there_is(copy):
    for label in copy.glob("gtFine/val/*/*_labelIds.png"):
        ids = cityscapes.read_train_ids(label)
        Image.fromarray(ids).save(str(label).replace("_labelIds", "_labelTrainIds"))
        label.unlink()
    image = next(copy.glob("leftImg8bit/val/*/*.png"))
    cv2.imwrite(str(image.with_suffix(".jpg")), cv2.imread(str(image)))
    image.unlink()
    dataset = Cityscapes(copy, "val")
    assert len(dataset) == 5
    assert set(dataset[0].labels.unique().tolist()) <= {*range(19), 255}


def test_faults_are_named(copy):
    with pytest.raises(InputError, match=r"leftImg8bit/tset: no such folder; splits there: train, val"):
        Cityscapes(copy, "tset")
    with pytest.raises(InputError, match="must hold leftImg8bit"):
        Cityscapes(copy / "nothing", "val")
    label = sorted(copy.glob("gtFine/val/*/*_labelIds.png"))[0]
    good = Image.open(label).copy()
    good.resize((50, 40)).save(label)
    with pytest.raises(InputError, match=r"labelIds.png: is 50x40, its image 192x96"):
        Cityscapes(copy, "val")
    strange = np.asarray(good).copy()
    strange[:2, :3] = 77
    Image.fromarray(strange).save(label)
    with pytest.raises(InputError, match=r"labelIds.png: 6 pixels are \[77\]"):
        Cityscapes(copy, "val")[0]
    label.unlink()
    label.with_name(label.name.replace("_labelIds.png", "_polygons.json")).unlink()
    with pytest.raises(InputError, match=r"leftImg8bit\.png: has no label; expected"):
        Cityscapes(copy, "val")
    shutil.rmtree(copy / "leftImg8bit" / "val")
    (copy / "leftImg8bit" / "val" / "city").mkdir(parents=True)
    with pytest.raises(InputError, match="no images"):
        Cityscapes(copy, "val")


@pytest.mark.parametrize("shape", [(96, 192), (300, 500), (40, 30)])
def test_augmented_labels_are_original_ids_or_ignored(shape):
    image, labels = np.full((*shape, 3), 90, np.uint8), np.full(shape, 7, np.uint8)
    transform = TrainTransform((64, 96), brightness=0, contrast=0, saturation=0, hue=0)
    for seed in range(20):
        changed, mask = transform(image, labels, (seed,))
        assert changed.shape == (64, 96, 3) and mask.shape == (64, 96)
        assert set(np.unique(mask)) <= {7, 255} and (mask == 7).any()
        assert (changed[mask == 7].astype(int) - 90).max() < 40


def test_image_and_labels_move_together():
    labels = np.zeros((200, 300), np.uint8)
    labels[50:150, 100:220] = 5
    image = cv2.merge([labels * 40] * 3)
    transform = TrainTransform((96, 128), brightness=0, contrast=0, saturation=0, hue=0)
    for seed in range(30):
        changed, mask = transform(image, labels, (seed,))
        inside = mask != 255
        agree = (changed[:, :, 0] > 100)[inside] == (mask == 5)[inside]
        assert agree.mean() > 0.97


def batches(world, workers, epochs=2):
    dataset = Cityscapes(world / "cityscapes", "train", TrainTransform((48, 64)), seed=3)
    order = SampleOrder(len(dataset), Run(steps=epochs * len(dataset) // 4, batch=4, seed=3))
    loader = DataLoader(
        dataset, batch_sampler=order, num_workers=workers, collate_fn=collate, worker_init_fn=single_thread
    )
    return list(loader)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores is the point
def test_augmentation_differs_everywhere_and_is_the_same_for_any_number_of_workers(world):
    alone = batches(world, 0)
    samples = [image.numpy().tobytes() for batch in alone for image in batch.image]
    assert len(samples) == 16 and len(set(samples)) == 16
    seen = torch.cat([batch.index for batch in alone])
    assert sorted(seen[:8].tolist()) == sorted(seen[8:].tolist()) == list(range(8))
    for workers in (1, 2, 3):
        for one, other in zip(alone, batches(world, workers), strict=True):
            assert torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels)


def test_the_same_image_differs_between_epochs(world):
    dataset = Cityscapes(world / "cityscapes", "train", TrainTransform((48, 64)))
    assert not torch.equal(dataset[(0, 1)].image, dataset[(1, 1)].image)
    assert torch.equal(dataset[(1, 1)].image, dataset[(1, 1)].image)


@pytest.mark.parametrize("shape", [(200, 300), (40, 30)])
def test_rows_that_a_transform_does_not_ask_for_change_nothing(shape):
    random = np.random.default_rng(0)
    image, labels = random.integers(0, 256, (*shape, 3), dtype=np.uint8), random.integers(0, 19, shape, dtype=np.uint8)
    transform, saved = TrainTransform((64, 96)), 0
    for seed in range(30):
        rows = transform.rows(shape, (seed,))
        whole, part = transform(image, labels, (seed,)), transform(image[:rows], labels[:rows], (seed,), shape)
        assert (whole[0] == part[0]).all() and (whole[1] == part[1]).all()
        saved += shape[0] - rows
    assert saved > 0 or shape[0] < 64


def test_a_crop_in_which_nothing_counts_is_drawn_again(copy):
    for path in (copy / "gtFine").rglob("*_labelIds.png"):
        ids = np.zeros((96, 192), np.uint8)  # unlabelled but for a corner
        ids[:20, :20] = 7
        Image.fromarray(ids).save(path)
    dataset = Cityscapes(copy, "train", TrainTransform((32, 32), scale=(1.0, 1.0)))
    some = [(dataset[epoch, number].labels != 255).any().item() for epoch in range(5) for number in range(8)]
    alone = [
        (dataset.transform(*dataset.read(number), (0, epoch, number))[1] != 255).any()
        for epoch in range(5)
        for number in range(8)
    ]
    assert sum(some) > 2 * sum(alone) and not all(some)  # ten tries, not for ever
    assert torch.equal(dataset[3, 1].image, dataset[3, 1].image)
