"""Outputs of the video tool: H.264 that browsers play, times and sound of the source, what a killed run leaves."""

import functools
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from backbone.errors import InputError
from tests.builders.chromium import chromium
from tools.streams import encoded, short, sinks
from tools.streams.encoded import EncodedSink
from tools.streams.short import AnimationSink, PipeClosed, PipeSink
from tools.streams.sinks import VideoSink, open_sink
from tools.streams.sources import open_source

HEIGHT, WIDTH = 48, 64
COLORS = {"red": (20, 20, 200), "green": (20, 200, 20), "blue": (200, 20, 20)}  # BGR
UNEVEN = [0.0, 0.04, 0.08, 0.2, 0.5, 0.52, 1.3, 1.34]  # seconds


def plain(color, height=HEIGHT, width=WIDTH):
    return np.full((height, width, 3), color, np.uint8)


def times(path):
    """The times of a video's frames, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None]


def write_uneven(path, sound=False):
    """A video with the frame times UNEVEN and, if asked, a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"bf": "0"}
        audio = container.add_stream("aac", rate=16000) if sound else None
        for second in UNEVEN:
            frame = av.VideoFrame.from_ndarray(plain((90, 90, 90)), format="bgr24")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            tone = (0.2 * np.sin(np.arange(2 * 16000) * 0.17)).astype(np.float32)
            for start in range(0, len(tone), 1024):
                piece = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = 16000, start
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("suffix", encoded.SUFFIXES)
def test_frames_keep_their_times_in_the_source(tmp_path, suffix):
    source = open_source(str(write_uneven(tmp_path / "in.mp4")))
    sink = open_sink(tmp_path / f"out{suffix}", source.fps)
    assert isinstance(sink, EncodedSink) and sink.keeps_times
    while (frame := source.read()) is not None:
        sink.write(frame.image, frame.seconds)
    sink.close()
    assert times(sink.path) == pytest.approx(UNEVEN, abs=0.0011 if suffix == ".mkv" else 1e-4)
    assert [path.name for path in tmp_path.glob("out*")] == [f"out{suffix}"]


def test_a_fixed_rate_is_kept_to_whatever_the_sources_times(tmp_path):
    sink = EncodedSink(tmp_path / "out.mp4", 10.0, keep_times=False)
    for second in UNEVEN:
        sink.write(plain((90, 90, 90)), second)
    sink.close()
    assert times(sink.path) == pytest.approx(np.arange(len(UNEVEN)) / 10, abs=1e-4)


def test_colors_survive(tmp_path):
    sink = EncodedSink(tmp_path / "out.mp4", 25.0)
    for number, color in enumerate(COLORS.values()):
        sink.write(plain(color), number / 25)
    sink.close()
    capture = cv2.VideoCapture(str(sink.path))
    for color in COLORS.values():
        _, image = capture.read()
        assert np.abs(image.mean((0, 1)) - color).max() < 6


def test_sound_is_copied_and_stays_with_its_frames(tmp_path):
    source = write_uneven(tmp_path / "in.mp4", sound=True)
    sink = open_sink(tmp_path / "out.mp4", 25.0, sound_from=source)
    for second in UNEVEN[3:]:  # as if the run had started there
        sink.write(plain((90, 90, 90)), second)
    sink.close()
    with av.open(str(sink.path)) as container:
        heard = [float(p.pts * p.time_base) for p in container.demux(container.streams.audio[0]) if p.pts is not None]
    assert times(sink.path) == pytest.approx(np.array(UNEVEN[3:]) - UNEVEN[3], abs=1e-3)
    assert 0 <= heard[0] < 0.07 and 1.0 < heard[-1] <= times(sink.path)[-1]
    with pytest.raises(InputError, match="has no sound"):
        open_sink(tmp_path / "again.mp4", 25.0, sound_from=write_uneven(tmp_path / "silent.mp4"))
    with pytest.raises(InputError, match=r"can have none; write one of \.mp4"):
        open_sink(tmp_path / "out.gif", 25.0, sound_from=source)


def test_without_pyav_the_old_codec_is_written_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "missing", lambda modules: modules)
    sink = open_sink(tmp_path / "out.mp4", 25.0)
    assert isinstance(sink, VideoSink) and "pip install 'taproot[video]'" in sink.note
    with pytest.raises(InputError, match="ends in"):
        open_sink(tmp_path / "out.mov", 25.0)


def test_a_browser_plays_it_and_jumps(tmp_path):
    sink = EncodedSink(tmp_path / "out.mp4", 10.0)
    for number in range(30):
        sink.write(plain(list(COLORS.values())[number // 10], 96, 128), number / 10)
    sink.close()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *_: None
    (tmp_path / "page.html").write_text("<video id=v muted></video>")
    seek = """async () => {
        const video = document.getElementById("v");
        const file = await (await fetch("out.mp4")).blob();  // whole, as this server has no ranges to jump by
        video.src = URL.createObjectURL(file);
        if (video.readyState < 2) await new Promise(done => video.addEventListener("loadeddata", done, {once: true}));
        video.currentTime = 1.55;
        await new Promise(done => video.addEventListener("seeked", done, {once: true}));
        const canvas = document.createElement("canvas");
        canvas.width = video.videoWidth; canvas.height = video.videoHeight;
        const context = canvas.getContext("2d");
        context.drawImage(video, 0, 0);
        return {duration: video.duration, pixel: [...context.getImageData(64, 48, 1, 1).data]};
    }"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        found = page.evaluate(seek)
        server.shutdown()
    assert found["duration"] == pytest.approx(3.0, abs=0.15)
    red, green, blue, _ = found["pixel"]
    assert green > 150 and red < 60 and blue < 60


WRITE_SLOWLY = """
import sys, time
import numpy as np
from pathlib import Path
from tools.streams.encoded import EncodedSink
sink = EncodedSink(Path(sys.argv[1]), 25.0)
noise = np.random.default_rng(0)
for number in range(10_000):
    sink.write(noise.integers(0, 255, (120, 160, 3), np.uint8), number / 25)
    print(number + 1, flush=True)
    time.sleep(0.004)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_run_leaves_a_file_that_plays(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    command = [sys.executable, "-c", WRITE_SLOWLY, str(path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as child:
        written = 0
        while written < 90:
            written = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        written = int((child.stdout.read().split() or [written])[-1])
    part = tmp_path / f"out.part{suffix}"
    capture = cv2.VideoCapture(str(part))
    frames = 0
    while capture.grab():
        frames += 1
    assert 0.9 * written <= frames <= written


@pytest.mark.parametrize("suffix", short.SUFFIXES)
def test_an_animated_picture_shows_frames_as_long_as_the_source(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(short, "MOST_FRAMES", 3)
    sink = open_sink(tmp_path / f"out{suffix}", 10.0)
    assert isinstance(sink, AnimationSink)
    for second, color in zip((0.0, 0.2, 0.6, 0.7), [*COLORS.values(), (0, 0, 0)], strict=True):
        sink.write(plain(color), second)
    sink.close()
    assert "holds 3 frames" in sink.note
    with Image.open(sink.path) as image:
        assert image.n_frames == 3
        found = []
        for number in range(3):
            image.seek(number)
            image.load()
            found.append(image.info["duration"])
            assert np.abs(np.array(image.convert("RGB")).mean((0, 1))[::-1] - list(COLORS.values())[number]).max() < 12
    assert found == [200, 400, 100]
    with pytest.raises(InputError, match="--overwrite"):
        open_sink(sink.path, 10.0)


def test_a_pipe_carries_the_frames_and_nothing_else(tmp_path):
    clip = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 24.0, (WIDTH, HEIGHT))
    for color in COLORS.values():
        writer.write(plain(color))
    writer.release()
    program = (
        "from tests.tools.test_video import Tint, run_video, video\n"
        "from tools.io.console import run\n"
        "run_video.load_predictors = lambda predicting, **options: [Tint()]\n"
        "run(video.main)\n"
    )
    command = [sys.executable, "-c", program, "--weights", "x", "--source", clip, "--output", "-", "--no-legend"]
    found = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    frames = np.frombuffer(found.stdout, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    assert np.abs(frames.mean((1, 2)) - list(COLORS.values())).max() < 8
    assert f"frames of {WIDTH}x{HEIGHT}, bgr24, 24 frames/s" in found.stderr.decode()
    assert not list(tmp_path.glob("*.json"))


def test_a_closed_pipe_stops_the_run(monkeypatch):
    class Closed(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError

    sink = PipeSink(25.0)
    monkeypatch.setattr(sink, "_out", Closed())
    with pytest.raises(PipeClosed):
        sink.write(plain((0, 0, 0)), 0.0)


def test_a_full_disk_is_one_line_and_leaves_what_was_written(tmp_path):
    part = tmp_path / "out.part.mp4"
    sink = EncodedSink(tmp_path / "out.mp4", 25.0)
    part.symlink_to("/dev/full")
    with pytest.raises(InputError, match="is the disk full"):
        for number in range(50):
            sink.write(np.random.default_rng(number).integers(0, 255, (240, 320, 3), np.uint8), number / 25)
    sink.abandon()


def test_the_status_tells_the_fixed_rate(tmp_path):
    sink = EncodedSink(tmp_path / "odd.mp4", 25.0)
    sink.write(plain((90, 90, 90), 47, 63), 0.0)
    sink.close()
    assert sink.note == "padded to the even size 64x48 by repeating the last row or column"
    with av.open(str(sink.path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.codec_context.name) == (64, 48, "h264")
