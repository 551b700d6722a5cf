"""Endless random training clips, made on the training device from still images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_trt.export.demo.degrade import clean, low_quality, low_resolution, random_degradation
from flashvsr_trt.export.demo.motion import random_cameras, render
from flashvsr_trt.export.demo.resample import round8, sent

LAYERED = 0.25  # share of clips in which a second image moves in front of the first
# Share of clips whose truth has a camera's noise. A clean input holds little of it, a level and less: that much has to
# stay as it is, for noise that is taken away flickers against the truth like noise that is drawn sharper.
GRAINY = 0.2
GRAIN = 4.0  # its largest standard deviation, in 8-bit levels, a frame's pixel at a time
CUT = 0.08  # share of clips that change to another image, before any frame but the first
WEIGHTS = {"procedural": 0.2, "robosuite": 0.25, "vpython": 0.35}  # the rest are photographs: 1


@dataclass(frozen=True, kw_only=True)
class Clips:
    """A batch. `truth` uint8 [B, T, H, W, 3], `lq` uint8 of the same shape: 4x reduced and enlarged again."""

    truth: Tensor
    lq: Tensor


class ClipMaker:
    """Random clips of `height` x `width` from `images` (name to uint8 [H, W, 3]).

    Batches are numbered, and each is drawn from the seed and its number alone, so a training goes on anywhere.
    """

    def __init__(
        self,
        images: Mapping[str, np.ndarray],
        size: tuple[int, int],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.size, self.seed, self.device = size, seed, device
        self.patch = 2 * max(size)
        self.levels = [_pyramid(torch.from_numpy(image.copy()).to(device), min(size)) for image in images.values()]
        # The square root of the area: larger pictures hold more, but not in proportion.
        weights = np.array(
            [WEIGHTS.get(name.split("/")[0], 1.0) * image.shape[0] ** 0.5 for name, image in images.items()]
        )
        self.weights = weights / weights.sum()

    def make(self, number: int, batch: int, frames: int, *, degraded: float) -> Clips:
        """Batch `number`; `degraded` is the share of clips with more than plain bicubic reduction."""
        self.host = np.random.default_rng((self.seed, number))
        seed = int(self.host.integers(2**62))
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.choices = torch.Generator().manual_seed(seed)
        patches = torch.stack([self._patch() for _ in range(batch)])
        truth = render(patches, random_cameras(batch, self.generator, self.device), frames, self.size)
        truth = round8(self._grain(self._in_front(truth, patches)))
        degradation = random_degradation(batch, degraded, self.choices) if degraded else clean(batch)
        lq = low_quality(low_resolution(truth, degradation, self.generator))
        return Clips(truth=_last(truth.to(torch.uint8)), lq=_last(lq))

    def _patch(self) -> Tensor:
        """A random square of a random image, mirrored past its edge, in a random pose and tint: fp32 [3, P, P]."""
        levels = self.levels[self.host.choice(len(self.levels), p=self.weights)]
        level = min(len(levels) - 1, int(self.host.choice(3, p=(0.5, 0.3, 0.2))))
        image = levels[level]  # [3, h, w]
        rows, columns = (self._mirrored(n) for n in image.shape[1:])
        patch = image[:, rows][:, :, columns].float()
        if self.host.random() < 0.5:
            patch = patch.flip(2)
        if self.host.random() < 0.25:
            patch = patch.rot90(int(self.host.integers(1, 4)), (1, 2))
        if self.host.random() < 0.1:
            patch = torch.stack([patch[channel] for channel in self.host.permutation(3).tolist()])
        gain = sent(torch.from_numpy(self.host.uniform(0.75, 1.15, (3, 1, 1))).float(), self.device)
        return (patch * gain).clamp(0, 255)

    def _mirrored(self, size: int) -> Tensor:
        """P consecutive indices from a random start, folded back into 0..size-1."""
        room = size - self.patch
        start = int(self.host.integers(0, room + 1)) if room > 0 else room // 2
        index = torch.arange(start, start + self.patch, device=self.device) % (2 * size)
        return torch.where(index < size, index, 2 * size - 1 - index)

    def _in_front(self, truth: Tensor, patches: Tensor) -> Tensor:
        """Some clips get another clip's image in front, cut out by a random blob and with its own motion."""
        batch, frames = truth.shape[:2]
        draw = self.host.random(batch)
        chosen = np.flatnonzero(draw < LAYERED + CUT)
        if not len(chosen):
            return truth
        index = sent(torch.from_numpy(chosen), self.device)
        field = torch.randn(len(chosen), 1, 12, 12, generator=self.generator, device=self.device)
        field = F.interpolate(field, size=(self.patch, self.patch), mode="bicubic")
        others = patches.roll(1, 0) if batch > 1 else self._patch()[None]
        image = torch.cat([others[index], field], dim=1)
        cameras = random_cameras(len(chosen), self.generator, self.device)
        seen = render(image, cameras, frames, self.size)
        # The field changes by about 1 in P/12 pixels: a factor of P/12 makes the outline about a pixel soft.
        alpha = ((seen[:, :, 3:] - 0.6) * (self.patch / 12)).sigmoid()
        cut = sent(torch.from_numpy(draw[chosen] >= LAYERED), self.device)[:, None, None, None, None]
        # Anywhere: a latent makes four frames, and what they share must not leak from one scene into the other.
        first = sent(torch.from_numpy(self.host.integers(1, frames, len(chosen))), self.device)
        later = torch.arange(frames, device=self.device) >= first[:, None]  # [B, T]
        alpha = torch.where(cut, later[:, :, None, None, None].float(), alpha)
        return truth.index_copy(0, index, torch.lerp(truth[index], seen[:, :, :3], alpha))

    def _grain(self, truth: Tensor) -> Tensor:
        """Some clips get noise, the same in all colours, and as coarse as one or two pixels."""
        chosen = np.flatnonzero(self.host.random(len(truth)) < GRAINY)
        if not len(chosen):
            return truth
        frames, _, height, width = truth.shape[1:]
        coarse = int(self.host.integers(1, 3))
        shape = (len(chosen), frames, height // coarse, width // coarse)
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        noise = F.interpolate(noise, size=(height, width), mode="bilinear") if coarse > 1 else noise
        level = sent(torch.from_numpy(GRAIN * self.host.random(len(chosen))).float(), self.device)
        index = sent(torch.from_numpy(chosen), self.device)
        return truth.index_add(0, index, (noise * level[:, None, None, None])[:, :, None].expand(-1, -1, 3, -1, -1))


def _pyramid(image: Tensor, smallest: int) -> list[Tensor]:
    """uint8 [H, W, 3] to [3, H, W] and its halves, while the shorter side stays above 1.5 x `smallest`."""
    levels = [image.permute(2, 0, 1).contiguous()]
    while min(levels[-1].shape[1:]) // 2 >= 1.5 * smallest and len(levels) < 3:
        half = F.interpolate(levels[-1][None].float(), scale_factor=0.5, mode="bicubic", antialias=True)[0]
        levels.append(round8(half).to(torch.uint8))
    return levels


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).contiguous()  # [B, T, H, W, 3]
