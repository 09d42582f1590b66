"""Architectures as strings: every network prints itself so, what it prints builds it, and errors point."""

import pytest
import torch

import backbone
from backbone import InputError
from backbone.architectures.definitions import definition
from backbone.architectures.plan import plan, tails, with_tail


@pytest.mark.parametrize("width", [0.35, 0.75, 1.0, 1.4])
@pytest.mark.parametrize("name", backbone.names())
def test_what_a_network_prints_builds_it(name, width):
    table = backbone.architecture(name)
    for tail in tails(table):
        wanted = plan(with_tail(table, tail), width=width)
        printed = definition(with_tail(table, tail), wanted)
        read = backbone.parse(printed, squeeze=table.squeeze, nonlinearity=table.nonlinearity.lower())
        again = plan(read)
        assert (again.blocks, again.features, again.last) == (wanted.blocks, wanted.features, wanted.last)
        assert definition(read, again) == printed


def test_mobilenet_v3_large_reads_as_its_authors_of_strings_write_it():
    large = backbone.parse(
        """cn_k3_s2_c16_nhs
        ds_r1_k3_s1_e1_c16_nre
        ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre
        ir_r3_k5_s2_e3_c40_se0.25_nre
        ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80
        ir_r2_k3_s1_e6_c112_se0.25
        ir_r3_k5_s2_e6_c160_se0.25
        cn_r1_k1_s1_c960""",
        hidden=1280,
    )
    assert plan(large) == plan(backbone.architecture("mobilenet_v3_large"))


def test_a_network_of_ones_own_has_taps_and_prints_itself():
    own = backbone.parse("ds_k3_c16 uir_r2_a3_k5_s2_e4_c32 er_k3_s2_e2_c40_noskip ir_k5_s2_e6_c64_se0.5_nhs", stem=24)
    net = backbone.create(own, taps=("2.start", "5.expand", "5.out"), in_channels=1).eval()
    assert net.features == {"2.start": (16, 2), "5.expand": (240, 8), "5.out": (64, 16)}
    values = net(torch.randn(1, 1, 65, 64))
    for tap, feature in net.features.items():
        assert values[tap].shape == (1, feature.channels, -(-65 // feature.stride), 64 // feature.stride)
    assert "uir_r2_a3_k5_s2_e4_c32_nre er_r1_k3_s2_e2_c40_nre_noskip" in repr(net)
    assert backbone.classifier(own, num_classes=3).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xr_k3_c16", "character 1: unknown kind 'xr'"),
        ("ir_r3_k5_x2_e3_c40", "character 10: 'x2' is no option of ir; valid: r, k"),
        ("ir_r3_k5_s3_e3_c40", "character 11: '3' must be 1 or 2"),
        ("ir_r3_k4_s2_e3_c40", "character 8: '4' must be an odd kernel"),
        ("ir_r0_k5_s2_e3_c40", "character 5: '0' must be a number of blocks"),
        ("ir_r999_k5_s2_e3_c40", "character 4: at most 100 blocks of a row"),
        ("ir_k5_s2_e3_c44", "character 14: '44' must be channels, a multiple of 8"),
        ("ir_k5_e3.x_c40", "character 8: '3.x' must be a factor"),
        ("ir_k5_e3_c40_nsw", "character 15: 'sw' must be one of re, r6, hs"),
        ("ir_k5_e3_c40_k3", "character 14: 'k3' repeats an option"),
        ("ir_k5_c40", "character 10: e is missing"),
        ("ir_k5_e3_c40_", "character 14: '' is no option"),
        ("ir_k0_e3_c40", "character 4: only uir"),
        ("ds_k3_e2_c16", "character 7: ds does not expand"),
        ("uir_k0_s2_e3_c40", "character 8: a stride needs"),
        ("uir_k3_e3_c40_se0.25", "character 15: 'se0.25' is no option of uir"),
        ("ds_k3_c16 cn_k3_c16 ds_k3_c16", "character 1: cn is only for"),
        ("ds_k3_c16 cn_k3_c16", "character 4: the last convolution has kernel 1"),
        ("cn_k5_s2_c16 ds_k3_c16", "character 4: the stem's kernel is 3"),
        ("", "no blocks"),
    ],
)
def test_errors_point_at_the_character(text, message):
    with pytest.raises(InputError, match=message):
        backbone.parse(text)
