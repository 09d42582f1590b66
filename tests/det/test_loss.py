"""Matching and loss: torchvision is the judge, for whole batches at once."""

import copy

import pytest
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.ops import (
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

import det
from backbone.errors import InputError
from backbone.inference import normalise
from det import boxes
from det.matching import in_crowd, match
from tests.builders.operations import WAITING, Recorder


def targets_of(images: list[tuple[torch.Tensor, torch.Tensor]]) -> det.Targets:
    samples = [det.Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), b, c, n, (1, 1)) for n, (b, c) in enumerate(images)]
    return det.collate(samples).targets


def random_image(count: int, num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    corners = torch.rand(count, 2) * 260
    sides = 4 + torch.rand(count, 2) * 250
    truth = torch.cat([corners, corners + sides], dim=1).clamp(max=320)
    return truth, torch.randint(num_classes, (count,))


@pytest.fixture(scope="module")
def torchvision_model():
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)


@pytest.fixture(scope="module")
def anchors() -> torch.Tensor:
    return det.create("ssdlite", num_classes=4, variant="torchvision").anchors


def random_raw(batch: int, num_anchors: int, num_outputs: int) -> det.RawDetections:
    return det.RawDetections(
        torch.randn(batch, num_anchors, num_outputs, requires_grad=True),
        torch.randn(batch, num_anchors, 4, requires_grad=True),
    )


@pytest.mark.parametrize("counts", [(5, 0, 12), (1, 1, 1), (40, 3, 0)])
def test_softmax_loss_and_its_gradients_equal_torchvisions(torchvision_model, anchors, counts):
    torch.manual_seed(sum(counts))
    images = [random_image(count) for count in counts]
    raw = random_raw(len(counts), len(anchors), 4)
    losses = det.DetectionLoss("softmax", background=True)(raw, anchors, targets_of(images))
    gradients = torch.autograd.grad(sum(losses.values()), raw)

    matched = []
    for truth, _ in images:
        empty = torch.full((len(anchors),), -1)
        matched.append(torchvision_model.proposal_matcher(box_iou(truth, anchors)) if len(truth) else empty)
    expected = torchvision_model.compute_loss(
        [{"boxes": truth, "labels": labels + 1} for truth, labels in images],
        {"cls_logits": raw.class_logits, "bbox_regression": raw.box_offsets},
        [anchors] * len(counts),
        matched,
    )
    torch.testing.assert_close(losses["class_loss"], expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["box_loss"], expected["bbox_regression"], rtol=1e-5, atol=0)
    for mine, theirs in zip(gradients, torch.autograd.grad(sum(expected.values()), raw), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_matching_equals_torchvisions_also_where_boxes_compete(torchvision_model, anchors):
    torch.manual_seed(1)
    truth, labels = random_image(30)
    truth = torch.cat([truth, truth[:10] + 0.01])  # near doubles want the same anchors
    targets = targets_of([(truth, torch.cat([labels, labels[:10]]))])
    expected = torchvision_model.proposal_matcher(box_iou(truth, anchors)).clamp(min=-1)
    assert torch.equal(match(anchors, targets)[0], expected)


def test_every_box_has_an_anchor_and_the_last_of_rivals_wins():
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    tiny = torch.tensor([[1.0, 1, 2, 2], [3, 3, 4, 4]])
    matched = match(anchors, targets_of([(tiny, torch.tensor([0, 1]))]))
    assert matched.tolist() == [[1, -1]]


def test_padding_changes_neither_matches_nor_loss(anchors):
    torch.manual_seed(2)
    few, many = random_image(4), random_image(20)
    alone, together = targets_of([few]), targets_of([few, many])
    assert alone.boxes.shape[1] < together.boxes.shape[1]
    assert torch.equal(match(anchors, alone)[0], match(anchors, together)[0])
    raw = random_raw(1, len(anchors), 3)
    padded = det.Targets(*(part[:1] for part in together))
    criterion = det.DetectionLoss("softmax")
    for name, value in criterion(raw, anchors, alone).items():
        assert torch.equal(value, criterion(raw, anchors, padded)[name])


def test_batch_loss_is_the_match_weighted_mean_of_single_losses(anchors):
    torch.manual_seed(3)
    images = [random_image(6), random_image(2)]
    raw = random_raw(2, len(anchors), 3)
    criterion = det.DetectionLoss("focal")
    whole = criterion(raw, anchors, targets_of(images))
    total, matches = 0.0, 0
    for index, image in enumerate(images):
        targets = targets_of([image])
        count = int((match(anchors, targets) >= 0).sum())
        single = criterion(det.RawDetections(*(part[index : index + 1] for part in raw)), anchors, targets)
        total, matches = total + sum(single.values()) * count, matches + count
    torch.testing.assert_close(sum(whole.values()), total / matches)


def test_focal_loss_equals_torchvisions_on_one_hot_targets(anchors):
    torch.manual_seed(4)
    truth, labels = random_image(5)
    raw = random_raw(1, len(anchors), 3)
    targets = targets_of([(truth, labels)])
    losses = det.DetectionLoss("focal")(raw, anchors, targets)

    matched = match(anchors, targets)[0]
    positive = matched >= 0
    one_hot = torch.zeros(len(anchors), 3)
    one_hot[positive, labels[matched[positive]]] = 1
    expected = sigmoid_focal_loss(raw.class_logits[0], one_hot, alpha=0.75, gamma=2, reduction="sum") / positive.sum()
    torch.testing.assert_close(losses["class_loss"], expected)
    difference = raw.box_offsets[0, positive] - boxes.encode(truth[matched[positive]], anchors[positive])
    huber = torch.where(difference.abs() < 1, 0.5 * difference**2, difference.abs() - 0.5)
    torch.testing.assert_close(losses["box_loss"], huber.sum() / positive.sum() / 4)


def test_implicit_background_is_a_logit_of_zero(anchors):
    torch.manual_seed(5)
    targets = targets_of([random_image(5)])
    raw = random_raw(1, len(anchors), 3)
    with_column = raw._replace(class_logits=torch.cat([torch.zeros(1, len(anchors), 1), raw.class_logits], dim=2))
    implicit = det.DetectionLoss("softmax", background=False)(raw, anchors, targets)
    explicit = det.DetectionLoss("softmax", background=True)(with_column, anchors, targets)
    torch.testing.assert_close(implicit, explicit)


KINDS = [("softmax", "smooth_l1"), ("focal", "giou"), ("quality_focal", "diou"), ("quality_focal", "ciou")]


@pytest.mark.parametrize("kind, box", KINDS)
def test_batch_without_any_box_is_finite(anchors, kind, box):
    raw = random_raw(2, len(anchors), 3)
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    losses = det.DetectionLoss(kind, box=box)(raw, anchors, targets_of([nothing, nothing]))
    sum(losses.values()).backward()
    assert losses["box_loss"] == 0 and losses["class_loss"].isfinite()
    assert raw.class_logits.grad.isfinite().all() and raw.box_offsets.grad.isfinite().all()


def test_anchors_in_a_crowd_are_those_with_the_centre_or_half_the_area_in_its_box():
    anchors = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [6, 0, 16, 10], [-9, -9, 30, 30], [50, 50, 60, 60]])
    targets = targets_of([(torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([-1, 0]))])
    assert in_crowd(anchors, targets).tolist() == [[True, True, False, False, False]]
    most = targets_of([(torch.tensor([[4.0, 0, 10, 20]]), torch.tensor([-1]))])  # 60 % of the first, not its edge
    assert in_crowd(anchors[:1], most).tolist() == [[True]]


@pytest.mark.parametrize("kind", ["softmax", "focal", "quality_focal"])
def test_anchors_in_a_crowd_are_not_taught_to_be_background(anchors, kind):
    torch.manual_seed(8)
    truth, labels = torch.tensor([[20.0, 20, 80, 90]]), torch.tensor([1])
    crowd = torch.tensor([[150.0, 100, 320, 320]])
    plain = targets_of([(truth, labels)])
    crowded = targets_of([(torch.cat([truth, crowd]), torch.tensor([1, -1]))])
    raw = random_raw(1, len(anchors), 4)
    criterion = det.DetectionLoss(kind, background=True)
    inside = in_crowd(anchors, crowded)[0]
    assert torch.equal(match(anchors, crowded), match(anchors, plain)) and 100 < inside.sum() < len(anchors)
    gradients = {}
    for name, targets in (("plain", plain), ("crowded", crowded)):
        losses = criterion(raw, anchors, targets)
        gradients[name] = torch.autograd.grad(sum(losses.values()), raw)[0][0]
    assert gradients["plain"][inside].abs().sum() > 0
    assert gradients["crowded"][inside].abs().sum() == 0 and gradients["crowded"][~inside].abs().sum() > 0
    if kind == "softmax":  # other negatives take their places
        assert (gradients["crowded"].abs().sum(1) > 0).sum() == (gradients["plain"].abs().sum(1) > 0).sum()


@pytest.mark.parametrize("kind", ["softmax", "focal", "quality_focal"])
def test_a_batch_of_crowds_only_is_finite(anchors, kind):
    raw = random_raw(1, len(anchors), 3)
    everywhere = targets_of([(torch.tensor([[-999.0, -999, 999, 999]]), torch.tensor([-1]))])
    losses = det.DetectionLoss(kind)(raw, anchors, everywhere)
    assert losses["class_loss"] == 0 and losses["box_loss"] == 0


@pytest.mark.parametrize("kind, box", KINDS)
@pytest.mark.parametrize(
    "truth",
    [
        torch.tensor([[0.0, 0, 320, 320]]),
        torch.tensor([[5.0, 5, 5, 90], [7, 7, 6, 6], [9, 9, 9, 9]]),
        torch.tensor([[100.0, 100, 100.01, 100.01]]),
        random_image(500)[0],
    ],
    ids=["all", "without size", "tiny", "many"],
)
def test_odd_boxes_and_wild_outputs_give_finite_gradients(anchors, kind, box, truth):
    targets = targets_of([(truth, torch.zeros(len(truth), dtype=torch.int64))])
    for size in (1.0, 1e4):
        raw = det.RawDetections(*((part.detach() * size).requires_grad_() for part in random_raw(1, len(anchors), 3)))
        losses = det.DetectionLoss(kind, box=box)(raw, anchors, targets)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        assert raw.class_logits.grad.isfinite().all() and raw.box_offsets.grad.isfinite().all()


def test_boxes_without_size_count_as_absent(anchors):
    torch.manual_seed(8)
    (truth, labels), raw = random_image(3), random_raw(1, len(anchors), 3)
    flat = torch.cat([truth, torch.tensor([[9.0, 9, 9, 50]])]), torch.cat([labels, torch.tensor([0])])
    one, other = (det.DetectionLoss("focal")(raw, anchors, targets_of([image])) for image in ((truth, labels), flat))
    assert one == other


@pytest.mark.parametrize(
    "box, reference",
    [
        ("giou", generalized_box_iou_loss),
        ("diou", distance_box_iou_loss),
        ("ciou", complete_box_iou_loss),
    ],
)
def test_box_losses_equal_torchvisions_over_matched_anchors(anchors, box, reference):
    torch.manual_seed(9)
    truth, labels = random_image(6)
    raw = random_raw(1, len(anchors), 3)
    targets = targets_of([(truth, labels)])
    loss = det.DetectionLoss("focal", box=box, box_weight=2.0)(raw, anchors, targets)["box_loss"]
    matched = match(anchors, targets)[0]
    positive = matched >= 0
    predicted = boxes.decode(raw.box_offsets[0, positive], anchors[positive])
    torch.testing.assert_close(loss, 2 * reference(predicted, truth[matched[positive]], reduction="mean"))
    gradient, expected = (
        torch.autograd.grad(value, raw.box_offsets)[0]
        for value in (loss, 2 * reference(predicted, truth[matched[positive]], reduction="mean"))
    )
    torch.testing.assert_close(gradient, expected)


def test_quality_focal_loss_is_the_papers_formula(anchors):
    torch.manual_seed(10)
    truth, labels = random_image(4)
    raw = random_raw(1, len(anchors), 3)
    targets = targets_of([(truth, labels)])
    loss = det.DetectionLoss("quality_focal")(raw, anchors, targets)["class_loss"]
    matched = match(anchors, targets)[0]
    logits = raw.class_logits[0].double()
    total = 0.0
    for anchor, box in enumerate(matched.tolist()):
        wanted = torch.zeros(3, dtype=torch.float64)
        if box >= 0:
            predicted = boxes.decode(raw.box_offsets[0, anchor], anchors[anchor])
            wanted[labels[box]] = box_iou(predicted[None], truth[box][None]).item()
        score = logits[anchor].sigmoid()
        cross_entropy = -(1 - wanted) * (1 - score).log() - wanted * score.log()
        total += ((wanted - score).abs() ** 2 * cross_entropy).sum().item()
    assert loss.item() == pytest.approx(total / (matched >= 0).sum().item(), rel=1e-4)


@pytest.mark.parametrize("kind, box", [("softmax", "smooth_l1"), ("quality_focal", "ciou")])
def test_loss_is_one_graph(anchors, kind, box):
    torch.manual_seed(6)
    raw = random_raw(2, len(anchors), 3)
    targets = targets_of([random_image(5), random_image(0)])
    criterion = det.DetectionLoss(kind, box=box)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(raw, anchors, targets), criterion(raw, anchors, targets))


@pytest.mark.parametrize("kind, box", KINDS)
def test_a_step_neither_waits_for_the_device_nor_loops_over_images(kind, box):
    torch.manual_seed(12)
    model = det.create(backbone="mobilenet_v3_small", num_classes=3, width=0.35, image_size=64)
    criterion = det.DetectionLoss(kind, box=box)
    recorded = []
    for batch in (2, 6):
        truths = []
        for _ in range(batch):
            truth, labels = random_image(4)
            labels[3] = -1  # a crowd
            truths.append((truth * 0.2, labels))
        targets = targets_of(truths)
        model.zero_grad()
        images = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
        with Recorder() as recorder:
            raw = model(normalise(images, (0.5,) * 3, (0.5,) * 3))
            sum(criterion(raw, model.anchors, targets).values()).backward()
        recorded.append(recorder.operations)
    assert recorded[0] == recorded[1] and len(recorded[0]) > 300
    assert not WAITING & set(recorded[0])
    with Recorder() as recorder:  # which would have been seen
        torch.ones(3)[torch.tensor([True, False, True])].sum().item()
    assert {"nonzero", "_local_scalar_dense"} <= set(recorder.operations)


@pytest.mark.slow
def test_the_whole_step_from_bytes_to_gradients_is_one_graph():
    torch.manual_seed(11)
    model = det.create("ssdlite_fpn", backbone="mobilenet_v3_small", num_classes=3, width=0.35, image_size=64)
    criterion = det.DetectionLoss("focal")
    targets = targets_of([(truth * 0.2, labels) for truth, labels in (random_image(3), random_image(0))])
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        images = normalise(batch, (0.5,) * 3, (0.5,) * 3)
        return sum(criterion(model(images), model.anchors, targets).values())

    copied = copy.deepcopy(model)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(copied)
    expected = loss(model)
    torch.testing.assert_close(compiled, expected)
    compiled.backward()
    expected.backward()
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(7)
    model = det.create("ssdlite", backbone="mobilenet_v3_small", num_classes=3, width=0.35, image_size=96)
    criterion = det.DetectionLoss("focal")
    targets = targets_of([(truth * 0.3, labels) for truth, labels in (random_image(3), random_image(2))])
    images = torch.randn(2, 3, 96, 96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(12):
        loss = sum(criterion(model(images), model.anchors, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(InputError, match="focal"):
        det.DetectionLoss("hinge")
    with pytest.raises(InputError, match="giou"):
        det.DetectionLoss(box="iou")
