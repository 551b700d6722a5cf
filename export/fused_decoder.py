"""TCDecoder of the fused convolutions (plugins_trt.spec), channels last, for ONNX Runtime on CUDA.

The same function as `tc_decoder.TcDecoder` with fewer operations: TGrow and the convolution behind the upsampling are
one, for nothing but the upsampling lies between them, and that one runs on the small picture, a 2x2 convolution for
each of the four positions of an output pixel. 14.3 to 12.2 TFLOP a step at 768x1408.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_trt.configs.contract import LATENT_CHANNELS, LATENT_FRAMES
from flashvsr_trt.export.layouts import TC_CONDITION, TC_STAGES, State, TcSizes
from flashvsr_trt.export.pixels import to_unit
from flashvsr_trt.export.tc_decoder import CELL
from flashvsr_trt.export.trainable import assigned
from flashvsr_trt.plugins_trt import spec

_CHANNELS, _OUTPUTS = 64, 128  # whose multiples the kernel takes
_MOST_LAST = 256  # channels in front of the colours
# Taps of a 3x3 convolution, along one axis of the upsampled picture, that fall on the first and on the second of the
# two pixels that an output pixel sees; the even output pixel's are the pixel before and its own, the odd one's its own
# and the next.
_TAPS = (((0,), (1, 2)), ((0, 1), (2,)))


def phase_weights(weight: Tensor) -> Tensor:
    """weight [N, 3, 3, C] behind nearest 2x upsampling to [4, N, 2, 2, C] on the small picture; phases row-major."""
    phases = []
    for rows in _TAPS:
        for columns in _TAPS:
            taps = [weight[:, row][:, :, column].sum(dim=(1, 2)) for row in rows for column in columns]
            phases.append(torch.stack(taps, dim=1).unflatten(1, (2, 2)))  # [N, 2, 2, C]
    return torch.stack(phases)


def fits(sizes: TcSizes) -> bool:
    """Whether the kernel takes a decoder of these sizes."""
    wide, narrow = sizes.channels[:3], sizes.channels[1:]
    if sizes.channels[3] > _MOST_LAST:
        return False
    return not any(c % _CHANNELS for c in sizes.channels) and not any(c % _OUTPUTS for c in (*wide, *narrow))


def prepare(official: State, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of `FusedTcDecoder` from the checkpoint's."""
    out: dict[str, Tensor] = {}

    def convolution(name: str, source: str) -> None:
        weight = official[f"{source}.weight"].permute(0, 2, 3, 1)  # [N, 3, 3, C]
        missing = -weight.shape[3] % _CHANNELS
        bias = official.get(f"{source}.bias")
        out[f"{name}.weight"] = F.pad(weight, (0, missing)).to(dtype).contiguous()
        out[f"{name}.bias"] = (torch.zeros(len(weight)) if bias is None else bias).to(dtype)

    convolution("first", "decoder.1")
    convolution("second", "decoder.3")
    for stage, (index, growth) in enumerate(TC_STAGES):
        for block in range(3):
            for part, conv in enumerate((0, 2, 4)):
                convolution(f"blocks.{9 * stage + 3 * block + part}", f"decoder.{index + block}.conv.{conv}")
        grow, narrow = _pair(official, index)
        # Rows of the 1x1 convolution are (frame, channel): one 3x3 convolution for each frame.
        joined = torch.einsum("nmyx,gmc->gnyxc", narrow, grow.unflatten(0, (growth, -1)))
        out[f"up.{stage}"] = phase_weights(joined.flatten(0, 1)).to(dtype)
    convolution("third", "decoder.24")
    # x * 2 - 1 behind it is part of it.
    last = 2 * official["decoder.26.weight"].float().permute(0, 2, 3, 1)  # [3, 3, 3, C]
    out["last.weight"] = last.to(dtype).contiguous()
    out["last.bias"] = (2 * official["decoder.26.bias"].float() - 1).to(dtype)
    return out


def _pair(official: State, index: int) -> tuple[Tensor, Tensor]:
    """TGrow [growth * C, C] and the convolution behind it [N, C, 3, 3] of a stage, in double."""
    grow, narrow = official[f"decoder.{index + 4}.conv.weight"], official[f"decoder.{index + 5}.weight"]
    return grow.double().flatten(1), narrow.double()


class Convolution(nn.Module):
    """Weight [N, 3, 3, C] and bias of one of the ops."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, 3, 3, channels))
        self.bias = nn.Parameter(torch.empty(outputs))


class FusedTcDecoder(nn.Module):
    """One call, inputs and outputs as of `tc_decoder.TcDecoder`."""

    def __init__(self, sizes: TcSizes) -> None:
        super().__init__()
        channels = sizes.channels
        features = -(-(TC_CONDITION + LATENT_CHANNELS) // _CHANNELS) * _CHANNELS
        self.first = Convolution(features, channels[0])
        self.second = Convolution(channels[0], channels[0])
        self.blocks = nn.ModuleList(
            Convolution(wide * (2 if part == 0 else 1), wide)
            for wide in channels[:3]
            for _ in range(3)
            for part in range(3)
        )
        self.up = nn.ParameterList(
            torch.empty(4, growth * narrow, 2, 2, wide)
            for (_, growth), wide, narrow in zip(TC_STAGES, channels[:3], channels[1:], strict=True)
        )
        self.third = Convolution(channels[3], channels[3])
        self.last = Convolution(channels[3], 3)

    @staticmethod
    def of(official: State, *, dtype: torch.dtype = torch.float32) -> FusedTcDecoder:
        """The exportable module with a checkpoint's weights."""
        with torch.device("meta"):
            module = FusedTcDecoder(TcSizes.of(official))
        return assigned(module, prepare(official, dtype))

    def forward(self, latents: Tensor, lq: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        """`latents` [2, 16, H/8, W/8], `lq` uint8 [8, H, W, 3] to frames [8, 3, H, W] in [-1, 1] and memory."""
        features = self.first.weight.shape[3]
        latents = latents.permute(0, 2, 3, 1)  # [2, H/8, W/8, 16]
        latents = F.pad(latents, (0, features - TC_CONDITION - LATENT_CHANNELS))
        x = torch.cat([condition(lq, latents.dtype), latents], dim=3)
        x = convolve(torch.tanh(x / 3) * 3, self.first.weight, self.first.bias)
        x = convolve(x, self.second.weight, self.second.bias)
        new: list[Tensor] = []
        for stage, (_, growth) in enumerate(TC_STAGES):
            for block in range(3 * stage, 3 * stage + 3):
                one, two, three = (self.blocks[3 * block + part] for part in range(3))
                new.append(last_planes(x))
                y = convolve_past(x, one.weight, one.bias, memory[block].permute(1, 2, 0))
                y = convolve(y, two.weight, two.bias)
                x = convolve_add(y, three.weight, three.bias, x)
            if stage < len(TC_STAGES) - 1:
                x = convolve_up(x, self.up[stage], growth=growth)
        # At full size one frame of a step at a time: all together would be most of the memory of a whole run.
        return torch.cat([self._finished(frame) for frame in x.split(1)]), *new

    def _finished(self, x: Tensor) -> Tensor:
        """The last stage's x [1, H/2, W/2, C] to its frames [growth, 3, H, W]."""
        x = convolve_up_relu(x, self.up[-1], growth=TC_STAGES[-1][1])
        x = convolve(x, self.third.weight, self.third.bias)
        return convolve_colours(x, self.last.weight, self.last.bias)


def condition(lq: Tensor, dtype: torch.dtype) -> Tensor:
    """As `tc_decoder.condition`, channels last: uint8 [4 T, H, W, 3] to [T, H/8, W/8, 768]."""
    frames, height, width, _ = lq.shape
    x = to_unit(lq).to(dtype)
    x = x.reshape(frames // LATENT_FRAMES, LATENT_FRAMES, height // CELL, CELL, width // CELL, CELL, 3)
    x = x.permute(0, 2, 4, 6, 1, 3, 5)  # [T, H/8, W/8, 3, 4, 8, 8]
    return x.reshape(frames // LATENT_FRAMES, height // CELL, width // CELL, TC_CONDITION)


# --- The ops in torch


def _convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[T, h, w, C] to [T, h, w, N]."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, padding=1).permute(0, 2, 3, 1)


@torch.library.custom_op(f"{spec.DOMAIN}::convolve", mutates_args=())
def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(_convolved(x, weight, bias)).contiguous()


@torch.library.custom_op(f"{spec.DOMAIN}::convolve_add", mutates_args=())
def convolve_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return F.relu(_convolved(x, weight, bias) + residual).contiguous()


@torch.library.custom_op(f"{spec.DOMAIN}::convolve_past", mutates_args=())
def convolve_past(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    before = torch.cat([past.unsqueeze(0), x[:-1]])
    return F.relu(_convolved(torch.cat([x, before], dim=3), weight, bias)).contiguous()


@torch.library.custom_op(f"{spec.DOMAIN}::convolve_colours", mutates_args=())
def convolve_colours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[T, h, w, C] to [T, 3, h, w]."""
    return _convolved(x, weight, bias).permute(0, 3, 1, 2).contiguous()


def _convolved_up(x: Tensor, weight: Tensor, growth: int) -> Tensor:
    frames, height, width, _ = x.shape
    parts = []
    for position, kernel in enumerate(weight.permute(0, 1, 4, 2, 3)):
        row, column = divmod(position, 2)
        padded = F.pad(x.permute(0, 3, 1, 2), (1 - column, column, 1 - row, row))
        parts.append(F.conv2d(padded, kernel))
    out = torch.stack(parts, dim=-1).unflatten(-1, (2, 2))  # [T, growth N, h, w, 2, 2]
    out = out.unflatten(1, (growth, -1)).permute(0, 1, 3, 5, 4, 6, 2)
    return out.reshape(frames * growth, 2 * height, 2 * width, -1)  # [T growth, 2 h, 2 w, N]


@torch.library.custom_op(f"{spec.DOMAIN}::convolve_up", mutates_args=())
def convolve_up(x: Tensor, weight: Tensor, *, growth: int) -> Tensor:
    return _convolved_up(x, weight, growth)


@torch.library.custom_op(f"{spec.DOMAIN}::convolve_up_relu", mutates_args=())
def convolve_up_relu(x: Tensor, weight: Tensor, *, growth: int) -> Tensor:
    return F.relu(_convolved_up(x, weight, growth))


@convolve.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:3], weight.shape[0]))


@convolve_add.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return residual.new_empty(residual.shape)


@convolve_past.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:3], weight.shape[0]))


@torch.library.custom_op(f"{spec.DOMAIN}::last_planes", mutates_args=())
def last_planes(x: Tensor) -> Tensor:
    """[T, h, w, C] to [C, h, w]."""
    return x[-1].permute(2, 0, 1).contiguous()


@last_planes.register_fake
def _(x: Tensor) -> Tensor:
    _, height, width, channels = x.shape
    return x.new_empty((channels, height, width))


@convolve_colours.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    frames, height, width, _ = x.shape
    return x.new_empty((frames, weight.shape[0], height, width))


@convolve_up.register_fake
@convolve_up_relu.register_fake
def _(x: Tensor, weight: Tensor, *, growth: int) -> Tensor:
    frames, height, width, _ = x.shape
    return x.new_empty((frames * growth, 2 * height, 2 * width, weight.shape[1] // growth))


NODES: dict[Any, spec.Op] = {
    convolve: spec.CONVOLVE,
    convolve_add: spec.CONVOLVE_ADD,
    convolve_past: spec.CONVOLVE_PAST,
    convolve_up: spec.CONVOLVE_UP,
    convolve_up_relu: spec.CONVOLVE_UP_RELU,
    convolve_colours: spec.CONVOLVE_COLOURS,
    last_planes: spec.LAST_PLANES,
}
"""The torch ops and the nodes that they become."""
