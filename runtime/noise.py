"""The noise of the diffusion step: N(0,1) as a pure function of (seed, latent frame, channel, row, column).

Counter-based (Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so a frame's
noise needs no memory of the frames before it, does not depend on the canvas around a pixel, and is the same in
Python and C++.
"""

from __future__ import annotations

import numpy as np

from flashvsr_trt.configs.contract import LATENT_CHANNELS

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10
_LANES = 4


def philox4x32(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Ten rounds of Philox4x32 on four arrays of counters (uint64 holding 32 bits, broadcastable)."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _box_muller(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # (a + 1) / 2^32 lies in (0, 1], so the logarithm is finite.
    radius = np.sqrt(-2.0 * np.log((a.astype(np.float64) + 1.0) * 2.0**-32))
    angle = b.astype(np.float64) * (2.0 * np.pi * 2.0**-32)
    return radius * np.cos(angle), radius * np.sin(angle)


def noise(seed: int, frames: range, height: int, width: int, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Noise of the given latent frames, or of a part of them: what two parts share has the same noise in both.

    Args:
        seed: 0 .. 2^64-1.
        frames: latent frame indices of the stream (schedule.step_latents).
        height, width: latent rows and columns, canvas / 8.
        origin: the part's first row and column.

    Returns:
        float16 [len(frames), 16, height, width], computed in float64 and rounded once.
    """
    out = np.empty((len(frames), LATENT_CHANNELS, height, width), dtype=np.float16)
    key = (seed & 0xFFFFFFFF, seed >> 32)
    top, left = origin
    first, groups = left // _LANES, -(-(left + width) // _LANES)
    columns = np.arange(first, groups, dtype=np.uint64)[None, None, :]
    rows = np.arange(top, top + height, dtype=np.uint64)[None, :, None]
    channels = np.arange(LATENT_CHANNELS, dtype=np.uint64)[:, None, None]
    for index, frame in enumerate(frames):
        low, high = np.asarray(frame & 0xFFFFFFFF, np.uint64), np.uint64(frame >> 32)
        bits = philox4x32((columns, rows, channels | (high << np.uint64(8)), low), key)
        normals = (*_box_muller(bits[0], bits[1]), *_box_muller(bits[2], bits[3]))
        lanes = np.stack(np.broadcast_arrays(*normals), axis=-1)  # [16, height, groups, 4]
        inside = left - first * _LANES
        out[index] = lanes.reshape(LATENT_CHANNELS, height, -1)[:, :, inside : inside + width]
    return out
