"""The demo model's training batches: made ahead, and by other processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashvsr_trt.export.demo import batches, optimise
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.config import TINY, Stage, Training
from flashvsr_trt.export.demo.trainer import Trainer

pytest_plugins = ("demo_images",)

CPU = torch.device("cpu")
STAGES = tuple(Stage(until=end, side=128, batch=1, steps=(2,) * count) for end, count in ((0.5, 1), (1.0, 2)))
SMALL = Training(sizes=TINY, iterations=4, warmup=0.5, rate=1e-4, stages=STAGES)


def test_batches_made_ahead_train_like_batches_made_when_needed(images: dict[str, np.ndarray]) -> None:
    """The same numbers to the bit, over a change of stage too."""
    trainer, plain = (Trainer(SMALL, images, CPU) for _ in range(2))
    maker = ClipMaker(images, (128, 128), seed=SMALL.seed, device=CPU)
    for iteration in range(4):
        stage = STAGES[iteration // 2]
        wanted = plain._eager(batches.make(maker, iteration, stage, SMALL.degraded), stage)
        optimise.set_rate(plain.optimiser, SMALL.rate_at(iteration / 4))
        plain.optimiser.step()
        assert trainer.step() == wanted
    for ours, theirs in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_batches_of_workers_are_the_same(images: dict[str, np.ndarray]) -> None:
    """In order, from whichever iteration on, over a change of stage, and what fails there is told."""
    trainer, plain = Trainer(SMALL, images, CPU, workers=2), Trainer(SMALL, images, CPU)
    losses = [plain.step() for _ in range(4)]
    assert [trainer.step() for _ in range(4)] == losses
    maker = ClipMaker(images, (128, 128), seed=SMALL.seed, device=CPU)
    ahead = batches.Workers(lambda number: batches.make(maker, number, STAGES[0], 0.5), 5, CPU, 2)
    for number in (5, 6, 7):
        wanted = batches.make(maker, number, STAGES[0], 0.5)
        assert all(map(torch.equal, ahead.take(number).tensors(), wanted.tensors()))
    with pytest.raises(ValueError, match="batch 8 comes next, not 10"):
        ahead.take(10)

    def failing(number: int) -> batches.Batch:
        raise KeyError("no such image")

    with pytest.raises(KeyError, match="no such image"):
        batches.Workers(failing, 0, CPU, 1).take(0)
