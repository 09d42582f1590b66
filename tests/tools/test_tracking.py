"""Tracking: ids last through gaps and crossings, scores equal motmetrics', tools.video draws and counts tracks."""

import json
from pathlib import Path

import cv2
import motmetrics
import numpy as np
import pytest

from backbone.errors import InputError
from det.predictor import DetectionResult
from tools import eval_tracks, video
from tools.demo_world.view import View, VisibleObject
from tools.demo_world.writer import track_lines
from tools.io import packages
from tools.options import TRACKERS
from tools.streams import run_video
from tools.tracking.scoring import FrameBoxes, read_tracks, score_tracks
from tools.tracking.tracker import LOW_SCORE, TRAIL_POINTS, Tracker
from tools.tracking.trails import draw_trails

FPS = 20.0
CLASSES = ["car", "person"]


def found(*boxes: tuple[float, float, float, int]) -> DetectionResult:
    """A frame's boxes of 40x60 pixels, each given by left and top, score and label."""
    rows = np.array([[left, top, left + 40, top + 60] for left, top, _, _ in boxes], np.float32).reshape(-1, 4)
    scores = np.array([score for *_, score, _ in boxes], np.float32)
    return DetectionResult(rows, scores, np.array([box[3] for box in boxes], np.int64), CLASSES)


def ids(tracker: Tracker, frames: list[DetectionResult], step_s: float = 1 / FPS) -> list[list[int]]:
    return [tracker(frame, index * step_s).tracks.tolist() for index, frame in enumerate(frames)]


@pytest.mark.parametrize("kind", TRACKERS)
def test_two_that_pass_each_other_keep_their_ids(kind: str) -> None:
    frames = [found((20 + 5 * t, 20, 0.9, 0), (320 - 5 * t, 60, 0.8, 0)) for t in range(60)]
    given = ids(Tracker(kind, FPS), frames)
    assert given[-1] == given[10] and sorted(given[-1]) == [1, 2]


@pytest.mark.parametrize("kind", TRACKERS)
def test_an_object_that_is_missed_for_some_frames_comes_back_with_its_id(kind: str) -> None:
    frames = [found() if 20 <= t < 24 else found((20 + 3 * t, 20, 0.9, 0)) for t in range(40)]
    tracker = Tracker(kind, FPS)
    assert ids(tracker, frames)[-1] == [1] and tracker.summary() == {"car": 1}


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_track_never_changes_its_class(kind: str) -> None:
    frames = [found((20 + 3 * t, 20, 0.9, t >= 20)) for t in range(40)]
    tracker = Tracker(kind, FPS)
    given = ids(tracker, frames)
    assert given[19] != given[-1] and tracker.summary() == {"car": 1, "person": 1}


def test_low_boxes_continue_a_track_but_begin_none() -> None:
    frames = [found((20, 20, 0.9 if t < 5 else 0.2, 0), (300, 20, 0.2, 0)) for t in range(60)]
    given = ids(Tracker("bytetrack", FPS), frames)
    assert given[-1] == [1, -1]  # sixty frames are longer than a lost track is kept


def test_ids_last_where_frames_are_skipped_and_times_do_not_advance() -> None:
    tracker = Tracker("bytetrack", FPS)
    given = [tracker(found((20 + 40 * t, 20, 0.9, 0)), t).tracks.tolist() for t in (0, 0.05, 0.1, 0.1, 0.2, 0.45, 0.4)]
    assert given[2:] == [[1]] * 5


def test_ids_are_in_the_order_of_the_boxes() -> None:
    tracker = Tracker("bytetrack", FPS)
    boxes = [(20, 20, 0.9, 0), (300, 20, 0.3, 0), (150, 20, 0.8, 1)]
    for t in range(5):
        result = tracker(found(*boxes), t / FPS)
    swapped = tracker(found(*boxes[::-1]), 5 / FPS)
    assert swapped.tracks.tolist() == result.tracks.tolist()[::-1] and -1 in result.tracks


def test_trails_are_bounded_and_forgotten() -> None:
    tracker = Tracker("bytetrack", FPS)
    ids(tracker, [found((20, 20, 0.9, 0))] * 200)
    assert len(tracker.trails[1].points) == TRAIL_POINTS
    tracker(found(), 100.0)
    assert tracker.trails == {} and tracker.summary() == {"car": 1}


def test_a_trail_is_drawn_where_the_object_was() -> None:
    tracker = Tracker("bytetrack", FPS)
    ids(tracker, [found((20 + 4 * t, 20, 0.9, 0)) for t in range(20)])
    image = np.zeros((120, 200, 3), np.uint8)
    draw_trails(image, tracker.trails.values(), 19 / FPS)
    rows, columns = np.nonzero(image.any(axis=2))
    assert abs(rows.mean() - 80) < 1 and columns.min() < 60 and columns.max() > 100


def test_an_id_is_written_beside_the_class() -> None:
    blank = np.zeros((100, 200, 3), np.uint8)
    without = found((20, 20, 0.9, 0))
    drawn = [result.draw(blank) for result in (without, without._replace(tracks=np.array([-1])))]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != without._replace(tracks=np.array([7])).draw(blank)).any()


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs trackers, not installed; run pip install 'taproot\[track\]'"):
        Tracker("bytetrack", FPS)


def random_tracks(seed: int) -> tuple[dict[int, FrameBoxes], dict[int, FrameBoxes]]:
    """A truth of 5 moving objects, and tracks with noise, gaps, false boxes and two ids that are swapped half way."""
    rng = np.random.default_rng(seed)
    start, speed = rng.uniform(0, 300, (5, 2)), rng.uniform(-4, 4, (5, 2))
    truth, tracks = {}, {}
    for t in range(40):
        corner = start + speed * t
        boxes = np.hstack([corner, corner + 50])
        truth[t] = FrameBoxes(np.arange(5), boxes, np.ones(5, bool))
        kept = rng.random(5) < 0.8
        names = np.array([10, 11, 12, 13, 14] if t < 20 else [10, 12, 11, 13, 15])
        false = rng.uniform(0, 300, (1, 2))
        given = np.vstack([boxes[kept] + rng.normal(0, 3, (kept.sum(), 4)), np.hstack([false, false + 30])])
        tracks[t] = FrameBoxes(np.append(names[kept], 99), given, np.ones(len(given), bool))
    return truth, tracks


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_those_of_motmetrics(seed: int) -> None:
    from torch import from_numpy
    from torchvision.ops import box_iou

    truth, tracks = random_tracks(seed)
    judge = motmetrics.MOTAccumulator(auto_id=True)
    for t in truth:
        distance = 1 - box_iou(from_numpy(truth[t].boxes), from_numpy(tracks[t].boxes)).numpy()
        judge.update(truth[t].ids, tracks[t].ids, np.where(distance > 0.5, np.nan, distance))
    names = ["mota", "idf1", "num_switches", "num_misses", "num_false_positives"]
    expected = motmetrics.metrics.create().compute(judge, metrics=names).iloc[0]
    scores = score_tracks(truth, tracks)
    assert scores["switches"] > 0 and scores["missed"] > 0
    ours = [scores[name] for name in ("MOTA", "IDF1", "switches", "missed", "false")]
    assert ours == pytest.approx([float(expected[name]) for name in names])


def test_tracks_in_a_region_that_is_not_scored_do_not_count(tmp_path: Path) -> None:
    truth, tracks = tmp_path / "truth.txt", tmp_path / "tracks.txt"
    truth.write_text("".join(f"{t},1,10,10,50,50,1,1,-1\n{t},2,200,10,90,90,0,1,-1\n" for t in range(1, 9)))
    tracks.write_text("".join(f"{t},5,10,10,50,50\n{t},6,220,20,30,40\n" for t in range(1, 9)))
    scores = score_tracks(read_tracks(truth), read_tracks(tracks))
    assert scores["MOTA"] == scores["IDF1"] == 1 and scores["truth_boxes"] == 8


def test_the_command_scores_the_csv_of_predictions(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("1,1,10,10,50,50,1,1,-1\n2,1,10,10,50,50,1,1,-1\n")
    rows = [
        "time,frame,image,x0,y0,x1,y1,class,score,track",
        "0,0,,10,10,60,60,car,0.9,-1",
        "0.1,1,,10,10,60,60,car,1,3",
    ]
    (tmp_path / "detections.csv").write_text("\n".join(rows))
    given = ["--truth", str(tmp_path / "truth.txt"), "--tracks", str(tmp_path / "detections.csv")]
    assert eval_tracks.main([*given, "--out", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert scores["missed"] == 1 and scores["false"] == 0 and scores["IDF1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("text", ["frame,id\n", "1,2,3\n", "\n"])
def test_what_is_no_file_of_tracks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "truth.txt").write_text(text)
    with pytest.raises(InputError, match=r"truth\.txt: is no file of tracks"):
        read_tracks(tmp_path / "truth.txt")


def test_the_clip_s_truth_names_actors_and_does_not_score_far_ones() -> None:
    pixels = np.zeros((40, 60), np.uint16)
    pixels[5:25, 10:30], pixels[10:30, 40:55] = 1, 2
    objects = [VisibleObject("unlabeled", None, False)]
    objects += [VisibleObject("car", "car", False, actor=6, distance=near) for near in (12.0, 60.0)]
    lines = track_lines(View(cv2.merge([pixels.astype(np.uint8)] * 3), pixels, objects, []), frame=4)
    assert lines == ["5,7,10,5,20,20,1,3,-1\n", "5,7,40,10,15,20,0,3,-1\n"]


class Walker:
    """A detector whose only object moves on by 2 pixels a frame, and a box too low to be drawn."""

    task, engine = "detection", "torch"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: np.ndarray) -> DetectionResult:
        self.calls += 1
        boxes = np.array([[2 * self.calls, 10, 2 * self.calls + 20, 40], [60, 5, 80, 20]], np.float32)
        return DetectionResult(boxes, np.array([0.9, 0.25], np.float32), np.array([1, 0], np.int64), CLASSES)


def test_the_video_tool_counts_tracked_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    thresholds = []

    def load_predictors(predicting: object, *, score_threshold: float, scores: bool) -> list[Walker]:
        thresholds.append(score_threshold)
        return [Walker()]

    monkeypatch.setattr(run_video, "load_predictors", load_predictors)
    monkeypatch.setattr(run_video, "LANES", 1)  # this predictor counts its calls
    (tmp_path / "images").mkdir()
    for index in range(12):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.zeros((64, 96, 3), np.uint8))
    given = ["--weights", "d.safetensors", "--source", str(tmp_path / "images"), "--no-legend"]
    assert video.main([*given, "--output", str(tmp_path / "plain")]) == 0
    assert video.main([*given, "--output", str(tmp_path / "trails"), "--track"]) == 0
    assert video.main([*given, "--output", str(tmp_path / "ids"), "--track", "sort", "--no-trails"]) == 0
    assert thresholds == [0.5, LOW_SCORE, LOW_SCORE]
    assert "tracked: 1 person\n" in capsys.readouterr().out
    status = json.loads((tmp_path / "trails" / "status.json").read_text())
    assert status["tracked_objects"] == {"person": 1}
    assert "tracked_objects" not in json.loads((tmp_path / "plain" / "status.json").read_text())
    plain, trails = (cv2.imread(str(tmp_path / name / "000011.png")) for name in ("plain", "trails"))
    changed = np.argwhere((plain != trails).any(axis=2))
    assert (
        changed[:, 0].max() <= 42 and changed[changed[:, 0] > 38][:, 1].min() < 24
    )  # beside the box, under its middle


def test_tracking_without_a_detector_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = Walker()
    segmenter.task = "segmentation"
    monkeypatch.setattr(run_video, "load_predictors", lambda predicting, **options: [segmenter])
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((64, 96, 3), np.uint8))
    given = ["--weights", "s.safetensors", "--source", str(tmp_path / "0.png"), "--output", str(tmp_path / "out")]
    with pytest.raises(InputError, match="--track bytetrack: no model given finds objects"):
        video.main([*given, "--track"])
