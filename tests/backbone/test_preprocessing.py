"""The images that published weights expect: torchvision and timm themselves are the judges."""

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torchvision
from timm.models import get_pretrained_cfg, list_models

from backbone.data.transforms import shorter_side
from backbone.weights.preprocessing import Preprocessing, published_preprocessing
from backbone.weights.translation import IMAGENET, Layout
from tests.builders.published_networks import TIMM, TORCHVISION

OURS = {theirs: name for theirs, name, *_ in TIMM}
FILES = [tagged for tagged in list_models(pretrained=True) if tagged.split(".")[0] in OURS]


def test_torchvisions_files_are_resized_and_cropped_as_torchvision_does():
    layout = Layout("torchvision", {}, None, None, *IMAGENET)
    for theirs, name, _ in TORCHVISION:
        for weights in torchvision.models.get_model_weights(theirs):
            found = published_preprocessing(layout, name, "symmetric", Path(weights.url).name)
            want = weights.transforms()
            assert [found.size, shorter_side(found.size, found.crop_pct)] == want.crop_size + want.resize_size
            assert (found.interpolation, list(found.mean), list(found.std)) == (
                want.interpolation.value,
                want.mean,
                want.std,
            )


@pytest.mark.parametrize("tagged", FILES)
def test_timms_files_are_seen_as_timm_evaluates_them(tagged, tmp_path):
    config = get_pretrained_cfg(tagged)
    name = tagged.split(".")[0]
    if config.url:  # the old releases, whose file names must do
        path = tmp_path / Path(config.url).name
    else:
        path = tmp_path / "model.safetensors"
        described = {"architecture": name, "pretrained_cfg": dataclasses.asdict(config)}
        (tmp_path / "config.json").write_text(json.dumps(described))
    padding = "same" if name.startswith("tf_") else "symmetric"
    found = published_preprocessing(Layout("timm", {}, None, None, *IMAGENET), OURS[name], padding, path)
    want = timm.data.resolve_data_config(pretrained_cfg=config.to_dict(), use_test_size=True)
    keys = ("mean", "std", "crop_pct", "interpolation")
    assert found == Preprocessing(**{key: want[key] for key in keys}, size=want["input_size"][-1])
