"""Pictures of some validation images at each evaluation: truth and prediction, the same images each time."""

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import det
from tests.builders.runs import assert_equal, command, interrupted
from tools.joint.data import JointDataset
from tools.run import checkpoint
from tools.run.config import Run
from tools.run.disk import Disk
from tools.run.log import Log
from tools.run.samples import chosen, draw_detection, draw_segmentation, drawn, write_samples
from tools.run.task import Task


def pictures(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "samples").rglob("*.jpg"))}


def test_the_same_images_are_drawn_each_time_evenly_spread():
    assert chosen(500, 4) == [0, 166, 333, 499]
    assert chosen(3, 8) == [0, 1, 2] and chosen(9, 1) == [0] and chosen(9, 0) == []


def test_of_a_joint_data_set_each_part_has_its_share():
    joint = JointDataset({"segmentation": range(500), "detection": range(10)}, {})
    assert drawn(joint, 4) == [0, 499, 500, 509] and drawn(joint, 3) == [0, 499, 500]
    assert drawn(joint, 1) == [0] and drawn(range(9), 2) == [0, 8]


def test_a_joint_network_draws_what_the_head_finds_that_has_the_truth(world, tmp_path):
    main, arguments = command("joint", world, tmp_path / "run")
    assert main([*arguments, "run.steps=1", "run.samples=2"]) == 0
    found = {name.split("/")[1]: cv2.imread(str(tmp_path / "run" / name)) for name in pictures(tmp_path / "run")}
    (street, labels), (scene, boxes) = found.items()
    assert street.startswith("0_") and street.endswith("_leftImg8bit") and scene.startswith("1_")
    image = cv2.imread(str(world / "coco" / "val2017" / f"{scene[2:]}.jpg"))
    height, width = image.shape[:2]
    near = np.abs(boxes[:height, :width].astype(int) - image).max(2) < 40  # JPEG twice
    assert 0.5 < near.mean() < 1  # boxes are drawn on the image, labels would cover it
    assert labels.shape[0] > 2 * height  # one above the other, and a legend


@pytest.mark.parametrize("task", ["seg", "det"])
def test_each_evaluation_draws_samples_into_the_folder_and_tensorboard(finished, task):
    found = pictures(finished[task])
    assert len(found) == 8  # four of five images at two evaluations
    assert len({name.split("/")[1] for name in found}) == 4
    assert {name.split("/")[2] for name in found} == {"0000003.jpg", "0000006.jpg"}
    events = EventAccumulator(str(finished[task]), size_guidance={"images": 0})
    events.Reload()
    shown = events.images.Items(events.images.Keys()[0])
    assert len(events.images.Keys()) == 4 and [image.step for image in shown] == [3, 6]


@pytest.mark.parametrize("task", ["seg", "det"])
def test_samples_change_nothing_of_a_run_and_a_resumed_run_draws_the_same(finished, world, tmp_path, monkeypatch, task):
    main, arguments = command(task, world, tmp_path / "run")
    assert interrupted(main, [*arguments, "run.samples=0"], 5, monkeypatch) == 143
    assert pictures(tmp_path / "run") == {}
    assert main([*arguments, "--resume"]) == 0
    one, other = (checkpoint.load_state(folder / "last.pt") for folder in (finished[task], tmp_path / "run"))
    for state in (one, other):
        del state["config"]
    assert_equal(one, other)
    later = {name: data for name, data in pictures(finished[task]).items() if name.endswith("6.jpg")}
    assert pictures(tmp_path / "run") == later


class Street:
    """One image, whose upper half is sky; the lowest row has no label."""

    classes, colors = ["sky", "road"], [(0, 0, 255), (255, 0, 0)]

    def __getitem__(self, number):
        labels = torch.zeros(40, 60, dtype=torch.uint8)
        labels[20:], labels[-1] = 1, 255
        return type("Sample", (), {"image": torch.full((3, 40, 60), 100, dtype=torch.uint8), "labels": labels})


def test_a_picture_of_labels_has_the_truth_first(tmp_path):
    picture = draw_segmentation(lambda image: np.zeros((40, 60), np.uint8), Street(), 0)
    sky, road = (178, 50, 50), (50, 50, 178)  # BGR, half the color over half of 100
    true, found = picture[:40, :60], picture[:40, 64:]
    assert found.shape == true.shape and (found == sky).all()
    assert (true[:20] == sky).all() and (true[20:39] == road).all() and (true[39] == 50).all()


def test_a_picture_of_boxes_has_the_truth_first_and_boxes_in_the_images_pixels(world):
    dataset = det.CocoDetection(world / "coco", "val2017", transform=det.eval_transform((64, 64), "stretch"))
    number = int(np.diff(dataset.first).argmax())
    box = torch.tensor([[10.0, 20.0, 60.0, 70.0]])

    def find(images, sizes_hw):
        assert images.shape == (1, 3, 64, 64) and sizes_hw == [[96, 192]]
        return [det.Detections(box, torch.tensor([0.9]), torch.tensor([0]))]

    image = cv2.imread(str(dataset.folder / dataset.files[number]))
    picture = draw_detection(find, dataset, number)
    true, found = picture[:96], picture[100:]  # one above the other, as they are wide
    assert true.shape == found.shape == image.shape
    assert (found[70, 10:60] != image[70, 10:60]).any(1).all() and (found[75:] == image[75:]).all()
    assert (true != image).any()


def test_images_of_one_name_in_two_folders_have_a_picture_each(tmp_path):
    files = [tmp_path / city / "a.png" for city in ("x", "y")]
    dataset = type("Set", (), {"images": files, "__len__": lambda self: 2})()
    task = Task.__new__(Task)
    object.__setattr__(task, "val_set", dataset)
    object.__setattr__(task, "draw", lambda model, number: np.full((8, 8, 3), number, np.uint8))
    drawn = {}
    log = type(
        "Shown", (Log,), {"__init__": lambda self: None, "draw": lambda self, step, images: drawn.update(images)}
    )
    write_samples(task, Run(out=str(tmp_path / "run"), samples=2), torch.nn.Identity(), 7, log(), Disk())
    assert list(pictures(tmp_path / "run")) == ["samples/0_a/0000007.jpg", "samples/1_a/0000007.jpg"]
    assert set(drawn) == {"samples/0_a", "samples/1_a"}
