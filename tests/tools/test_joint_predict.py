"""Joint networks as predictors: every engine gives what the single models give, in one pass."""

import numpy as np
import pytest

import det
import seg
from backbone.errors import InputError
from backbone.inference import TorchEngine
from tests.builders.exported import COMMON, SIZE, images
from tests.builders.joint import HEADS, make_joint, save_joint
from tools.joint.weights import load as load_joint
from tools.joint.weights import split
from tools.predict import load

FRAME = images(1, (90, 130))[0]


@pytest.fixture
def weights(tmp_path, randomise):
    return save_joint(tmp_path / "joint.safetensors", make_joint(randomise))


def singles(path, *, size=SIZE, score_threshold=0.3):
    """The predictors of the single models in a joint file, by its heads."""
    network, description = load_joint(path)
    found = {}
    for name in network.tasks:
        model, own = split(network, description, name)
        engine = TorchEngine(model, **COMMON)
        if own["task"] == "segmentation":
            found[name] = seg.Predictor(engine, classes=own["classes"], colors=own["colors"], size=size, scores=True)
        else:
            found[name] = det.Predictor(
                engine, model, own["classes"], kind=own["score"], size=size, score_threshold=score_threshold
            )
    return found


def assert_same(result, areas, objects, *, exactly=True):
    different = (result.labels != areas.labels).mean()
    assert different == 0 if exactly else different < 0.002
    assert len(result.boxes) == len(objects.boxes) and np.array_equal(result.box_labels, objects.labels)
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-4, "atol": 1e-2}
    np.testing.assert_allclose(result.boxes, objects.boxes, **tolerance)
    np.testing.assert_allclose(result.scores, objects.scores, **tolerance)


@pytest.mark.parametrize("size", [None, (96, 128), 128])
def test_a_result_has_what_both_single_models_find(weights, size):
    model = load(weights, "torch", size=size, device="cpu", scores=True)
    both = singles(weights, size=SIZE if size is None else size)
    areas, objects = both["segmentation"](FRAME), both["detection"](FRAME)
    result = model(FRAME)
    assert_same(result, areas, objects)
    assert result.labels.shape == FRAME.shape[:2] and len(np.unique(result.labels)) > 1 and len(result.boxes) > 1
    assert result.classes == areas.classes and result.box_classes == objects.classes
    np.testing.assert_array_equal(result.label_scores, areas.scores)
    assert model.task == "joint" and model.engine == "torch"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_runtimes_give_what_torch_gives(weights, engine, tmp_path, monkeypatch):
    pytest.importorskip(engine)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    want = load(weights, "torch", device="cpu")(FRAME)
    for _ in range(2):  # built, and found again
        result = load(weights, engine)(FRAME)
        assert_same(result, want.areas, want.objects, exactly=False)


def test_the_compiled_engine_gives_what_torch_gives(weights, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda graph, **_: graph)  # the compiler takes minutes and is not ours
    want = load(weights, "torch", device="cpu")([FRAME, FRAME[::-1].copy()])
    found = load(weights, "compiled", device="cpu")([FRAME, FRAME[::-1].copy()])
    for result, torchs in zip(found, want, strict=True):
        assert_same(result, torchs.areas, torchs.objects, exactly=False)


def test_a_list_of_frames_of_several_sizes_gives_the_results_of_each(weights):
    model = load(weights, "torch", size=96, device="cpu")
    frames = [FRAME, images(1, (70, 50))[0], FRAME[::-1].copy()]
    for result, frame in zip(model(frames), frames, strict=True):
        alone = model(frame)
        assert_same(result, alone.areas, alone.objects, exactly=False)
        assert result.labels.shape == frame.shape[:2]


def test_boxes_are_drawn_over_areas_in_the_areas_colors(weights):
    result = load(weights, "torch", device="cpu")(FRAME)
    drawn = result.draw(FRAME)
    colors = {name: tuple(color[::-1]) for name, color in zip(result.classes, result.colors.tolist(), strict=True)}
    expected = result.objects.draw(result.areas.draw(FRAME), colors=colors)
    assert np.array_equal(drawn, expected)
    assert not np.array_equal(drawn, result.objects.draw(result.areas.draw(FRAME)))  # the car has its own color there


def test_a_letterboxed_frame_has_the_labels_of_its_part_of_the_input(tmp_path, randomise):
    heads = HEADS | {"detection": HEADS["detection"] | {"resize": "letterbox"}}
    path = save_joint(tmp_path / "joint.safetensors", make_joint(randomise, **heads))
    frame = np.repeat(np.repeat(images(1, (16, 48)), 2, 1), 2, 2)[0]  # fills 32 rows of the input's 64
    model = load(path, "torch", device="cpu")
    result = model(frame)
    boxed = model.prepare(frame)[0].numpy()
    areas, objects = (singles(path)[name] for name in ("segmentation", "detection"))
    assert np.array_equal(boxed[16:48], frame) and (boxed[:16] == boxed[0, 0]).all()
    assert np.array_equal(result.labels, areas(boxed).labels[16:48])
    assert np.array_equal(result.boxes, objects(frame).boxes) and len(result.boxes)


def test_heads_of_one_task_are_told_by_name(tmp_path, randomise):
    heads = {"streets": HEADS["segmentation"] | {"task": "segmentation"}} | {
        "parts": {"task": "segmentation", "head": "lraspp", "num_classes": 4, "head_channels": 64}
    }
    path = save_joint(tmp_path / "joint.safetensors", make_joint(randomise, **heads))
    result = load(path, "torch", device="cpu")(FRAME)
    assert list(result.heads) == ["streets", "parts"] and result.labels is result.heads["streets"].labels
    with pytest.raises(InputError, match="no head of the network detects"):
        _ = result.boxes
