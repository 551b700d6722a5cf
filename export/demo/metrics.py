"""What a result is judged by: PSNR and SSIM of the luma, and flicker.

Luma is BT.601 in studio range on 8-bit pixels, as super-resolution papers report it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


def luma(pixels: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] to fp32 luma [..., H, W] of 16..235."""
    weights = torch.tensor([65.481, 128.553, 24.966], device=pixels.device)
    return pixels.float() @ weights / 255 + 16


def psnr(result: Tensor, truth: Tensor) -> Tensor:
    """Y-PSNR in dB per frame: uint8 [..., H, W, 3] to [...]. 100 dB where they are equal."""
    error = (luma(result) - luma(truth)).square().mean(dim=(-2, -1))
    return 10 * torch.log10(255**2 / error.clamp_min(255**2 * 1e-10))


def ssim(result: Tensor, truth: Tensor) -> Tensor:
    """Y-SSIM per frame: uint8 [..., H, W, 3] to [...]. Gaussian window of 11 pixels, sigma 1.5, no padding
    (Wang et al. 2004)."""
    x, y = luma(result), luma(truth)
    shape, size = x.shape[:-2], x.shape[-2:]
    x, y = x.reshape(-1, 1, *size), y.reshape(-1, 1, *size)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    value = value / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return value.mean(dim=(1, 2, 3)).reshape(shape)


def _blur(x: Tensor) -> Tensor:
    offset = torch.arange(SSIM_WINDOW, device=x.device, dtype=torch.float32) - SSIM_WINDOW // 2
    tap = torch.exp(-offset.square() / (2 * SSIM_SIGMA**2))
    tap = tap / tap.sum()
    return F.conv2d(F.conv2d(x, tap.reshape(1, 1, 1, -1)), tap.reshape(1, 1, -1, 1))


def flicker(result: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference, in 8-bit levels, of the frame-to-frame changes: uint8 [..., T, H, W, 3] to [...].

    0 for a result that changes exactly as the truth does; T at least 2.
    """
    x, y = result.float(), truth.float()
    change = (x[..., 1:, :, :, :] - x[..., :-1, :, :, :]) - (y[..., 1:, :, :, :] - y[..., :-1, :, :, :])
    return change.abs().mean(dim=(-4, -3, -2, -1))
