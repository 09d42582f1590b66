"""LR-ASPP: the paper's sizes, torchvision's numbers, any input size; label_map equals upsampling and argmax."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import seg
from backbone import InputError
from backbone.inference import TorchEngine


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        # Table 7, rows 8, 7 and 11, and torchvision's 21 classes.
        ({"head_channels": 128}, 1.507e6),
        ({"head_channels": 256}, 1.633e6),
        ({"backbone": "mobilenet_v3_small"}, 0.469e6),
        ({"variant": "torchvision", "num_classes": 21}, 3_221_538),
    ],
)
def test_parameters_are_the_papers(arguments, parameters):
    count = sum(p.numel() for p in seg.create(**arguments).parameters())
    assert count == pytest.approx(parameters, abs=0 if parameters > 2e6 else 500)


@pytest.mark.parametrize(
    ("arguments", "billions"),
    [
        # Table 8, for 1024x2048: V3-Large and V3-Small at output strides 16 and 32.
        ({}, 9.74),
        ({"output_stride": 32}, 7.74),
        ({"backbone": "mobilenet_v3_small"}, 2.90),
        ({"backbone": "mobilenet_v3_small", "output_stride": 32}, 2.06),
    ],
)
def test_multiply_adds_are_the_papers_within_five_percent(arguments, billions):
    with torch.device("meta"):
        model = seg.create(**arguments).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 1025, 2049))  # the official crop that shows all of a 1024x2048 image
    # The paper resizes 128 channels to stride 8 and classifies there; ours classifies first, which gives the same.
    coarse = -(-1025 // model.backbone.features["last"].stride) * -(-2049 // model.backbone.features["last"].stride)
    saved = 128 * 19 * (129 * 257 - coarse)
    assert (counter.get_total_flops() / 2 + saved) / 1e9 == pytest.approx(billions, rel=0.05)


def test_outputs_equal_torchvisions(randomise):
    theirs = randomise(
        torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    )
    ours = seg.create(variant="torchvision", num_classes=21).eval()
    assert seg.load_weights(ours, theirs.state_dict()) == "torchvision"
    for size in ((128, 192), (97, 161)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(seg.upsample(ours(images), size), theirs(images)["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "torchvision"])
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_any_size_copies_compiles_and_exports(name, variant):
    model = seg.create(backbone=name, variant=variant, num_classes=5)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    twin = copy.deepcopy(model).eval()
    model.eval()
    with torch.no_grad():
        odd = model(torch.randn(1, 3, 31, 47))
        assert odd.shape == (1, 5, 4, 6)
        images = torch.randn(1, 3, 64, 96)
        logits = model(images)
        assert torch.equal(twin(images), logits)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images), logits, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(model, (images,), strict=True).module()
        torch.testing.assert_close(exported(images), logits, rtol=1e-4, atol=1e-5)


def test_training_and_evaluation_return_the_same_form():
    model = seg.create(num_classes=3, backbone="mobilenet_v3_small")
    images = torch.randn(2, 3, 64, 64)
    assert model.train()(images).shape == model.eval()(images).shape == (2, 3, 8, 8)


def test_the_papers_pooling_sees_four_windows_in_a_full_image():
    model = seg.create(backbone="mobilenet_v3_small", num_classes=2).eval()
    high = torch.zeros(1, 288, 64, 128)
    high[..., 100:] = 100.0  # only the right part is bright: the gate must differ from left to right
    seen = []
    model.head.gate.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    with torch.no_grad():
        model.head(torch.zeros(1, 88, 128, 256), high)
        model.head(torch.zeros(1, 88, 64, 64), high[..., :32, :32])
    assert seen == [(1, 288, 1, 4), (1, 288, 1, 1)]


@pytest.mark.parametrize(
    ("coarse", "size"), [((32, 64), (256, 512)), ((45, 60), (360, 480)), ((4, 6), (31, 47)), ((1, 1), (5, 7))]
)
def test_label_map_equals_upsampling_and_argmax(coarse, size):
    torch.manual_seed(0)
    regions = torch.nn.functional.interpolate(torch.randn(2, 19, 3, 5), coarse, mode="bicubic")
    noise = torch.randn(2, 19, *coarse)
    for logits in (regions, noise, regions.to(memory_format=torch.channels_last)):
        expected = seg.upsample(logits.contiguous(), size).argmax(1)
        labels = seg.label_map(logits, size)
        assert labels.dtype == torch.uint8
        assert torch.equal(labels.long(), expected)


@pytest.mark.parametrize("size", [(256, 512), (255, 511), (259, 517)])
def test_label_map_breaks_ties_of_rounding_as_upsampling_does(size):
    """Classes that are equal but for the last digits: which is the largest depends on every rounding."""
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 32, 64) + torch.randn(1, 5, 32, 64) * 1e-7
    assert torch.equal(seg.label_map(logits, size).long(), seg.upsample(logits, size).argmax(1))


def test_predictor_equals_the_plain_model_and_leaves_it_alone(randomise):
    model = randomise(seg.create(backbone="mobilenet_v3_small", num_classes=4))
    before = copy.deepcopy(model.state_dict())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    engine = TorchEngine(model, mean=mean, std=std)
    predictor = seg.Predictor(engine, classes=list("abcd"), colors=[(i, i, i) for i in range(4)])
    frame = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    rgb = torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255
    images = (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        logits = seg.upsample(model(images), (61, 83))
    top2 = logits.topk(2, dim=1).values[0]
    clear = (top2[0] - top2[1] > 1e-4).numpy()  # folding norms rounds differently
    result = predictor(frame)
    assert (result.labels == logits.argmax(1)[0].numpy())[clear].all() and clear.mean() > 0.99
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    steps = predictor.finish(predictor.network(predictor.prepare(frame)), frame.shape[:2])
    assert (steps.labels == result.labels).all() and steps.classes == list("abcd")
    untouched = frame.copy()
    drawn = result.draw(frame)
    assert drawn.shape == frame.shape and (frame == untouched).all() and (drawn != frame).any()


@pytest.mark.parametrize(
    "arguments",
    [{"head": "resunet"}, {"backbone": "resnet"}, {"variant": "best"}, {"num_classes": 0}, {"tail": "none"}],
)
def test_unknown_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(map(str, arguments.values())))):
        seg.create(**arguments)


OWN = "ds_k3_s2_c16 ir_k3_s2_e4_c24 ir_r2_k3_s2_e4_c40 ir_k3_s2_e6_c80"  # strides 4, 8, 16 and 32


@pytest.mark.parametrize("head", ["lraspp", "unet"])
def test_a_network_in_strings_carries_a_head(head):
    model = seg.create(head, backbone=OWN, num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 65, 96)).shape == (1, 3, -(-65 // model.stride), 96 // model.stride)
    twin = seg.create(head, backbone=OWN, num_classes=3)
    assert seg.load_weights(twin, model.state_dict()) == "taproot"


def test_a_network_in_strings_with_a_fault_or_without_a_stride_is_refused():
    with pytest.raises(InputError, match="character 8: '17'"):
        seg.create(backbone="ds_k3_c17")
    with pytest.raises(InputError, match="no features of stride 8, which the head takes"):
        seg.create(backbone="ds_k3_s2_c16")


def test_foreign_weights_are_refused():
    with pytest.raises(InputError, match="unknown layout"):
        seg.load_weights(seg.create(), {"conv.weight": torch.zeros(1)})
    other = seg.create(num_classes=7).state_dict()
    with pytest.raises(InputError, match="of another shape"):
        seg.load_weights(seg.create(), other)
