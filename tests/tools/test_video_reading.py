"""What the video tool reads: a part of the source, frames left out, the times of frames, sizes and batches."""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from backbone.errors import InputError
from tools import video
from tools.streams import pipeline, run_video, settings, sources, summary
from tools.streams.opencv_log import DecoderErrors
from tools.streams.overlay import Drawing

FPS = 24
ROOT = Path(__file__).parents[2]


def numbered(number):
    """A frame of [48, 64] that says its number below 100: a half for each digit, far apart in brightness."""
    return np.repeat(np.array([number // 10, number % 10], np.uint8) * 25, 32)[None, :, None].repeat(48, 0).repeat(3, 2)


def write_clip(path, codec, num_frames=100):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), FPS, (64, 48))
    for number in range(num_frames):
        writer.write(numbered(number))
    writer.release()
    return path


def write_variable(path, times_ms):
    """An H.264 clip whose frames have the given times, with B-frames and one key frame."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "250", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="bgr24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def numbers_of(frames):
    """The numbers of frames that `numbered` made, read from their brightness."""
    digits = [(frame.image[:, :28].mean() / 25, frame.image[:, -28:].mean() / 25) for frame in frames]
    return [10 * round(ten) + round(one) for ten, one in digits]


@pytest.fixture(scope="module", params=[("mp4v", ".mp4"), ("mp4v", ".mkv"), ("MJPG", ".avi")], ids=str)
def clip(request, tmp_path_factory):
    codec, suffix = request.param
    return write_clip(tmp_path_factory.mktemp("clips") / f"clip{suffix}", codec)


@pytest.mark.parametrize(("start", "end"), [(0, None), (1, 2), (1.01, 1.5), (3.5, None), (0.25, 0.5), (4.125, 9)])
@pytest.mark.parametrize("skip", [0, 2])
def test_a_part_of_a_video_is_exactly_the_frames_between_its_times(clip, start, end, skip):
    source = sources.open_source(str(clip), start=start, end=end, skip=skip)
    expected, frames = source.frames_expected, read_all(source)
    wanted = [n for n in range(100) if n / FPS >= start - 1e-3 and (end is None or n / FPS < end - 1e-3)][:: skip + 1]
    assert numbers_of(frames) == [frame.index for frame in frames] == wanted
    assert [frame.seconds for frame in frames] == pytest.approx([number / FPS for number in wanted], abs=0.002)
    assert abs(expected - len(wanted)) <= 1 and source.fps == pytest.approx(FPS / (skip + 1))


def test_a_start_behind_the_end_of_the_video_is_an_error(clip):
    with pytest.raises(InputError, match="ends before --start 60"):
        sources.open_source(str(clip), start=60)


def test_variable_rates_are_kept_and_cut_by_time(tmp_path):
    times_ms = np.cumsum([0, *[20, 40, 100, 33, 7] * 19])
    path = write_variable(tmp_path / "variable.mkv", times_ms.tolist())
    frames = read_all(sources.open_source(str(path)))
    assert [frame.seconds for frame in frames] == pytest.approx(times_ms / 1000, abs=0.0015)
    part = read_all(sources.open_source(str(path), start=2.0, end=3.0))
    wanted = [number for number, time_ms in enumerate(times_ms) if 2000 <= time_ms < 3000]
    assert numbers_of(part) == wanted
    assert [frame.seconds for frame in part] == pytest.approx(times_ms[wanted] / 1000, abs=0.0015)


class Times:
    """Stands in for cv2.VideoCapture: blank frames of given times."""

    def __init__(self, times_ms):
        self.times_ms, self.num_read = times_ms, 0

    def get(self, key):
        given = {cv2.CAP_PROP_FPS: 25.0, cv2.CAP_PROP_FRAME_COUNT: len(self.times_ms)}
        return self.times_ms[self.num_read - 1] if key == cv2.CAP_PROP_POS_MSEC else given[key]

    def read(self):
        self.num_read += 1
        return self.num_read <= len(self.times_ms), numbered(0)

    def release(self):
        pass


@pytest.mark.parametrize(
    "times_ms",
    [[0, 0, 0, 0], [0, 40, float("nan"), 120], [0, 40, 20, 120], [-1, -1, -1, -1], [0, 40, 80, float("inf")]],
    ids=str,
)
def test_times_that_cannot_be_are_replaced_by_place_over_rate(times_ms):
    frames = read_all(sources.VideoFile("clip", Times(times_ms)))
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_images_can_be_cut_and_left_out(tmp_path):
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), numbered(number))
    source = sources.open_source(str(tmp_path), start=0.2, end=0.5, skip=3)
    assert source.fps == 7.5 and [frame.index for frame in read_all(source)] == [6, 10, 14]
    with pytest.raises(InputError, match="no image from"):
        sources.open_source(str(tmp_path), start=5)


def test_a_live_source_has_no_times_to_cut_at(monkeypatch):
    monkeypatch.setattr(sources, "_capture", lambda target: pytest.fail("opened"))
    with pytest.raises(InputError, match="is live"):
        sources.open_source("0", start=1)


class Counting:
    """A predictor that notes how many frames each call has; draws nothing."""

    task, engine = "detection", "torch"

    def __init__(self):
        self.calls = []

    def __call__(self, frames):
        if isinstance(frames, np.ndarray):
            self.calls.append(1)
            return self.result()
        self.calls.append(len(frames))
        return [self.result() for _ in frames]

    def result(self):
        return SimpleNamespace(draw=lambda frame_bgr, **options: frame_bgr.copy())


class Collect:
    def __init__(self):
        self.images = []

    def write(self, image, seconds):
        self.images.append(SimpleNamespace(image=image))


@pytest.mark.parametrize(
    ("batch", "max_frames", "calls"), [(1, 3, [1, 1, 1]), (4, None, [4, 4, 2]), (4, 6, [4, 2]), (20, None, [10])]
)
def test_batches_keep_order_and_number(tmp_path, batch, max_frames, calls):
    path = write_clip(tmp_path / "clip.avi", "MJPG", 10)
    predictor, sink, counts = Counting(), Collect(), pipeline.Counts()
    options = {"counts": counts, "drawing": Drawing(legend=False), "stop": threading.Event()}
    source = sources.open_source(str(path))
    run = pipeline.Pipeline(source, [predictor], sink, batch=batch, max_frames=max_frames, **options)
    assert run.run().status == "complete" and predictor.calls == calls
    assert counts.frames_written == len(sink.images) == sum(calls)
    assert numbers_of(sink.images) == list(range(sum(calls)))


def test_lanes_keep_the_order_of_frames_and_are_all_used(tmp_path):
    path = write_clip(tmp_path / "clip.avi", "MJPG", 40)

    class Uneven(Counting):
        def __call__(self, frame):
            time.sleep(0.001 * (len(self.calls) * 7 % 5))
            return super().__call__(frame)

    lanes, sink, counts = [[Uneven()] for _ in range(3)], Collect(), pipeline.Counts()
    options = {"counts": counts, "drawing": Drawing(legend=False), "stop": threading.Event()}
    source = sources.open_source(str(path))
    pipeline.Pipeline(source, lanes[0], sink, more_lanes=lanes[1:], **options).run()
    assert numbers_of(sink.images) == list(range(40))
    assert all(len(lane[0].calls) > 3 for lane in lanes) and counts.frames_written == 40


def test_an_error_in_any_lane_ends_the_run(tmp_path):
    path = write_clip(tmp_path / "clip.avi", "MJPG", 40)

    class Failing(Counting):
        def __call__(self, frame):
            raise RuntimeError("the second lane broke")

    options = {"counts": pipeline.Counts(), "drawing": Drawing(legend=False), "stop": threading.Event()}
    source = sources.open_source(str(path))
    run = pipeline.Pipeline(source, [Counting()], Collect(), more_lanes=[[Failing()]], **options)
    with pytest.raises(RuntimeError, match="second lane broke"):
        run.run()


def test_threads_are_shared_by_lanes_and_given_back(tmp_path, monkeypatch):
    before = run_video.thread_counts()
    try:
        run_video.set_thread_counts(2, 2)
        source = sources.open_source(str(write_clip(tmp_path / "clip.avi", "MJPG", 2)))
        assert run_video.share_cores(source, settings.Predicting([], device="cpu", batch=2)) == 1
        assert run_video.share_cores(source, settings.Predicting([], device="cuda")) == 1
        assert run_video.thread_counts() == (2, 2)
        assert run_video.share_cores(source, settings.Predicting([], device="cpu")) == 2
        assert run_video.thread_counts() == (1, 1)
        assert run_video.share_cores(source, settings.Predicting([], device="cpu")) == 1  # one thread is not divided
        run_video.set_thread_counts(2, 2)
        monkeypatch.setattr(run_video, "load_predictors", lambda predicting, **options: [Counting()])
        options = ["--source", str(tmp_path / "clip.avi"), "--output", str(tmp_path / "out.avi"), "--device", "cpu"]
        assert video.main(["--weights", "x", *options]) == 0 and run_video.thread_counts() == (2, 2)
    finally:
        run_video.set_thread_counts(*before)


def test_a_live_source_is_never_batched():
    source = sources.LiveStream("camera 0", 0, Times([0]))
    options = {"counts": pipeline.Counts(), "drawing": Drawing(), "stop": threading.Event()}
    assert pipeline.Pipeline(source, [Counting()], None, batch=8, **options).batch == 1


@pytest.mark.parametrize(("given", "size_wh"), [((32, None), (32, 24)), ((32, 10), (32, 10)), ((100, None), (100, 76))])
def test_frames_are_resized(given, size_wh):
    image = pipeline.resized(numbered(77), given)
    assert image.shape[1::-1] == size_wh and (image == 175).all()


def test_the_options_reach_the_run(tmp_path, monkeypatch):
    asked = {}

    def load_predictors(predicting, **options):
        asked["predicting"] = predicting
        return [Counting()]

    monkeypatch.setattr("tools.streams.run_video.load_predictors", load_predictors)
    path, output = write_clip(tmp_path / "clip.avi", "MJPG"), tmp_path / "out.avi"
    options = "--start 0:01 --end 00:00:03 --skip 1 --resize 32 --size 96 128 --batch 5 --no-legend"
    assert video.main(["--weights", "x", "--source", str(path), "--output", str(output), *options.split()]) == 0
    status = json.loads((tmp_path / "out.avi.status.json").read_text())
    assert status["frames_written"] == status["frames_expected"] == 24 and status["fps"] == pytest.approx(12)
    assert status["size"] == {"height": 24, "width": 32} and status["status"] == "complete"
    assert asked["predicting"].sizes == ((96, 128),) and asked["predicting"].batch == 5


RUN = """
from types import SimpleNamespace
from tools.io.console import run
from tools.streams import run_video
from tools import video
class Nothing:
    task, engine = "detection", "torch"
    def __call__(self, frame):
        return SimpleNamespace(draw=lambda frame_bgr, **options: frame_bgr.copy())
run_video.load_predictors = lambda predicting, **options: [Nothing()]
run(video.main)
"""


@pytest.mark.parametrize("damaged", [True, False])
def test_frames_from_damaged_packets_are_counted_and_ffmpeg_is_not_heard(tmp_path, damaged):
    # FAULTS 51. In a process of its own, as FFmpeg's level is read with the first video.
    path = tmp_path / "in.avi"
    noise = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (320, 240))
    for _ in range(30):
        writer.write(noise.integers(0, 255, (240, 320, 3), np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    if damaged:
        for place in noise.integers(20000, len(content) - 20000, 60):
            content[place] ^= 255
    path.write_bytes(content)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")}
    command = [sys.executable, "-c", RUN, "--weights", "x", "--source", path, "--output", tmp_path / "out.avi"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    status = json.loads((tmp_path / "out.avi.status.json").read_text())
    repaired = status["frames_repaired"]
    assert status["frames_written"] == 30 and (5 < repaired <= 30 if damaged else repaired == 0)
    assert f"{repaired} repaired" in done.stdout and status["processor_seconds"] > 0


def test_what_others_print_passes_while_errors_are_counted(capsys, monkeypatch):
    monkeypatch.delenv("OPENCV_FFMPEG_LOGLEVEL", raising=False)
    libc = ctypes.CDLL(None)
    with DecoderErrors() as errors:
        libc.puts(b"[OPENCV:FFMPEG:16] error y=1")
        libc.puts(b"of another library")
        libc.puts(b"[OPENCV:FFMPEG:24] only a warning")
        print("Python's")
        assert errors.count == 1
    assert errors.count == 1 and capsys.readouterr() == ("Python's\n", "of another library\n")


KEEP_STDOUT = """
import ctypes
from tools.streams.opencv_log import DecoderErrors
libc = ctypes.CDLL(None)
for run in range(2):
    with DecoderErrors() as errors:
        kept = ctypes.c_void_p(ctypes.c_void_p.in_dll(libc, "stdout").value)
        libc.puts(b"[OPENCV:FFMPEG:16] error")
    assert errors.count == 1
    assert libc.fileno(kept) > 2 and libc.fputs(b"late", kept) >= 0 and libc.fflush(kept) == 0
libc.puts(b"C's")
"""


def test_a_library_that_keeps_the_stream_of_decoder_errors_may_flush_it_later():
    # As torchvision's nvjpeg does while the process ends.
    done = subprocess.run([sys.executable, "-c", KEEP_STDOUT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "C's\n", "")


@pytest.mark.parametrize(
    ("stages", "engine", "sizes", "best", "advice"),
    [
        ({"infer": 9.0}, "torch", (), "openvino", "--engine openvino"),
        ({"infer": 9.0}, "torch", (), "torch", "pip install"),
        ({"infer": 9.0}, "openvino", (), "openvino", "--size 640 "),
        ({"infer": 9.0}, "openvino", (512, 320), "openvino", "--skip 1"),
        ({"write": 9.0}, "openvino", (), "openvino", "--resize 640"),
        ({"read": 9.0}, "openvino", (), "openvino", "no more"),
        ({"infer": 5.0, "write": 5.0}, "torch", (), "openvino", ""),
    ],
)
def test_advice_follows_from_what_was_measured(monkeypatch, stages, engine, sizes, best, advice):
    monkeypatch.setattr(summary, "choose_engine", lambda engine, device_type: best)
    counts = pipeline.Counts(size_hw=(720, 1280), stage_seconds=pipeline.Seconds(**stages))
    asked = settings.Predicting([], device="cpu", sizes=sizes)
    given = summary.advise(counts, 10.0, [engine], settings.Reading("in.mp4"), asked)
    assert advice in given and bool(advice) == bool(given)


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_frames():
    # FAULTS 58.
    class Endless(Times):
        def read(self):
            self.num_read += 1
            return self.num_read <= 10_000, np.full((240, 320, 3), self.num_read % 256, np.uint8)

        def get(self, key):
            return 40.0 * (self.num_read - 1) if key == cv2.CAP_PROP_POS_MSEC else {5: 25.0, 7: 10_000}[key]

    resident = []

    class Sampling:
        def write(self, image, seconds):
            if round(seconds * 25) % 1000 == 999:
                status = Path("/proc/self/status").read_text()
                resident.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)  # MiB

    counts = pipeline.Counts()
    options = {"counts": counts, "drawing": Drawing(), "stop": threading.Event(), "batch": 4}
    pipeline.Pipeline(sources.VideoFile("clip", Endless(range(10_000))), [Counting()], Sampling(), **options).run()
    assert counts.frames_written == 10_000 and len(resident) == 10
    assert resident[-1] - resident[1] < 8  # less than 1 MiB in 1000 frames


@pytest.mark.parametrize(
    "option", ["--start 1:2:3:4", "--start -1", "--end x", "--resize 0", "--resize 10x", "--resize 20000", "--size a"]
)
def test_values_that_are_none_are_refused_by_name(option, capsys):
    with pytest.raises(SystemExit) as ended:
        video.main(["--weights", "x", "--source", "y", "--output", "z", *option.split()])
    assert ended.value.code == 2 and option.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--start 2 --end 1", "--skip -1", "--batch 0", "--size 1 2 3", "--size 1 --size 2 --size 3"]
)
def test_values_out_of_range_are_refused_by_name(option):
    with pytest.raises(InputError, match="--end" if "end" in option else option.split()[0]):
        video.main(["--weights", "x", "--source", "y", "--output", "z", *option.split()])
