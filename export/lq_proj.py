"""LQ projector: 8 low-quality frames to the tokens of 2 latent frames, as a step with explicit state.

Source: FlashVSR (paper 2510.12747), checkpoint LQ_proj_in.ckpt. Two projectors share one set of tensor names
and shapes: v1.1 (`causal`) carries the last two input frames of each convolution, v1 (`buffer`) takes its
temporal context from the last two frames of the same group of four.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_trt.export.layouts import LQ_FEATURES, LQ_UNSHUFFLE, LqSizes, State
from flashvsr_trt.export.norms import ChannelNorm
from flashvsr_trt.export.pixels import to_unit
from flashvsr_trt.export.trainable import Trainable, assigned


class TimeConv(nn.Module):
    """Conv3d of kernel (4,3,3) and time stride 2 as a Conv2d over 4 frames folded into channels, then norm
    and SiLU. Space is padded by edge replication. Input [T, 4 C, h, w], one image per output frame."""

    def __init__(self, folded_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(folded_channels, channels, 3)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate"))
        return F.silu(self.norm(y)).to(x.dtype)


def unshuffle(lq: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 frames [T, H, W, 3] to features [T, 768, h, w] of values in [-1, 1]."""
    frames, height, width, _ = lq.shape
    side = LQ_UNSHUFFLE
    x = to_unit(lq).to(dtype)
    x = x.reshape(frames, height // side, side, width // side, side, 3)
    x = x.permute(0, 5, 2, 4, 1, 3)  # [T, 3, 16, 16, h, w]
    return x.reshape(frames, LQ_FEATURES, height // side, width // side)


def pairs(x: Tensor) -> Tensor:
    """Two consecutive frames side by side in the channels: [T, C, h, w] to [T/2, 2 C, h, w]."""
    frames, channels, height, width = x.shape
    return x.reshape(frames // 2, 2 * channels, height, width)


def prepare(official: State, *, causal: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of `LqProj` from the checkpoint's; differentiable."""
    second = official["conv2.weight"]
    if not causal:
        # The two frames that enter conv2 are also their own context: taps 0, 1 and 2, 3 see the same frames.
        second = second[:, :, :2].float() + second[:, :, 2:].float()
    return {
        "conv1.conv.weight": _fold_time(official["conv1.weight"]).to(dtype),
        "conv1.conv.bias": official["conv1.bias"].to(dtype),
        "conv1.norm.gamma": official["norm1.gamma"].reshape(-1).float(),
        "conv2.conv.weight": _fold_time(second).to(dtype),
        "conv2.conv.bias": official["conv2.bias"].to(dtype),
        "conv2.norm.gamma": official["norm2.gamma"].reshape(-1).float(),
        "linear.weight": official["linear_layers.0.weight"].to(dtype),
        "linear.bias": official["linear_layers.0.bias"].to(dtype),
    }


def _fold_time(weight: Tensor) -> Tensor:
    rows, channels, taps, *kernel = weight.shape
    return weight.transpose(1, 2).reshape(rows, taps * channels, *kernel)  # [O, taps C, 3, 3]


class LqProj(nn.Module):
    """One call: 8 LQ frames to `lq_tokens` [2, h, w, D], see `contract.lq_proj` and `contract.lq_proj_first`."""

    def __init__(self, sizes: LqSizes, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.conv1 = TimeConv(4 * LQ_FEATURES, sizes.hidden[0])
        self.conv2 = TimeConv((4 if causal else 2) * sizes.hidden[0], sizes.hidden[1])
        self.linear = nn.Linear(sizes.hidden[1], sizes.dim)

    @classmethod
    def of(cls, official: State, *, causal: bool, dtype: torch.dtype = torch.float32) -> Self:
        """The exportable module with a checkpoint's weights."""
        with torch.device("meta"):
            module = cls(LqSizes.of(official), causal=causal)
        return assigned(module, prepare(official, causal=causal, dtype=dtype))

    def _first(self, lq: Tensor) -> tuple[Tensor, ...]:
        pair = pairs(torch.cat([unshuffle(lq, self.linear.weight.dtype)] * 2))  # [1, 2*768, h, w]
        hidden = self.conv1(torch.cat([pair, pair], dim=1))  # [1, C, h, w]
        return torch.cat([lq, lq]), torch.cat([hidden, hidden])

    def forward(self, lq: Tensor, *caches: Tensor) -> Tensor | tuple[Tensor, ...]:
        """`lq` uint8 [8, H, W, 3]; causal: also lq_cache1, lq_cache2, and both anew behind the tokens.

        Causal without caches is the first call of a stream: `lq` is frame 0 [1, H, W, 3], of which conv1 sees
        six copies (four and two of replicated context), and the result is both caches, no tokens.
        """
        if not self.causal:
            return self._buffer(lq)
        if not caches:
            return self._first(lq)
        cache1, cache2 = caches
        x = pairs(unshuffle(torch.cat([cache1, lq]), self.linear.weight.dtype))  # [5, 2*768, h, w]
        hidden = self.conv1(torch.cat([x[:-1], x[1:]], dim=1))  # [4, C, h, w]
        y = pairs(torch.cat([cache2, hidden]))  # [3, 2 C, h, w]
        return self._tokens(torch.cat([y[:-1], y[1:]], dim=1)), lq[-2:], hidden[-2:]

    def _buffer(self, lq: Tensor) -> Tensor:
        x = pairs(unshuffle(lq, self.linear.weight.dtype))  # [4, 2*768, h, w]
        swapped = torch.cat([x[1:2], x[0:1], x[3:4], x[2:3]])  # a group's own last pair in front of its first
        return self._tokens(pairs(self.conv1(torch.cat([swapped, x], dim=1))))

    def _tokens(self, x: Tensor) -> Tensor:
        return self.linear(self.conv2(x).permute(0, 2, 3, 1))  # [2, h, w, D]


def trainable(official: State, *, causal: bool) -> Trainable:
    """`LqProj` with the checkpoint's tensors as fp32 parameters."""
    step = LqProj.of(official, causal=causal)
    return Trainable(official, step, lambda state: prepare(state, causal=causal, dtype=torch.float32))
