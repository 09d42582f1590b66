"""Classification: a recipe runs to its end, resumes to the bit, is scored; every shipped one starts; range test."""

import csv
import json
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import backbone
from backbone import InputError
from backbone.blocks import DropBlock
from backbone.data.folder import ImageFolder
from backbone.data.images import read_image
from backbone.data.transforms import eval_transform, train_transform
from backbone.weights.preprocessing import Preprocessing
from tests.builders.runs import assert_equal, interrupted
from tools import eval_backbone, train_backbone
from tools.io import model_file
from tools.predict import load
from tools.run import checkpoint, classification
from tools.run.config import BackboneConfig
from tools.run.curves import draw_lr_range
from tools.run.pretrained import settle
from tools.scoring.classification import load_classifier

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "imagenet").glob("*.yaml"))
FINETUNE = next(path for path in CONFIGS if path.stem == "finetune")
SMALL = ["model.name=mobilenet_v3_small", "model.width=0.35", "augment.size=32", "data.workers=0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes told apart by their color: 8 training and 3 validation images of each."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for channel, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(0, 120, (40, 56, 3), np.uint8)
                image[:, :, channel] += 100
                cv2.imwrite(str(root / split / name / f"{number}.png"), image)
    return root


def train(images, out, *more, config=FINETUNE, steps=6):
    own = [f"data.root={images}", f"run.out={out}", f"run.steps={steps}", "run.batch=6", f"run.eval_every={steps}"]
    return train_backbone.main([str(config), *SMALL, *own, "optim.warmup=2", "run.precision=no", *more])


ALL_THAT_IS_RANDOM = ["augment.mixup=0.2", "augment.cutmix=1", "model.drop_block=0.3", "model.drop_path=0.2"]


@pytest.mark.parametrize(("stop_at", "workers"), [(1, 2), (4, 0)])
def test_an_interrupted_run_resumes_to_the_bit(images, tmp_path, monkeypatch, stop_at, workers):
    assert train(images, tmp_path / "whole", *ALL_THAT_IS_RANDOM) == 0

    def cut(more: list[str]) -> int:
        return train(images, tmp_path / "cut", *ALL_THAT_IS_RANDOM, f"data.workers={workers}", *more)

    assert interrupted(cut, [], stop_at, monkeypatch) == 128 + signal.SIGTERM
    assert cut(["--resume"]) == 0
    states = [checkpoint.load_state(tmp_path / name / "last.pt") for name in ("whole", "cut")]
    for state in states:
        del state["config"]
    assert_equal(*states)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_recipe_starts(images, tmp_path, config):
    assert train(images, tmp_path / "run", config=config, steps=1) == 0


@pytest.mark.slow
def test_crops_of_the_demo_world_are_told_apart(world, tmp_path):
    for split in ("train", "val"):
        annotations = json.loads((world / "coco" / "annotations" / f"instances_{split}2017.json").read_text())
        names = {category["id"]: category["name"] for category in annotations["categories"]}
        files = {row["id"]: row["file_name"] for row in annotations["images"]}
        for number, entry in enumerate(annotations["annotations"]):
            x, y, w, h = (int(value) for value in entry["bbox"])
            if min(w, h) >= 6:
                image = read_image(world / "coco" / f"{split}2017" / files[entry["image_id"]])
                path = tmp_path / split / names[entry["category_id"]] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image[y : y + h, x : x + w])
    counts = {path.name: len(list(path.iterdir())) for path in (tmp_path / "train").iterdir()}
    for path in (tmp_path / "val").iterdir():
        assert path.name in counts
    more = ["run.batch=16", "optim.lr=0.005", "augment.erase=0", "optim.ema=0.9", "model.norm_momentum=0.1"]
    assert train(tmp_path, tmp_path / "run", *more, steps=80) == 0
    scores = model_file.load_description(tmp_path / "run" / "best.safetensors")["metrics"]
    assert scores["top1"] > 2 / len(counts)


def test_evaluation_scores_what_training_kept_and_published_weights_alike(images, tmp_path):
    out = tmp_path / "run"
    assert train(images, out, "optim.lr=0.01", "optim.ema=0", "model.norm_momentum=0.3", steps=20) == 0
    weights = out / "best.safetensors"
    assert eval_backbone.main(["--weights", str(weights), "--data", str(images)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    kept = model_file.load_description(weights)["metrics"]
    assert (metrics["top1"], metrics["top5"]) == (kept["top1"], kept["top5"]) == (metrics["top1"], 1.0)

    model, _ = load_classifier(weights)
    with_background = backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=1001)
    state = with_background.state_dict()
    state |= {name: value for name, value in model.state_dict().items() if not name.startswith("output.")}
    state["output.weight"][1:4], state["output.bias"][1:4] = model.output.weight, model.output.bias
    state["output.bias"][0], state["output.bias"][4:] = 100, -100
    torch.save(state, tmp_path / "published.pt")
    names = ["blue", "green", "red", *(f"class {number}" for number in range(4, 1001))]
    (tmp_path / "names.txt").write_text("\n".join(names))
    predictions = tmp_path / "predictions.csv"
    given = ["--weights", tmp_path / "published.pt", "--data", images, "--classes", tmp_path / "names.txt"]
    given += ["--size", 32, "--save-predictions", predictions]
    assert eval_backbone.main([str(value) for value in given]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == metrics["top1"]
    with predictions.open() as file:
        rows = list(csv.DictReader(file))
    assert np.mean([row["class"] == row["predicted"] for row in rows]) == metrics["top1"]
    with pytest.raises(InputError, match="is a classifier"):
        load(weights)


def test_weights_for_other_classes_begin_with_a_new_output_layer(images, tmp_path, capsys):
    torch.manual_seed(0)
    published = backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=7)
    torch.save(published.state_dict(), tmp_path / "seven.pt")
    model = backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=3)
    output = model.output.weight.clone()
    said = classification.load_start(model, str(tmp_path / "seven.pt"), ["blue", "green", "red"])
    assert "without its output layer for 7 classes" in said
    assert torch.equal(model.output.weight, output)
    assert torch.equal(model.hidden.weight, published.hidden.weight)
    other = backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=7)
    assert "whole" in classification.load_start(other, str(tmp_path / "seven.pt"), list("abcdefg"))
    assert torch.equal(other.output.weight, published.output.weight)


def test_start_weights_that_do_not_fit_say_the_settings_that_they_need(images, tmp_path):
    theirs = timm.create_model("mobilenetv3_small_050", num_classes=7)  # whose stem is as wide as at width 1
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    start = f"weights={tmp_path / 'w.pth'}"
    with pytest.raises(InputError, match=r"w\.pth: does not fit this model: .* of another shape") as raised:
        train(images, tmp_path / "run", start, steps=1)
    settings = str(raised.value).rpartition(": ")[2].split()
    assert "width=0.5" in settings and "fixed_stem=true" in settings
    assert train(images, tmp_path / "run", start, *(f"model.{setting}" for setting in settings), steps=1) == 0


def test_start_weights_of_other_input_channels_are_refused_by_their_number():
    of_one = backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=3, in_channels=1)
    with pytest.raises(InputError, match=r"name=mobilenet_v3_small .* in_channels=1$"):
        backbone.load_weights(backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=3), of_one.state_dict())


def test_inputs_are_normalised_as_the_start_weights_expect(images, tmp_path):
    theirs = timm.create_model("tf_mobilenetv3_small_075", num_classes=7)
    mean, std = (list(theirs.default_cfg[key]) for key in ("mean", "std"))
    path, run = tmp_path / "tf_mobilenetv3_small_075.pth", tmp_path / "run"
    torch.save(theirs.state_dict(), path)
    assert train(images, run, f"weights={path}", "model.width=0.75", "model.padding=same", steps=1) == 0
    description = model_file.load_description(run / "best.safetensors")
    assert (
        (description["mean"], description["std"])
        == (mean, std)
        != (list(Preprocessing().mean), list(Preprocessing().std))
    )
    path.unlink()  # a run that goes on needs it no more
    assert train_backbone.main([str(run / "config.yaml"), "--resume"]) == 0

    own = BackboneConfig(weights=str(run / "best.safetensors"), std=[1.0, 1.0, 1.0])
    filled = settle(own).config
    assert (filled.mean, filled.std) == (mean, [1.0, 1.0, 1.0])
    filled = settle(BackboneConfig()).config
    assert (filled.mean, filled.std) == (list(Preprocessing().mean), list(Preprocessing().std))


def test_a_network_in_strings_is_trained_scored_and_started_from(images, tmp_path):
    own = ["model.name=cn_k3_s2_c16_nhs ds_k3_s2_c16 ir_r2_k3_s2_e2_c24_se0.25_nre cn_k1_s1_c64_nhs", "model.width=1"]
    out = tmp_path / "run"
    assert train(images, out, *own, "optim.lr=0.01", "optim.ema=0", "model.norm_momentum=0.3", steps=10) == 0
    weights = out / "best.safetensors"
    assert eval_backbone.main(["--weights", str(weights), "--data", str(images), "--workers", "0"]) == 0
    found = json.loads((out / "metrics.json").read_text())
    assert found["top1"] == model_file.load_description(weights)["metrics"]["top1"]
    model, _ = load_classifier(weights)
    assert model.backbone.definition()[2] == "ir_r2_k3_s2_e2_c24_se0.25_nre"
    twin = backbone.classifier(own[0].removeprefix("model.name="), num_classes=3)
    assert classification.load_start(twin, str(weights), ["blue", "green", "red"]) == "taproot layout, whole"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in twin.state_dict().items())
    with pytest.raises(InputError, match="character 8: '17' must be channels"):
        train(images, tmp_path / "fault", "model.name=ds_k3_c17")


def test_a_hub_folders_weights_are_scored_as_timm_evaluates_them(images, tmp_path, randomise):
    """Size, crop, interpolation and normalisation of testing are in config.json; timm's own transform is the judge."""
    theirs = randomise(timm.create_model("mobilenetv3_small_050", num_classes=3))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = {"mean": [0.3, 0.5, 0.6], "std": [0.4, 0.1, 0.2], "interpolation": "bicubic", "crop_pct": 0.875}
    config |= {"input_size": [3, 64, 64], "test_input_size": [3, 96, 96], "test_crop_pct": 0.7}
    described = {"architecture": "mobilenetv3_small_050", "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(described))
    predictions = tmp_path / "predictions.csv"
    given = ["--weights", tmp_path / "model.safetensors", "--data", images, "--save-predictions", predictions]
    assert eval_backbone.main([str(value) for value in (*given, "--workers", 0)]) == 0
    assert (
        json.loads((tmp_path / "metrics.json").read_text())["protocol"] == "centre crop 96 of shorter side 137, bicubic"
    )
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=True), is_training=False
    )
    rows = list(csv.DictReader(predictions.read_text().splitlines()))
    assert len(rows) == 9
    for row in rows:
        with torch.no_grad():
            want = theirs(transform(Image.open(row["image"]))[None]).softmax(1).max().item()
        assert float(row["probability"]) == pytest.approx(want, abs=3e-3)


def test_bad_input_to_an_evaluation_is_an_error_that_names_it(images, tmp_path):
    def small(in_channels):
        return backbone.classifier(
            "mobilenet_v3_small", width=0.35, num_classes=3, in_channels=in_channels
        ).state_dict()

    for in_channels in (1, 3, 4):
        torch.save(small(in_channels), tmp_path / f"{in_channels}.pt")
    save_file(small(3), tmp_path / "torn.safetensors", {"taproot": "{"})
    save_file(small(3), tmp_path / "list.safetensors", {"taproot": "[1]"})
    (tmp_path / "hub").mkdir()
    theirs = timm.create_model("mobilenetv3_small_050", num_classes=3)
    save_file(theirs.state_dict(), tmp_path / "hub" / "model.safetensors")
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x94")
    for name, more, message in (
        ("1.pt", (), "takes 1 input channels"),
        ("4.pt", (), "takes 4 input channels"),
        ("torn.safetensors", (), "the description in its header cannot be read"),
        ("list.safetensors", (), "the description in its header cannot be read"),
        ("3.pt", ("--classes", tmp_path / "names.txt"), r"names\.txt: cannot be read"),
        ("3.pt", ("--classes", tmp_path / "none.txt"), r"none\.txt: cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            eval_backbone.main([str(value) for value in ("--weights", tmp_path / name, "--data", images, *more)])
    for fault, message in (
        ({"interpolation": "hamming"}, "'hamming' is neither"),
        ({"mean": 0.5}, "not iterable"),
        ({"input_size": 224}, "not subscriptable"),
    ):
        described = {"architecture": "mobilenetv3_small_050", "pretrained_cfg": fault}
        (tmp_path / "hub" / "config.json").write_text(json.dumps(described))
        with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
            eval_backbone.main(["--weights", str(tmp_path / "hub" / "model.safetensors"), "--data", str(images)])


def test_a_range_test_stops_when_the_loss_grows_and_leaves_figures_and_a_plot(images, tmp_path, capsys):
    more = ["--find-lr", "optim.min_lr=1e-4", "optim.lr=100", "optim.name=sgd"]
    assert train(images, tmp_path / "run", *more, steps=40) == 0
    out = tmp_path / "run" / "find_lr"
    assert read_image(out / "lr_range.png").shape[0] > 100
    rows = list(csv.DictReader((out / "lr_range.csv").read_text().splitlines()))
    rates, losses = ([float(row[name]) for row in rows] for name in ("lr", "loss"))
    assert 3 < len(rates) < 40 and rates[0] == pytest.approx(1e-4)
    assert np.allclose(np.diff(np.log(rates)), np.log(1e6) / 39)
    assert max(losses[1:]) < 4 * losses[0]
    assert not (out / "best.safetensors").exists()
    assert f"at optim.lr={draw_lr_range(out / 'log.csv', out / 'again.csv', out / 'again.png'):.2g}" in said(capsys)
    assert train(images, tmp_path / "run", "optim.lr=1e-4", steps=1) == 0  # the run folder is still free


def test_a_range_test_names_the_rate_in_the_units_of_the_config(images, tmp_path, capsys):
    """A recipe whose rate is meant for a batch of 12 runs with half of it on a batch of 6."""
    found = []
    for name, own in (("plain", []), ("scaled", ["optim.lr_for_batch=12"])):
        assert train(images, tmp_path / name, "--find-lr", "optim.lr=1", *own, steps=15) == 0
        found.append(float(said(capsys).partition("at optim.lr=")[2].partition(";")[0]))
    assert found[1] == pytest.approx(2 * found[0], rel=0.05)
    curves = [(tmp_path / name / "find_lr" / "lr_range.csv").read_text() for name in ("plain", "scaled")]
    assert curves[0] == curves[1]


def said(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_two_processes_score_like_one(images, tmp_path, together):
    """Nine images do not divide by two: each must count exactly once."""
    torch.manual_seed(0)
    torch.save(backbone.classifier("mobilenet_v3_small", width=0.35, num_classes=3).state_dict(), tmp_path / "three.pt")
    given = ["--weights", tmp_path / "three.pt", "--data", images, "--size", 32, "--workers", 0]
    arguments = [str(value) for value in given]
    ends = [["--out", str(tmp_path / n), "--save-predictions", str(tmp_path / f"{n}.csv")] for n in ("one", "two")]
    assert eval_backbone.main([*arguments, *ends[0]]) == 0
    said = together(2, lambda: eval_backbone.main([*arguments, *ends[1]]))
    assert said.count("top-5") == 1  # not two that each believe to be alone
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one == two and one["images"] == 9
    tables = [csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()) for name in ("one", "two")]
    for row, other in zip(*tables, strict=True):
        assert float(row.pop("probability")) == pytest.approx(float(other.pop("probability")), abs=1e-5)
        assert row == other


def test_drop_block_is_built_deep_down_only_and_leaves_evaluation_alone():
    torch.manual_seed(0)
    net = backbone.create("mobilenet_v3_small", drop_block=0.5)
    numbers = [int(name.split(".")[1]) for name, m in net.named_modules() if isinstance(m, DropBlock)]
    assert numbers == [n for n in range(1, 12) if net.all_features[f"{n}.out"].stride >= 16]
    plain = backbone.create("mobilenet_v3_small")
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(net.eval()(x)["last"], plain.eval()(x)["last"])
    torch.manual_seed(1)
    assert not torch.equal(net.train()(x)["last"], plain.train()(x)["last"])


def test_augmentation_follows_from_the_seed_and_leaves_torchs_generator(images):
    transform = train_transform(32, jitter=0.3, policy="randaugment", erase=0.5)
    dataset = ImageFolder(images, "train", transform, seed=3)
    before = torch.get_rng_state()
    samples = [dataset[epoch, number].image for epoch in (0, 1) for number in range(4)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(samples[1], dataset[0, 1].image)
    assert len({sample.numpy().tobytes() for sample in samples}) == 8
    assert dataset[0, 0].image.dtype == torch.uint8 and dataset[0, 0].image.shape == (3, 32, 32)


def test_a_folder_that_is_no_set_of_classes_is_an_error(images, tmp_path):
    transform = eval_transform(32)
    with pytest.raises(InputError, match="no such folder"):
        ImageFolder(images, "test", transform)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="1 class folders"):
        ImageFolder(tmp_path, "val", transform)
    (tmp_path / "val" / "dog").mkdir()
    with pytest.raises(InputError, match="cat: holds no image"):
        ImageFolder(tmp_path, "val", transform)
    with pytest.raises(InputError, match="class 'blue' is none of the 2 known classes"):
        ImageFolder(images, "val", transform, classes=["cat", "dog"])
