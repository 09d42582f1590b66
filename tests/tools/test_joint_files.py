"""Files of joint networks in the tools beside training: scored in any engine, averaged, read from a hub's folder."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backbone.errors import InputError
from tests.builders.exported import images, make_model, save
from tests.builders.joint import make_joint, save_joint
from tools import average, publish
from tools.joint import scoring
from tools.joint.weights import load as load_joint
from tools.predict import load
from tools.scoring import detection, segmentation


@pytest.fixture
def weights(tmp_path, randomise):
    return save_joint(tmp_path / "joint.safetensors", make_joint(randomise))


def test_heads_are_scored_in_an_engine_as_the_weights_are(weights, monkeypatch):
    plain = scoring.open_subjects(weights, None, torch.device("cpu"))
    monkeypatch.setattr(scoring, "load_predictor", lambda path, engine, **options: load(path, "torch", **options))
    run = scoring.open_subjects(weights, "onnxruntime", torch.device("cpu"))
    image = torch.from_numpy(images(1, (96, 128))[0]).permute(2, 0, 1)
    assert plain.segmentation and run.segmentation and plain.detection and run.detection
    labels = run.segmentation.label(image)
    assert len(np.unique(labels)) > 1 and (labels != plain.segmentation.label(image)).mean() < 0.001
    sample = torch.from_numpy(images(1)).permute(0, 3, 1, 2)
    (found,), (want,) = (one.find(sample, [[128, 192]]) for one in (run.detection, plain.detection))
    assert len(want.boxes) > 2 and torch.allclose(found.boxes, want.boxes, atol=0.01)
    assert run.detection.classes == plain.detection.classes and run.detection.engine() == "torch"


def test_only_joint_networks_have_heads_to_score(tmp_path, randomise):
    single = save(tmp_path, "segmentation", make_model("segmentation", randomise))
    for engine in (None, "torch", "onnxruntime"):
        with pytest.raises(InputError, match="is a model for segmentation, not a joint network"):
            scoring.open_subjects(single, engine, torch.device("cpu"))


def test_evaluations_of_one_task_name_the_one_for_joint_networks(weights, monkeypatch):
    for module in (segmentation, detection):
        monkeypatch.setattr(module, "load", lambda path, engine, **options: load(path, "torch", **options))
    cpu, message = torch.device("cpu"), r"is a joint network; tools\.eval_joint scores it"
    with pytest.raises(InputError, match=message):
        segmentation.open_subject(weights, "onnxruntime", segmentation.WHOLE_IMAGES, cpu)
    with pytest.raises(InputError, match=message):
        detection.open_subject(weights, "onnxruntime", cpu)


def test_weights_are_read_from_a_folder_as_the_hub_has_it(weights, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    shutil.copyfile(weights, folder / "model.safetensors")
    frame = images(1)[0]
    found, want = (load(path, "torch", device="cpu")(frame) for path in (folder, weights))
    assert np.array_equal(found.labels, want.labels) and np.array_equal(found.boxes, want.boxes)


def test_checkpoints_of_a_joint_run_are_averaged(tmp_path, randomise):
    network = make_joint(randomise)
    files = [save_joint(tmp_path / "0.safetensors", network)]
    torch.nn.init.zeros_(network.backbone.stem.conv.weight)
    files.append(save_joint(tmp_path / "1.safetensors", network))
    tensors = [load_file(file) for file in files]
    assert average.main([*map(str, files), "--out", str(tmp_path / "average.safetensors")]) == 0
    network, _ = load_joint(tmp_path / "average.safetensors")
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(part[name] for part in tensors) / 2)


def test_a_joint_network_cannot_be_published_and_its_parts_can(weights, tmp_path):
    with pytest.raises(InputError, match=r"is a joint network, .*; publish the single models"):
        publish.main(["--weights", str(weights), str(tmp_path / "published")])
    assert not (tmp_path / "published").exists()
