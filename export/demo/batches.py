"""Training batches, each made while the one before it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flashvsr_trt.configs.contract import LATENT_CHANNELS
from flashvsr_trt.configs.schedule import LOOK_AHEAD
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.config import Stage
from flashvsr_trt.export.tc_decoder import CELL


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything random of one iteration. L latents, T = 4 L + 1 frames."""

    noise: Tensor  # fp32 [B, L, 16, H/8, W/8]
    lq: Tensor  # uint8 [B, T, H, W, 3]
    truth: Tensor  # uint8 [B, T - 4, H, W, 3]: the frames that L latents give

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.noise, self.lq, self.truth


def make(maker: ClipMaker, number: int, stage: Stage, degraded: float) -> Batch:
    """Batch `number` of `maker`; `degraded` is the share of degraded clips."""
    latents = sum(stage.steps)
    clips = maker.make(number, stage.batch, 4 * latents + 1, degraded=degraded)
    shape = (stage.batch, latents, LATENT_CHANNELS, stage.side // CELL, stage.side // CELL)
    noise = torch.randn(shape, generator=maker.generator, device=maker.device)
    return Batch(noise=noise, lq=clips.lq, truth=clips.truth[:, :-LOOK_AHEAD])


class Ahead:
    """Numbered batches of `source`, each made ahead of its need; on CUDA on a stream of its own.

    Call `start` once the work on the batch taken last is under way, so that the device does both at a time.
    """

    def __init__(self, source: Callable[[int], Batch], device: torch.device) -> None:
        self._source = source
        self._made: dict[int, Batch] = {}
        # Its kernels are small: with precedence they slip in between those of the training.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._earlier: torch.cuda.Event | None = None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # for the images

    def start(self, number: int) -> None:
        if self._stream is None:
            self._made[number] = self._source(number)
            return
        with torch.cuda.stream(self._stream):
            self._made[number] = self._source(number)

    def take(self, number: int) -> Batch:
        if number not in self._made:
            self.start(number)
        batch = self._made.pop(number)
        if self._stream is not None:
            self._hand_over(batch, self._stream)
        return batch

    def _hand_over(self, batch: Batch, stream: torch.cuda.Stream) -> None:
        training = torch.cuda.current_stream()
        # The host stays at most one iteration ahead of the device, or batches would pile up in its memory.
        if self._earlier is not None:
            self._earlier.synchronize()
        self._earlier = training.record_event()
        training.wait_stream(stream)
        for tensor in batch.tensors():
            tensor.record_stream(training)  # its memory is not the maker's again before training has read it
