"""Training batches, each made while the one before it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flashvsr_trt.configs.contract import LATENT_CHANNELS
from flashvsr_trt.configs.schedule import LOOK_AHEAD
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.config import Stage
from flashvsr_trt.export.tc_decoder import CELL

GROUP = 8  # batches that are used in turn, so that the same pictures do not follow each other
USES = 8  # at most: four turns, mirrored or not


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Everything random of one iteration. L latents, T = 4 L + 1 frames."""

    noise: Tensor  # fp32 [B, L, 16, H/8, W/8]
    lq: Tensor  # uint8 [B, T, H, W, 3]
    truth: Tensor  # uint8 [B, T - 4, H, W, 3]: the frames that L latents give

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.noise, self.lq, self.truth

    def to(self, device: torch.device) -> Batch:
        noise, lq, truth = (tensor.to(device, non_blocking=True) for tensor in self.tensors())
        return Batch(noise=noise, lq=lq, truth=truth)


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


class Workers:
    """Numbered batches of `source`, which makes them on the CPU: by several processes at a time, handed out in order.

    One process waits for Python far longer than a GPU for its batch. Where several do not keep up either, each batch
    serves `uses` times, turned and mirrored another way each time: GROUP different ones in turn, then those again.
    """

    def __init__(
        self, source: Callable[[int], Batch], first: int, device: torch.device, count: int, uses: int = 1
    ) -> None:
        self._device, self._uses, self._next = device, uses, first
        begin = first // (GROUP * uses) * GROUP if uses > 1 else first
        loader = DataLoader(
            _Made(source),
            batch_size=None,
            sampler=range(begin, 2**31),
            num_workers=count,
            prefetch_factor=2,
            multiprocessing_context="fork",  # the images are shared, and a closure needs no pickling
            pin_memory=device.type == "cuda",
        )
        self._loaded = enumerate(loader, begin)
        self._kept: dict[int, Batch] = {}

    def start(self, number: int) -> None:
        """The processes are ahead by themselves."""

    def take(self, number: int) -> Batch:
        if number != self._next:
            raise ValueError(f"batch {self._next} comes next, not {number}")
        self._next += 1
        group, place = divmod(number, GROUP * self._uses)
        use, slot = divmod(place, GROUP)
        wanted = GROUP * group + slot
        while wanted not in self._kept:  # once, but where a training goes on in the middle of a group
            made, (noise, lq, truth) = next(self._loaded)
            self._kept[made] = Batch(noise=noise, lq=lq, truth=truth).to(self._device)
        batch = turned(self._kept[wanted], use)
        if use == self._uses - 1:
            self._kept = {made: kept for made, kept in self._kept.items() if made > wanted}
        return batch


def turned(batch: Batch, use: int) -> Batch:
    """The batch mirrored and transposed: `use` 0 as it is, up to 7 another way each, which needs square clips."""
    noise, lq, truth = batch.tensors()
    noise = noise.movedim(2, -1)  # rows and columns are dimensions 2 and 3 of all
    flips = [axis for bit, axis in ((1, 3), (2, 2)) if use & bit]
    noise, lq, truth = (x.flip(flips) if flips else x for x in (noise, lq, truth))
    if use & 4:
        noise, lq, truth = (x.transpose(2, 3) for x in (noise, lq, truth))
    return Batch(noise=noise.movedim(-1, 2).contiguous(), lq=lq.contiguous(), truth=truth.contiguous())


class _Made(Dataset[tuple[Tensor, Tensor, Tensor]]):
    def __init__(self, source: Callable[[int], Batch]) -> None:
        self._source = source

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        return self._source(number).tensors()
