"""Sources that are cut, damaged, lost or lie about themselves: the exit code, the status and one line for the user.

The numbers are the rows of the list of faults that the video tool was built against.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tools import video
from tools.io.console import run
from tools.streams import pipeline, run_video, sources

ROOT = Path(__file__).parents[2]
NUM_FRAMES = 60

# One process for all files, in which FFmpeg's level is set before the first video, as in a user's.
RUN_EACH = """
import contextlib, io, json, sys
from tests.tools.test_video_faults import Blind
from tools import video
from tools.io.console import run
from tools.streams import run_video
run_video.load_predictors = lambda predicting, **options: [Blind()]
done = {}
for path in sys.argv[1:]:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            run(lambda: video.main(["--weights", "x", "--source", path, "--output", path + ".out.avi", "--no-legend"]))
        except SystemExit as ended:
            done[path] = ended.code, errors.getvalue()
print(json.dumps(done))
"""


class Blind:
    """A detector that finds nothing."""

    task, engine, classes = "detection", "torch", ["car"]

    def __call__(self, frame):
        return SimpleNamespace(draw=lambda frame_bgr, **options: frame_bgr.copy())


class FakeCapture:
    """Stands in for cv2.VideoCapture: gives so many frames, then fails."""

    def __init__(self, num_frames, fps=25.0, count=-1.0, opened=True):
        self.num_frames, self.opened, self.num_read = num_frames, opened, 0
        self.properties = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}

    def isOpened(self):
        return self.opened

    def get(self, key):
        return 40.0 * (self.num_read - 1) if key == cv2.CAP_PROP_POS_MSEC else self.properties[key]

    def read(self):
        self.num_read += 1
        return self.num_read <= self.num_frames, np.full((48, 64, 3), 90, np.uint8)

    def release(self):
        pass


def noise(seed):
    """A frame that fills packets, so that places in the file are places in frames."""
    return np.random.default_rng(seed).integers(0, 255, (120, 160, 3), np.uint8)


def write_opencv(path, codec):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 24.0, (160, 120))
    for number in range(NUM_FRAMES):
        writer.write(noise(number))
    writer.release()
    return path.read_bytes()


def write_h264(path, options=None):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=24, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(number), format="bgr24")))
        container.mux(stream.encode())
    return path.read_bytes()


def cut(content, share):
    return content[: round(share * len(content))]


def damage(content):
    """The content with 60 bytes changed between its first and its last fifth, which hold the container's tables."""
    changed = bytearray(content)
    for place in np.random.default_rng(0).integers(len(content) // 5, len(content) * 4 // 5, 60):
        changed[place] ^= 255
    return bytes(changed)


# Exit code, status (None: no report, as nothing was read), frames read from and to, whether frames were repaired, and
# what the line says; of the files that `outcomes` makes.
FILES = {
    # 50: cut files, of which decoders report a clean end
    "cut.avi": (3, "truncated", 20, 40, True, "of 60 frames"),
    "cut.mkv": (3, "truncated", 10, 40, True, "of 60 frames"),
    "cut_index_first.mp4": (3, "truncated", 20, 40, True, "of 60 frames"),
    "cut_index_last.mp4": (2, None, 0, 0, False, "its end is missing"),
    "cut_to_its_header.avi": (2, "failed", 0, 0, False, "not one frame"),
    "cut_by_two_frames.avi": (0, "complete", 58, 58, False, ""),
    "empty.mp4": (2, None, 0, 0, False, "not a video"),
    "text.mkv": (2, None, 0, 0, False, "not a video"),
    # 51: damaged packets, which decoders fill with made-up pixels
    "damaged.mkv": (0, "complete", 58, 60, True, ""),
    "damaged.mp4": (0, "complete", 58, 60, True, ""),
    "damaged_h264.mp4": (0, "complete", 58, 60, True, ""),
    "whole.avi": (0, "complete", 60, 60, False, ""),
    "whole.mkv": (0, "complete", 60, 60, False, ""),
    "whole.mp4": (0, "complete", 60, 60, False, ""),
}


def last_frames(avi, count):
    """Where the last frames of an .avi begin, in bytes."""
    place = len(avi)
    for _ in range(count):
        place = avi.rindex(b"00dc", 0, avi.index(b"idx1") if place == len(avi) else place)
    return place


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code, stderr and report of each of `FILES`, by name."""
    folder = tmp_path_factory.mktemp("faults")
    avi = write_opencv(folder / "whole.avi", "MJPG")
    mkv, mp4 = (write_opencv(folder / f"whole.{suffix}", "mp4v") for suffix in ("mkv", "mp4"))
    h264 = write_h264(folder / "source.mp4")
    made = {
        "cut.avi": cut(avi, 0.5),
        "cut.mkv": cut(mkv, 0.5),
        "cut_index_first.mp4": cut(write_h264(folder / "fast.mp4", {"movflags": "faststart"}), 0.5),
        "cut_index_last.mp4": cut(mp4, 0.5),
        "cut_to_its_header.avi": avi[: avi.index(b"movi") + 8],
        "cut_by_two_frames.avi": avi[: last_frames(avi, 2)],
        "empty.mp4": b"",
        "text.mkv": b"hello\n" * 1000,
        "damaged.mkv": damage(mkv),
        "damaged.mp4": damage(mp4),
        "damaged_h264.mp4": damage(h264),
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    command = [sys.executable, "-c", RUN_EACH, *(str(folder / name) for name in FILES)]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0 and child.stderr == ""
    found = {Path(path).name: result for path, result in json.loads(child.stdout).items()}
    reports = {name: folder / f"{name}.out.avi.status.json" for name in FILES}
    return {
        name: (*found[name], json.loads(path.read_text()) if path.exists() else None) for name, path in reports.items()
    }


@pytest.mark.parametrize("name", FILES)
def test_a_cut_or_damaged_file_ends_with_the_truth_about_it(outcomes, name):
    code, status, least, most, repaired, words = FILES[name]
    found_code, errors, report = outcomes[name]
    assert found_code == code and words in errors
    assert len(errors.splitlines()) == (1 if words else 0)  # FFmpeg is not heard, in later runs either
    assert (report and report["status"]) == status
    if report is not None and code != 2:
        assert least <= report["frames_read"] == report["frames_written"] <= most
        assert report["frames_expected"] == NUM_FRAMES and (report["frames_repaired"] > 0) == repaired


@pytest.fixture
def tool(monkeypatch, tmp_path, capsys):
    """Runs the command on a source, in this process; returns exit code, report and what it said on stderr."""

    def run_tool(source, *options, output=True):
        monkeypatch.setattr(run_video, "load_predictors", lambda predicting, **given: [Blind()])
        path = tmp_path / "out.avi"
        places = ["--output", str(path)] if output else []
        with pytest.raises(SystemExit) as ended:
            run(lambda: video.main(["--weights", "x", "--source", str(source), *places, "--no-legend", *options]))
        report = path.with_name("out.avi.status.json")
        return ended.value.code, json.loads(report.read_text()) if report.exists() else None, capsys.readouterr().err

    return run_tool


@pytest.mark.parametrize(
    ("fps", "count", "code", "status"),
    [
        (0.0, 10.0, 0, "complete"),
        (float("nan"), 10.0, 0, "complete"),
        (90000.0, 10.0, 0, "complete"),
        (25.0, 0.0, 0, "complete"),
        (25.0, float("nan"), 0, "complete"),
        (25.0, -1.9e14, 0, "complete"),
        (25.0, 4.0, 0, "complete"),
        (25.0, 100.0, 3, "truncated"),
    ],
)
def test_a_wrong_rate_or_number_of_frames_never_costs_a_frame(tool, tmp_path, monkeypatch, fps, count, code, status):
    # 52
    (tmp_path / "in.mp4").touch()
    capture = FakeCapture(10, fps=fps, count=count)
    monkeypatch.setattr(sources, "_capture", lambda target: capture)
    found_code, report, _ = tool(tmp_path / "in.mp4")
    assert (found_code, report["status"], report["frames_written"]) == (code, status, 10)
    assert report["fps"] == (25 if fps == 25 else 30)


class Server(http.server.ThreadingHTTPServer):
    """Answers the first request with the head of a file and silence, others with silence only."""

    daemon_threads = True

    def __init__(self, content, *, length):
        self.content, self.length, self.ended = content, length, threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)

    def handle_error(self, request, client_address):
        pass  # the client goes away while it is served: that is what is tested


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.send_response(200)
        if self.server.length is not None:
            self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        content, self.server.content = self.server.content, b""
        self.wfile.write(content)
        self.server.ended.wait(20)

    def log_message(self, format, *arguments):
        pass


@pytest.mark.parametrize(
    ("suffix", "share", "code", "status", "words"),
    [
        (".ts", 0.7, 4, "source_lost", "was lost and did not come back"),
        (".avi", 0.7, 3, "truncated", "of 60 frames"),
        (".avi", 0.0, 2, None, "cannot be opened"),
    ],
)
def test_a_server_that_falls_silent_is_given_up_in_time(
    tool, tmp_path, monkeypatch, suffix, share, code, status, words
):
    # 53
    monkeypatch.setattr(sources, "OPEN_TIMEOUT_MS", 500)
    monkeypatch.setattr(sources, "READ_TIMEOUT_MS", 500)
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", (0.01,))
    path = tmp_path / f"in{suffix}"
    content = write_h264(path) if suffix == ".ts" else write_opencv(path, "MJPG")
    with Server(cut(content, share), length=None if suffix == ".ts" else len(content)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        start = time.monotonic()
        found_code, report, errors = tool(f"http://127.0.0.1:{server.server_port}/in{suffix}")
        assert time.monotonic() - start < 4
        server.ended.set()
        server.shutdown()
    assert found_code == code and (report and report["status"]) == status and words in errors
    if report is not None:
        assert 20 < report["frames_read"] < 60 and report["frames_read"] >= report["frames_written"] > 0


@pytest.mark.parametrize(
    ("connections", "code", "status", "frames"),
    [
        ([None], 2, None, 0),
        ([0], 2, "failed", 0),
        ([1], 4, "source_lost", 1),
        ([1, None, 1], 4, "source_lost", 2),
    ],
    ids=["absent", "without a frame", "unplugged", "plugged in again"],
)
def test_a_camera_never_gives_frames_that_it_did_not_take(tool, monkeypatch, connections, code, status, frames):
    # 54: frames that each connection gives before it is lost; None: it cannot be opened
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", (0.01, 0.01))
    waiting = list(connections)

    def connect(target):
        given = waiting.pop(0) if waiting else None
        return FakeCapture(0, opened=False) if given is None else FakeCapture(given)

    monkeypatch.setattr(sources, "_capture", connect)
    found_code, report, errors = tool("0")
    assert found_code == code and (report and report["status"]) == status
    assert len(errors.strip().splitlines()) == 1 and "camera 0" in errors
    if report is not None:
        assert report["frames_read"] == frames


@pytest.mark.parametrize(("output", "code"), [(True, 0), (False, 2)])
def test_a_window_without_a_display_costs_the_window_only(tool, tmp_path, monkeypatch, output, code):
    # 57: OpenCV's windows end the process where there is no display
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    write_opencv(tmp_path / "in.avi", "MJPG")
    found_code, report, errors = tool(tmp_path / "in.avi", "--show", output=output)
    assert found_code == code and "no display" in errors
    assert (report and report["status"]) == ("complete" if output else None)
