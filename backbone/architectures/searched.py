"""The tables of searched networks: MNASNet, FBNet-C, Single-Path NAS and ChamNet.

Papers: MNASNet arXiv 1807.11626, FBNet-C 1812.03443, Single-Path NAS 1904.02877, ChamNet 1812.08934.

ChamNet's paper prints no layers. A to F follow its authors' model zoo and have the multiply-adds stated there; ReLU
throughout is a guess. V1 and V2 follow geffnet of 2019: the blocks are those of the authors' detection backbones of
these names, and the last convolution of 1280 channels is geffnet's guess.
"""

from backbone.architectures.rows import Architecture, Row, Squeeze, repeated

SE, __ = 0.25, 0.0

# MNASNet squeezes to a quarter of the block's input and gates with a plain sigmoid.
MNASNET_SQUEEZE = Squeeze(of="input", divisor=1, gate="sigmoid")

# Figure 7 (a).
MNASNET_A1 = Architecture(
    stem=32,
    rows=(
        Row(3, 32, 16, __, "RE", 1, "ds", skip=False),
        *repeated(
            16,
            [
                # k, expansion, out, repeats, s, SE
                (3, 6, 24, 2, 2, __),
                (5, 3, 40, 3, 2, SE),
                (3, 6, 80, 4, 2, __),
                (3, 6, 112, 2, 1, SE),
                (5, 6, 160, 3, 2, SE),
                (3, 6, 320, 1, 1, __),
            ],
            "RE",
        ),
    ),
    nonlinearity="RE",
    last=1280,
    last_width="fixed",
    squeeze=MNASNET_SQUEEZE,
)

# The same search without squeeze-and-excite; the official code's table.
MNASNET_B1 = MNASNET_A1._replace(
    rows=(
        Row(3, 32, 16, __, "RE", 1, "ds", skip=False),
        *repeated(
            16,
            [
                (3, 3, 24, 3, 2, __),
                (5, 3, 40, 3, 2, __),
                (5, 6, 80, 3, 2, __),
                (3, 6, 96, 2, 1, __),
                (5, 6, 192, 4, 2, __),
                (3, 6, 320, 1, 1, __),
            ],
            "RE",
        ),
    ),
)

# The official code's table of the small network.
MNASNET_SMALL = MNASNET_A1._replace(
    stem=8,
    rows=(
        Row(3, 8, 8, __, "RE", 1, "ds"),
        *repeated(
            8,
            [
                (3, 3, 16, 1, 2, __),
                (3, 6, 16, 2, 2, __),
                (5, 6, 32, 4, 2, SE),
                (3, 6, 32, 3, 1, SE),
                (5, 6, 88, 3, 2, SE),
                (3, 6, 144, 1, 1, __),
            ],
            "RE",
        ),
    ),
)

# Figure 4 of the FBNet paper, row C. An expansion of 1 is still a 1x1 convolution here.
FBNET_C = Architecture(
    stem=16,
    rows=tuple(
        repeated(
            16,
            [
                (3, 1, 16, 1, 1, __),
                (3, 6, 24, 1, 2, __),
                (3, 1, 24, 2, 1, __),
                (5, 6, 32, 1, 2, __),
                (5, 3, 32, 1, 1, __),
                (5, 6, 32, 1, 1, __),
                (3, 6, 32, 1, 1, __),
                (5, 6, 64, 1, 2, __),
                (5, 3, 64, 1, 1, __),
                (5, 6, 64, 2, 1, __),
                (5, 6, 112, 3, 1, __),
                (5, 3, 112, 1, 1, __),
                (5, 6, 184, 4, 2, __),
                (3, 6, 352, 1, 1, __),
            ],
            "RE",
        )
    ),
    nonlinearity="RE",
    last=1984,
    last_width="fixed",
)

# Figure 5 of the Single-Path NAS paper.
SINGLE_PATH_NAS = MNASNET_B1._replace(
    rows=(
        Row(3, 32, 16, __, "RE", 1, "ds", skip=False),
        *repeated(
            16,
            [
                (3, 3, 24, 3, 2, __),
                (5, 6, 40, 1, 2, __),
                (3, 3, 40, 3, 1, __),
                (5, 6, 80, 1, 2, __),
                (3, 3, 80, 3, 1, __),
                (5, 6, 96, 1, 1, __),
                (5, 3, 96, 3, 1, __),
                (5, 6, 192, 4, 2, __),
                (3, 6, 320, 1, 1, __),
            ],
            "RE",
        ),
    ),
)


def chamnet(stem: int, stages: list[tuple[int, int, int, int, int]], last: int) -> Architecture:
    """A ChamNet from stages (kernel, expansion, out, repeats, stride); an expansion of 1 is also a 1x1 convolution."""
    rows = repeated(stem, [(*stage, __) for stage in stages], "RE")
    return Architecture(stem=stem, rows=tuple(rows), nonlinearity="RE", last=last, last_width="fixed")


CHAMNET_A = chamnet(
    32,
    [
        # k, expansion, out, repeats, s
        (3, 1, 24, 1, 1),
        (3, 4, 40, 2, 2),
        (3, 6, 48, 3, 2),
        (3, 4, 96, 4, 2),
        (3, 4, 160, 3, 1),
        (3, 4, 248, 3, 2),
        (3, 6, 480, 1, 1),
    ],
    last=2016,
)
CHAMNET_B = chamnet(
    24,
    [
        (3, 1, 16, 1, 1),
        (3, 5, 40, 2, 2),
        (3, 6, 40, 3, 2),
        (3, 6, 96, 3, 2),  # 92 as published; channels here are multiples of 8
        (3, 6, 104, 3, 1),
        (3, 5, 200, 3, 2),
        (3, 6, 384, 1, 1),
    ],
    last=1984,
)
CHAMNET_C = chamnet(
    16,
    [
        (3, 1, 16, 1, 1),
        (3, 4, 24, 1, 2),
        (3, 4, 32, 3, 2),
        (3, 5, 64, 2, 2),
        (3, 6, 96, 3, 1),
        (3, 6, 160, 3, 2),
        (3, 4, 256, 1, 1),
    ],
    last=1520,
)
CHAMNET_D = chamnet(
    8,
    [
        (3, 1, 8, 1, 1),
        (3, 6, 24, 1, 2),
        (3, 4, 32, 2, 2),
        (3, 6, 40, 4, 2),
        (3, 6, 80, 3, 1),
        (3, 5, 160, 3, 2),
        (3, 6, 224, 1, 1),
    ],
    last=1600,
)
CHAMNET_E = chamnet(
    8,
    [
        (3, 1, 8, 1, 1),
        (3, 4, 24, 1, 2),
        (3, 4, 32, 3, 2),
        (3, 6, 64, 1, 2),
        (3, 6, 64, 3, 1),
        (3, 6, 96, 2, 2),
        (3, 4, 128, 1, 1),
    ],
    last=1600,
)
CHAMNET_F = chamnet(
    8,
    [
        (3, 1, 8, 1, 1),
        (3, 4, 24, 1, 2),
        (3, 4, 32, 3, 2),
        (3, 4, 40, 1, 2),
        (3, 4, 64, 3, 1),
        (3, 4, 128, 2, 2),
        (3, 4, 192, 1, 1),
    ],
    last=1280,
)
CHAMNET_V1 = chamnet(
    32,
    [
        (3, 1, 24, 1, 1),
        (7, 4, 48, 2, 2),
        (3, 7, 64, 5, 2),
        (5, 12, 56, 7, 2),
        (3, 8, 88, 5, 1),
        (3, 7, 152, 4, 2),
        (3, 10, 104, 1, 1),
    ],
    last=1280,
)
CHAMNET_V2 = chamnet(
    32,
    [
        (3, 1, 24, 1, 1),
        (5, 8, 32, 4, 2),
        (7, 5, 48, 6, 2),
        (5, 9, 56, 3, 2),
        (3, 6, 56, 6, 1),
        (3, 2, 152, 6, 2),
        (3, 6, 112, 1, 1),
    ],
    last=1280,
)
