"""The loss that trains a head, by kind."""

from backbone.errors import InputError
from det.aligned_loss import AlignedLoss
from det.dual_loss import DualLoss
from det.loss import DetectionLoss
from det.model import Detector


def make_loss(
    model: Detector,
    *,
    kind: str | None = None,
    box: str | None = None,
    box_weight: float | None = None,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> DetectionLoss | AlignedLoss | DualLoss:
    """A loss of a batch: (`RawDetections`, anchors [A, 4], `Targets`) -> a dict of scalars whose sum it is.

    Of a model with one-to-one predictors it takes `DualDetections`.

    Arguments:
        kind: "softmax", "focal" or "quality_focal" (`DetectionLoss`), or "aligned" (`AlignedLoss`); by default the
            head's.
        box, box_weight: of the boxes' loss; by default the kind's.
        alpha, gamma: as in the kinds that have them.

    Raises:
        InputError: a kind that does not train this head, or a loss of boxes that does not fit the kind.
    """
    kinds = model.head.losses
    if kind is None:
        kind = kinds[0]
    if kind not in kinds:
        raise InputError(f"loss kind {kind!r} does not train this head; choose one of {', '.join(kinds)}")
    settings = {"box": box, "box_weight": box_weight}
    given = {name: value for name, value in settings.items() if value is not None}
    if kind == "aligned":
        if model.one_to_one:
            one_to_many, one_to_one = (
                AlignedLoss(alpha=alpha, gamma=gamma, one_to_one=one, **given) for one in (False, True)
            )
            return DualLoss(one_to_many, one_to_one)
        return AlignedLoss(alpha=alpha, gamma=gamma, **given)
    return DetectionLoss(kind, model.background, alpha=alpha, gamma=gamma, **given)
