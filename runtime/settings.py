"""What the networks of one stream are run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flashvsr_trt.configs.schedule import Canvas, Parameters

NoiseSource = Callable[[range, int, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the networks of one stream are run with."""

    canvas: Canvas
    parameters: Parameters
    decoder: str = "tc_decoder"  # or vae_decoder
    colour_fix: str = "adain"
    bits: int = 8
    noise: NoiseSource | None = None  # (latent frames, rows, columns) -> float16; None: the seeded generator
