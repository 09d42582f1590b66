"""What goes wrong with detection data and its evaluation, each test named by its row in the catalogue of faults."""

import contextlib
import io
import json
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import det
from backbone import InputError
from det.metrics import METRICS
from tests.builders.coco_data import HEIGHT, WIDTH, content, dataset, ground_truth, noisy_results, write
from tests.builders.commands import check_coco_main
from tools import eval_det, train_det
from tools.benchmarks import det_eval
from tools.io.model_file import load_description, save_model

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "demo" / "det.yaml")


@pytest.mark.parametrize(
    "box, reason",
    [
        ("[5, 5, 1e999, 5]", "non-finite"),
        ("[-1e999, 5, 9, 5]", "non-finite"),
        ("[5, 5, 0, 5]", "degenerate"),
        ("[5, 5, -9, 5]", "degenerate"),
        ("[5, 5, 10, 0.5]", "degenerate"),
        ("[-20, 5, 20.2, 5]", "degenerate"),
        ("[81, 5, 10, 10]", "outside"),
        ("[5, -20, 10, 10]", "outside"),
    ],
)
def test_14_bad_boxes_are_left_out_and_counted(tmp_path, box, reason):
    text = json.dumps(content()).replace("[5, 6, 30, 20]", box)
    data = dataset(write(tmp_path, text))
    assert data.dropped == {"crowd": 0, "non-finite": 0, "outside": 0, "degenerate": 0} | {reason: 1}
    assert data[0].labels.tolist() == [1] and data[1].labels.tolist() == [0]


BAD = ["[5, 5, 1e999, 9]", "[5, 5, 0, 9]", "[5, 5, -9, 9]", "[500, 5, 9, 9]", "[40.5, 10, 20, 30.5]"]


def test_14_the_check_and_the_training_count_bad_boxes_and_the_loss_stays_finite(tmp_path, capsys):
    broken = content()
    for number in range(len(BAD)):
        row = {"id": 50 + number, "image_id": 20, "category_id": 1, "bbox": [number]}
        broken["annotations"].append(row)
    text = json.dumps(broken)
    for number, box in enumerate(BAD):
        text = text.replace(f'"bbox": [{number}]', f'"bbox": {box}')
    root = write(write(tmp_path, text), content(), "train2017")
    code, faults, _ = check_coco_main(capsys, root, "--split", "val2017")
    assert code == 1 and len(faults) == len(BAD)
    for message in ("is not finite", "under 1 pixel", "is outside its 80x60 image", "is the same as annotations[1]"):
        assert any(message in fault for fault in faults), message

    data = dataset(root, transform=det.train_transform(64))
    assert data.dropped == {"crowd": 0, "non-finite": 1, "outside": 1, "degenerate": 2}
    batch = det.collate([data[(epoch, index)] for epoch in range(8) for index in range(3)])
    assert batch.targets.boxes.isfinite().all()
    anchors = det.create(num_classes=3, image_size=64).anchors
    raw = det.RawDetections(torch.zeros(24, len(anchors), 3), torch.zeros(24, len(anchors), 4))
    assert all(
        value.isfinite() and value > 0 for value in det.DetectionLoss("focal")(raw, anchors, batch.targets).values()
    )

    arguments = [CONFIG, f"data.root={root}", "data.train_split=val2017", "data.val_split=train2017", "weights=null"]
    arguments += ["model.image_size=[64,64]", "run.steps=1", "run.batch=3", "data.workers=0", "optim.warmup=0"]
    assert train_det.main([*arguments, f"run.out={tmp_path / 'run'}"]) == 0
    assert "not trained on: 1 non-finite, 1 outside, 2 degenerate" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["softmax", "focal", "quality_focal"])
def test_15_images_without_boxes_are_negatives_alone_and_beside_others(tmp_path, kind):
    data = dataset(write(tmp_path, content()), transform=det.eval_transform(64))
    anchors = det.create(num_classes=3, image_size=64).anchors
    for numbers in ((2, 2), (0, 2)):
        targets = det.collate([data[number] for number in numbers]).targets
        raw = det.RawDetections(
            torch.zeros(2, len(anchors), 3, requires_grad=True), torch.zeros(2, len(anchors), 4, requires_grad=True)
        )
        losses = det.DetectionLoss(kind)(raw, anchors, targets)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values()) and raw.box_offsets.grad.isfinite().all()
        empty = raw.class_logits.grad[1]
        assert empty.isfinite().all() and raw.box_offsets.grad[1].abs().sum() == 0
        # Nothing is pushed towards a class. Hard negatives are counted by the boxes, of which there are none.
        assert (empty >= 0).all() and bool((empty > 0).any()) is (kind != "softmax")


def test_15_images_without_boxes_can_be_left_out(tmp_path):
    root = write(tmp_path, content())
    plain, filled = dataset(root), dataset(root, filter_empty=True)
    assert plain.image_ids == [10, 20, 30] and filled.image_ids == [10, 20]
    for index in range(2):
        assert filled[index].boxes.tolist() == plain[index].boxes.tolist()
    gap = content()
    for row in gap["annotations"]:
        row["image_id"] = 20 if row["image_id"] == 10 else 30
    filled = dataset(write(tmp_path / "gap", gap), filter_empty=True)
    assert filled.image_ids == [20, 30] and [len(filled[index].boxes) for index in range(2)] == [2, 1]
    assert torch.equal(filled[0].image, plain[1].image)
    with pytest.raises(InputError, match="no image has a usable box"):
        dataset(write(tmp_path / "none", content() | {"annotations": []}), filter_empty=True)


def test_16_crowds_are_no_objects_but_travel_with_the_targets(tmp_path):
    broken = content()
    broken["annotations"][0]["iscrowd"] = 1
    data = dataset(write(tmp_path, broken))
    assert data.dropped["crowd"] == 1 and data[0].labels.tolist() == [-1, 1]
    targets = det.collate([data[0], data[2]]).targets
    assert targets.crowd.nonzero().tolist() == [[0, 0]] and targets.valid.nonzero().tolist() == [[0, 1]]
    assert targets.boxes[0, 0].tolist() == [5, 6, 35, 26] and targets.labels.min() == 0


def test_16_what_is_found_in_a_crowd_counts_neither_way_as_in_pycocotools():
    truth = ground_truth()
    crowds = [row for row in truth["annotations"] if row["iscrowd"]]
    keys = ("image_id", "category_id", "bbox")
    perfect = [{key: row[key] for key in keys} | {"score": 0.5} for row in truth["annotations"] if not row["iscrowd"]]
    stray = []
    for row in crowds:
        left, top, width, height = row["bbox"]
        box = [left + width / 4, top + height / 4, width / 2, height / 2]
        stray.append({"image_id": row["image_id"], "category_id": row["category_id"], "bbox": box, "score": 0.9})
    metrics = det.evaluate(truth, perfect + stray)
    assert len(stray) > 5 and metrics["AP"] == pytest.approx(1)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        coco_eval = COCOeval(coco, coco.loadRes(perfect + stray), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    assert [metrics[name] for name in METRICS] == coco_eval.stats.tolist()
    without = truth | {"annotations": [row for row in truth["annotations"] if not row["iscrowd"]]}
    assert det.evaluate(without, perfect + stray)["AP"] < 0.95


@pytest.mark.parametrize("key, value", [("image_id", 31), ("category_id", 2)])
def test_17_results_with_ids_that_the_ground_truth_does_not_have_are_refused(key, value):
    truth = ground_truth()
    results = noisy_results(truth)
    results[3][key] = value
    with pytest.raises(InputError, match=f"{key} {value}"):
        det.evaluate(truth, results)
    with pytest.raises(InputError, match="image_id 99"):
        det.evaluate(truth, noisy_results(truth), [1, 99])


def test_17_the_ground_truth_given_as_detections_has_ap_1_whatever_the_gaps_in_the_ids(tmp_path):
    root = write(tmp_path, content())
    data, truth = dataset(root), det.load_ground_truth(root / "annotations" / "instances_val2017.json")
    assert data.category_ids == [1, 3, 90]
    det.self_check(truth, data)
    found = [det.Detections(data[n].boxes, torch.ones(len(data[n].boxes)), data[n].labels) for n in range(3)]
    assert det.evaluate(truth, det.to_results(found, data.image_ids, data.category_ids))["AP"] == pytest.approx(1)
    # Labels from 1 on where ids are meant: some of them are no ids of this file.
    with pytest.raises(InputError, match="category_id 2"):
        det.evaluate(truth, det.to_results(found, data.image_ids, [1, 2, 3]))


MIX_UPS = [
    ("labels", lambda data: (data.labels + 1) % 3),
    ("category_ids", lambda data: [3, 90, 1]),
    ("image_ids", lambda data: [20, 10, 30]),
    ("boxes", lambda data: np.concatenate([data.boxes[:, :2], data.boxes[:, 2:] - data.boxes[:, :2]], axis=1)),
    ("boxes", lambda data: data.boxes[:, [1, 0, 3, 2]]),
    ("boxes", lambda data: data.boxes / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)),
]


@pytest.mark.parametrize("attribute, mixed_up", MIX_UPS, ids=["labels", "ids", "images", "xywh", "yxyx", "shares"])
def test_17_18_mixed_up_ids_and_box_formats_end_training_and_evaluation_at_the_start(
    tmp_path, monkeypatch, attribute, mixed_up
):
    root = write(write(tmp_path, content()), content(), "train2017")
    torch.manual_seed(0)
    keywords = {"backbone": "mobilenet_v3_small", "width": 0.35, "num_classes": 3, "image_size": [64, 64]}
    description = {"task": "detection", "model": keywords, "classes": ["person", "car", "tooth"], "score": "sigmoid"}
    description |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    save_model(tmp_path / "model.safetensors", det.create(**keywords), description)
    read = det.CocoDetection.__init__

    def read_and_mix_up(self, *arguments, **others):
        read(self, *arguments, **others)
        setattr(self, attribute, mixed_up(self))

    monkeypatch.setattr(det.CocoDetection, "__init__", read_and_mix_up)
    with pytest.raises(InputError, match=r"self-check: .* AP 0\.\d+ instead of 1"):
        train_det.main([CONFIG, f"data.root={root}", "weights=null", f"run.out={tmp_path / 'run'}"])
    with pytest.raises(InputError, match=r"self-check: .* AP 0\.\d+ instead of 1"):
        eval_det.main(["--weights", str(tmp_path / "model.safetensors"), "--data", str(root)])
    assert not (tmp_path / "run" / "last.pt").exists() and not (tmp_path / "metrics.json").exists()


def test_17_the_map_from_labels_to_ids_travels_with_the_weights(world, tmp_path):
    arguments = [CONFIG, f"data.root={world / 'coco'}", "weights=null", "model.image_size=[96,128]", "run.steps=1"]
    arguments += ["run.batch=2", "data.workers=0", "optim.warmup=0", f"run.out={tmp_path / 'run'}"]
    assert train_det.main(arguments) == 0
    described = load_description(tmp_path / "run" / "best.safetensors")
    rows = json.loads((world / "coco" / "annotations" / "instances_val2017.json").read_text())["categories"]
    assert dict(zip(described["category_ids"], described["classes"], strict=True)) == {r["id"]: r["name"] for r in rows}


def _set(table: str, number: int, key: str, value: object):
    def change(data: dict) -> None:
        data[table][number][key] = value

    return change


def _drop(table: str, number: int, key: str):
    def change(data: dict) -> None:
        del data[table][number][key]

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data.pop("annotations"), "annotations is missing"),
        (lambda data: data.update(images={}), "images is missing or not a list"),
        (lambda data: data.update(images=[]), "images is empty"),
        (lambda data: data.update(categories=[], annotations=[]), "categories is empty"),
        (lambda data: data["images"].append(7), r"images\[3\] must be an object"),
        (_drop("images", 1, "width"), r"images\[1\].width is missing"),
        (_set("images", 1, "height", "60"), r"images\[1\].height must be of type int, is '60'"),
        (_set("images", 1, "height", 0), r"images\[1\].height must be at least 1"),
        (_set("images", 1, "id", True), r"images\[1\].id must be of type int"),
        (_set("images", 1, "id", 10), r"images\[0\] and images\[1\] have the same id 10"),
        (_set("annotations", 2, "id", 1), "have the same id 1"),
        (_set("annotations", 2, "image_id", 99), r"annotations\[2\].image_id 99"),
        (_set("annotations", 2, "image_id", "10"), r"annotations\[2\].image_id must be of type int"),
        (_set("annotations", 2, "category_id", 2), r"annotations\[2\].category_id 2"),
        (_drop("annotations", 0, "bbox"), r"annotations\[0\].bbox is missing"),
        (_set("annotations", 0, "bbox", [1, 2, 3]), r"annotations\[0\].bbox must be four numbers"),
        (_set("annotations", 0, "bbox", [1, 2, 3, None]), r"annotations\[0\].bbox must be four numbers"),
        (_set("annotations", 0, "bbox", [1, 2, 3, 10**400]), r"annotations\[0\].bbox must be four numbers"),
        (_set("annotations", 0, "iscrowd", "no"), r"annotations\[0\].iscrowd"),
        (_set("annotations", 0, "area", "big"), r"annotations\[0\].area"),
        (_drop("categories", 0, "name"), r"categories\[0\].name is missing"),
        (_set("images", 1, "file_name", "absent.png"), "1 of 3 images .* missing: absent.png"),
    ],
)
def test_19_faulty_annotations_are_refused_naming_file_and_field(tmp_path, change, message):
    broken = content()
    change(broken)
    with pytest.raises(InputError, match=message) as caught:
        dataset(write(tmp_path, broken))
    assert "instances_val2017.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"images": [', "line 1 column 13"),
        ("", "not JSON"),
        ("[]", "must be an object"),
        ('{"images": [{"id": NaN}]}', "NaN"),
        ('{"images": [{"id": -Infinity}]}', "Infinity"),
        ("[" * 200_000, "too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "number"),
    ],
)
def test_19_text_that_is_not_proper_json_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        dataset(write(tmp_path, text))


@pytest.mark.parametrize(
    "file_name",
    ["/etc/hostname", "../secret.png", "a/../../secret.png", "1.png\0", "http://host/1.png", "link.png", "..", ""],
)
def test_20_file_names_that_leave_the_folder_are_refused(tmp_path, file_name):
    root = write(tmp_path / "data", content())
    secret = tmp_path / "data" / "secret.png"
    secret.write_bytes(b"")
    (root / "val2017" / "link.png").symlink_to(secret)
    broken = content()
    broken["images"][1]["file_name"] = file_name
    with pytest.raises(InputError, match=r"images\[1\].file_name"):
        dataset(write(root, broken))


def test_44_21_images_score_the_same_on_one_two_and_three_processes(tmp_path, together):
    """21 is no multiple of 2, nor are 21 images in batches of 16: each must count exactly once."""
    random = np.random.default_rng(0)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    images, annotations = [], []
    for number in range(21):
        cv2.imwrite(str(tmp_path / "val2017" / f"{number}.png"), random.integers(0, 256, (48, 64, 3), np.uint8))
        images.append({"id": 7 * number, "file_name": f"{number}.png", "height": 48, "width": 64})
        for box in ([2, 3, 50, 40], [30, 20, 30, 25]):
            row = {"image_id": 7 * number, "category_id": int(random.choice([5, 8])), "bbox": box}
            annotations.append(row | {"id": len(annotations)})
    categories = [{"id": 5, "name": "cat"}, {"id": 8, "name": "dog"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
    torch.manual_seed(0)
    keywords = {"backbone": "mobilenet_v3_small", "width": 0.35, "num_classes": 2, "image_size": [64, 64]}
    description = {"task": "detection", "model": keywords, "classes": ["cat", "dog"], "score": "sigmoid"}
    description |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    save_model(tmp_path / "model.safetensors", det.create(**keywords), description)

    arguments = ["--weights", str(tmp_path / "model.safetensors"), "--data", str(tmp_path), "--workers", "0"]
    found = {}
    for processes in (1, 2, 3):
        out = tmp_path / str(processes)
        own = [*arguments, "--out", str(out), "--save-predictions", str(out / "results.json")]
        if processes == 1:
            assert eval_det.main(own) == 0
        else:
            said = together(processes, lambda own=own: eval_det.main(own))
            assert said.count("on 21 images") == 1
        rows = json.loads((out / "results.json").read_text())
        found[processes] = json.loads((out / "metrics.json").read_text()), [row["image_id"] for row in rows]
    assert found[1] == found[2] == found[3]
    metrics, images = found[1]
    assert 0 < metrics["AP"] < 1 and set(images) == {7 * number for number in range(21)}


def test_46_judging_5000_images_takes_less_than_a_gigabyte(tmp_path):
    pytest.importorskip("faster_coco_eval")
    files = det_eval.generate_detections(tmp_path, images=5000, per_image=20)
    with multiprocessing.get_context("fork").Pool(1) as pool:  # the peak of a process of its own
        before = pool.apply(det_eval.measure, (max, ([0.0], [1.0])))
        after = pool.apply(det_eval.measure, (det_eval.evaluate_fast, files))
    assert 0 < after.figures[0] < 1 and 0 < after.peak_gb - before.peak_gb < 1


@pytest.mark.parametrize("fast", [False, True])
def test_47_no_detections_score_zero_with_a_warning(fast):
    if fast:
        pytest.importorskip("faster_coco_eval")
    with pytest.warns(UserWarning, match="no detections"):
        metrics = det.evaluate(ground_truth(), [], fast=fast)
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("broken", [{"score": float("nan")}, {"bbox": [0, float("inf"), 5, 5]}], ids=["score", "box"])
def test_47_detections_that_are_not_finite_are_left_out_with_a_warning(fast, broken):
    if fast:
        pytest.importorskip("faster_coco_eval")
    truth = ground_truth()
    results = noisy_results(truth)
    with pytest.warns(UserWarning, match="1 detections are not finite"):
        metrics = det.evaluate(truth, [*results, results[0] | broken], fast=fast)
    assert metrics == pytest.approx(det.evaluate(truth, results), abs=1e-12 if fast else 0)
