"""The prepared copy: the same samples as from the files, never a stale or half-written one."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from backbone import InputError
from seg.data.dataset import collate
from seg.data.opening import open_data
from seg.data.transforms import TrainTransform
from tests.builders.gardens import make_garden
from tools import prepare_masks, train_seg
from tools.converters import masks
from tools.run.config import Run
from tools.run.order import SampleOrder
from tools.run.processes import single_thread

CONFIG = Path(__file__).parents[2] / "configs" / "demo" / "seg.yaml"


@pytest.fixture
def copy(world, tmp_path):
    shutil.copytree(world / "cityscapes", tmp_path / "cityscapes")
    return tmp_path / "cityscapes"


def prepare(root: Path, out: Path, *options: str) -> None:
    assert prepare_masks.main([str(root), str(out), "--workers", "0", *options]) == 0


def same_samples(one, other) -> bool:
    pairs = [(one[epoch, number], other[epoch, number]) for epoch in (0, 1) for number in range(len(one))]
    return len(one) == len(other) and all(
        torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) for a, b in pairs
    )


@pytest.mark.parametrize("crop_hw", [(48, 64), (150, 250)])  # within the image, and beyond it on both sides
def test_samples_are_those_of_the_files(world, tmp_path, crop_hw):
    root = world / "cityscapes"
    prepare(root, tmp_path)
    for split, transform in (("train", TrainTransform(crop_hw)), ("val", None)):
        from_files = open_data(root, split, transform, seed=5)
        assert same_samples(from_files, open_data(root, split, transform, seed=5, prepared=tmp_path))
    index = json.loads((tmp_path / "train" / "index.json").read_text())
    assert len(index["images"]) == 8 and len(index["classes"]) == len(index["colors"]) == 19
    assert (index["ignore"], index["source"]) == (255, str(root)) and index["images"][0]["width"] == 192


@pytest.mark.parametrize("colors", [False, True])
def test_ones_own_images_of_several_sizes(tmp_path, colors):
    classes = make_garden(tmp_path)
    for folder, ending in (("images", ".jpg"), ("masks", ".png")):
        path = tmp_path / folder / "train" / "bed" / f"0{ending}"
        Image.open(path).crop((0, 0, 40, 30)).save(path)
    if colors:
        for path in tmp_path.glob("masks/*/bed/*.png"):
            ids = np.asarray(Image.open(path))
            rgb = np.where((ids == 10)[..., None], [0, 200, 0], 0).astype(np.uint8)
            Image.fromarray(rgb).save(path)
    prepare(tmp_path, tmp_path / "copy", "--classes", str(classes))
    data = [open_data(tmp_path, "train", classes=classes, prepared=p) for p in (None, tmp_path / "copy")]
    assert same_samples(*data) and data[1][0].image.shape == (3, 30, 40)
    classes.write_text(classes.read_text().replace("ignore: [0, 255]", "ignore: [0, 254, 255]"))
    with pytest.raises(InputError, match="6 of 6 images have changed since they were prepared"):
        open_data(tmp_path, "train", classes=classes, prepared=tmp_path / "copy")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_share_the_map(world, tmp_path):
    root = world / "cityscapes"
    prepare(root, tmp_path)
    dataset = open_data(root, "train", TrainTransform((48, 64)), prepared=tmp_path)
    for array in dataset.read(0):
        assert isinstance(array, np.memmap) and array.mode == "r"  # pages of the file, one copy for all processes
    batches = []
    for workers in (0, 2):
        order = SampleOrder(len(dataset), Run(steps=4, batch=4))
        loader = DataLoader(
            dataset, batch_sampler=order, num_workers=workers, collate_fn=collate, worker_init_fn=single_thread
        )
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels)


def test_a_copy_of_other_files_is_refused_and_brought_up_to_date(copy, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"index.json: missing.*; run python -m tools.prepare_masks"):
        open_data(copy, "val", prepared=out)
    prepare(copy, out)
    image = sorted(copy.glob("leftImg8bit/val/*/*.png"))[1]
    times = image.stat()
    Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(
        InputError, match=rf"1 of 5 images have changed since they were prepared, the first {image}; run "
    ):
        open_data(copy, "val", prepared=out)
    capsys.readouterr()
    prepare(copy, out)
    assert "val: 5 images, 1 decoded now" in capsys.readouterr().out
    assert same_samples(open_data(copy, "val"), open_data(copy, "val", prepared=out))
    assert len(list((out / "val").glob("*.npy"))) == 10
    moved = copy.rename(tmp_path / "moved")
    assert same_samples(open_data(moved, "val"), open_data(moved, "val", prepared=out))


def test_a_killed_preparation_leaves_nothing_half_done_and_goes_on(copy, tmp_path, monkeypatch, capsys):
    out, calls = tmp_path / "out", []
    child = os.fork()
    if child == 0:

        def write_half(path: Path, array: np.ndarray) -> None:
            calls.append(path)
            if len(calls) == 6:
                path.write_bytes(bytes(array.nbytes // 2))
                os._exit(9)
            np.save(path.open("wb"), array)

        monkeypatch.setattr(masks, "write_array", write_half)
        try:
            prepare(copy, out, "--splits", "train")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(out.glob("train/.*.part"))) == 1
    with pytest.raises(InputError, match=r"not there or unfinished"):
        open_data(copy, "train", prepared=out)
    capsys.readouterr()
    prepare(copy, out, "--splits", "train")
    assert "train: 8 images, 6 decoded now" in capsys.readouterr().out
    assert same_samples(open_data(copy, "train"), open_data(copy, "train", prepared=out))
    assert not list(out.glob("train/.*"))


def test_damaged_copies_are_named(copy, tmp_path):
    out = tmp_path / "out"
    prepare(copy, out)
    dataset = open_data(copy, "val", prepared=out)
    victim = out / "val" / f"{dataset.prepared.keys[3]}.image.npy"
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"image\.npy: missing or damaged .*; delete it and run"):
        dataset[3]
    prepare(copy, out)
    assert same_samples(open_data(copy, "val"), dataset)
    (out / "val" / "index.json").write_text("{")
    with pytest.raises(InputError, match=r"index\.json: damaged"):
        open_data(copy, "val", prepared=out)


def test_a_full_disk_is_refused_before_anything_is_written(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(masks.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    with pytest.raises(InputError, match=r"out: 0\.00 GB are needed and 0\.00 GB free"):
        prepare(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_stops_the_preparation(copy, tmp_path):
    image = sorted(copy.glob("leftImg8bit/train/*/*.png"))[2]
    image.write_bytes(image.read_bytes()[:-300])
    with pytest.raises(InputError, match="cut short"):
        prepare(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "train" / "index.json").exists()


def test_training_reads_the_copy_and_learns_the_same(world, tmp_path):
    root = world / "cityscapes"
    prepare(root, tmp_path / "copy")
    logs = []
    for name, more in (("files", []), ("copy", [f"data.prepared={tmp_path / 'copy'}"])):
        out = tmp_path / name
        small = ["run.steps=2", "run.batch=2", "optim.warmup=1", "run.log_every=1", "augment.crop_hw=[48,64]"]
        own = [f"data.root={root}", f"run.out={out}", "data.workers=0", "run.eval_every=2", *small, *more]
        assert train_seg.main([str(CONFIG), *own]) == 0
        logs.append([row for row in (out / "log.csv").read_text().splitlines() if "images_per_second" not in row])
    assert logs[0] == logs[1]
