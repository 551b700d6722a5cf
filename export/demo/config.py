"""Sizes of the demo model and the settings of its training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashvsr_trt.export.layouts import DitSizes, LqSizes, Shapes, TcSizes

TEXT_TOKENS = 16
# Of the product's output: this model keeps the means of colours within a level by itself, and adain would also take the
# frame's contrast for the input's, which blur has lowered. docs/demo-model.md has the figures.
COLOUR_FIX = "none"


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of the three networks.

    The decoder does most of the work, at a quarter of the picture's side, where one cell is one pixel of the
    source; its full-size level is as narrow as it can be, for that is what a CPU waits for.
    """

    dit: DitSizes
    lq: LqSizes
    tc: TcSizes

    def shapes(self) -> dict[str, Shapes]:
        return {"dit": self.dit.shapes(), "lq": self.lq.shapes(), "tc": self.tc.shapes()}


DEMO = ModelSizes(
    dit=DitSizes(dim=256, layers=2, ffn=512, text=32, frequencies=64),
    lq=LqSizes(hidden=(32, 64), dim=256),
    tc=TcSizes(channels=(128, 96, 32, 16)),
)
# The smallest that the structured initial weights fit into; for tests.
TINY = ModelSizes(
    dit=DitSizes(dim=256, layers=1, ffn=64, text=8, frequencies=16),
    lq=LqSizes(hidden=(8, 8), dim=256),
    tc=TcSizes(channels=(56, 72, 16, 8)),
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the training. `steps` are the latent frames of each DiT step, (6, 2) being a stream's start."""

    until: float  # the stage ends at this fraction of the training
    side: int  # clips are side x side
    batch: int
    steps: tuple[int, ...]


# For the fine-tuning of the decoder's end: a few seconds an iteration on one CPU core.
FINE = (Stage(until=1.0, side=128, batch=1, steps=(2, 2)),)


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Beside the distance of colours and of luma, which count 1 each."""

    psnr: float = 1.0  # of the logarithm of luma's squared error
    gradient: float = 0.3  # of edges
    temporal: float = 0.5  # of changes in time
    still: float = 4.0  # how much more those count where the truth stands still
    coarse: float = 2.0  # of means over cells of pixels, and of their changes in time


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one training. It is `iterations` long, or `seconds` where those are set: then its end, with the
    learning rate at 0, comes when the time is over, whatever the machine does in it."""

    seed: int = 0
    iterations: int = 20_000
    seconds: float | None = None
    sizes: ModelSizes = DEMO
    # Short streams first: more pictures per second. Then clips as the product runs them.
    stages: tuple[Stage, ...] = (
        Stage(until=0.8, side=256, batch=16, steps=(2, 2)),
        Stage(until=1.0, side=256, batch=12, steps=(6, 2)),
    )
    tail: int | None = None  # train the decoder's layers from this one on alone
    uses: int = 1  # of a batch that another process made, turned and mirrored another way each time
    degraded: float = 0.6  # share of clips with blur, noise or compression
    rate: float = 5e-4
    full_rate_fan_in: int = 144  # wider layers learn at rate x this / fan-in
    warmup: float = 0.02  # fraction of the training
    weight_decay: float = 1e-4
    clip_norm: float = 0.5
    alike: bool = False  # every clip of a batch pulls equally: smooth and still ones would decide alone
    average: float = 0.999  # of the weights, per iteration
    loss: LossWeights = LossWeights()

    def stage(self, progress: float) -> Stage:
        return next((s for s in self.stages if progress < s.until), self.stages[-1])

    def rate_at(self, progress: float) -> float:
        """Warm-up from a tenth, then a cosine down to 0."""
        warm = 0.1 + 0.9 * min(1.0, progress / self.warmup)
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
