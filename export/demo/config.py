"""Sizes of the demo model and the settings of its training."""

from __future__ import annotations

from dataclasses import dataclass

from flashvsr_trt.export.layouts import DitSizes, LqSizes, Shapes, TcSizes

TEXT_TOKENS = 16


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


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one training."""

    seed: int = 0
    iterations: int = 20_000
    sizes: ModelSizes = DEMO
    # Short streams first: more pictures per second. Then clips as the product runs them.
    stages: tuple[Stage, ...] = (
        Stage(until=0.8, side=256, batch=8, steps=(2, 2)),
        Stage(until=1.0, side=256, batch=6, steps=(6, 2)),
    )
    degraded: float = 0.4  # share of clips with blur, noise or compression
    rate: float = 5e-4
    full_rate_fan_in: int = 144  # wider layers learn at rate x this / fan-in
    warmup: int = 500  # iterations
    weight_decay: float = 1e-4
    clip_norm: float = 0.5
    average: float = 0.999  # of the weights, per iteration
    gradient_weight: float = 0.3
    temporal_weight: float = 0.3

    def stage(self, progress: float) -> Stage:
        return next((s for s in self.stages if progress < s.until), self.stages[-1])
