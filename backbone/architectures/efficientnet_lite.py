"""The tables of EfficientNet-Lite 0 to 4 (TensorFlow's TPU models, 2020).

They are EfficientNet's (arXiv 1905.11946, table 1) with ReLU6 and without squeeze-and-excite: one table at five widths
and depths. Their channels at width 1 are those of the published network, so that a name alone says which one it is; the
stem and the last convolution are the same in all five.
"""

import math

from backbone.architectures.rows import Architecture, Row, repeated, round_channels

__ = 0.0

STEM, FIRST = 32, 16
STAGES = (
    # k, expansion, out, repeats, s
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def lite(width: float, depth: float) -> Architecture:
    """The network whose channels are multiplied by `width` and whose repeats by `depth`, rounded up.

    The stem, the last convolution and the repeats of the first and the last stage stay as they are.
    """
    stages = []
    for kernel, expansion, out, repeats, stride in STAGES:
        repeats = repeats if out == STAGES[-1][2] else math.ceil(repeats * depth)
        stages.append((kernel, expansion, round_channels(out * width), repeats, stride, __))
    first = round_channels(FIRST * width)
    return Architecture(
        stem=STEM,
        rows=(Row(3, STEM, first, __, "R6", 1, "ds", skip=False), *repeated(first, stages, "R6")),
        nonlinearity="R6",
        last=1280,
        last_width="fixed",
        padding="same",  # as in its authors' code, and in nearly all weights
    )


LITE_0 = lite(1.0, 1.0)
LITE_1 = lite(1.0, 1.1)
LITE_2 = lite(1.1, 1.2)
LITE_3 = lite(1.2, 1.4)
LITE_4 = lite(1.4, 1.8)
