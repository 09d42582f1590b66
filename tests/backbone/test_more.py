"""Further augmentation: what a config may list, how mistakes are answered, and where the random choices come from."""

import subprocess
import sys

import albumentations as A
import numpy as np
import pytest

from backbone.data.more import ALLOWED, IGNORE, adopt, apply, check, compose
from backbone.errors import InputError
from tools.run.config import DetConfig, SegConfig, load, to_yaml

SIZE_HW = (64, 96)


def street() -> np.ndarray:
    """A smooth RGB image with all brightnesses, uint8 [64, 96, 3]."""
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return np.stack([columns * 2.5, rows * 3.5, 200 - columns], axis=2).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ALLOWED)
def test_every_transform_follows_from_the_seed_alone(name):
    """The same seed twice, with the process's own generators and the object's past in between."""
    transform = adopt(compose([{"name": name, "p": 1}]))
    first = apply(transform, 7, street())["image"]
    for state in (1, 2):
        np.random.seed(state)
        apply(transform, state, street())
        again = apply(adopt(compose([{"name": name, "p": 1}])), 7, street())["image"]
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first, apply(transform, 7, street())["image"])


def test_transforms_of_a_list_are_drawn_independently():
    """albumentations' own seeding gives all of them one stream: what is rarer would come only with what is not."""
    transform = adopt(compose([{"name": "InvertImg", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]))
    image = np.zeros((4, 4, 3), np.uint8)
    image[0] = 50
    seen = [tuple(apply(transform, seed, image)["image"][:, 0, 0]) for seed in range(400)]
    ways = {(50, 0, 0, 0), (0, 0, 0, 50), (205, 255, 255, 255), (255, 255, 255, 205)}
    assert set(seen) == ways and all(70 < seen.count(way) < 130 for way in ways)


BAD = [
    ([{"name": "RandomRian"}], "'RandomRian' is not among .* did you mean RandomRain"),
    ([{"name": "os.system"}], "'os.system' is not among .* valid: RandomRain, "),
    ([{"name": "albumentations.RandomRain"}], "is not among"),
    ([{"name": "Lambda"}], "'Lambda' is not among"),
    ([{"name": "RandomCrop", "height": 8, "width": 8}], "'RandomCrop' is not among"),
    ([{"name": "Compose", "transforms": [{"name": "RandomRain"}]}], "'Compose' is not among"),
    ([[{"name": "RandomRain"}]], r"more\[0\] is \[.* give a table with a name"),
    ([{"p": 0.1}], "give a table with a name"),
    ([{"name": 3}], "give a table with a name"),
    (["RandomRain"], "give a table with a name"),
    ([{"name": "Blur"}, {"name": "RandomRain", "p": 2}], r"more\[1\]: RandomRain: p: .*less than or equal to 1"),
    ([{"name": "RandomRain", "slant": [1, 2]}], "takes no slant here; did you mean slant_range"),
    ([{"name": "RandomRain", "wind": 3}], "takes no wind here; valid: slant_range, drop_length"),
    ([{"name": "RandomRain", "slant_range": "steep"}], "slant_range: Input should be a valid tuple"),
    ([{"name": "RandomRain", "rain_type": "acid"}], "rain_type: Input should be 'drizzle'"),
    ([{"name": "Spatter", "color": [1, 2]}], "Spatter: Color must be a list of three integers for RGB format.$"),
    ([{"name": "MedianBlur", "blur_limit": 4}], "must be odd"),
    ([{"name": "AdditiveNoise", "noise_params": {"range": 1}}], "Field required"),
    ([{"name": "Affine", "rotate": 5, "fill_mask": 0}], "takes no fill_mask here"),
    ([{"name": "Affine", "fit_output": True}], "takes no fit_output here"),
    ([{"name": "Equalize", "mask": [[0]]}], "takes no mask here"),
    ([{"name": "RandomRain", "drop_length": 1000, "p": 0.01}], "RandomRain fails on an image of 96x64: high <= 0"),
    ([{"name": "CoarseDropout", "hole_height_range": [500, 600]}], "CoarseDropout fails on an image of 96x64"),
    ([{"name": "ChannelDropout", "channel_drop_range": [3, 3]}], "fails on an image of 96x64: Can not drop all"),
]


@pytest.mark.parametrize(("entries", "message"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_mistakes_in_a_list_are_one_line_that_names_the_entry(entries, message):
    with pytest.raises(InputError, match=message) as refusal:
        check(entries, SIZE_HW)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [SegConfig, DetConfig])
def test_a_config_takes_a_list_and_prints_it_back(tmp_path, kind):
    size = "augment.crop_hw" if kind is SegConfig else "model.image_size"
    path, again = tmp_path / "one.yaml", tmp_path / "two.yaml"
    path.write_text("augment:\n  more:\n    - {name: ImageCompression, quality_range: [40, 90], p: 0.3}\n")
    config = load(kind, path, [f"{size}=[64,96]"])
    assert config.augment.more == [{"name": "ImageCompression", "quality_range": [40, 90], "p": 0.3}]
    again.write_text(to_yaml(config))
    assert load(kind, again, []) == config
    assert load(kind, path, ["augment.more=[]"]).augment.more == []
    for override, message in (
        ("augment.more=rain", "augment.more"),
        ("augment.more=[{name: RandomRian}]", r"one\.yaml: augment\.more\[0\]: .* did you mean RandomRain"),
        ("augment.more=[{name: RandomRain, p: 2}]", r"augment\.more\[0\]: RandomRain: p"),
    ):
        with pytest.raises(InputError, match=message):
            load(kind, path, [override])


def test_names_are_refused_without_importing_albumentations():
    program = (
        "import sys\nfrom backbone.data.more import compose\n"
        "assert compose([]) is None\n"
        "try:\n    compose([{'name': 'RandomRain'}, {'name': 'os.system'}])\n"
        "except ValueError:\n    sys.exit('albumentations' in sys.modules)\nsys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_callers_composition_must_not_label_what_it_uncovers():
    nested = A.Compose([A.OneOf([A.Blur(), A.Affine(rotate=10)])])
    with pytest.raises(InputError, match=r"Affine has fill_mask 0.* give fill_mask=255"):
        adopt(nested, masks=True)
    adopt(A.Compose([A.OneOf([A.Blur(), A.Affine(rotate=10, fill_mask=IGNORE)]), A.CoarseDropout()]), masks=True)


@pytest.mark.parametrize("transform", [A.RandomCrop(8, 8), A.Normalize(), A.ToTensorV2()])
def test_a_callers_composition_must_keep_size_and_type(transform):
    with pytest.raises(InputError, match="further augmentation turned an image of"):
        apply(adopt(A.Compose([transform])), 0, street())
