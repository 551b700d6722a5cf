"""Rotary position tables from the index itself (RoFormer, Su et al. 2021): no table length ends the video."""

from __future__ import annotations

import numpy as np

from flashvsr_trt.configs.contract import ROPE_PAIRS


def rotary_table(positions: range, pairs: int) -> np.ndarray:
    """(cos, sin) of position * 10000^(-j/pairs) for each rotated pair j of one part of a head.

    Returns:
        float32 [len(positions), pairs, 2], computed in float64.
    """
    frequencies = 10000.0 ** (-np.arange(pairs, dtype=np.float64) / pairs)
    angles = np.arange(positions.start, positions.stop, dtype=np.float64)[:, None] * frequencies  # [n, pairs]
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1).astype(np.float32)


def frame_table(frames: range) -> np.ndarray:
    """Table of latent frames, [f, 22, 2]."""
    return rotary_table(frames, ROPE_PAIRS[0])


def row_table(rows: int) -> np.ndarray:
    """Table of token rows, [H/16, 21, 2]."""
    return rotary_table(range(rows), ROPE_PAIRS[1])


def column_table(columns: int) -> np.ndarray:
    """Table of token columns, [W/16, 21, 2]."""
    return rotary_table(range(columns), ROPE_PAIRS[2])
