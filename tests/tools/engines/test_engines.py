"""Every engine and exported file gives the torch model's results; what cannot be used is refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import backbone
import det
import seg
from backbone.errors import InputError
from backbone.weights.description import KEY, write_header
from tools import eval_det, eval_seg
from tools.engines import built, choice, compiled, sessions, sizes
from tools.exporting.graph import image_graph
from tools.exporting.onnx_format import write_onnx
from tools.exporting.openvino_format import write_openvino
from tools.exporting.torch_format import write_torch
from tools.io import packages
from tools.io.model_file import save_model
from tools.predicting.models import load, load_model

ROOT = Path(__file__).parents[3]
NORMALISATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SEG = {"head": "lraspp", "backbone": "mobilenet_v3_small", "num_classes": 19, "width": 0.35}
DET = {"backbone": "mobilenet_v3_small", "num_classes": 4, "width": 0.35, "image_size": [64, 96]}


@pytest.fixture(scope="module")
def files(tmp_path_factory, world):
    """Weights of both tasks, trained on nothing, with norms of their own."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    images = torch.randn(4, 3, 64, 96)
    segmenter, detector = seg.create(**SEG), det.create(**DET)
    from seg.data import cityscapes

    categories = json.loads((world / "coco" / "annotations" / "instances_val2017.json").read_text())["categories"]
    described = {
        "seg": (
            segmenter,
            {"task": "segmentation", "model": SEG, "classes": cityscapes.NAMES, "colors": cityscapes.COLORS},
        ),
        "det": (
            detector,
            {
                "task": "detection",
                "model": DET,
                "score": "sigmoid",
                "classes": [row["name"] for row in categories],
                "category_ids": [row["id"] for row in categories],
            },
        ),
    }
    for name, (model, description) in described.items():
        with torch.no_grad():
            model(images)
            for parameter in model.head.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(3)  # clear winners
            if name == "det":
                for layer in model.head.output_layers()[0]:
                    layer.bias.add_(3)  # scores above the tests' threshold
        save_model(folder / f"{name}.safetensors", model.eval(), {**description, **NORMALISATION})
    return folder


@pytest.fixture(scope="module")
def exported(files):
    """One file for each ending, form and order of channels."""
    segmenter, described = load_model(files / "seg.safetensors")
    size = {"size_hw": (96, 192)}
    write_onnx(image_graph(segmenter, described, output="final", **size), files / "seg_final.onnx")
    write_torch(image_graph(segmenter, described, channels="rgb", **size), files / "seg_raw.pt2")
    detector, described = load_model(files / "det.safetensors")
    write_openvino(image_graph(detector, described, channels="rgb"), files / "det_raw.xml")
    write_onnx(image_graph(detector, described, output="final", score_threshold=0.001), files / "det_final.onnx")
    return files


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (70, 110, 3), np.uint8)


def assert_same(found, expected):
    if hasattr(expected, "boxes"):
        assert len(found.boxes) == len(expected.boxes) > 0
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        gap = np.diff(expected.scores, prepend=2, append=-1) < -1e-5  # where rounding cannot change the order
        clear = gap[1:] & gap[:-1]
        assert clear.sum() > 10
        np.testing.assert_allclose(found.boxes[clear], expected.boxes[clear], atol=0.1)
        assert (found.labels == expected.labels)[clear].all()
    else:
        assert found.labels.shape == expected.labels.shape and found.labels.dtype == np.uint8
        assert (found.labels != expected.labels).mean() < 1e-3


@pytest.mark.parametrize("task", ["seg", "det"])
def test_a_list_is_a_batch_and_results_are_in_each_frames_own_pixels(files, frame, task):
    model = load(files / f"{task}.safetensors", size=(64, 96), score_threshold=0.05)
    frames = [frame, np.ascontiguousarray(frame[:40]), frame[::-1]]
    assert model.engine == "torch" and model([]) == []
    for found, single in zip(model(frames), frames, strict=True):
        assert_same(found, model(single))
        if task == "seg":
            assert found.labels.shape == single.shape[:2]
        else:
            assert len(found.boxes) and (found.boxes[:, 2:] <= np.array(single.shape[1::-1]) + 1e-3).all()


def test_a_size_is_that_of_the_networks_input(files, frame):
    shapes = []
    for name, size in (("seg", None), ("seg", (64, 128)), ("seg", 64), ("det", None), ("det", 128)):
        model = load(files / f"{name}.safetensors", size=size)
        shapes.append(tuple(model.prepare(frame).shape[1:3]))
    assert shapes == [(70, 110), (64, 128), (32, 64), (64, 96), (96, 128)]
    wide = load(files / "det.safetensors", size=(128, 64), score_threshold=0.0)(frame)
    model, _ = load_model(files / "det.safetensors")
    prepared = load(files / "det.safetensors", size=(128, 64)).prepare(frame)
    raw = load(files / "det.safetensors").network(prepared)
    finish = det.PostProcess("sigmoid", score_threshold=0.0)
    expected = finish(raw, model.anchors_for((128, 64)), (128, 64), [(70, 110)])[0]
    np.testing.assert_allclose(wide.boxes, expected.boxes.numpy(), atol=1e-3)
    with pytest.raises(InputError, match="size 5"):
        load(files / "seg.safetensors", size=5)


@pytest.mark.parametrize("name", ["seg_final.onnx", "seg_raw.pt2", "det_raw.xml", "det_final.onnx"])
def test_an_exported_file_gives_the_models_results(exported, name):
    task = name[:3]
    size = (96, 192) if task == "seg" else None
    expected = load(exported / f"{task}.safetensors", size=size, score_threshold=0.05)
    found = load(exported / name, score_threshold=0.05)
    assert found.engine == {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}[Path(name).suffix]
    frames = list(np.random.default_rng(1).integers(0, 256, (3, 96, 192, 3), np.uint8))
    for ours, theirs in zip(found(frames), expected(frames), strict=True):
        assert_same(ours, theirs)
    other = frames[0][:50, :77]
    if task == "seg":
        assert found(other).labels.shape == (50, 77)
    else:
        assert_same(found(other), expected(other))
    assert found.classes == expected.classes


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_runtime_is_built_from_weights_once(files, frame, engine, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = load(files / "seg.safetensors", engine="torch")
    model = load(files / "seg.safetensors", engine=engine)
    assert model.engine == engine
    assert_same(model(frame), expected(frame))
    for ours, theirs in zip(model([frame, frame[::-1]]), expected([frame, frame[::-1]]), strict=True):
        assert_same(ours, theirs)
    assert capfd.readouterr().err.count("building") == 1
    assert_same(load(files / "seg.safetensors", engine=engine)(frame), expected(frame))
    [entry] = (tmp_path / "taproot" / "engines").iterdir()
    assert capfd.readouterr().err == ""
    for file in entry.iterdir():  # damaged: built again
        file.write_bytes(file.read_bytes()[:1000])
    assert_same(load(files / "seg.safetensors", engine=engine)(frame), expected(frame))
    assert capfd.readouterr().err.count("building") == 1


def test_sizes_beyond_a_few_run_in_torch_which_is_said_once(files, tmp_path, monkeypatch, capsys):
    """The runtime is torch here, which shows who ran what as a real one would."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = []

    def write(graph, path):
        torch.save(graph.size_hw, path)

    def open_session(path):
        opened.append(torch.load(path, weights_only=True))
        engine = load(files / "seg.safetensors", engine="torch").network
        return lambda images: {"logits": engine(torch.from_numpy(images)).numpy()}

    monkeypatch.setitem(built.WRITE, "openvino", ("model.xml", write))
    monkeypatch.setitem(built.OPEN, "openvino", open_session)
    model = load(files / "seg.safetensors", engine="openvino")
    plain = load(files / "seg.safetensors", engine="torch")
    for height in (40, 48, 56, 64, 72, 80, 48):
        frame = np.random.default_rng(height).integers(0, 256, (height, 64, 3), np.uint8)
        assert_same(model(frame), plain(frame))
        assert model.engine == ("openvino" if len(opened) < 4 or height == 64 else "openvino and torch")
    assert opened == [(40, 64), (48, 64), (56, 64), (64, 64)] and sizes.MOST_SIZES == 4
    assert capsys.readouterr().err.count("run in torch") == 1


@pytest.mark.parametrize("task", ["seg", "det"])
def test_the_compiled_engine_gives_the_models_results(files, frame, task, monkeypatch):
    """Around torch.compile, which takes a minute and is left out here."""
    monkeypatch.setattr(compiled, "require_compiler", lambda what, otherwise: None)
    monkeypatch.setattr(torch, "compile", lambda graph, **settings: graph)
    model = load(files / f"{task}.safetensors", engine="compiled", score_threshold=0.05)
    plain = load(files / f"{task}.safetensors", engine="torch", score_threshold=0.05)
    assert model.engine == "compiled"
    frames = [frame, frame[::-1]]
    for found, expected in zip(model(frames), plain(frames), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_missing_runtime_names_the_extra(files, monkeypatch, engine):
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    extra = {"onnxruntime": "onnx", "openvino": "openvino"}[engine]
    with pytest.raises(InputError, match=rf"engine {engine}: needs {engine}.* run pip install 'taproot\[{extra}\]'$"):
        load(files / "seg.safetensors", engine=engine)


def test_auto_takes_the_fastest_that_is_installed(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(choice, "RUNTIMES_OF_AUTO", ("openvino", "onnxruntime"))
    for there, chosen in ((("openvino",), "openvino"), (("onnxruntime", "onnx", "onnxscript"), "onnxruntime")):
        monkeypatch.setattr(packages, "find_spec", lambda module, there=there: module if module in there else None)
        assert choice.choose_engine("auto", "cpu") == chosen
        assert choice.choose_engine("auto", "cuda") == "torch"
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    assert choice.choose_engine("auto", "cpu") == "torch"
    with pytest.raises(InputError, match=r"engine 'tensorrt' unknown; valid: auto, torch, compiled"):
        choice.choose_engine("tensorrt", "cpu")
    monkeypatch.setattr(packages, "find_spec", lambda module: module)
    with pytest.raises(InputError, match="runs on the CPU, not on cuda"):
        choice.choose_engine("openvino", "cuda")


def metadata(**changes):
    export = {"output": "raw", "outputs": ["logits"], "channels": "bgr", "size": None, "batch": None}
    described = {"task": "segmentation", "model": SEG, "classes": ["a"], "colors": [[0, 0, 0]], **NORMALISATION}
    return write_header({**described, "export": export | changes})[KEY]


def write_foreign(path, text=None, opset=18, location=None):
    """An ONNX file that adds a weight to its input; the weight may lie outside."""
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if location is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["values", "w"], ["logits"]),
    ]
    sides = ["N", "H", "W", 3]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, sides)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, sides)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    if text is not None:
        model.metadata_props.add(key=KEY, value=text)
    path.write_bytes(model.SerializeToString())
    onnx.load(path, load_external_data=False)


BAD = {
    "absent": (lambda path: None, "no such file"),
    "garbage": (lambda path: path.write_bytes(b"\x99" * 500), "is no ONNX file"),
    "empty": (lambda path: path.write_bytes(b""), "is no ONNX file"),
    "html": (lambda path: path.write_text("<html>not found</html>"), "is no ONNX file"),
    "foreign": (write_foreign, "has no metadata of taproot's"),
    "no export": (lambda path: write_foreign(path, json.dumps({"task": "detection"})), "does not say how"),
    "newer": (lambda path: write_foreign(path, json.dumps({"format": 99})), "newer taproot"),
    "opset": (lambda path: write_foreign(path, metadata(), opset=999), "ONNX Runtime cannot load it"),
    "absolute": (lambda path: write_foreign(path, metadata(), location="/etc/passwd"), "from outside its folder"),
    "parent": (lambda path: write_foreign(path, metadata(), location="../w.bin"), "from outside its folder"),
    "no weights": (lambda path: write_foreign(path, metadata(), location="w.bin"), "w.bin is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_onnx_file_is_refused_in_one_line(tmp_path, name):
    make, reason = BAD[name]
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(4))
    make(folder / "model.onnx")
    with pytest.raises(InputError, match=reason) as raised:
        load(folder / "model.onnx")
    assert "\n" not in str(raised.value) and "model.onnx" in str(raised.value)


def test_a_link_out_of_the_folder_does_not_count_as_inside(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4))
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    write_foreign(folder / "model.onnx", metadata(), location="w.bin")
    with pytest.raises(InputError, match="from outside its folder"):
        load(folder / "model.onnx")


@pytest.mark.parametrize(("ending", "reason"), [(".xml", "model.bin are missing"), (".pt2", "torch cannot load it")])
def test_other_bad_files_are_refused_in_one_line(tmp_path, ending, reason):
    path = tmp_path / f"model{ending}"
    path.write_text("<net>")
    with pytest.raises(InputError, match=reason):
        load(path)
    if ending == ".xml":
        path.with_suffix(".bin").write_bytes(b"")
        with pytest.raises(InputError, match="is no OpenVINO model"):
            load(path)


def test_an_exported_file_is_used_as_it_is(exported):
    path = exported / "seg_final.onnx"
    with pytest.raises(InputError, match="takes inputs of 96x192 pixels only"):
        load(path, size=(64, 64))
    assert load(path, size=(96, 192)).size == (96, 192)
    with pytest.raises(InputError, match=r"engine compiled does not run \.onnx files; valid: auto, onnxruntime, openv"):
        load(path, engine="compiled")
    with pytest.raises(InputError, match="exported files run on the CPU"):
        load(path, device="cuda")
    with pytest.raises(InputError, match="is an exported file"):
        load_model(path)


def test_a_file_for_any_size_names_the_sizes_that_it_takes(tmp_path, frame):
    write_foreign(tmp_path / "model.onnx", metadata(multiple=32, least=64, most=4096))
    model = load(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="multiples of 32 from 64 to 4096 pixels, not 70x110; give such a size"):
        model(frame)


def test_a_backbone_is_no_predictor(tmp_path):
    described = {"task": "classification", "model": {}, **NORMALISATION}
    model = backbone.classifier("mobilenet_v3_small", num_classes=3, width=0.35).eval()
    write_torch(image_graph(model, described, size_hw=(32, 32)), tmp_path / "model.pt2")
    with pytest.raises(InputError, match="is an export for classification"):
        load(tmp_path / "model.pt2")


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_evaluations_of_exported_files_find_the_models_metrics(exported, world, tmp_path):
    cases = {"seg": (eval_seg, "cityscapes", "seg_final.onnx"), "det": (eval_det, "coco", "det_final.onnx")}
    for task, (command, folder, name) in cases.items():
        common = ["--data", str(world / folder), "--workers", "0"]
        for weights in (f"{task}.safetensors", name):
            assert command.main(["--weights", str(exported / weights), "--out", str(tmp_path / weights), *common]) == 0
        plain, found = metrics(tmp_path / f"{task}.safetensors"), metrics(tmp_path / name)
        assert (plain["engine"], found["engine"]) == ("torch", "onnxruntime")
        key = {"seg": "miou", "det": "AP"}[task]
        assert found[key] == pytest.approx(plain[key], abs=1e-4)
        assert found["images"] == plain["images"]
        if task == "det":
            assert "above 0.001" in found["protocol"] and "above" not in plain["protocol"]


def test_evaluations_refuse_what_does_not_fit_an_engine(exported, world):
    arguments = ["--data", str(world / "cityscapes"), "--weights", str(exported / "seg_final.onnx")]
    with pytest.raises(InputError, match="--flip need --engine torch"):
        eval_seg.main([*arguments, "--flip"])
    arguments[3] = str(exported / "det_final.onnx")
    with pytest.raises(InputError, match="is a model for detection, not for segmentation"):
        eval_seg.main(arguments)
    with pytest.raises(InputError, match="--engine needs --weights"):
        eval_det.main(["--data", str(world / "coco"), "--results", "x.json", "--engine", "torch"])


def test_choosing_an_engine_loads_no_torch():
    code = "import sys, tools.engines.choice\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_openvino_computes_in_float32(exported, frame):
    """Its default is half precision on processors that have it, which differs in the third digit."""
    raw = sessions.open_openvino(exported / "det_raw.xml")(frame[None, :64, :96][..., ::-1].copy())
    expected = load(exported / "det.safetensors").network(torch.from_numpy(frame[None, :64, :96].copy()))
    np.testing.assert_allclose(
        raw["class_logits"], expected.class_logits.numpy(), atol=1e-4 * expected.class_logits.abs().max().item()
    )
