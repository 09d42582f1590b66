"""What the video tool writes: videos that play anywhere, with the source's times and sound; animations; raw frames."""

import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from backbone.errors import InputError
from tests.builders.loopback import serve, whole
from tools.streams import sinks
from tools.streams.animation import AnimationSink
from tools.streams.h264 import H264Sink

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 48, 64
IRREGULAR_S = [0.0, 0.04, 0.05, 0.5, 0.51, 0.52, 1.0, 1.001, 1.7, 2.0]


def grey(number):
    return np.full((HEIGHT, WIDTH, 3), number * 97 % 251, np.uint8)


def times_of(path):
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def write_sound(path, seconds=2.0):
    """A video file of one frame and a tone."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        tone = container.add_stream("aac", rate=48000, layout="mono")
        for packet in picture.encode(av.VideoFrame.from_ndarray(grey(1), format="bgr24")):
            container.mux(packet)
        for start in range(0, int(seconds * 48000), 1024):
            wave = np.sin(np.arange(start, start + 1024, dtype=np.float32)[None] / 20)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            for packet in tone.encode(frame):
                container.mux(packet)
        for stream in (picture, tone):
            for packet in stream.encode(None):
                container.mux(packet)
    return path


@pytest.mark.parametrize(("suffix", "tolerance_s"), [(".mp4", 2e-5), (".mov", 2e-5), (".mkv", 1.1e-3)])
def test_frames_keep_the_times_of_a_source_with_a_variable_rate(tmp_path, suffix, tolerance_s):
    sink = H264Sink(tmp_path / f"out{suffix}", 24.0)
    for number, seconds in enumerate(IRREGULAR_S):
        sink.write(grey(number), 3.0 + seconds)  # the first frame is where the video's time begins
    sink.close()
    assert times_of(sink.path) == pytest.approx(IRREGULAR_S, abs=tolerance_s)
    assert [path.name for path in tmp_path.iterdir()] == [f"out{suffix}"]


def test_a_rate_that_was_asked_for_is_constant(tmp_path):
    sink = H264Sink(tmp_path / "out.mp4", 10.0, constant=True)
    for number, seconds in enumerate(IRREGULAR_S):
        sink.write(grey(number), seconds)
    sink.close()
    assert times_of(sink.path) == pytest.approx([number / 10 for number in range(10)])


def test_colors_survive(tmp_path):
    colors = [(200, 40, 60), (30, 180, 90), (60, 30, 210)]
    sink = H264Sink(tmp_path / "out.mp4", 24.0)
    for number, color in enumerate(colors):
        sink.write(np.full((HEIGHT, WIDTH, 3), color, np.uint8), number / 24)
    sink.close()
    with av.open(str(sink.path)) as container:
        means = [frame.to_ndarray(format="bgr24").mean((0, 1)) for frame in container.decode(video=0)]
    assert np.abs(np.array(means) - colors).max() < 6


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_copied_from_where_the_frames_begin_to_where_they_end(tmp_path, suffix):
    source = write_sound(tmp_path / "in.mp4")
    sink = H264Sink(tmp_path / f"out{suffix}", 10.0, sound=source)
    for number in range(10):
        sink.write(grey(number), 0.5 + number / 10)
    sink.close()
    with av.open(str(sink.path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.dts is not None]
        times = [float(packet.pts * packet.time_base) for packet in packets]
    assert 0 <= times[0] < 0.03 and 0.95 < times[-1] < 1.0
    with av.open(str(source)) as container:
        originals = [bytes(packet) for packet in container.demux(audio=0)]
    assert originals.index(bytes(packets[3])) == pytest.approx((0.5 + times[3]) * 48000 / 1024, abs=2)


def test_a_source_without_sound_is_told_before_anything_is_written(tmp_path):
    silent = H264Sink(tmp_path / "in.mp4", 10.0)
    silent.write(grey(0), 0.0)
    silent.close()
    with pytest.raises(InputError, match="has no sound"):
        H264Sink(tmp_path / "out.mp4", 10.0, sound=silent.path)
    with pytest.raises(InputError, match="holds no sound"):
        sinks.open_sink(tmp_path / "out.avi", 10.0, stop=threading.Event(), sound=silent.path)


def test_without_pyav_the_note_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "missing", list)
    sink = sinks.open_sink(tmp_path / "out.mp4", 24.0, stop=threading.Event())
    sink.write(grey(0), 0.0)
    sink.close()
    assert isinstance(sink, sinks.VideoSink) and "taproot[video]" in sink.note


def test_frames_lost_on_the_way_to_the_disk_leave_the_part_file(tmp_path):
    sink = H264Sink(tmp_path / "out.mp4", 24.0)
    for number in range(5):
        sink.write(grey(number), number / 24)
    sink.frames_written += 1
    with pytest.raises(InputError, match=r"out.mp4: 5 of 6 frames"):
        sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"]


@pytest.mark.parametrize(("suffix", "frames"), [(".mp4", 40), (".mp4", 133), (".mkv", 90)])
def test_a_killed_run_leaves_what_it_has_written(tmp_path, suffix, frames):
    program = (
        "import os, sys\nfrom pathlib import Path\nimport numpy as np\nfrom tools.streams.h264 import H264Sink\n"
        "sink, noise = H264Sink(Path(sys.argv[1]), 24.0), np.random.default_rng(0)\n"
        f"for number in range({frames}):\n"
        f"    sink.write(noise.integers(0, 255, ({HEIGHT}, {WIDTH}, 3), np.uint8), number / 24)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / f"out{suffix}"], cwd=ROOT, check=False)
    assert not (tmp_path / f"out{suffix}").exists()
    assert len(times_of(tmp_path / f"out.part{suffix}")) >= 0.9 * frames


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_shows_each_frame_as_long_as_the_source_does(tmp_path, suffix):
    seconds = [0.0, 0.1, 0.4, 0.5]
    sink = AnimationSink(tmp_path / f"out{suffix}", 10.0)
    for number, time in enumerate(seconds):
        sink.write(grey(number), time)
    sink.close()
    with Image.open(sink.path) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert durations == [100, 300, 100, 100] and sink.note == ""


def test_a_long_or_large_animation_is_limited_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.streams.animation.MAX_FRAMES", 3)
    monkeypatch.setattr("tools.streams.animation.MAX_SIDE", 32)
    sink = AnimationSink(tmp_path / "out.gif", 10.0)
    for number in range(5):
        sink.write(grey(number), number / 10)
    sink.close()
    assert "only the first 3 of 5" in sink.note and "to 32 pixels" in sink.note
    with Image.open(sink.path) as image:
        assert image.size == (32, 24) and image.n_frames == 3


PIPING = (
    "import sys, threading\nimport numpy as np\nfrom tools.streams.raw_pipe import PipeSink\n"
    "stop = threading.Event()\nsink = PipeSink(25.0, stop)\nprint('hello')\n"
    "for number in range(200):\n    sink.write(np.full((48, 64, 3), number, np.uint8), 0.0)\n"
    "sink.close()\nprint(sink.note or 'whole', stop.is_set(), file=sys.stderr)\n"
)


def test_a_pipe_carries_nothing_but_frames():
    done = subprocess.run([sys.executable, "-c", PIPING], cwd=ROOT, capture_output=True, check=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    assert (frames[:, 0, 0, 0] == range(200)).all()
    assert b"bgr24, 64x48, 25 frames/s" in done.stderr and b"hello" in done.stderr and b"whole False" in done.stderr


def test_a_closed_pipe_stops_the_run():
    child = subprocess.Popen([sys.executable, "-c", PIPING], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(1000)
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=20) == 0 and b"has closed it True" in errors and b"Traceback" not in errors


def test_a_browser_plays_the_video_and_finds_its_middle(tmp_path, chromium):
    sink = H264Sink(tmp_path / "out.mp4", 10.0)
    for number in range(40):
        color = (0, 0, 230) if number < 15 else (0, 230, 0) if number < 25 else (230, 0, 0)  # BGR
        sink.write(np.full((HEIGHT, WIDTH, 3), color, np.uint8), number / 10)
    sink.close()
    with serve() as server:
        server.routes["/page"] = whole(b"<video muted></video>", headers={"Content-Type": "text/html"})
        server.routes["/out.mp4"] = whole(sink.path.read_bytes(), headers={"Content-Type": "video/mp4"})
        page = chromium.new_page()
        page.goto(f"{server.address}/page")
        duration, pixel = page.evaluate(
            """async () => {
                const video = document.querySelector("video");
                const blob = await (await fetch("out.mp4")).blob();
                const loaded = new Promise((done, failed) => {
                    video.onloadeddata = done; video.onerror = () => failed(video.error.message);
                });
                video.src = URL.createObjectURL(blob);
                await loaded;
                const sought = new Promise(done => video.onseeked = done);
                video.currentTime = video.duration / 2;
                await sought;
                const canvas = document.createElement("canvas");
                const context = canvas.getContext("2d");
                context.drawImage(video, 0, 0);
                return [video.duration, [...context.getImageData(20, 20, 1, 1).data]];
            }"""
        )
        page.close()
    assert duration == pytest.approx(4.0, abs=0.01)
    assert pixel[:3] == pytest.approx([0, 230, 0], abs=12)
