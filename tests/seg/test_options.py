"""The names that can be chosen are those that the implementing modules know."""

from seg import options
from seg.heads import HEAD_CHANNELS, OUTPUT_STRIDES, POOLING_OF_VARIANT
from seg.heads.decoders import DECODERS
from seg.loss import LOSSES


def test_options_are_what_is_implemented():
    assert options.HEADS == ("lraspp", "raspp", "fuse", *DECODERS) == tuple(HEAD_CHANNELS) == tuple(OUTPUT_STRIDES)
    assert tuple(POOLING_OF_VARIANT) == options.VARIANTS
    assert set(options.POOLINGS) == set(POOLING_OF_VARIANT.values())
    assert tuple(LOSSES) == options.LOSSES
