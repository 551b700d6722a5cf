"""Colour fix of decoded frames against the low-quality frames, and conversion to integer pixels.

Source: FlashVSR (paper 2510.12747): adaptive instance normalisation per frame and channel, or exchange of the
low frequencies of an a-trous wavelet decomposition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_trt.configs.contract import BITS, COLOUR_FIXES
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.export.pixels import to_unit

ADAIN_EPS = 1e-5  # added to the variance, under the root
WAVELET_DILATIONS = (1, 2, 4, 8, 16)
PIXEL_TYPES = {8: torch.uint8, 16: torch.uint16}


def adain(x: Tensor, reference: Tensor) -> Tensor:
    """Mean and standard deviation of each frame and channel of x [T, 3, H, W] become the reference's."""
    mean, std = _statistics(x)
    target_mean, target_std = _statistics(reference)
    return ((x - mean) / std * target_std + target_mean).clamp(-1, 1)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(2, 3), keepdim=True)
    return mean, (variance + ADAIN_EPS).sqrt()


def wavelet(x: Tensor, reference: Tensor) -> Tensor:
    """Low frequencies of x [T, 3, H, W] become the reference's: x - low(x) + low(reference)."""
    # low() is linear, so one filter of the difference does.
    return (x + _low(reference - x)).clamp(-1, 1)


def _low(x: Tensor) -> Tensor:
    """Five passes of [1 2 1]x[1 2 1]/16, dilated, the edge replicated in each."""
    frames, channels, height, width = x.shape
    tap = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = (tap[:, None] * tap[None, :])[None, None]  # [1, 1, 3, 3]
    x = x.reshape(frames * channels, 1, height, width)
    for dilation in WAVELET_DILATIONS:
        x = F.conv2d(F.pad(x, (dilation,) * 4, mode="replicate"), kernel, dilation=dilation)
    return x.reshape(frames, channels, height, width)


def fix_colour(frames: Tensor, lq: Tensor, fix: str) -> Tensor:
    """fp32 frames [T, 3, H, W] in [-1, 1] after the colour fix; `none` returns them unclamped.

    Args:
        frames: [T, 3, H, W] of any float type; the fix is computed in fp32.
        lq: uint8 [T, H, W, 3], the LQ frames of the same output indices.
        fix: adain, wavelet or none.
    """
    x = frames.float()
    if fix == "none":
        return x
    reference = to_unit(lq).permute(0, 3, 1, 2)  # [T, 3, H, W]
    if fix == "adain":
        return adain(x, reference)
    if fix == "wavelet":
        return wavelet(x, reference)
    raise UsageError(f"colour fix {fix}", expected=" or ".join(COLOUR_FIXES))


def to_pixels(frames: Tensor, bits: int) -> Tensor:
    """fp32 frames [T, 3, H, W] in [-1, 1] to unsigned pixels [T, H, W, 3], truncated."""
    if bits not in BITS:
        raise UsageError(f"{bits} bits", expected=" or ".join(map(str, BITS)))
    top = 2**bits - 1
    return ((frames + 1) * (top / 2)).clamp(0, top).permute(0, 2, 3, 1).to(PIXEL_TYPES[bits])  # [T, H, W, 3]


class Post(nn.Module):
    """Cut to `size`, colour fix, integer pixels: `contract.post`. The cut comes first, so that the padding of
    the canvas does not enter adain's statistics and the wavelet replicates the picture's own edge."""

    def __init__(self, fix: str, bits: int) -> None:
        super().__init__()
        if fix not in COLOUR_FIXES:
            raise UsageError(f"colour fix {fix}", expected=" or ".join(COLOUR_FIXES))
        self.fix, self.bits = fix, bits

    def forward(self, frames: Tensor, lq: Tensor, size: Tensor) -> Tensor:
        """`frames` [T, 3, H, W], `lq` uint8 [T, H, W, 3], `size` int64 [2] to [T, height, width, 3]."""
        height, width = size[0].item(), size[1].item()
        # For export, where both are unknown: they lie within the canvas.
        torch._check(height >= 1)
        torch._check(width >= 1)
        torch._check(height <= frames.shape[2])
        torch._check(width <= frames.shape[3])
        frames, lq = frames[:, :, :height, :width], lq[:, :height, :width]
        return to_pixels(fix_colour(frames, lq, self.fix), self.bits)
