"""Task-aligned training: assignment and losses beside a plain reference that goes through one image at a time."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss

import det
from backbone.errors import InputError
from det.aligned_loss import QUALITY_POWER, SMALLEST_REACH, TOP_CELLS, TOP_CELLS_ONE_TO_ONE, AlignedLoss, assign
from det.boxes import RawDetections
from det.heads.pico import NUM_BINS, boxes_from_distances, distances, distances_to
from det.matching import in_crowd
from tests.builders.boxes import CLASSES, CROSSING, CROWDED, NOTHING, SIZE, random_raw, targets_of

OVER_ALL = (np.array([[0, 0, SIZE, SIZE], [40, 40, 44, 43.0]]), np.array([1, 1]), np.zeros(2))


def many(count=500):
    generator = np.random.default_rng(5)
    corners = generator.uniform(0, SIZE - 20, (count, 2))
    return (
        np.concatenate([corners, corners + generator.uniform(2, 20, (count, 2))], 1),
        np.arange(count) % 3,
        np.zeros(count),
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return det.create("pico96", backbone="mobilenet_v3_small", width=0.35, num_classes=CLASSES, image_size=SIZE)


def assign_one(scores, boxes, cells, truth, one_to_one):
    """The assignment of one image in plain loops: {cell: (box, quality)}."""
    most = TOP_CELLS_ONE_TO_ONE if one_to_one else TOP_CELLS
    found = {}
    truths = [
        (torch.tensor(box, dtype=torch.float32), int(label))
        for box, label, crowd in zip(*truth, strict=True)
        if not crowd
    ]
    indices = [index for index, crowd in enumerate(truth[2]) if not crowd]
    claims = {}
    for index, (box, label) in zip(indices, truths, strict=True):
        overlap = box_iou(box[None], boxes)[0]
        alignment = scores[:, label] * overlap**QUALITY_POWER
        half = (box[2:] - box[:2]).clamp(min=SMALLEST_REACH) / 2
        centers = (cells[:, :2] + cells[:, 2:]) / 2
        inside = ((centers - (box[:2] + box[2:]) / 2).abs() < half).all(1).nonzero()[:, 0].tolist()
        for cell in sorted(inside, key=lambda cell: -alignment[cell])[:most]:
            claims.setdefault(cell, []).append((overlap[cell].item(), -index, index, alignment[cell].item()))
    for cell, claimants in claims.items():
        overlap, _, index, alignment = max(claimants)
        found[cell] = (index, overlap, alignment)
    if one_to_one:
        best = {}
        for cell, (index, _, alignment) in found.items():
            best.setdefault(index, []).append((alignment, -cell))
        found = {-max(cells)[1]: found[-max(cells)[1]] for cells in best.values()}
    result = {}
    for cell, (index, _, alignment) in found.items():
        own = [(a, o) for i, o, a in found.values() if i == index]
        best = max(a for a, _ in own)
        result[cell] = (index, alignment / max(best, 1e-9) * max(o for _, o in own))
    return result


IMAGES = {"crossing": CROSSING, "one over all": OVER_ALL, "crowd": CROWDED, "nothing": NOTHING, "many": many()}


@pytest.mark.parametrize("one_to_one", [False, True])
def test_a_batch_is_assigned_as_image_by_image(model, one_to_one):
    # Where predicted boxes miss the truth the alignment is 0, and which of such cells are taken is chance.
    raw, targets = random_raw(model, len(IMAGES)), targets_of(list(IMAGES.values()))
    scores, boxes = raw.class_logits.sigmoid(), model.head.decode(raw.box_offsets, model.anchors)
    assigned = assign(scores, boxes, model.anchors, targets, one_to_one=one_to_one)
    for image, (name, truth) in enumerate(IMAGES.items()):
        expected = assign_one(scores[image], boxes[image], model.anchors, truth, one_to_one)
        cells = assigned.positive[image].nonzero()[:, 0].tolist()
        assert set(cells) >= {cell for cell, (_, quality) in expected.items() if quality > 0}, name
        for cell, (index, quality) in expected.items():
            if quality > 0:
                assert assigned.box[image, cell] == index
                assert assigned.quality[image, cell].item() == pytest.approx(quality, rel=1e-4, abs=1e-7)
        assert (name == "nothing") == (not cells)
        learnt = assigned.box[image, cells].tolist()
        assert not one_to_one or len(learnt) == len(set(learnt)), name
    assert not assigned.quality[~assigned.positive].any()


def test_every_box_is_learnt_even_the_smallest(model):
    """Boxes of 2 to 20 pixels far apart: each gets a cell, though none has a center in it."""
    lefts = np.arange(1, SIZE - 20, 25.0)
    boxes = np.array([[x, y, x + 2, y + 3] for x in lefts for y in lefts])
    targets = targets_of([(boxes, np.zeros(len(boxes)), np.zeros(len(boxes)))])
    raw = random_raw(model, 1)
    found = assign(
        raw.class_logits.sigmoid(), model.head.decode(raw.box_offsets, model.anchors), model.anchors, targets
    )
    assert set(found.box[found.positive].tolist()) == set(range(len(boxes)))


def test_distances_and_boxes_are_inverse(model):
    boxes = torch.tensor([[3.0, 5.0, 60.0, 41.0]]).expand(len(model.anchors), 4)
    torch.testing.assert_close(boxes_from_distances(distances_to(boxes, model.anchors), model.anchors), boxes)
    logits = torch.full((4, NUM_BINS), -50.0)
    logits[range(4), [0, 3, 7, 2]] = 50.0
    logits[3, 3] = 50.0
    torch.testing.assert_close(distances(logits.flatten()), torch.tensor([0.0, 3.0, 7.0, 2.5]))


def test_the_losses_are_the_papers_formulas(model):
    images = [CROSSING, CROWDED, NOTHING]
    raw, targets = random_raw(model, 3), targets_of(images)
    losses = AlignedLoss()(raw, model.anchors, targets)
    boxes = model.head.decode(raw.box_offsets, model.anchors)
    assigned = assign(raw.class_logits.sigmoid(), boxes, model.anchors, targets)
    ignored = in_crowd(model.anchors, targets) & ~assigned.positive
    assert ignored.any()
    class_loss = box_loss = distance_loss = 0.0
    for image in range(3):
        for cell in range(len(model.anchors)):
            score = torch.zeros(CLASSES)
            quality = assigned.quality[image, cell].item()
            if assigned.positive[image, cell]:
                index = assigned.box[image, cell]
                truth = targets.boxes[image, index]
                score[targets.labels[image, index]] = quality
                box_loss += quality * generalized_box_iou_loss(boxes[image, cell], truth).item()
                sides = distances_to(truth, model.anchors[cell]).clamp(0, NUM_BINS - 1.01)
                shares = raw.box_offsets[image, cell].view(4, NUM_BINS).log_softmax(1)
                for side, share in zip(sides, shares, strict=True):
                    low = int(side)
                    distance_loss -= (
                        quality * ((low + 1 - side) * share[low] + (side - low) * share[low + 1]).item() / 4
                    )
            if not ignored[image, cell]:
                logits = raw.class_logits[image, cell]
                weight = torch.where(score > 0, score, 0.75 * logits.sigmoid() ** 2)
                class_loss += (
                    (weight * F.binary_cross_entropy_with_logits(logits, score, reduction="none")).sum().item()
                )
    total = max(1.0, assigned.quality.sum().item())
    expected = [class_loss / total, 2.5 * box_loss / total, 0.5 * distance_loss / total]
    assert [losses[name].item() for name in ("class_loss", "box_loss", "distance_loss")] == pytest.approx(
        expected, 1e-4
    )


def test_no_batch_gives_a_loss_that_is_not_finite(model):
    empty = (np.array([[30.0, 30, 30, 40]]), np.array([1]), np.zeros(1))
    all_crowd = (np.array([[0.0, 0, SIZE, SIZE]]), np.array([1]), np.ones(1))
    for images in ([NOTHING, NOTHING], [empty, NOTHING], [all_crowd, all_crowd], list(IMAGES.values())):
        raw = random_raw(model, len(images))
        raw = RawDetections(*(part.requires_grad_() for part in raw))
        losses = AlignedLoss()(raw, model.anchors, targets_of(images))
        sum(losses.values()).backward()
        assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
        assert all(part.grad.isfinite().all() for part in raw)
    assert not AlignedLoss()(random_raw(model, 1), model.anchors, targets_of([all_crowd]))["box_loss"]


def test_the_loss_compiles_as_one_graph_and_does_not_wait_for_the_device(model):
    raw, targets = random_raw(model, 2), targets_of([CROSSING, NOTHING])
    expected = AlignedLoss()(raw, model.anchors, targets)
    compiled = torch.compile(AlignedLoss(), fullgraph=True, backend="aot_eager")(raw, model.anchors, targets)
    for name, loss in expected.items():
        torch.testing.assert_close(compiled[name], loss)


def test_a_few_steps_teach_it_a_box():
    torch.manual_seed(0)
    model = det.create("pico96", backbone="mobilenet_v3_small", width=0.35, num_classes=2, image_size=64)
    images = torch.zeros(4, 3, 64, 64)
    images[:, :, 16:48, 8:40] = 2.0
    truth = (np.array([[8.0, 16, 40, 48]]), np.array([1]), np.zeros(1))
    targets = targets_of([truth] * 4)
    criterion, optimizer = det.make_loss(model), torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(criterion(model(images), model.anchors, targets).values()).backward()
        optimizer.step()
    model.train()  # the norms' running statistics lag behind 60 steps
    finish = det.PostProcess("sigmoid", decode=model.head.decode)
    found = finish(RawDetections(*(part.detach() for part in model(images))), model.anchors, (64, 64), [(64, 64)] * 4)[
        0
    ]
    assert found.labels[0] == 1 and found.scores[0] > 0.3
    assert box_iou(found.boxes[:1], targets.boxes[0, :1]) > 0.7


def test_kinds_that_do_not_fit_a_head_are_refused(model):
    with pytest.raises(InputError, match="'focal' does not train this head; choose one of aligned"):
        det.make_loss(model, kind="focal")
    with pytest.raises(InputError, match="'aligned' does not train this head; choose one of softmax"):
        det.make_loss(det.create(backbone="mobilenet_v3_small", num_classes=2), kind="aligned")
    with pytest.raises(InputError, match="'smooth_l1' does not fit loss kind aligned"):
        det.make_loss(model, box="smooth_l1")
