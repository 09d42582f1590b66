"""How results look in a video: views, comparison, blurred classes, the legend and its letters."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from backbone.errors import InputError
from backbone.lettering import letters, write
from det.predictor import DetectionResult, draw_box
from seg.predictor import SegmentationResult
from tools import video
from tools.streams.blurring import blur, check_blur
from tools.streams.frames import Frame
from tools.streams.overlay import Drawing, draw
from tools.streams.truth import RED, Truth, accuracy

HEIGHT, WIDTH = 120, 160
CLASSES = ["road", "person", "car"]
COLORS = np.array([[128, 64, 128], [220, 20, 60], [0, 0, 142]], np.uint8)
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def segmentation(labels=None):
    return SegmentationResult(np.zeros((HEIGHT, WIDTH), np.uint8) if labels is None else labels, CLASSES, COLORS)


def detection(box, label=0, score=0.9):
    boxes = np.array([box], np.float32)
    return DetectionResult(boxes, np.array([score], np.float32), np.array([label]), ["person", "dog"])


def test_a_split_view_holds_the_frame_untouched_and_the_drawing():
    results = [("segmentation", segmentation())]
    both = draw(NOISE, results, Drawing(view="split", legend=False), 0.0)
    drawn = draw(NOISE, results, Drawing(legend=False), 0.0)
    assert np.array_equal(both, cv2.hconcat([NOISE, drawn]))
    wide = NOISE[:40]
    labels = np.zeros((40, WIDTH), np.uint8)
    assert draw(wide, [("segmentation", segmentation(labels))], Drawing(view="split", legend=False), 0.0).shape[0] == 80


def test_blinking_shows_frame_and_drawing_for_half_a_second_each():
    results, drawing = [("segmentation", segmentation())], Drawing(view="blink", legend=False)
    plain = [np.array_equal(draw(NOISE, results, drawing, 0.0, seconds=time), NOISE) for time in (0.1, 0.6, 1.1, 1.6)]
    assert plain == [False, True, False, True]


def test_a_comparison_shows_errors_and_spares_what_is_ignored(tmp_path):
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    truth[:30], truth[30:60] = 255, 1
    cv2.imwrite(str(tmp_path / "000007.png"), truth)
    frame = Frame(NOISE, 7, 0.28)
    read = Truth(tmp_path).labels(frame)
    image = draw(NOISE, [("segmentation", segmentation())], Drawing(legend=False, compare=tmp_path), 0.0, truth=read)
    errors = image[2 * HEIGHT :]
    wrong = (errors == RED).all(2)
    assert not wrong[:30].any() and wrong[30:60].all() and not wrong[60:].any()
    assert accuracy(segmentation().labels, truth) == pytest.approx(60 / 90)
    assert Truth(tmp_path).labels(Frame(NOISE, 8, 0.3)) is None
    assert Truth(tmp_path).labels(Frame(NOISE, 0, 0.0, Path("elsewhere/000007.jpg"))) is not None


def test_true_labels_that_cannot_be_compared_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Truth(tmp_path / "none")
    with pytest.raises(InputError, match="no image"):
        Truth(tmp_path)
    cv2.imwrite(str(tmp_path / "000000.png"), NOISE)
    cv2.imwrite(str(tmp_path / "000001.png"), np.zeros((8, 8), np.uint8))
    for index, message in ((0, "one id per pixel"), (1, "is 8x8, the frame 160x120")):
        with pytest.raises(InputError, match=message):
            Truth(tmp_path).labels(Frame(NOISE, index, 0.0))


def test_a_blurred_box_keeps_a_few_mean_colors_and_leaves_the_rest():
    image = blur(NOISE, [("detection", detection((40, 30, 100, 90)))], ["person"])
    inside = image[30:90, 40:100].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) <= 25
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[24:96, 34:106] = False  # 10 % around the box
    assert np.array_equal(image[outside], NOISE[outside])
    assert np.array_equal(blur(NOISE, [("detection", detection((40, 30, 100, 90)))], ["dog"]), NOISE)
    assert not np.array_equal(blur(NOISE, [("detection", detection((40, 30, 100, 90), score=0.25))], ["person"]), NOISE)
    assert blur(NOISE, [("detection", detection((-9, -9, 500, 500)))], ["person"]).shape == NOISE.shape


def test_blurred_labels_leave_no_pixel_of_theirs():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[20:80, 50:70] = 1
    image = blur(NOISE, [("segmentation", segmentation(labels))], ["person"])
    assert (image[20:80, 50:70] == NOISE[20:80, 50:70]).all(2).mean() < 0.01
    assert np.array_equal(image[:, 100:], NOISE[:, 100:])


def test_all_views_are_blurred():
    drawing = Drawing(view="split", blur=("person",), legend=False)
    image = draw(NOISE, [("detection", detection((40, 30, 100, 90)))], drawing, 0.0)
    assert (image[45:80, 50:90] == NOISE[45:80, 50:90]).all(2).mean() < 0.01


def test_an_unknown_class_is_told_with_the_known_ones():
    with pytest.raises(InputError, match=r"--blur persn: no such class; the models know road, person, car$"):
        check_blur(["persn"], [*CLASSES, "car"])


def test_a_class_has_the_segmenters_color_in_its_boxes_too():
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawing = Drawing(opacity=0.0, legend=False)
    image = draw(black, [("segmentation", segmentation()), ("detection", detection((40, 40, 100, 90)))], drawing, 0.0)
    assert image[90, 70].tolist() == COLORS[1][::-1].tolist()


@pytest.mark.parametrize("size_hw", [(48, 64), (240, 426), (2160, 3840)])
def test_the_legend_covers_no_pixel_and_has_one_size_whatever_is_in_the_frame(size_hw):
    frame, few = np.full((*size_hw, 3), 90, np.uint8), np.zeros(size_hw, np.uint8)
    many = few.copy()
    many[:3], many[3:6] = 1, 2
    images = [draw(frame, [("segmentation", segmentation(labels))], Drawing(), 9.5) for labels in (few, many)]
    plain = draw(frame, [("segmentation", segmentation(many))], Drawing(legend=False), 0.0)
    assert images[0].shape == images[1].shape and images[0].shape[0] % 2 == 0
    assert np.array_equal(images[1][: size_hw[0]], plain)
    strip = images[1][size_hw[0] :]
    assert 14 <= strip.shape[0] < max(60, size_hw[0] / 8) and (strip > 200).all(2).any()


def test_classes_that_do_not_fit_are_counted_not_cut_off():
    names = [f"a rather long class name {number}" for number in range(60)]
    labels = np.arange(HEIGHT * WIDTH, dtype=np.int64).reshape(HEIGHT, WIDTH) % 60
    colors = np.full((60, 3), 70, np.uint8)
    image = draw(NOISE, [("segmentation", SegmentationResult(labels.astype(np.uint8), names, colors))], Drawing(), 0.0)
    assert image.shape[0] < HEIGHT + 50


def test_letters_of_other_alphabets_differ():
    assert not np.array_equal(letters("fußgänger", 20), letters("fu?g?nger", 20))
    assert not np.array_equal(letters("авто", 20), letters("????", 20))
    assert letters("é", 20).max() > 200


def test_text_at_the_edge_of_an_image_is_cut_off():
    canvas = np.zeros((20, 30, 3), np.uint8)
    assert write(canvas, "a long text", 25, 10, 16, (255, 255, 255)) > 30
    assert canvas.any()


@pytest.mark.parametrize("box", [(-5, -5, 10, 10), (150, 110, 400, 300), (0, 0, 160, 120)])
def test_the_name_of_a_box_stays_inside_the_image(box):
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    draw_box(canvas, np.array(box, np.float32), "person 0.90", (0, 200, 0))
    plate = (canvas == (0, 200, 0)).all(2)
    assert plate.any(1).sum() >= 10 and (canvas.max(2) > 0).sum() > 400


@pytest.mark.parametrize(
    "arguments", [["--compare", "labels", "--view", "split"], ["--sound", "--fps", "10"], ["--fps", "0"]]
)
def test_options_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(InputError, match=arguments[0]):
        video.main(["--weights", "x", "--source", "in.mp4", "--output", "out.mp4", *arguments])
