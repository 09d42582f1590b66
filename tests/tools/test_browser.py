"""The page in the browser: what it shows is what Python finds, and it asks nobody but its own server."""

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbone.errors import InputError
from tests.builders.exported import SIZE, make_model, save
from tests.builders.page_runtime import cached_runtime
from tools.browser import main
from tools.browsing import runtime
from tools.browsing.folder import LEAST_SCORE, write_folder
from tools.browsing.server import make_server
from tools.predict import load

LISTEN = (
    "document.addEventListener('result', (event) => { window.results = [...(window.results ?? []), event.detail] })"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Weights files of a small network of each task."""
    from torch import nn

    def settle(model: nn.Module) -> nn.Module:
        return model.eval()

    folder = tmp_path_factory.mktemp("weights")
    return {task: save(folder, task, make_model(task, settle)) for task in ("segmentation", "detection")}


@pytest.fixture(scope="module")
def site(weights, tmp_path_factory) -> Path:
    """A folder whose sub-folder is the page with both models."""
    folder = tmp_path_factory.mktemp("site")
    write_folder(folder / "sub" / "page", list(weights.values()), size_hw=SIZE, runtime=cached_runtime())
    return folder


@pytest.fixture
def page(chromium, site):
    """The page, open in the browser from a sub-path, with `requests`: every address that it asked for elsewhere."""
    server = make_server(site, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = f"http://127.0.0.1:{server.server_port}/sub/page/"
    context = chromium.new_context()
    opened = context.new_page()
    elsewhere: list[str] = []
    faults: list[str] = []

    def judge(route) -> None:
        if route.request.url.startswith((own, "blob:", "data:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route("**/*", judge)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.add_init_script(LISTEN)
    opened.goto(own)
    yield opened
    context.close()
    server.shutdown()
    server.server_close()
    assert elsewhere == [] and faults == []


def scene(world: Path) -> Path:
    """A picture of another size than the networks' input."""
    return sorted((world / "cityscapes").rglob("*_leftImg8bit.png"))[0]


def result_of(page) -> dict:
    """What the page found in the last frame."""
    page.wait_for_function("window.results?.length", timeout=60_000)
    return page.evaluate(
        "(() => { const last = window.results.at(-1); return { labels: Array.from(last.labels), boxes: last.boxes,"
        " width: last.width, height: last.height } })()"
    )


def test_labels_and_boxes_are_pythons(page, weights, world):
    frame = cv2.imread(str(scene(world)))
    page.set_input_files("#file", scene(world))
    found = result_of(page)
    assert (found["height"], found["width"]) == frame.shape[:2] != SIZE
    expected = load(weights["segmentation"], "torch", size=SIZE)(frame).labels
    assert len(np.unique(expected)) > 1
    assert (np.array(found["labels"]).reshape(expected.shape) == expected).mean() >= 0.999

    boxes = load(weights["detection"], "torch", score_threshold=LEAST_SCORE)(frame)
    assert len(boxes.boxes) > 3 and len(found["boxes"]) == len(boxes.boxes)
    for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True):
        of_class = [other for other in found["boxes"] if other["label"] == label and abs(other["score"] - score) < 0.01]
        assert min(np.abs(np.array(other["box"]) - box).max() for other in of_class) < 1


def test_threads_run_where_the_server_isolates_the_page(page):
    page.wait_for_function("document.getElementById('status').textContent.startsWith('Ready')", timeout=60_000)
    assert page.evaluate("crossOriginIsolated")
    assert "WebAssembly" in page.text_content("#status")


def test_sliders_draw_the_same_frame_again(page, world):
    page.set_input_files("#file", scene(world))
    result_of(page)
    pixels = "document.getElementById('view').toDataURL()"
    half = page.evaluate(pixels)
    page.locator("#opacity").fill("0")
    page.locator("#threshold").fill("0.95")
    page.wait_for_function(f"{pixels} !== {half!r}")
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
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site / "sub" / "page")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = chromium.new_page()
    opened.add_init_script(LISTEN)
    opened.goto(f"http://127.0.0.1:{server.server_port}/")
    opened.set_input_files("#file", scene(world))
    assert len(result_of(opened)["boxes"]) > 3
    assert opened.text_content("#status").endswith("WebAssembly, 1 thread")
    opened.close()
    server.shutdown()
    server.server_close()


def test_a_runtime_that_is_not_the_published_one_is_refused(tmp_path):
    (tmp_path / "package.tgz").write_bytes(b"something else")
    with pytest.raises(InputError, match="SHA-512 differs"):
        runtime.check_integrity(tmp_path / "package.tgz")


def test_a_missing_npm_is_one_line_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="install Node.js, or give --runtime FOLDER"):
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
