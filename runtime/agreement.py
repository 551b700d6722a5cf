"""How far frames agree with those that they should be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

PEAK = 255.0


@dataclass(frozen=True)
class Agreement:
    """PSNR in dB; inf where every pixel is the same."""

    frames: int
    psnr: float  # of all frames together
    worst: float  # of the frame that differs most


def agreement(seen: Iterable[np.ndarray], expected: Iterable[np.ndarray]) -> Agreement:
    """Compares uint8 [height, width, 3] with uint8 [height, width, 3], frame by frame, as they come.

    Raises:
        ValueError: one has more frames than the other.
    """
    errors = [mean_square(frame, right) for frame, right in zip(seen, expected, strict=True)]
    return Agreement(len(errors), psnr(math.fsum(errors) / len(errors)), psnr(max(errors)))


def mean_square(frame: np.ndarray, right: np.ndarray) -> float:
    """The mean squared difference of two frames, or other arrays, of the same shape."""
    return float(np.mean(np.square(frame.astype(np.float64) - right)))


def psnr(error: float, peak: float = PEAK) -> float:
    """dB, of a mean squared difference of numbers up to `peak`, by default that of 8-bit frames."""
    return 10 * math.log10(peak**2 / error) if error else math.inf
