"""tools.weights and prediction by name: the list, the copies to carry, and models without a training."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from huggingface_hub import constants

import det
import seg
from backbone.weights import names
from backbone.weights.publishers import archives, torchvision_files
from tests.builders import loopback
from tests.builders.tensorflow_files import deeplab, write_checkpoint
from tools import predict, weights
from tools.io import console
from tools.io.model_file import results_folder, save_model

ROOT = Path(__file__).parent.parent.parent
SSDLITE = "torchvision/ssdlite320_mobilenet_v3_large"
LRASPP = "deeplab/lraspp_small_cityscapes"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Both publishers on this machine, with networks of random weights, and empty caches."""
    loopback.only_loopback(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path / "taproot"))
    monkeypatch.setenv("COLUMNS", "200")
    ssdlite = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    body = io.BytesIO()
    torch.save(ssdlite.state_dict(), body)
    file_name = f"ssdlite-{hashlib.sha256(body.getvalue()).hexdigest()[:8]}.pth"
    index = write_checkpoint(tmp_path / "model.ckpt", deeplab("mobilenet_v3_small"))
    files = {f"deeplab/{file.name}": file.read_bytes() for file in (index, index.with_suffix(".data-00000-of-00001"))}
    with loopback.serve() as server:
        server.routes[f"/{file_name}"] = loopback.whole(body.getvalue())
        server.routes["/small.tgz"] = loopback.whole(loopback.archive(files))
        entry = torchvision.models.detection.SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.value
        monkeypatch.setattr(entry, "url", f"{server.address}/{file_name}")
        monkeypatch.setitem(torchvision_files.FILES, SSDLITE.removeprefix("torchvision/"), file_name)
        monkeypatch.setitem(archives.ARCHIVES, LRASPP, archives.Archive(f"{server.address}/small.tgz"))
        yield server


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["weights", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        console.run(weights.main)
    return ended.value.code


def test_every_name_is_listed_with_whether_it_is_here(server, monkeypatch, capsys):
    names.resolve(LRASPP)
    assert run(monkeypatch) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    rows = {line.split()[0]: (line, below) for line, below in zip(lines[::2], lines[1::2], strict=False) if line}
    assert {published.name for published in names.PUBLISHED} <= rows.keys()
    line, below = rows[LRASPP]
    assert line.endswith(" 5.0 MB  here") and "to be fetched" in rows["deeplab/lraspp_large_cityscapes"][0]
    assert below == "    LR-ASPP, mobilenet_v3_small; Cityscapes mIoU 69.0; Apache-2.0"
    assert "non-commercial use only: https://www.cityscapes-dataset.com/license" in shown
    assert not server.asked.keys() - {"/small.tgz"}


def test_weights_are_fetched_and_copied_to_carry(server, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "carried"
    assert run(monkeypatch, "get", SSDLITE, LRASPP, "--to", folder) == 0
    paths = [Path(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines()]
    assert paths[1] == folder / LRASPP / "model.ckpt.index"
    assert "non-commercial" in (folder / LRASPP / "TERMS.txt").read_text()
    assert det.from_weights(paths[0]).layout == "torchvision"
    assert seg.from_weights(paths[1]).layout == "deeplab"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["get", "mobilenet_v3_large"], "is no name of weights; did you mean"),
        (["get", "deeplab/other"], "no such archive; valid:"),
        (["get"], "required: NAME"),
        (["put"], "invalid choice"),
    ],
)
def test_bad_names_are_refused(arguments, message, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_detector_and_a_segmenter_predict_by_name(server):
    frame = np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)
    boxes = predict.load(SSDLITE, score_threshold=0.0)(frame)
    assert boxes.boxes.shape[1] == 4 and predict.load(SSDLITE).classes[0] == "person"
    labels = predict.load(LRASPP)(frame)
    assert labels.labels.shape == (72, 96) and predict.load(LRASPP).classes[0] == "road"


def test_a_model_of_ours_loads_from_the_hub(server, monkeypatch, tmp_path):
    model = seg.create("lraspp", backbone="mobilenet_v3_small", num_classes=2)
    description = {"task": "segmentation", "model": {"backbone": "mobilenet_v3_small", "num_classes": 2}}
    description |= {"classes": ["road", "sky"], "colors": [(0, 0, 0), (9, 9, 9)], "mean": [0.5] * 3, "std": [0.5] * 3}
    save_model(tmp_path / "best.safetensors", model, description)
    server.hub_file("someone/streets", "v1", "model.safetensors", (tmp_path / "best.safetensors").read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert predict.load("hub/someone/streets@v1").classes == ["road", "sky"]


def test_results_of_named_weights_do_not_go_into_a_cache():
    assert results_folder(Path(LRASPP)) == Path("runs/deeplab/lraspp_small_cityscapes")
    assert results_folder(Path("runs/large/best.safetensors")) == Path("runs/large")


def test_help_and_list_need_no_torch():
    code = "import sys; from tools import weights; {}; assert 'torch' not in sys.modules"
    for call in ("weights.main([])", "weights.get('efficientnet_lite0', None)"):
        ran = subprocess.run([sys.executable, "-c", code.format(call)], cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
