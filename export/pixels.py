"""Conversion of 8-bit pixels at the border of the step graphs."""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 to fp32 in [-1, 1]: x / 255 * 2 - 1, in fp32 because 16-bit types would round the picture."""
    return pixels.to(torch.float32) / 255 * 2 - 1
