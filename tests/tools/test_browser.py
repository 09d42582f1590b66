"""The page in the browser: what it shows is what Python finds, and it asks nobody but its own server."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import det
from backbone.errors import InputError
from det.data.transforms import resize
from tests.builders.exported import SIZE, description_of, images, make_model, network_output, save
from tests.builders.joint import HEADS, make_joint, save_joint
from tests.builders.page_runtime import cached_runtime
from tools.browser import main
from tools.browsing import runtime
from tools.browsing.folder import LEAST_SCORE, PAGE, write_folder
from tools.browsing.server import make_server
from tools.io.model_file import save_model
from tools.predict import load

LISTEN = (
    "document.addEventListener('result', (event) => { window.results = [...(window.results ?? []), event.detail] })"
)
TIMEOUT_MS = 120_000
"""Starting the runtime takes a second; this machine may be busy."""


def settle(model: nn.Module) -> nn.Module:
    """Gives norms the statistics of noise, so that a forgotten one shows; evaluation mode."""
    with torch.no_grad():
        model.train()(torch.randn(8, 3, *SIZE))
    return model.eval()


def selective(model: nn.Module) -> nn.Module:
    """Gives a fresh detector, for which everything is an object, clear scores, a tenth of them above 0.05."""
    layers, _ = model.head.output_layers()
    with torch.no_grad():
        spread = network_output(model, images(4)).class_logits.std()
        for layer in layers:
            layer.weight.mul_(1.5 / spread)
            layer.bias.fill_(-5)
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Weights files of a small segmenter, and of a detector for either way that pictures become inputs."""
    folder = tmp_path_factory.mktemp("weights")
    files = {"segmentation": save(folder, "segmentation", make_model("segmentation", settle))}
    detector, description = selective(make_model("detection", settle)), description_of("detection")
    for how in ("stretch", "letterbox"):
        files[how] = folder / f"{how}.safetensors"
        save_model(files[how], detector, {**description, "model": {**description["model"], "resize": how}})
    return files


@pytest.fixture(scope="module")
def site(weights, tmp_path_factory) -> Path:
    """A folder whose sub-folder is the page with both models, of which the detector's pictures are letterboxed."""
    folder, both = tmp_path_factory.mktemp("site"), [weights["segmentation"], weights["letterbox"]]
    write_folder(folder / "sub" / "page", both, size_hw=SIZE, runtime=cached_runtime())
    return folder


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Runs a server in a thread; gives its address."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def opened(chromium, address: str):
    """A page that is open in the browser; a request to elsewhere, or a fault in the script, fails the test."""
    context = chromium.new_context()
    page = context.new_page()
    elsewhere: list[str] = []
    faults: list[str] = []

    def judge(route) -> None:
        if route.request.url.startswith((address, "blob:", "data:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route("**/*", judge)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.add_init_script(LISTEN)
    page.goto(address)
    yield page
    context.close()
    assert elsewhere == [] and faults == []


@pytest.fixture
def page(chromium, site):
    """The page with both models, served as --serve does, from a sub-path."""
    with serving(make_server(site, 0)) as address, opened(chromium, f"{address}sub/page/") as page:
        yield page


def scene(world: Path) -> Path:
    """A picture of another size than the networks' input."""
    return sorted((world / "cityscapes").rglob("*_leftImg8bit.png"))[0]


def look(page, picture: Path) -> dict:
    """What the page finds in a picture."""
    page.set_input_files("#file", picture)
    page.wait_for_function("window.results?.length", timeout=TIMEOUT_MS)
    return page.evaluate(
        "(() => { const last = window.results.at(-1); return { ...last, labels: last.labels && [...last.labels] } })()"
    )


def assert_labels_are_pythons(found: dict, weights: Path, frame: np.ndarray) -> None:
    assert_same_labels(found, load(weights, "torch", size=SIZE)(frame).labels)


def assert_same_labels(found: dict, expected: np.ndarray) -> None:
    assert len(np.unique(expected)) > 1
    assert (found["height"], found["width"]) == expected.shape != SIZE
    assert (np.array(found["labels"]).reshape(expected.shape) == expected).mean() >= 0.9999


def assert_boxes_are_pythons(found: dict, weights: Path, frame: np.ndarray) -> None:
    assert_same_boxes(found, load(weights, "torch", score_threshold=LEAST_SCORE)(frame))


def assert_same_boxes(found: dict, expected: det.DetectionResult) -> None:
    assert len(expected.boxes) > 3 and len(found["boxes"]) == len(expected.boxes)
    for box, score, label in zip(expected.boxes, expected.scores, expected.labels, strict=True):
        same = [other for other in found["boxes"] if other["label"] == label and abs(other["score"] - score) < 1e-3]
        assert min(np.abs(np.array(other["box"]) - box).max() for other in same) < 0.01


def test_labels_and_boxes_are_pythons(page, weights, world):
    frame = cv2.imread(str(scene(world)))
    found = look(page, scene(world))
    assert_labels_are_pythons(found, weights["segmentation"], frame)
    assert_boxes_are_pythons(found, weights["letterbox"], frame)


@pytest.mark.parametrize("how", ["stretch", "letterbox"])
def test_a_joint_network_is_one_file_that_gives_pythons_labels_and_boxes(chromium, world, tmp_path, randomise, how):
    heads = {**HEADS, "detection": {**HEADS["detection"], "resize": how}}
    network = make_joint(randomise, **heads)
    selective(network.single("detection"))
    weights = save_joint(tmp_path / "joint.safetensors", network)
    [entry] = write_folder(tmp_path / "page", [weights], size_hw=(32, 32), runtime=cached_runtime())
    assert entry["file"] == "joint.onnx" and entry["size"] == SIZE
    car = {task: table["colors"][table["classes"].index("car")] for task, table in entry["tasks"].items()}
    assert car["segmentation"] == car["detection"]
    frame = cv2.imread(str(scene(world)))
    with serving(make_server(tmp_path / "page", 0)) as address, opened(chromium, address) as page:
        found = look(page, scene(world))
        assert page.text_content("#status").startswith("Ready: segmentation and detection")
        assert "segmentation and detection" in page.text_content("#times")  # one pass
    expected = load(weights, "torch", score_threshold=LEAST_SCORE)(frame)
    assert_same_labels(found, expected.labels)
    assert_same_boxes(found, expected.objects)


def test_labels_are_cut_out_as_opencv_does(chromium):
    labels = np.random.default_rng(0).integers(0, 9, (64, 96), np.uint8)
    # Where the frame lies in the input, and the labels' size; no pixel is as near to one as to another.
    cases = [(0, 7, 64, 81, 128, 163), (3, 0, 57, 96, 57, 96), (1, 0, 61, 95, 101, 155), (5, 0, 51, 95, 70, 333)]
    with serving(make_server(PAGE, 0)) as address, opened(chromium, address) as page:
        found = page.evaluate(
            """async ([labels, cases]) => {
                const { cutOut } = await import("./labels.js");
                return cases.map(([top, left, height, width, high, wide]) =>
                    [...cutOut(Uint8Array.from(labels), 96, { top, left, height, width }, [high, wide])]);
            }""",
            [labels.ravel().tolist(), cases],
        )
    for values, (top, left, height, width, high, wide) in zip(found, cases, strict=True):
        part = np.ascontiguousarray(labels[top : top + height, left : left + width])
        opencvs = cv2.resize(part, (wide, high), interpolation=cv2.INTER_NEAREST_EXACT)
        assert np.array_equal(np.array(values, np.uint8).reshape(high, wide), opencvs), (high, wide)


def test_one_file_may_give_labels_and_boxes(chromium, site, weights, world, tmp_path):
    import onnx

    both, boxes = (onnx.load(site / "sub" / "page" / f"{task}.onnx") for task in ("segmentation", "detection"))
    boxes = onnx.compose.add_prefix(boxes, "boxes.", rename_inputs=False, rename_outputs=False).graph
    both.graph.node.extend(boxes.node)
    both.graph.initializer.extend(boxes.initializer)
    both.graph.output.extend(boxes.output)
    onnx.checker.check_model(both)
    shutil.copytree(site / "sub" / "page", tmp_path / "page")
    onnx.save(both, tmp_path / "page" / "both.onnx")
    one, other = json.loads((tmp_path / "page" / "models.json").read_text())["models"]
    one |= {"file": "both.onnx", "tasks": one["tasks"] | other["tasks"]}
    (tmp_path / "page" / "models.json").write_text(json.dumps({"models": [one]}))
    frame = cv2.imread(str(scene(world)))
    with serving(make_server(tmp_path / "page", 0)) as address, opened(chromium, address) as page:
        found = look(page, scene(world))
    assert_labels_are_pythons(found, weights["segmentation"], frame)
    assert_boxes_are_pythons(found, weights["stretch"], frame)


SIZES = [  # of a frame and of the network's input, (height, width)
    ((37, 53), (64, 96)),
    ((97, 131), (64, 96)),
    ((128, 192), (64, 96)),  # the half, for which OpenCV has code of its own
    ((64, 192), (64, 96)),
    ((64, 96), (64, 96)),
    ((1, 2), (32, 33)),
    ((211, 90), (50, 120)),
]
INPUT = """async (cases) => {
    const { networkInput } = await import("./input.js");
    return cases.map(([pixels, [height, width], size, how]) => {
        const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
        return [...networkInput(bytes, height, width, size, how).bytes];
    });
}"""


def test_the_networks_input_is_opencvs_to_the_bit(chromium):
    cases, expected = [], []
    for frame_hw, size_hw in SIZES:
        rgba = np.random.default_rng(0).integers(0, 256, (*frame_hw, 4), np.uint8)
        rgba[: frame_hw[0] // 2] = rgba[: frame_hw[0] // 2] // 128 * 255  # hard contrasts, too
        for how in ("stretch", "letterbox"):
            cases.append([base64.b64encode(rgba.tobytes()).decode(), frame_hw, size_hw, how])
            expected.append(resize(np.ascontiguousarray(rgba[..., :3]), size_hw, how))
    with serving(make_server(PAGE, 0)) as address, opened(chromium, address) as page:
        found = page.evaluate(INPUT, cases)
    for case, pixels, opencvs in zip(cases, found, expected, strict=True):
        assert np.array_equal(np.array(pixels, np.uint8).reshape(opencvs.shape), opencvs), case[1:]


def test_a_clip_plays_and_pauses(page, world, tmp_path):
    frame = cv2.imread(str(scene(world)))
    writer = cv2.VideoWriter(str(tmp_path / "clip.webm"), cv2.VideoWriter.fourcc(*"VP90"), 10, frame.shape[1::-1])
    assert writer.isOpened()
    for shift in range(12):
        writer.write(np.roll(frame, 8 * shift, axis=1))
    writer.release()
    page.set_input_files("#file", tmp_path / "clip.webm")
    page.wait_for_function("window.results?.length > 3", timeout=TIMEOUT_MS)
    assert "frames per second" in page.text_content("#times")
    page.click("#pause")
    assert page.text_content("#pause") == "Go on"
    assert "found: " in page.get_attribute("#view", "aria-label")


def test_threads_run_where_the_server_isolates_the_page(page):
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Ready')", timeout=TIMEOUT_MS)
    assert page.evaluate("crossOriginIsolated")
    assert "WebAssembly" in page.text_content("#status")


def test_sliders_draw_the_same_frame_again(page, world):
    look(page, scene(world))
    pixels = "document.getElementById('view').toDataURL()"
    half = page.evaluate(pixels)
    page.locator("#opacity").fill("0")
    assert (without_labels := page.evaluate(pixels)) != half
    page.locator("#threshold").fill("0.95")
    assert page.evaluate(pixels) != without_labels
    assert page.evaluate("window.results.length") == 1  # nothing was computed again


def test_a_file_that_is_no_picture_is_told_in_one_sentence(page, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.wait_for_selector("#error:not([hidden])")
    assert page.text_content("#error") == "notes.png: is not a picture or clip that this browser can open."
    page.click("#camera")
    page.wait_for_function("document.getElementById('error').textContent.startsWith('There is no camera')")


def test_the_page_needs_no_isolation(chromium, site, world):
    """An ordinary static server sends no such headers: one thread then does the work."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site / "sub" / "page")))
    with serving(server) as address, opened(chromium, address) as page:
        assert len(look(page, scene(world))["boxes"]) > 3
        assert page.text_content("#status").endswith("WebAssembly, 1 thread")


def test_from_the_disk_the_page_says_what_it_needs(chromium, site):
    page = chromium.new_page()
    page.goto((site / "sub" / "page" / "index.html").as_uri())
    assert "needs a web server" in page.text_content("#error")
    page.close()


def test_a_runtime_that_is_not_the_published_one_is_refused(tmp_path):
    (tmp_path / "package.tgz").write_bytes(b"something else")
    with pytest.raises(InputError, match="SHA-512 differs"):
        runtime.check_integrity(tmp_path / "package.tgz")


def test_a_missing_npm_is_one_line_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"install Node\.js, or give --runtime FOLDER"):
        runtime.find_runtime(None)
    with pytest.raises(InputError, match="give the unpacked npm package"):
        runtime.find_runtime(tmp_path)


def test_two_models_of_one_task_are_refused(weights, tmp_path):
    path = weights["segmentation"]
    with pytest.raises(InputError, match="one for each task"):
        write_folder(tmp_path, [path, path], size_hw=SIZE, runtime=tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [(["--size", "8", "64"], "sides must be"), (["--serve", "70000"], "a port is a number")],
)
def test_wrong_options_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        main(["--weights", "best.safetensors", str(tmp_path / "page"), *options])
