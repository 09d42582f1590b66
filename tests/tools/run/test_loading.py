"""Damaged images and dead loader workers: what a run does about them, and what it says."""

import os
import re
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import backbone
import det
from backbone import InputError
from backbone.data.folder import ImageFolder
from backbone.data.images import read_image
from seg.data.cityscapes import Cityscapes
from tests.builders.runs import assert_equal, command, in_own_process, kill_myself, log_of
from tools import check_coco, check_masks, eval_backbone, eval_det, eval_seg
from tools.io.leave_out import read_leave_out, write_leave_out
from tools.io.model_file import save_model
from tools.run import checkpoint, loading, loop
from tools.run.loading import Damaged, Substituting, batches, damage_limit
from tools.run.schedule import learning_rate
from tools.scoring.loaders import each_once

# Where a worker is killed, torch's handler of SIGCHLD may raise while the loader's iterator is being taken down.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function _MultiProcessingDataLoaderIter:pytest.PytestUnraisableExceptionWarning"
)


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])
    return path


@pytest.fixture
def broken(world, tmp_path):
    """A copy of the world, and in it one damaged training image of each task."""
    shutil.copytree(world, tmp_path / "world")
    images = {
        "seg": sorted((tmp_path / "world" / "cityscapes").glob("leftImg8bit/train/*/*.png"))[3],
        "det": sorted((tmp_path / "world" / "coco" / "train2017").iterdir())[3],
    }
    return tmp_path / "world", {task: cut(path) for task, path in images.items()}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["seg", "det"])
def test_another_image_takes_the_place_of_a_damaged_one_and_resuming_is_exact(broken, tmp_path, capfd, task):
    world, images = broken
    own = ["data.damaged=skip", "run.save_every=1"]
    main, arguments = command(task, world, tmp_path / "whole")
    assert main([*arguments, *own, "data.workers=2"]) == 0
    said = capfd.readouterr().out
    assert said.count(str(images[task])) == 2  # once when it is met, once at the end
    assert "1 damaged images were replaced by others" in said

    main, arguments = command(task, world, tmp_path / "cut")

    def killed():
        def rate(optim, step, steps):
            if step == 4:  # after both epochs have met it
                kill_myself()
            return learning_rate(optim, step, steps)

        loop.learning_rate = rate
        return main([*arguments, *own])

    assert in_own_process(killed) == -signal.SIGKILL
    assert main([*arguments, *own, "--resume"]) == 0
    states = [checkpoint.load_state(tmp_path / name / "last.pt") for name in ("whole", "cut")]
    for state in states:
        del state["config"]
    assert_equal(*states)
    assert len(states[0]["damaged"]) == 1
    assert_equal(*(log_of(tmp_path / name) for name in ("whole", "cut")))


def test_a_run_with_too_many_damaged_images_ends(broken, tmp_path):
    world, _ = broken
    for path in sorted((world / "coco" / "train2017").iterdir())[4:6]:
        cut(path)
    main, arguments = command("det", world, tmp_path / "run")
    with pytest.raises(
        InputError, match=r"[23] damaged images, 1 may be; check the data set, or list .* the last: .*jpg"
    ):
        main([*arguments, "data.damaged=skip"])


def test_the_budget_is_a_thousandth_and_one_image_at_least():
    assert [damage_limit(number) for number in (1, 1999, 2000, 118_287)] == [1, 1, 2, 118]
    damaged = Damaged(2000)
    damaged.meet(["a", "b"])
    damaged.meet(["a"])
    with pytest.raises(InputError, match="3 damaged images, 2 may be"):
        damaged.meet(["c"])


def test_a_substitute_follows_from_seed_epoch_and_index_alone():
    class Half:
        def __len__(self):
            return 1000

        def __getitem__(self, key):
            if key[1] % 2:
                raise InputError(f"{key[1]} is damaged")
            return key[1]

    one, other = (Substituting(Half(), seed, skip=True) for seed in (0, 1))
    taken = [one[epoch, 1] for epoch in range(50)]
    assert taken == [one[epoch, 1] for epoch in range(50)] and len({sample for sample, _ in taken}) > 40
    assert taken != [other[epoch, 1] for epoch in range(50)]
    assert all(faults[0] == "1 is damaged" and sample % 2 == 0 for sample, faults in taken)
    assert one[0, 2] == (2, [])
    with pytest.raises(InputError, match="1 is damaged"):
        Substituting(Half(), 0, skip=False)[0, 1]


def test_the_checks_list_what_to_leave_out_and_training_does(broken, tmp_path, capsys):
    world, images = broken
    lists = {task: tmp_path / f"{task}.txt" for task in images}
    (world / "cityscapes" / "gtFine").rename(tmp_path / "labels")
    shutil.copytree(tmp_path / "labels", world / "cityscapes" / "gtFine")
    unlabelled = sorted((world / "cityscapes").glob("gtFine/train/*/*_labelIds.png"))[0]
    for path in unlabelled.parent.glob(unlabelled.name.replace("labelIds.png", "*")):
        path.unlink()
    folder = world / "cityscapes"
    shared = ["--workers", "0", "--out", str(tmp_path / "sheet.png")]
    assert check_masks.main([str(folder), *shared, "--leave-out", str(lists["seg"])]) == 1
    assert check_coco.main([str(world / "coco"), *shared, "--leave-out", str(lists["det"])]) == 1
    names = lists["seg"].read_text().splitlines()
    assert len(names) == 2 and (world / "cityscapes" / names[1]) in (images["seg"], folder / names[1])
    assert lists["det"].read_text() == f"train2017/{images['det'].name}\n"
    for task, path in lists.items():
        main, arguments = command(task, world, tmp_path / task)
        assert main([*arguments, f"data.leave_out={path}", "run.steps=2"]) == 0
        assert f"{8 - len(path.read_text().splitlines())} training and 5" in capsys.readouterr().out


def test_data_sets_leave_out_what_is_listed(world, tmp_path):
    coco, cityscapes = world / "coco", world / "cityscapes"
    whole = det.CocoDetection(coco)
    out = coco / "train2017" / str(whole.files[2])
    less = det.CocoDetection(coco, leave_out={out})
    kept = [number for number in range(8) if number != 2]
    assert less.image_ids == [whole.image_ids[number] for number in kept]
    for position, number in enumerate(kept):
        assert torch.equal(less[position].boxes, whole[number].boxes)
    whole = Cityscapes(cityscapes, "train")
    less = Cityscapes(cityscapes, "train", leave_out={whole.images[0]})
    assert less.images == whole.images[1:] and less.labels == whole.labels[1:]
    for name in ("train/a/1.png", "train/a/2.png", "train/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    left = read_leave_out(str(tmp_path / "list.txt"), str(tmp_path)) if write_list(tmp_path) else None
    assert ImageFolder(tmp_path, "train", np.asarray, leave_out=left).images == [
        tmp_path / "train/a/2.png",
        tmp_path / "train/b/3.png",
    ]
    with pytest.raises(InputError, match="list of images to leave out cannot be read"):
        read_leave_out(str(tmp_path / "absent.txt"), str(tmp_path))


def write_list(root):
    write_leave_out(root / "list.txt", root, [root / "train" / "a" / "1.png"])
    return (root / "list.txt").read_text() == "train/a/1.png\n"


class Faulty(torch.utils.data.Dataset):
    """Whose third item ends the worker, or keeps it."""

    def __init__(self, how):
        self.how = how

    def __len__(self):
        return 4

    def __getitem__(self, number):
        if number == 2:
            self.how()
        return number


def sleep():
    time.sleep(60)


def own_fault():
    raise RuntimeError("DataLoader is not to blame")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            kill_myself,
            r"loader worker \(process (\d+|unknown)\) (died|was killed \(Killed\)); .*lower data\.workers \(1\)",
        ),
        (sleep, r"loader workers gave no batch within 2 s; .*data\.workers=0 shows where it hangs"),
    ],
)
def test_a_worker_that_dies_or_hangs_is_one_line(monkeypatch, how, message):
    timeout = 2 if how is sleep else 25  # on a busy machine a worker needs seconds to begin
    monkeypatch.setattr(loading, "TIMEOUT", timeout)
    loader = DataLoader(Faulty(how), num_workers=1, timeout=timeout)
    began = time.perf_counter()
    with pytest.raises(InputError, match=message) as refused:
        list(batches(loader))
    assert "\n" not in str(refused.value) and time.perf_counter() - began < 30


def test_an_error_of_the_data_sets_own_keeps_its_trace():
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker") as raised:
        list(batches(DataLoader(Faulty(own_fault), num_workers=1)))
    assert not isinstance(raised.value, InputError)


def test_a_worker_killed_in_a_run_ends_it_in_one_line_and_loses_no_interval(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")
    steps = []

    def kill_workers(optim, step, steps_in_all):
        steps.append(step)
        if step == 3:
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)  # torch's signal handler raises here, in the middle of a step
        return learning_rate(optim, step, steps_in_all)

    monkeypatch.setattr(loop, "learning_rate", kill_workers)
    with pytest.raises(InputError, match=r"loader worker \(process ([\d, ]+|unknown)\) .*--resume goes on"):
        main([*arguments, "data.workers=2", "run.save_every=1"])
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 3


def children():
    """Processes that this one has started."""
    own = os.getpid()
    with open(f"/proc/{own}/task/{own}/children") as file:
        return [int(pid) for pid in file.read().split()]


def test_too_little_shared_memory_is_said_before(world, monkeypatch):
    dataset = Cityscapes(world / "cityscapes", "train")
    config = SimpleNamespace(data=SimpleNamespace(workers=3), run=SimpleNamespace(seed=0, batch=8))
    task = SimpleNamespace(train_set=dataset)
    # 96 x 192 pixels of 3 + 1 bytes, 8 images a batch, 4 batches for each of 3 workers and one in use: 7.7 MB
    for free, warned in ((7.6e6, True), (7.7e6, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        warning = loading.shared_memory_warning(config, task, 1)
        assert (warning is not None) is warned
    config.data.workers = 0
    assert loading.shared_memory_warning(config, task, 1) is None


def read_and_die(path, *_):
    kill_myself()


def refusal(main, arguments, told):
    """The message that a command ends with, in a process of its own: torch's threads there fail as they like."""

    def run():
        try:
            return main(arguments)
        except InputError as error:
            told.write_text(str(error))
            raise

    assert in_own_process(run) == 2
    return told.read_text()


def test_a_worker_killed_while_a_classifier_is_scored_is_one_line(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "val" / name).parent.mkdir(parents=True)
        (tmp_path / "val" / name).touch()
    monkeypatch.setattr("backbone.data.folder.read_image", read_and_die)
    model = backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=2)
    description = {"task": "classification", "model": {"name": "mobilenet_v3_small", "width": 0.35, "num_classes": 2}}
    description |= {"classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3, "size": 32, "crop_pct": 0.875}
    save_model(tmp_path / "m.safetensors", model, description | {"interpolation": "bilinear"})
    arguments = ["--weights", str(tmp_path / "m.safetensors"), "--data", str(tmp_path), "--workers", "1"]
    message = refusal(eval_backbone.main, arguments, tmp_path / "told")
    assert re.fullmatch(r"loader worker .* lower --workers \(1\); --workers 0 shows its own error", message)


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_worker_killed_in_an_evaluation_command_ends_it_in_one_line(finished, world, tmp_path, monkeypatch, task):
    module, where = {"seg": (eval_seg, "seg.data.dataset"), "det": (eval_det, "det.data.coco")}[task]
    data = str(world / {"seg": "cityscapes", "det": "coco"}[task])
    arguments = ["--weights", str(finished[task] / "best.safetensors"), "--data", data, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(f"{where}.read_image", read_and_die)
        message = refusal(module.main, [*arguments, "--workers", "2"], tmp_path / "told")
    assert re.fullmatch(r"loader worker .* lower --workers \(2\); --workers 0 shows its own error", message)
    assert not (tmp_path / "metrics.json").exists()


def test_a_worker_killed_in_the_evaluation_of_a_run_that_loads_by_itself_is_one_line(world, tmp_path, monkeypatch):
    main, arguments = command("seg", world, tmp_path / "run")

    def read(path, *rows):
        if torch.utils.data.get_worker_info() is not None:
            kill_myself()
        return read_image(path, *rows)

    monkeypatch.setattr("seg.data.dataset.read_image", read)
    message = refusal(main, arguments, tmp_path / "told")
    assert re.fullmatch(r"loader worker .*; if memory ran out, free some; --resume goes on, .* own error", message)
    assert checkpoint.load_state(tmp_path / "run" / "last.pt")["step"] == 3


def test_an_error_of_the_images_own_keeps_its_trace_where_each_is_read_once():
    def fail():
        raise FileNotFoundError("of the data set's own")

    for workers in (0, 1):
        with pytest.raises(FileNotFoundError, match="of the data set's own"):
            list(each_once(Faulty(fail), workers=workers))
