"""Norms, in fp32 whatever the type of the network: they return fp32, the caller casts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """x / max(||x||, 1e-12) * sqrt(C) * gamma over axis 1 of [T, C, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        channels = self.gamma.shape[0]
        x = x.float()
        norm = x.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()
        gain = self.gamma.float() * channels**0.5
        return x / norm * gain.reshape(channels, 1, 1)


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last axis."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * gain
