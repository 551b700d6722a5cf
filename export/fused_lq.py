"""LQ projector of fused operations (plugins_trt.spec), channels last, for ONNX Runtime on CUDA.

The same function as a causal `lq_proj.LqProj`, whose weights it has. What a convolution reads is made in one pass over
the frames: pixels to features, four frames in the channels, repeated edge.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_trt.export import fused
from flashvsr_trt.export.layouts import LQ_UNSHUFFLE, LqSizes
from flashvsr_trt.export.lq_proj import LqProj, TimeConv, unshuffle
from flashvsr_trt.export.norms import ChannelNorm
from flashvsr_trt.plugins_trt import spec

_MOST_CHANNELS, _VECTOR = 3072, 8  # of NormSilu


def fits(sizes: LqSizes, *, causal: bool) -> bool:
    """Whether the kernels take a projector of these sizes."""
    return causal and all(c <= _MOST_CHANNELS and c % _VECTOR == 0 for c in sizes.hidden)


class FusedLqProj(LqProj):
    """One call, inputs and outputs as of a causal `LqProj`."""

    def forward(self, lq: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        if not caches:
            copies = torch.cat([lq, lq])
            hidden = self._hidden(copies, copies).permute(0, 3, 1, 2)  # [1, C, h, w]
            return copies, torch.cat([hidden, hidden])
        cache1, cache2 = caches
        hidden = self._hidden(lq, cache1)
        y = fold_frames(hidden, cache2.permute(0, 2, 3, 1))
        y = _normalised(self.conv2, _convolved(self.conv2.conv, y))
        tokens = fused.FUSED.linear(y, self.linear.weight, self.linear.bias)  # [2, h, w, D]
        return tokens, lq[-2:], hidden[-2:].permute(0, 3, 1, 2)

    def _hidden(self, lq: Tensor, past: Tensor) -> Tensor:
        """uint8 [T, H, W, 3] and the two frames before to [T / 2, h, w, C]."""
        x = fold_pixels(lq, past, self.linear.bias)
        return _normalised(self.conv1, _convolved(self.conv1.conv, x))


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """[T, h + 2, w + 2, C] to [T, h, w, N]."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _normalised(layer: TimeConv, x: Tensor) -> Tensor:
    return norm_silu(x, layer.norm.gamma)


# --- The ops in torch


@torch.library.custom_op(f"{spec.DOMAIN}::fold_frames", mutates_args=())
def fold_frames(x: Tensor, past: Tensor) -> Tensor:
    """[T, h, w, C] to [T / 2, h + 2, w + 2, 4 C]."""
    every = torch.cat([past, x])
    windows = torch.cat([every[tap : len(x) - 1 + tap : 2] for tap in range(4)], dim=3)
    padded = F.pad(windows.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    return padded.permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op(f"{spec.DOMAIN}::fold_pixels", mutates_args=())
def fold_pixels(frames: Tensor, past: Tensor, like: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] to [T / 2, h + 2, w + 2, 4 * 768]."""
    return fold_frames(*(unshuffle(pixels, like.dtype).permute(0, 2, 3, 1) for pixels in (frames, past)))


@torch.library.custom_op(f"{spec.DOMAIN}::norm_silu", mutates_args=())
def norm_silu(x: Tensor, gain: Tensor) -> Tensor:
    norm = ChannelNorm(len(gain))
    norm.gamma = nn.Parameter(gain, requires_grad=False)
    y = F.silu(norm(x.permute(0, 3, 1, 2)))
    return y.permute(0, 2, 3, 1).to(x.dtype).contiguous()


def _fold_shape(frames: Tensor, side: int) -> tuple[int, ...]:
    count, height, width, channels = frames.shape
    return count // 2, height // side + 2, width // side + 2, 4 * channels * side * side


@fold_frames.register_fake
def _(x: Tensor, past: Tensor) -> Tensor:
    return x.new_empty(_fold_shape(x, 1))


@fold_pixels.register_fake
def _(frames: Tensor, past: Tensor, like: Tensor) -> Tensor:
    return like.new_empty(_fold_shape(frames, LQ_UNSHUFFLE))


@norm_silu.register_fake
def _(x: Tensor, gain: Tensor) -> Tensor:
    return torch.empty_like(x)


NODES: dict[Any, spec.Op] = {
    fold_frames: spec.FOLD_FRAMES,
    fold_pixels: spec.FOLD_PIXELS,
    norm_silu: spec.NORM_SILU,
}
"""The torch ops and the nodes that they become."""
