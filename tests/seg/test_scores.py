"""Each pixel's probability equals softmax of the upsampled logits, whatever the sizes."""

import pytest
import torch

from seg import scores
from seg.model import upsample
from seg.scores import winning_scores


@pytest.mark.parametrize(
    ("coarse", "fine"), [((5, 7), (40, 56)), ((6, 9), (47, 71)), ((4, 4), (4, 4)), ((1, 3), (9, 8))]
)
@pytest.mark.parametrize("values", [1 << 21, 300], ids=["whole", "few rows at a time"])
def test_scores_are_the_largest_softmax_of_upsampled_logits(coarse, fine, values, monkeypatch):
    monkeypatch.setattr(scores, "ROWS_VALUES", values)
    logits = 4 * torch.randn(2, 5, *coarse, generator=torch.Generator().manual_seed(0))
    want = upsample(logits, fine).softmax(1).amax(1)
    torch.testing.assert_close(winning_scores(logits, fine), want, rtol=1e-5, atol=1e-6)
