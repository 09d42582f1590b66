"""The names that can be chosen are those that the implementing modules know."""

from det import options
from det.data import transforms
from det.heads import NORM_MOMENTUM, STRIDES
from det.heads.anchors import SHAPES
from det.loss import IOU_LOSSES


def test_options_are_what_is_implemented():
    assert tuple(STRIDES) == options.HEADS
    assert options.VARIANTS == tuple(NORM_MOMENTUM) == tuple(SHAPES)
    assert ("smooth_l1", *IOU_LOSSES) == options.BOX_LOSSES
    assert options.STRENGTHS == transforms.STRENGTHS
