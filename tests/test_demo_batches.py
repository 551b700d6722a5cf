"""The demo model's training batches: made ahead, and by other processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.export.demo import batches, optimise, train
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


def _numbered(number: int) -> batches.Batch:
    """A batch that differs from those of other numbers in every pixel, square and of no symmetry."""
    lq = torch.arange(5 * 16 * 16 * 3, dtype=torch.int64).reshape(1, 5, 16, 16, 3) * 7 + number
    noise = torch.arange(4 * 16 * 2 * 2).reshape(1, 4, 16, 2, 2) + 0.25 * number
    return batches.Batch(noise=noise, lq=(lq % 251).to(torch.uint8), truth=(lq[:, :1] % 241).to(torch.uint8))


def test_a_batch_is_turned_and_mirrored_in_eight_ways() -> None:
    """All three tensors alike."""
    batch = _numbered(0)
    ways = [batches.turned(batch, use) for use in range(batches.USES)]
    assert all(map(torch.equal, ways[0].tensors(), batch.tensors()))
    for name in ("noise", "lq", "truth"):
        seen = {getattr(way, name).numpy().tobytes() for way in ways}
        assert len(seen) == batches.USES
    for way in ways:
        assert way.noise.shape == batch.noise.shape
        assert way.lq.shape == batch.lq.shape
    corner = (batch.lq[0, :, 0, -1], batch.noise[0, :, :, 0, -1])  # the upper right one is the upper left one mirrored
    assert torch.equal(ways[1].lq[0, :, 0, 0], corner[0])
    assert torch.equal(ways[1].noise[0, :, :, 0, 0], corner[1])
    assert torch.equal(ways[4].lq[0, :, -1, 0], corner[0])  # and the lower left one transposed
    assert torch.equal(ways[4].noise[0, :, :, -1, 0], corner[1])


def test_batches_serve_several_times_and_go_on_from_anywhere() -> None:
    uses, count = 3, batches.GROUP
    wanted = [
        batches.turned(_numbered(group * count + slot), use)
        for group in range(2)
        for use in range(uses)
        for slot in range(count)
    ]
    for first in (0, count + 3, 2 * count + 3, uses * count + 1):
        ahead = batches.Workers(_numbered, first, CPU, 1, uses)
        for number in range(first, min(first + 2 * count + 5, len(wanted))):
            assert all(map(torch.equal, ahead.take(number).tensors(), wanted[number].tensors()))
        assert len(ahead._kept) <= count


def test_only_batches_of_workers_serve_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--uses", "2"])
    with pytest.raises(UsageError, match="--uses alone"):
        train.main()
