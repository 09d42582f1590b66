"""The tables of searched networks: MNASNet (arXiv 1807.11626), FBNet-C (1812.03443), Single-Path NAS (1904.02877).

ChamNet is left out: its paper gives no table from which its networks could be built.
"""

from backbone.rows import Architecture, Row, Squeeze, repeated

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
