"""The inference benchmark: its peers compute what torchvision's models do, and what it writes is consistent."""

import json
import sys
import types

import cv2
import numpy as np
import pytest
import torch

from backbone.errors import InputError
from tests.builders.exported import SIZE, description_of
from tests.builders.joint import make_joint, save_joint
from tools import benchmark
from tools.benchmarks import contenders, predict
from tools.benchmarks.contenders import Subject, TorchvisionDetector, TorchvisionSegmenter, Ultralytics, make_peer

HW = (96, 128)


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)


def test_the_peers_detections_are_torchvisions_own(frame):
    torch.manual_seed(0)
    peer = TorchvisionDetector(Subject("detection", {"detection": 3}, (320, 320), None))
    for level in peer.model.head.classification_head.module_list:  # so that it finds something
        level[1].bias.data.zero_()
    with torch.inference_mode():
        found = peer.finish(peer.network(peer.prepare(frame)), frame.shape[:2])
        (want,) = peer.model([contenders.to_rgb(frame) / 255])
    assert len(found["boxes"]) > 10
    assert all(np.array_equal(found[name], want[name].numpy()) for name in want)


def test_the_peers_labels_are_those_of_the_frame(frame):
    torch.manual_seed(0)
    peer = TorchvisionSegmenter(Subject("segmentation", {"segmentation": 5}, HW, None))
    images = peer.prepare([frame, frame])
    assert images.shape == (2, 3, *HW) and abs(float(images.mean())) < 1
    with torch.inference_mode():
        labels = peer.finish(peer.model(images)["out"], frame.shape[:2])
    assert labels.shape == (2, *frame.shape[:2]) and labels.max() < 5


def test_the_peer_takes_a_state_dict(tmp_path):
    model = make_peer("segmentation", 2, None)
    torch.save(model.state_dict(), tmp_path / "peer.pth")
    loaded = make_peer("segmentation", 2, tmp_path / "peer.pth")
    assert all(map(torch.equal, model.state_dict().values(), loaded.state_dict().values()))


def test_ultralytics_is_timed_by_its_own_clock_where_it_is_installed(frame, monkeypatch):
    calls = []

    class YOLO:
        def __init__(self, name: str) -> None:
            calls.append(name)

        def __call__(self, frames, **options):
            calls.append(options)
            speed = {"preprocess": 1.0, "inference": 20.0, "postprocess": 3.0}
            return [types.SimpleNamespace(speed=speed)]

    monkeypatch.setitem(sys.modules, "ultralytics", types.SimpleNamespace(YOLO=YOLO))
    stages = Ultralytics(Subject("detection", {"detection": 3}, (320, 256), None)).time_stages(frame)
    assert stages == pytest.approx((0.001, 0.02, 0.003))
    assert calls == [contenders.OTHER_MODEL, {"imgsz": 320, "device": "cpu", "verbose": False}]


def test_multiply_adds_are_those_of_the_network_at_the_size():
    description = {"task": "segmentation", "model": {"backbone": "mobilenet_v3_small", "num_classes": 3}}
    one = predict.multiply_adds(description, (64, 64))
    assert predict.multiply_adds(description, (128, 64)) == pytest.approx(2 * one, rel=0.1)
    # V3-Large's LR-ASPP has 7.89 GFLOP at 512x1024 in torchvision's variant.
    large = {"task": "segmentation", "model": {"num_classes": 21, "variant": "torchvision"}}
    assert predict.multiply_adds(large, (512, 1024)) == pytest.approx(7.89e9 / 2, rel=0.01)


def test_a_process_of_its_own_has_its_own_threads_and_peak_and_tells_bad_input():
    ballast = np.ones(2**30, np.uint8)  # getrusage would count it as the new process's
    with predict.one_process(1) as call:
        assert call(torch.get_num_threads) == 1
        assert call(predict.peak_mib) < 1024 < predict.peak_mib()
        with pytest.raises(InputError, match=r"nothing\.safetensors"):
            call(predict.describe, "nothing.safetensors")
    assert ballast.all()


def test_weights_of_both_tasks_cannot_be_compared(finished):
    with pytest.raises(InputError, match="several tasks"):
        arguments = [str(finished[task] / "best.safetensors") for task in ("seg", "det")]
        predict.plan(arguments, None, None, None, (), [1], 1)


def test_a_joint_network_stands_beside_torchvisions_models_of_both_tasks(tmp_path, frame):
    path = str(save_joint(tmp_path / "joint.safetensors", make_joint(lambda model: model)))
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    run = predict.plan([path], ["torch"], None, None, (tmp_path / "frame.png",), [1], 1)
    assert run.subject == Subject("joint", {"segmentation": 4, "detection": 3}, SIZE, None)
    assert [candidate.name for candidate in run.candidates] == ["torchvision", "torch"]
    peer = contenders.make_other("torchvision", run.subject)
    seen = []
    for model in peer.models:
        model.time_stages = lambda frame, model=model: seen.append(type(model)) or contenders.Stages(1, 2, 3)
    assert peer.time_stages(frame) == (2, 4, 6) and seen == [TorchvisionSegmenter, TorchvisionDetector]
    assert run.candidates[1].open(run.subject).time_stages(frame).network > 0
    joint = predict.multiply_adds(predict.describe(path), SIZE)
    alone = predict.multiply_adds(description_of("segmentation"), SIZE)
    assert alone < joint < 1.9 * alone
    with pytest.raises(InputError, match="--peer-weights: are of one model"):
        predict.plan([path], ["torch"], tmp_path / "peer.pth", None, (tmp_path / "frame.png",), [1], 1)


def test_pictures_of_several_sizes_need_a_size(finished, tmp_path):
    for name, hw in (("a.png", (32, 64)), ("b.png", (64, 64))):
        cv2.imwrite(str(tmp_path / name), np.zeros((*hw, 3), np.uint8))
    pictures = predict.find_pictures(tmp_path, tmp_path)
    weights = [str(finished["seg"] / "best.safetensors")]
    with pytest.raises(InputError, match="--size HEIGHT WIDTH"):
        predict.plan(weights, ["torch"], None, None, pictures, [1], 1)
    assert predict.plan(weights, ["torch"], None, (32, 64), pictures, [1], 1).subject.size_hw == (32, 64)
    with pytest.raises(InputError, match="holds no picture"):
        (tmp_path / "empty").mkdir()
        predict.find_pictures(tmp_path / "empty", tmp_path)


@pytest.mark.slow
def test_the_whole_comparison(finished, world, tmp_path, capsys):
    picture = sorted((world / "coco/val2017").glob("*.jpg"))[0]
    weights = finished["det"] / "best.safetensors"
    arguments = ["--source", str(picture), "--engine", "torch", "--threads", "1", "--rounds", "2", "--batch", "1", "2"]
    out = tmp_path / "out"
    assert benchmark.main(["predict", "--weights", str(weights), *arguments, "--out", str(out)]) == 0
    report = json.loads((out / "benchmark.json").read_text())
    assert report["network_hw"] == [96, 128] and report["picture_hw"] == [96, 192]
    peer, ours = report["results"]
    assert (peer["name"], ours["name"]) == ("torchvision", "torch")
    assert ours["file_bytes"] == weights.stat().st_size and peer["file_bytes"] is None
    found = ours["threads"]["1"]
    assert 0 < found["p50_ms"] <= found["p95_ms"] and set(found["frames_per_second"]) == {"1", "2"}
    assert set(found["stages_ms"]) == {"read", "prepare", "network", "finish"}
    assert 100 < ours["peak_memory_mib"] < 4000
    bound = report["bounds"]["1"]
    assert bound["network_ms"] == pytest.approx(2 * report["multiply_adds"] / bound["gflops"] / 1e6)
    assert cv2.imread(str(out / "latency.png")).shape[1] > 500
    assert "Bound of the network: " in capsys.readouterr().out
