"""Which samples a step sees."""

from tools.run.config import Run
from tools.run.order import SampleOrder


def test_every_epoch_has_every_sample_once_whatever_the_number_of_processes():
    run = Run(steps=15, batch=4, seed=5)
    whole = [pair for batch in SampleOrder(20, run) for pair in batch]
    for epoch in range(3):
        assert sorted(index for at, index in whole if at == epoch) == list(range(20))
    halves = [list(SampleOrder(20, run, process=p, num_processes=2)) for p in range(2)]
    for number, batch in enumerate(SampleOrder(20, run)):
        assert sorted(batch) == sorted(halves[0][number] + halves[1][number])
    assert list(SampleOrder(20, run, start=7)) == list(SampleOrder(20, run))[7:]
