"""Separable resizing as PIL does it on 8-bit images, as two matrix products, so that it runs on the GPU.

Horizontal pass first, each pass rounded to 8 bits, taps outside the image dropped and the rest renormalised.
PIL holds its coefficients in 22-bit fixed point; these are fp32, so about one byte in 1e-5 differs by one.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def _bicubic(x: Tensor) -> Tensor:
    a = -0.5
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).to(x.dtype)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


FILTERS = {"bicubic": (_bicubic, 2.0), "box": (_box, 0.5), "triangle": (_triangle, 1.0)}


@functools.cache
def matrix(size: int, target: int, kind: str = "bicubic") -> Tensor:
    """[target, size] weights of one pass, float64 on the CPU; rows sum to 1. The kernel widens when reducing."""
    function, support = FILTERS[kind]
    ratio = size / target
    scale = max(ratio, 1.0)
    weights = torch.zeros(target, size, dtype=torch.float64)
    for i in range(target):
        centre = (i + 0.5) * ratio
        first = max(0, math.floor(centre - support * scale + 0.5))
        last = min(size, math.floor(centre + support * scale + 0.5))
        taps = function((torch.arange(first, last, dtype=torch.float64) - centre + 0.5) / scale)
        weights[i, first:last] = taps / taps.sum()
    return weights


@functools.cache
def _on(size: int, target: int, kind: str, device: torch.device) -> Tensor:
    return matrix(size, target, kind).to(device, torch.float32)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x`, from the host, on `device`, without waiting for the work that is under way there."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def round8(x: Tensor) -> Tensor:
    """Nearest integer, halves up, within 0..255; stays a float."""
    return (x + 0.5).floor_().clamp_(0, 255)


def resize(
    x: Tensor, height: int, width: int, kind: str = "bicubic", *, first: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """[..., H, W] of 0..255, any type, to fp32 [..., height, width] of integers 0..255.

    Args:
        first: fp32 [..., W, W] across and [..., H, H] down, linear filters of the picture that come first. Joined with
            the reduction across they cost a quarter of what they would on the whole picture.
    """
    across = _on(x.shape[-1], width, kind, x.device)
    down = _on(x.shape[-2], height, kind, x.device)
    if first is None:
        return round8(down @ round8(x.float() @ across.T))
    return round8(down @ round8(first[1] @ (x.float() @ (across @ first[0]).transpose(-1, -2))))
