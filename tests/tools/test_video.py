"""The video tool: all frames in order, and the truth about sources and outputs that fail."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from backbone.errors import InputError
from tools import video
from tools.streams import pipeline, run_video, sinks, sources, window
from tools.streams.overlay import Drawing, draw

HEIGHT, WIDTH = 48, 64


class Tint:
    """A predictor whose result leaves the frame as it is: the brightness that numbers a frame survives."""

    task, engine = "segmentation", "torch"

    def __call__(self, frame):
        labels = np.zeros(frame.shape[:2], np.uint8)
        colors = np.array([[255, 0, 0]], np.uint8)
        return SimpleNamespace(
            labels=labels, classes=["road"], colors=colors, draw=lambda frame_bgr, opacity: frame_bgr.copy()
        )


class Failing:
    task, engine = "detection", "torch"

    def __call__(self, frame):
        raise RuntimeError("the model broke")


class FakeCapture:
    """Stands in for cv2.VideoCapture: gives numbered frames, then fails; `None` in `frames` is one failed read."""

    def __init__(self, frames=(), fps=25.0, count=-1.0, opened=True, pause_s=0.0, times_ms=None):
        self.frames, self.opened, self.pause_s = list(frames), opened, pause_s
        self.times_ms, self.num_read = times_ms, 0
        self.properties = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}

    def isOpened(self):
        return self.opened

    def get(self, key):
        if key == cv2.CAP_PROP_POS_MSEC:
            times, last = self.times_ms, self.num_read - 1
            return times[last] if times else 1000 * last / 25
        return self.properties[key]

    def grab(self):
        return self.read()[0]

    def read(self):
        time.sleep(self.pause_s)
        self.num_read += 1
        frame = self.frames.pop(0) if self.frames else None
        return frame is not None, frame

    def release(self):
        pass


def level(number):
    """Neighbouring numbers are far apart, so that a frame shifted by one cannot pass for a codec's rounding."""
    return number * 97 % 251


def numbered(number, height=HEIGHT, width=WIDTH):
    """A grey frame that says its number: `level(number)` everywhere."""
    return np.full((height, width, 3), level(number), np.uint8)


def write_clip(path, num_frames=60, height=HEIGHT, width=WIDTH, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 24.0, (width, height))
    assert writer.isOpened()
    for number in range(num_frames):
        writer.write(numbered(number, height, width))
    writer.release()
    return path


def read_clip(path):
    """All frames of a video as an array [N, H, W, 3]."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, frame = capture.read()
        if not read:
            return np.array(frames)
        frames.append(frame)


def brightness(frames):
    return np.array([frame.mean() for frame in frames])


def run_pipeline(source, predictors, sink=None, **options):
    options = {"counts": pipeline.Counts(), "drawing": Drawing(legend=False), "stop": threading.Event()} | options
    outcome = pipeline.Pipeline(source, predictors, sink, **options).run()
    return outcome, options["counts"]


@pytest.fixture(autouse=True)
def restored_signals():
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.fixture
def tool(monkeypatch):
    """Runs the command in this process with fake models; returns the exit code."""

    def run(*arguments, predictor=Tint):
        monkeypatch.setattr(run_video, "load_predictors", lambda predicting, **options: [predictor()])
        return video.main(["--weights", "fake.safetensors", *map(str, arguments)])

    return run


@pytest.mark.parametrize("codec_suffix", [("mp4v", ".mp4"), ("MJPG", ".avi")])
@pytest.mark.parametrize("output_suffix", [".mp4", ".mkv", ".avi"])
def test_every_frame_arrives_in_order(tool, tmp_path, codec_suffix, output_suffix):
    codec, suffix = codec_suffix
    clip, output = write_clip(tmp_path / f"in{suffix}", codec=codec), tmp_path / "new" / f"out{output_suffix}"
    assert tool("--source", clip, "--output", output, "--no-legend") == 0
    written = read_clip(output)
    assert written.shape == (60, HEIGHT, WIDTH, 3)
    assert np.abs(brightness(written) - [level(number) for number in range(60)]).max() < 8
    status = json.loads(output.with_name(output.name + ".status.json").read_text())
    assert status["status"] == "complete" and status["message"] == ""
    assert status["frames_expected"] == status["frames_read"] == status["frames_written"] == 60
    assert status["frames_dropped"] == 0 and status["fps"] == pytest.approx(24)
    assert status["size"] == {"height": HEIGHT, "width": WIDTH}
    assert set(status["stage_seconds"]) == {"read", "infer", "draw", "write"}
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name, output.name + ".status.json"]


def test_a_folder_as_output_holds_numbered_lossless_frames(tool, tmp_path, capsys):
    clip = write_clip(tmp_path / "in.avi", 12)
    assert tool("--source", clip, "--output", tmp_path / "frames", "--no-legend", "--max-frames", 5) == 0
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    assert names == [f"{number:06}.png" for number in range(5)] + ["status.json"]
    for number, frame in enumerate(read_clip(clip)[:5]):
        assert np.array_equal(cv2.imread(str(tmp_path / "frames" / f"{number:06}.png")), frame)
    assert "5 frames -> " in capsys.readouterr().out


def test_a_truncated_recording_exits_3_and_keeps_the_results(tool, tmp_path, capsys):
    clip = write_clip(tmp_path / "in.avi")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    output = tmp_path / "out.mp4"
    assert tool("--source", clip, "--output", output) == 3
    status = json.loads((tmp_path / "out.mp4.status.json").read_text())
    assert status["status"] == "truncated" and status["frames_expected"] == 60
    assert 10 < status["frames_written"] == len(read_clip(output)) < 60
    assert "ended after" in capsys.readouterr().err


def test_an_odd_size_is_padded_and_said(tool, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "0.png"), np.full((49, 65, 3), 120, np.uint8))
    assert tool("--source", images, "--output", tmp_path / "out.mp4", "--no-legend") == 0
    frame = read_clip(tmp_path / "out.mp4")[0]
    assert frame.shape == (50, 66, 3)
    assert abs(float(frame[-1, -1].mean()) - 120) < 4
    assert "66x50" in capsys.readouterr().err


@pytest.mark.parametrize("fps", [0.0, float("nan"), 90000.0, -1.0])
def test_a_rate_that_is_none_becomes_30(fps):
    assert sources.VideoFile("clip", FakeCapture(fps=fps)).fps == 30


def test_images_come_in_natural_order_from_folder_and_glob(tmp_path):
    for number in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), numbered(number))
    (tmp_path / "notes.txt").write_text("not an image")
    for text in (str(tmp_path), str(tmp_path / "*.png")):
        source = sources.open_source(text)
        assert source.frames_expected == 3
        assert [source.read().image[0, 0, 0] for _ in range(3)] == [level(1), level(9), level(10)]
        assert source.read() is None


def test_an_unreadable_image_is_named(tool, tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), numbered(1))
    (tmp_path / "1.png").write_text("<html>")
    with pytest.raises(InputError, match=r"1\.png"):
        tool("--source", tmp_path, "--output", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_an_image_damaged_behind_its_header_fails_the_run_and_is_named(tool, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    for number in range(3):
        cv2.imwrite(str(images / f"{number}.png"), noise)
    whole = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"2\.png"):
        tool("--source", images, "--output", tmp_path / "out.mp4")
    status = json.loads((tmp_path / "out.mp4.status.json").read_text())
    assert status["status"] == "failed" and "2.png" in status["message"]
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.mp4", "no such file"),
        ("empty", "no image"),
        ("*.jpg", "no image matches"),
        ("text.mp4", "not a video"),
        ("nothing.mp4", "not a video"),
        ("rtsp://user:secret@127.0.0.1:9/live", "cannot be opened"),
        ("77", "camera 77"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(tool, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.mp4").write_text("hello\n" * 1000)
    Path("nothing.mp4").touch()
    with pytest.raises(InputError, match=message) as caught:
        tool("--source", source, "--output", "out.mp4")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("out.mp4").exists()


def test_a_silent_server_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(sources, "OPEN_TIMEOUT_MS", 500)
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(InputError, match="cannot be opened"):
            sources.open_source(f"http://127.0.0.1:{server.getsockname()[1]}/live")
        assert time.monotonic() - start < 4


def test_a_source_without_one_readable_frame_is_an_error():
    with pytest.raises(InputError, match="not one frame"):
        run_pipeline(sources.VideoFile("clip", FakeCapture(count=10.0)), [Tint()])


def test_outputs_that_exist_or_cannot_be_written_are_refused(tool, tmp_path):
    clip = write_clip(tmp_path / "in.avi", 4)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "old.mp4").write_text("precious")
    for output, message in (
        (tmp_path / "file" / "out.mp4", "cannot be written"),
        (tmp_path / "file", "no folder"),
        (tmp_path / "out.wmv", "ends in"),
        (tmp_path / "old.mp4", "--overwrite"),
        (clip, "--overwrite|would replace"),
    ):
        with pytest.raises(InputError, match=message):
            tool("--source", clip, "--output", output)
    with pytest.raises(InputError, match="would replace"):
        tool("--source", clip, "--output", clip, "--overwrite")
    assert (tmp_path / "old.mp4").read_text() == "precious"
    assert tool("--source", clip, "--output", tmp_path / "old.mp4", "--overwrite") == 0
    assert len(read_clip(tmp_path / "old.mp4")) == 4


def test_overwriting_a_folder_leaves_no_frame_of_the_longer_run_before(tool, tmp_path):
    long, short = write_clip(tmp_path / "long.avi", 6), write_clip(tmp_path / "short.avi", 3)
    output = tmp_path / "frames"
    assert tool("--source", long, "--output", output) == 0
    with pytest.raises(InputError, match="holds 6 frames"):
        tool("--source", short, "--output", output)
    assert tool("--source", short, "--output", output, "--overwrite") == 0
    assert len(list(output.glob("*.png"))) == 3


def test_a_folder_of_images_is_never_its_own_output(tool, tmp_path):
    cv2.imwrite(str(tmp_path / "000000.png"), numbered(1))
    with pytest.raises(InputError, match="holds the images"):
        tool("--source", tmp_path, "--output", tmp_path, "--overwrite")
    assert cv2.imread(str(tmp_path / "000000.png"))[0, 0, 0] == level(1)


def test_frames_of_two_sizes_do_not_fit_one_video(tmp_path):
    sink = sinks.VideoSink(tmp_path / "out.mp4", 24.0)
    sink.write(numbered(0), 0.0)
    with pytest.raises(InputError, match="one size"):
        sink.write(numbered(1, HEIGHT + 2), 0.04)
    sink.abandon()


def test_a_video_that_lost_frames_on_the_way_to_the_disk_is_not_passed_off_as_whole(tmp_path):
    sink = sinks.VideoSink(tmp_path / "out.avi", 24.0)
    for number in range(10):
        sink.write(numbered(number), number / 24)
    sink.frames_written += 1
    with pytest.raises(InputError, match="10 of 11 frames"):
        sink.close()
    assert not (tmp_path / "out.avi").exists() and sink.part.exists()


def test_show_without_a_display_goes_on_with_an_output_and_is_an_error_without(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    clip = write_clip(tmp_path / "in.avi", 4)
    assert tool("--source", clip, "--output", tmp_path / "out.avi", "--show") == 0
    assert "no display" in capsys.readouterr().err
    with pytest.raises(InputError, match="no display"):
        tool("--source", clip, "--show")
    with pytest.raises(InputError, match="--output"):
        tool("--source", clip)


def test_a_display_that_does_not_answer_is_no_display(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not window.has_display()


def test_q_in_the_window_stops(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(cv2, "imshow", lambda name, frame: shown.append(frame))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda name, key: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    source = sources.VideoFile("clip", FakeCapture([numbered(n) for n in range(200)], count=200.0, pause_s=0.005))
    outcome, counts = run_pipeline(source, [Tint()], window=window.Window())
    assert outcome.status == "interrupted" and len(shown) == 3 <= counts.frames_written < 200


def test_a_failing_predictor_ends_the_run_at_once_and_leaves_no_thread(tool, tmp_path):
    clip = write_clip(tmp_path / "in.avi")
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="the model broke"):
        tool("--source", clip, "--output", tmp_path / "out.mp4", predictor=Failing)
    assert time.monotonic() - start < 3
    assert not {"read", "write"} & {thread.name for thread in threading.enumerate()}
    assert json.loads((tmp_path / "out.mp4.status.json").read_text())["status"] == "failed"
    assert not (tmp_path / "out.mp4").exists()


def test_a_failing_sink_ends_the_run_at_once():
    class FullDisk:
        def write(self, image, seconds):
            raise InputError("the disk is full")

    source = sources.VideoFile("clip", FakeCapture([numbered(n) for n in range(500)], count=500.0))
    counts = pipeline.Counts()
    with pytest.raises(InputError, match="disk is full"):
        run_pipeline(source, [Tint()], FullDisk(), counts=counts)
    assert counts.frames_read < 50


def test_a_slow_consumer_bounds_what_is_read_ahead():
    seen = []

    class Slow(Tint):
        def __call__(self, frame):
            time.sleep(0.01)
            seen.append(counts.frames_read)
            return super().__call__(frame)

    counts = pipeline.Counts()
    source = sources.VideoFile("clip", FakeCapture([numbered(n) for n in range(30)], count=30.0))
    outcome, _ = run_pipeline(source, [Slow()], counts=counts)
    assert outcome.status == "complete" and counts.frames_written == 30
    assert max(read - position for position, read in enumerate(seen)) <= pipeline.QUEUE_FRAMES + 2


class Collect:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.frames = []

    def write(self, image, seconds):
        self.frames.append(image)


def test_a_live_source_drops_old_frames_and_keeps_their_order(monkeypatch):
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", ())

    class Slow(Tint):
        def __call__(self, frame):
            time.sleep(0.02)
            return super().__call__(frame)

    source = sources.LiveStream("camera 0", 0, FakeCapture([numbered(n) for n in range(60)], pause_s=0.004))
    sink = Collect()
    outcome, counts = run_pipeline(source, [Slow()], sink)
    assert outcome.status == "source_lost"
    assert counts.frames_dropped > 0 and counts.frames_read == 60
    assert counts.frames_written == len(sink.frames) == 60 - counts.frames_dropped
    levels = [level(number) for number in range(60)]
    numbers = [levels.index(frame[0, 0, 0]) for frame in sink.frames]
    assert numbers == sorted(numbers) and numbers[-1] == 59  # the last one is never the one dropped


def test_a_live_source_that_comes_back_goes_on_and_one_that_does_not_is_lost(monkeypatch):
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", (0.01, 0.01))
    captures = [FakeCapture(opened=False), FakeCapture([numbered(2), numbered(3)], pause_s=0.01)]
    opened = []

    def reopen(target):
        opened.append(target)
        return captures.pop(0) if captures else FakeCapture(opened=False)

    monkeypatch.setattr(sources, "_capture", reopen)
    source = sources.LiveStream("camera 0", 0, FakeCapture([numbered(1)]))
    sink = Collect()
    outcome, counts = run_pipeline(source, [Tint()], sink)
    assert outcome.status == "source_lost" and "camera 0" in outcome.message
    assert len(opened) == 4 and counts.frames_read == 3
    assert sink.frames[-1][0, 0, 0] == level(3) and len(sink.frames) + counts.frames_dropped == 3


def test_a_lost_camera_exits_4_and_keeps_the_results(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "RETRY_DELAYS_S", ())
    camera = FakeCapture([numbered(n) for n in range(10)], pause_s=0.02)
    monkeypatch.setattr(sources, "_capture", lambda target: camera)
    assert tool("--source", "0", "--output", tmp_path / "out.mp4") == 4
    status = json.loads((tmp_path / "out.mp4.status.json").read_text())
    assert status["status"] == "source_lost" and status["frames_expected"] is None
    assert status["frames_written"] == len(read_clip(tmp_path / "out.mp4")) > 0


def test_a_recording_behind_a_url_is_read_whole(monkeypatch):
    monkeypatch.setattr(sources, "_capture", lambda target: FakeCapture(count=60.0))
    assert not sources.open_source("http://192.0.2.1/clip.mp4").live
    monkeypatch.setattr(sources, "_capture", lambda target: FakeCapture(count=-1.0))
    assert sources.open_source("rtsp://192.0.2.1/live").live


def test_passwords_in_urls_are_hidden():
    assert sources.without_password("rtsp://me:secret@192.0.2.1/live") == "rtsp://***@192.0.2.1/live"
    assert sources.without_password("folder@home/clip.mp4") == "folder@home/clip.mp4"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_file_and_exits_130(tmp_path, number):
    clip = write_clip(tmp_path / "in.avi", 240)
    program = (
        "import time\n"
        "from tests.tools.test_video import Tint, run_video, video\n"
        "from tools.io.console import run\n"
        "class Slow(Tint):\n"
        "    def __call__(self, frame):\n"
        "        time.sleep(0.05)\n"
        "        return super().__call__(frame)\n"
        "run_video.load_predictors = lambda predicting, **options: [Slow()]\n"
        "run(video.main)\n"
    )
    command = [sys.executable, "-c", program, "--weights", "x", "--source", clip, "--output", tmp_path / "out.mp4"]
    root = Path(__file__).parents[2]
    child = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    part = tmp_path / "out.part.mp4"
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child.pid, number)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors
    status = json.loads((tmp_path / "out.mp4.status.json").read_text())
    assert status["status"] == "interrupted"
    assert 0 < status["frames_written"] == len(read_clip(tmp_path / "out.mp4")) < 240


def test_segmentations_are_drawn_below_detections():
    order = []

    def predictor(task):
        def draw(frame, **options):
            order.append((task, options))
            return frame.copy()

        result = SimpleNamespace(draw=draw, classes=[], colors=np.zeros((0, 3), np.uint8))
        return type("Fake", (), {"task": task, "__call__": lambda self, frame: result})()

    source = sources.VideoFile("clip", FakeCapture([numbered(0)], count=1.0))
    run_pipeline(source, [predictor("detection"), predictor("segmentation")], drawing=Drawing(0.3, 0.7, legend=False))
    assert order == [("segmentation", {"opacity": 0.3}), ("detection", {"score_threshold": 0.7, "colors": {}})]


def test_the_legend_shows_the_colors_of_the_classes_present_and_spares_the_frame():
    frame = np.full((240, 320, 3), 90, np.uint8)
    labels = np.zeros((240, 320), np.uint8)
    labels[:10] = 2
    colors = np.array([[200, 10, 20], [10, 200, 20], [20, 10, 200]], np.uint8)
    result = SimpleNamespace(
        labels=labels, classes=["road", "car", "sky"], colors=colors, draw=lambda frame_bgr, opacity: frame_bgr.copy()
    )
    image = draw(frame, [("segmentation", result)], Drawing(), 12.5)

    def shows(rgb):
        return bool((image == np.array(rgb[::-1])).all(axis=2).any())

    assert [shows(color) for color in colors] == [True, False, True]
    assert (frame == 90).all()


@pytest.mark.parametrize(
    "arguments", [["--max-frames", "0"], ["--fps", "nan"], ["--fps", "1000"], ["--opacity", "1.5"]]
)
def test_options_out_of_range_are_refused(tool, arguments):
    with pytest.raises(InputError, match=arguments[0]):
        tool("--source", "in.mp4", "--output", "out.mp4", *arguments)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused_before_the_output_is_made(tmp_path, device):
    clip, output = write_clip(tmp_path / "in.avi", 4), tmp_path / "out.mp4"
    with pytest.raises(InputError, match=f"--device {device}"):
        video.main(["--weights", "x", "--source", str(clip), "--output", str(output), "--device", device])
    assert [path.name for path in tmp_path.iterdir()] == ["in.avi"]


def test_a_killed_run_leaves_a_readable_part_of_an_mkv(tmp_path):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from tools.streams.sinks import VideoSink\n"
        "sink = VideoSink(Path(sys.argv[1]), 24.0)\n"
        "noise = np.random.default_rng(0)\n"
        "for _ in range(200):\n"
        "    sink.write(noise.integers(0, 255, (240, 320, 3), np.uint8), 0.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "out.mkv"], cwd=Path(__file__).parents[2], check=False)
    assert not (tmp_path / "out.mkv").exists()
    assert len(read_clip(tmp_path / "out.part.mkv")) >= 180
