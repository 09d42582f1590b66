"""Exported files: what they give, what stands in them, and that one which differs from its model is not kept."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import det
import seg
from backbone.errors import InputError
from backbone.inference import TorchEngine
from backbone.weights.description import KEY
from det.postprocess import PostProcess
from seg.heads.lraspp import LRASPPHead
from tests.builders.exported import SIZE, description_of, images, make_model, network_output, save
from tools import export
from tools.engines.openvino_core import openvino_core
from tools.engines.sessions import open_onnxruntime
from tools.exporting import onnx_format
from tools.exporting.any_size import MOST_SIDE, AnySizeLRASPPHead
from tools.exporting.formats import COMPILED, FORMATS
from tools.exporting.graph import image_graph
from tools.exporting.images import NUM_IMAGES, given_images
from tools.exporting.onnx_format import write_onnx
from tools.exporting.parity import compare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def randomised(request):
    """The fixture `randomise`, for a whole module."""

    def apply(model):
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        return model.eval()

    return apply


@pytest.fixture(scope="module")
def models(randomised):
    return {task: make_model(task, randomised) for task in ("segmentation", "detection", "classification")}


@pytest.fixture(scope="module")
def weights(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {task: save(folder, task, model) for task, model in models.items()}


@pytest.fixture(scope="module")
def labels_file(weights, tmp_path_factory):
    """A segmenter as ONNX with labels, by the command."""
    out = tmp_path_factory.mktemp("labels") / "street.onnx"
    size = [str(side) for side in SIZE]
    assert export.main(["--weights", str(weights["segmentation"]), "--format", "onnx", "--size", *size, str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def boxes_file(weights, tmp_path_factory):
    """A detector as ONNX with boxes, by the command."""
    out = tmp_path_factory.mktemp("boxes") / "objects.onnx"
    arguments = ["--weights", str(weights["detection"]), "--format", "onnx", str(out), "--score-threshold", "0.2"]
    assert export.main(arguments) == 0
    return out


def perturbed(path: Path, out: Path, factor: float = 1.05) -> Path:
    """A copy of an ONNX file, one of its weights changed."""
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("channels", ["bgr", "rgb"])
@pytest.mark.parametrize("task", ["segmentation", "detection", "classification"])
def test_a_graph_gives_the_models_output_from_bytes(task, channels, models):
    batch = images(2)
    graph = image_graph(models[task], description_of(task), size_hw=SIZE, channels=channels, batch=2)
    expected = network_output(models[task], batch)
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    taken = batch if channels == "bgr" else np.ascontiguousarray(batch[..., ::-1])
    found = graph(torch.from_numpy(taken))
    assert len(found) == len(graph.names) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_the_model_stays_as_it_is(models):
    before = {name: value.clone() for name, value in models["segmentation"].state_dict().items()}
    image_graph(models["segmentation"], description_of("segmentation"), output="final", dynamic=True)
    after = models["segmentation"].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_file_of_labels_gives_those_of_the_model(labels_file, models):
    session = onnxruntime.InferenceSession(labels_file, providers=["CPUExecutionProvider"])
    [image] = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", [1, *SIZE, 3])
    for single in images(4):
        [labels] = session.run(None, {"image": single[None]})
        expected = seg.upsample(network_output(models["segmentation"], single[None]), SIZE).argmax(1)
        assert labels.dtype == np.uint8 and len(np.unique(labels)) > 1
        assert (labels == expected.numpy()).mean() > 0.9999


def test_a_file_of_boxes_gives_those_of_the_predictor(boxes_file, models):
    """The judge is the post-processing that evaluation uses, whose shapes depend on the boxes."""
    model = models["detection"]
    process = PostProcess("sigmoid", score_threshold=0.2)
    session = onnxruntime.InferenceSession(boxes_file, providers=["CPUExecutionProvider"])
    count = 0
    for single in images(4):
        boxes, scores, labels = (part[0] for part in session.run(None, {"image": single[None]}))
        [expected] = process(network_output(model, single[None]), model.anchors, SIZE, [SIZE])
        there = scores > 0
        count += there.sum()
        np.testing.assert_allclose(scores[there], expected.scores, atol=1e-4)
        np.testing.assert_allclose(boxes[there], expected.boxes, atol=0.1)
        assert (labels[there] == expected.labels.numpy()).all()
        assert not there[there.sum() :].any()  # padding comes last
    assert count > 20


def test_a_file_says_all_that_running_it_takes(labels_file, boxes_file):
    about = [json.loads(onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map[KEY]) for file in
             (labels_file, boxes_file)]  # fmt: skip
    assert about[0]["classes"][1] == "car" and about[0]["colors"][1] == [0, 0, 142]
    assert about[0]["export"]["size"] == list(SIZE) and about[0]["export"]["output"] == "final"
    assert about[1]["score"] == "sigmoid" and about[1]["export"]["score_threshold"] == 0.2
    assert about[1]["export"]["outputs"] == ["boxes", "scores", "labels"]


def test_a_file_names_no_path_of_the_machine_that_wrote_it(labels_file):
    content = labels_file.read_bytes()
    assert str(ROOT).encode() not in content and b".py" not in content


def test_the_record_says_what_was_compared(labels_file):
    record = json.loads(labels_file.with_name("street.onnx.parity.json").read_text())
    assert record["bytes"] == labels_file.stat().st_size
    assert record["parity"]["equal_labels"] > 0.9999 and record["parity"]["labels_that_differ"] == 0
    assert record["parity"]["pixels"] == (NUM_IMAGES + record["images"]["noise"]) * SIZE[0] * SIZE[1]
    assert record["versions"]["onnxruntime"] == onnxruntime.__version__
    assert len(record["images"]["names"]) == NUM_IMAGES
    assert sorted(path.name for path in labels_file.parent.iterdir()) == ["street.onnx", "street.onnx.parity.json"]


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_a_file_with_a_changed_weight_is_deleted(task, labels_file, boxes_file, weights, tmp_path, monkeypatch, capsys):
    file = {"segmentation": labels_file, "detection": boxes_file}[task]

    def write_changed(graph, path):
        perturbed(file, path)

    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=write_changed))
    size = [] if task == "detection" else ["--size", *map(str, SIZE)]
    threshold = ["--score-threshold", "0.2"] if task == "detection" else []
    out = tmp_path / "changed.onnx"
    arguments = ["--weights", str(weights[task]), "--format", "onnx", str(out), *size, *threshold]
    assert export.main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "is not the model and was deleted" in line and "differ" in line
    assert list(tmp_path.iterdir()) == []


def test_raw_numbers_with_a_changed_weight_are_refused(models, tmp_path):
    graph = image_graph(models["segmentation"], description_of("segmentation"), size_hw=SIZE)
    write_onnx(graph, tmp_path / "raw.onnx")
    batch = [images(1)]
    good = compare(models["segmentation"], graph.description, open_onnxruntime(tmp_path / "raw.onnx"), batch)
    assert good.fault is None and good.figures["outputs"]["logits"]["relative"] < 1e-5
    changed = open_onnxruntime(perturbed(tmp_path / "raw.onnx", tmp_path / "changed.onnx", factor=1.01))
    assert "logits differs by" in (compare(models["segmentation"], graph.description, changed, batch).fault or "")


def test_one_graph_holds_for_all_sizes_and_numbers_of_images(models):
    """Windows that are cut to the map, several windows, and sides that no stride divides."""
    model = models["segmentation"]
    run = image_graph(model, description_of("segmentation"), dynamic=True).program().module()
    for count, size in ((1, (64, 96)), (3, (97, 133)), (1, (1601, 80))):
        batch = images(count, size)
        [found] = run(torch.from_numpy(batch))
        expected = network_output(model, batch)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("map_hw", [(2, 2), (32, 64), (49, 49), (64, 128), (65, 69), (3, 128), (128, 1)])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_windows_as_products_equal_the_heads_pooling(map_hw, stride):
    from backbone.architectures.plan import Feature

    torch.manual_seed(0)
    common = {"num_classes": 3, "head_channels": 8, "variant": "paper", "align_corners": False, "dropout": 0.0}
    head = LRASPPHead(Feature(4, 8), Feature(6, stride), pooling="windows", **common).eval()
    low, high = torch.randn(1, 4, *map_hw), torch.randn(1, 6, *map_hw)
    torch.testing.assert_close(AnySizeLRASPPHead(head, MOST_SIDE // stride)(low, high), head(low, high))


def test_openvinos_files_give_the_models_logits_and_say_what_they_are(weights, tmp_path, models):

    out = tmp_path / "street.xml"
    arguments = ["--weights", str(weights["segmentation"]), "--format", "openvino", "--size", *map(str, SIZE)]
    assert export.main([*arguments, "--output", "raw", str(out)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["street.bin", "street.xml", "street.xml.parity.json"]
    model = openvino_core().read_model(out)
    about = json.loads(model.get_rt_info(KEY).astype(str))
    assert about["classes"][1] == "car" and about["export"]["size"] == list(SIZE)
    record = json.loads((tmp_path / "street.xml.parity.json").read_text())
    assert record["parity"]["outputs"]["logits"]["relative"] < 1e-5


def test_torchs_file_holds_its_metadata(weights, tmp_path):
    out = tmp_path / "street.pt2"
    arguments = ["--weights", str(weights["segmentation"]), "--format", "torch", "--size", *map(str, SIZE)]
    assert export.main([*arguments, "--output", "raw", "--channels", "rgb", str(out)]) == 0
    extra = {"taproot.json": ""}
    torch.export.load(out, extra_files=extra)
    assert json.loads(extra["taproot.json"])["export"]["channels"] == "rgb"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_file_for_all_sizes(name, weights, tmp_path):
    out = tmp_path / f"street{FORMATS[name].suffix}"
    arguments = ["--weights", str(weights["segmentation"]), "--format", name, "--dynamic", "--output", "raw"]
    assert export.main([*arguments, str(out)]) == 0
    record = json.loads(out.with_name(f"{out.name}.parity.json").read_text())
    assert record["export"]["size"] is None and record["export"]["batch"] is None
    assert record["parity"]["outputs"]["logits"]["relative"] < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs g++")
def test_compiled_code_gives_the_models_logits(models, tmp_path):
    graph = image_graph(models["segmentation"], description_of("segmentation"), size_hw=SIZE)
    COMPILED.write(graph, tmp_path / "street.pt2")
    run = COMPILED.open(tmp_path / "street.pt2")
    assert compare(models["segmentation"], graph.description, run, [images(1)]).fault is None


def test_a_classifiers_body_is_exported_with_named_taps(weights, tmp_path, models):
    out = tmp_path / "body.pt2"
    arguments = ["--weights", str(weights["classification"]), "--format", "torch", str(out)]
    assert export.main([*arguments, "--taps", "3.expand", "last"]) == 0
    record = json.loads((tmp_path / "body.pt2.parity.json").read_text())
    assert list(record["parity"]["outputs"]) == ["3.expand", "last"]
    assert record["export"]["size"] == [64, 64]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("variant", ["paper", "torchvision"])
def test_boxes_follow_the_models_scores_and_background(variant, kind, randomise):
    description = description_of("detection") | {"score": kind}
    description["model"] = description["model"] | {"variant": variant, "num_classes": 3 + (variant == "torchvision")}
    torch.manual_seed(0)
    model = randomise(det.create(**description["model"]))
    for layers in model.head.output_layers():
        for layer in layers:
            torch.nn.init.normal_(layer.weight, std=0.3)
            torch.nn.init.zeros_(layer.bias)
    graph = image_graph(model, description, output="final", score_threshold=0.3)

    def run(batch):
        return {name: value.numpy() for name, value in zip(graph.names, graph(torch.from_numpy(batch)), strict=True)}

    batch = images(1)
    compared = compare(model, graph.description, run, [batch])
    assert compared.fault is None
    process = PostProcess(kind, variant == "torchvision", score_threshold=0.3)
    [expected] = process(network_output(model, batch), model.anchors, SIZE, [SIZE])
    assert compared.figures["boxes"] == len(expected.scores) > 5
    np.testing.assert_allclose(run(batch)["scores"][0, : len(expected.scores)], expected.scores, atol=1e-5)


def run_program_of_the_page(output: str, folder: Path) -> np.ndarray:
    """Runs the page's program that writes `output`, in a process that cannot import this package; what it wrote."""
    page = (ROOT / "docs/guides/export.md").read_text()
    [program] = [block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if output in block]
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    forbid = "import sys\nfor name in ('backbone', 'seg', 'det', 'tools', 'torch'): sys.modules[name] = None\n"
    subprocess.run([sys.executable, "-c", forbid + program], cwd=folder, check=True)
    return cv2.imread(str(folder / output))


@pytest.fixture
def photo(labels_file, boxes_file, tmp_path):
    """A folder with a photo and both files, as the page's programs expect it; and the photo, uint8 BGR [H, W, 3]."""
    shutil.copy(labels_file, tmp_path)
    shutil.copy(boxes_file, tmp_path)
    cv2.imwrite(str(tmp_path / "photo.jpg"), images(1, (128, 200))[0])
    return tmp_path, cv2.imread(str(tmp_path / "photo.jpg"))


def test_the_pages_program_for_labels_runs_without_this_package(photo, models):
    folder, image = photo
    written = run_program_of_the_page("labels.png", folder)
    small = cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)
    labels = seg.upsample(network_output(models["segmentation"], small[None]), SIZE).argmax(1)[0].numpy()
    colors = np.array(description_of("segmentation")["colors"], np.uint8)[:, ::-1]
    expected = colors[cv2.resize(labels.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)]
    assert (written == expected).mean() > 0.999 and len(np.unique(labels)) > 1


def test_the_pages_program_for_boxes_runs_without_this_package(photo, models):
    folder, image = photo
    written = run_program_of_the_page("boxes.png", folder)
    description = description_of("detection")
    model = models["detection"]
    engine = TorchEngine(model, mean=description["mean"], std=description["std"])
    predictor = det.Predictor(engine, model, description["classes"], kind="sigmoid")
    found = predictor(image)
    assert len(found.scores) > 5
    expected = image.copy()
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        left, top, right, bottom = box.round().astype(int).tolist()
        cv2.rectangle(expected, (left, top), (right, bottom), (0, 255, 0), 2)
        cv2.putText(expected, f"{found.classes[label]} {score:.2f}", (left, top), 0, 0.5, (0, 255, 0))
    assert (written == expected).mean() > 0.999


class TestComparison:
    """What counts as rounding, and what as another model."""

    def test_a_label_may_differ_only_where_the_logits_are_equal_to_rounding(self, models):
        model, batch = models["segmentation"], images(1)
        graph = image_graph(model, description_of("segmentation"), output="final", size_hw=SIZE)
        logits = seg.upsample(network_output(model, batch), SIZE)
        labels = logits.argmax(1).to(torch.uint8).numpy()
        margins = logits.topk(2, dim=1).values[0]
        surest = np.unravel_index(int((margins[0] - margins[1]).argmax()), SIZE)
        other = labels.copy()
        other[0][surest] = (other[0][surest] + 1) % 4
        assert compare(model, graph.description, lambda _: {"labels": labels}, [batch]).fault is None
        assert (
            "1 of 6144 labels differ" in compare(model, graph.description, lambda _: {"labels": other}, [batch]).fault
        )
        with torch.no_grad():
            second = logits.topk(2, dim=1).indices[0, 1].numpy()
        closest = np.unravel_index(int((margins[0] - margins[1]).argmin()), SIZE)
        other = labels.copy()
        other[0][closest] = second[closest]
        small = float(margins[0][closest] - margins[1][closest]) < 1e-4 * float(logits.abs().max())
        assert (compare(model, graph.description, lambda _: {"labels": other}, [batch]).fault is None) == small

    @pytest.mark.parametrize("change", ["none", "lost", "moved", "invented", "label", "order"])
    def test_every_box_is_accounted_for(self, change, models):
        model, batch = models["detection"], images(1)
        graph = image_graph(model, description_of("detection"), output="final", score_threshold=0.6)
        found = dict(zip(graph.names, (value.numpy().copy() for value in graph(torch.from_numpy(batch))), strict=True))
        boxes, scores, labels = (value[0] for value in found.values())
        count = int((scores > 0).sum())
        assert 3 < count < len(scores)
        if change == "lost":
            for part in (boxes, scores, labels):
                part[:-1] = part[1:].copy()
        elif change == "moved":
            boxes[0] += 0.5
        elif change == "invented":
            boxes[count], scores[count], labels[count] = (1, 2, 30, 40), scores[count - 1], 1
        elif change == "label":
            labels[0] = (labels[0] + 1) % 3
        elif change == "order":
            for part in (boxes, scores, labels):
                part[:count] = part[:count][::-1].copy()
        fault = compare(model, graph.description, lambda _: found, [batch]).fault
        assert (fault is None) == (change == "none")

    def test_a_number_that_is_none_is_a_fault(self, models):
        model, batch = models["segmentation"], images(1)
        graph = image_graph(model, description_of("segmentation"), size_hw=SIZE)
        found = network_output(model, batch).numpy().copy()
        found[0, 0, 0, 0] = np.nan
        assert compare(model, graph.description, lambda _: {"logits": found}, [batch]).fault


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("segmentation", ["--format", "onnx"], "give --size HEIGHT WIDTH, or --dynamic"),
        ("segmentation", ["--format", "onnx", "--size", "16", "64"], "size 16 64: both sides must be at least 32"),
        ("segmentation", ["--format", "onnx", "--size", "64", "64", "--dynamic"], "--size: does not fit --dynamic"),
        (
            "segmentation",
            ["--format", "onnx", "--size", "64", "64", "--opset", "7"],
            "opset 7: cannot be written; valid",
        ),
        ("segmentation", ["--format", "openvino", "--opset", "18"], "--opset: is of the format onnx, not"),
        ("segmentation", ["--format", "onnx", "--aoti"], "--aoti: is of the format torch, not of onnx"),
        ("segmentation", ["--format", "onnx", "--size", "64", "64", "--taps", "last"], "--taps: fit a classifier's"),
        (
            "segmentation",
            ["--format", "onnx", "--size", "64", "64", "--score-threshold", "0.5"],
            "only the final output",
        ),
        ("detection", ["--format", "onnx", "--score-threshold", "2"], "--score-threshold 2: must lie between 0 and 1"),
        ("detection", ["--format", "onnx", "--images", "no_folder"], "--images no_folder: no such folder"),
        ("classification", ["--format", "onnx", "--output", "final"], "does not fit a model without a task's head"),
        ("classification", ["--format", "onnx", "--taps", "99.out"], "99.out"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[2:4]),
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(task, options, message, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        export.main(["--weights", str(weights[task]), str(tmp_path / "out.onnx"), *options])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_files_are_never_overwritten(weights, tmp_path, monkeypatch):
    def write_two(graph, path):
        path.write_text("")
        path.with_suffix(".bin").write_text("")

    monkeypatch.setitem(FORMATS, "openvino", FORMATS["openvino"]._replace(write=write_two))
    out = tmp_path / "street.xml"
    (tmp_path / "street.bin").write_text("mine")
    arguments = ["--weights", str(weights["segmentation"]), "--format", "openvino", "--size", "64", "64", str(out)]
    with pytest.raises(InputError, match=r"street\.bin: exists already"):
        export.main(arguments)
    out.write_text("mine too")
    with pytest.raises(InputError, match=r"street\.xml: exists already"):
        export.main(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["street.bin", "street.xml"]


def test_a_name_without_the_formats_ending_is_refused(weights, tmp_path):
    with pytest.raises(InputError, match=r"street: must end in \.onnx"):
        export.main(["--weights", str(weights["segmentation"]), "--format", "onnx", str(tmp_path / "street")])


def test_a_folder_that_cannot_be_written_is_one_line(weights, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "street.pt2"
    with pytest.raises(InputError, match="cannot be written"):
        arguments = ["--weights", str(weights["segmentation"]), "--format", "torch", "--size", "64", "64", str(out)]
        export.main(arguments)


def test_a_missing_package_is_named_with_the_extra(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.io.packages.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime, not installed; run pip install 'taproot\[onnx\]'"):
        export.main(["--weights", str(weights["segmentation"]), "--format", "onnx", str(tmp_path / "street.onnx")])


def test_aligned_corners_need_a_size():
    description = description_of("segmentation")
    model = seg.create(**description["model"], align_corners=True)
    with pytest.raises(InputError, match="give --size, not --dynamic"):
        image_graph(model, description, dynamic=True)


def test_images_are_chosen_evenly_from_a_folder(world, tmp_path):
    chosen = given_images(world)
    assert len(chosen.images) == len(set(chosen.names)) == NUM_IMAGES
    with pytest.raises(InputError, match="has 0 images; give a folder of at least 8"):
        given_images(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("opset", onnx_format.OPSETS)
def test_every_opset_is_written(opset, models, tmp_path):
    graph = image_graph(models["segmentation"], description_of("segmentation"), output="final", size_hw=SIZE)
    write_onnx(graph, tmp_path / "street.onnx", opset=opset)
    assert onnx.load(tmp_path / "street.onnx").opset_import[0].version == opset
    run = open_onnxruntime(tmp_path / "street.onnx")
    assert compare(models["segmentation"], graph.description, run, [images(1)]).fault is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("task", "body", "padding"),
    [
        ("segmentation", "mobilenet_v3_small", "symmetric"),
        ("detection", "mobilenet_v4_conv_small", "symmetric"),
        ("segmentation", "efficientnet_lite0", "same"),
    ],
)
def test_published_networks_pass(name, task, body, padding, randomise, tmp_path):
    create = {"segmentation": seg.create, "detection": det.create}[task]
    model = randomise(create(backbone=body, num_classes=3, padding=padding))
    graph = image_graph(model, description_of(task), size_hw=SIZE)
    file = tmp_path / f"file{FORMATS[name].suffix}"
    FORMATS[name].write(graph, file)
    assert compare(model, graph.description, FORMATS[name].open(file), [images(1)]).fault is None
