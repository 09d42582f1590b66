"""The auxiliary head that a network can be trained with beside its main head."""

from torch import Tensor, nn

from backbone.architectures.plan import Feature
from backbone.blocks import ConvNormAct


class AuxiliaryHead(nn.Module):
    """A fully convolutional head (FCN): a 3x3 convolution to a quarter of the channels, dropout, a 1x1 convolution.

    Arguments:
        feature: channels and stride of the features it classifies; see `seg.heads.taps.auxiliary_tap`.
    """

    def __init__(self, feature: Feature, *, num_classes: int) -> None:
        super().__init__()
        inner = max(1, feature.channels // 4)
        self.project = ConvNormAct(feature.channels, inner, 3, activation=nn.ReLU, norm_eps=1e-5, norm_momentum=0.1)
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Conv2d(inner, num_classes, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """feature [N, C, h, w] -> logits [N, num_classes, h, w]."""
        return self.classify(self.dropout(self.project(feature)))
