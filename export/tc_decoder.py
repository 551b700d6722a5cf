"""TCDecoder: 2 latents and their 8 low-quality frames to 8 frames, as a step with explicit state.

Source: FlashVSR (paper 2510.12747), checkpoint TCDecoder.ckpt, a conditioned form of the tiny autoencoder for
video. The time steps of a call run as one batch: what a MemBlock remembers is its own input one step earlier.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_trt.configs.contract import LATENT_CHANNELS
from flashvsr_trt.export.layouts import TC_CONDITION, TC_STAGES, State, TcSizes
from flashvsr_trt.export.pixels import to_unit
from flashvsr_trt.export.trainable import Trainable, assigned

CELL = 8  # pixels of a latent cell's side


class MemBlock(nn.Module):
    """relu(conv(cat(x, past)) + x), past = x one time step earlier."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, C, h, w] and the last step's input [C, h, w]; also this call's last input."""
        past = torch.cat([memory.unsqueeze(0), x[:-1]])
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x), x[-1]


class TGrow(nn.Module):
    """1x1 convolution to g*C channels, whose g groups become consecutive frames."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, growth * channels, 1, bias=False)
        self.growth = growth

    def forward(self, x: Tensor) -> Tensor:
        frames, channels, height, width = x.shape
        return self.conv(x).reshape(frames * self.growth, channels, height, width)  # [T g, C, h, w]


def condition(lq: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 frames [4 T, H, W, 3] to [T, 768, H/8, W/8], channels in the order colour, frame, row, column."""
    frames, height, width, _ = lq.shape
    x = to_unit(lq).to(dtype)
    x = x.reshape(frames // 4, 4, height // CELL, CELL, width // CELL, CELL, 3)
    x = x.permute(0, 6, 1, 3, 5, 2, 4)  # [T, 3, 4, 8, 8, H/8, W/8]
    return x.reshape(frames // 4, TC_CONDITION, height // CELL, width // CELL)


def prepare(official: State, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of `TcDecoder` from the checkpoint's: the same names and layouts, in `dtype`."""
    return {name: official[name].to(dtype) for name in TcSizes.of(official).shapes()}


class TcDecoder(nn.Module):
    """One call, inputs and outputs in the order of `contract.tc_decoder`; memory is zeros at a stream's start.

    The first call of a stream (3 calls make step 0) gets frame 0 four times, then frames 1..4, and its first
    3 frames out are dropped.
    """

    def __init__(self, sizes: TcSizes) -> None:
        super().__init__()
        first, last = sizes.channels[0], sizes.channels[3]
        layers: dict[str, nn.Module] = {
            "1": nn.Conv2d(TC_CONDITION + LATENT_CHANNELS, first, 3, padding=1),
            "3": nn.Conv2d(first, first, 3, padding=1, bias=False),
            "24": nn.Conv2d(last, last, 3, padding=1, bias=False),
            "26": nn.Conv2d(last, 3, 3, padding=1),
        }
        for (index, growth), wide, narrow in zip(TC_STAGES, sizes.channels[:3], sizes.channels[1:], strict=True):
            layers |= {str(index + i): MemBlock(wide) for i in range(3)}
            layers[str(index + 4)] = TGrow(wide, growth)
            layers[str(index + 5)] = nn.Conv2d(wide, narrow, 3, padding=1, bias=False)
        self.decoder = nn.ModuleDict(layers)  # keyed by the checkpoint's indices
        self.sizes = sizes

    @staticmethod
    def of(official: State, *, dtype: torch.dtype = torch.float32) -> TcDecoder:
        """The exportable module with a checkpoint's weights."""
        with torch.device("meta"):
            module = TcDecoder(TcSizes.of(official))
        return assigned(module, prepare(official, dtype))

    def memory_spec(self) -> tuple[tuple[int, int], ...]:
        """(channels, pixels per cell) of each MemBlock's memory, as `contract.Sizes.tc_memory`."""
        return self.sizes.memory()

    def forward(self, latents: Tensor, lq: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        """`latents` [2, 16, H/8, W/8], `lq` uint8 [8, H, W, 3] to frames [8, 3, H, W] in [-1, 1] and memory."""
        x = torch.cat([condition(lq, latents.dtype), latents], dim=1)  # [2, 784, H/8, W/8]
        x = F.relu(self.decoder["1"](torch.tanh(x / 3) * 3))
        x = F.relu(self.decoder["3"](x))
        new: list[Tensor] = []
        for index, _ in TC_STAGES:
            for block in range(index, index + 3):
                x, last = self.decoder[str(block)](x, memory[len(new)])
                new.append(last)
            # A 1x1 convolution commutes with nearest upsampling: before it, it is a quarter of the work.
            x = F.interpolate(self.decoder[str(index + 4)](x), scale_factor=2, mode="nearest")
            x = self.decoder[str(index + 5)](x)
        x = F.relu(self.decoder["24"](F.relu(x)))
        return self.decoder["26"](x) * 2 - 1, *new


def trainable(official: State) -> Trainable:
    """`TcDecoder` with the checkpoint's tensors as fp32 parameters."""
    return Trainable(official, TcDecoder.of(official), prepare)
