"""Camera motion over still images: smooth pans, zooms and rotations, sampled below the pixel."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STATIC = 0.2  # share of clips without any motion
SOFT = 0.35  # share of clips from a picture enlarged, whose finest detail is missing as in most videos
SOFTEST = 0.2  # source pixels per pixel: below a quarter, all the detail that there is comes with the input

MARGIN = 6  # twice the pixels from the edge on at which bicubic stays within it


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """One camera path per clip. Lengths in pixels of the output, times in frames, angles in radians.

    The output pixel p (from the centre of the frame) of frame t lies at
    centre + shift(t) + scale * zoom^t * R(turn * t) p in the source patch.
    """

    scale: Tensor  # [B] source pixels per output pixel
    velocity: Tensor  # [B, 2]
    zoom: Tensor  # [B] factor per frame
    turn: Tensor  # [B] per frame
    shake: Tensor  # [B, 2] amplitude
    rate: Tensor  # [B, 2] of the shake, radians per frame

    def still(self) -> Tensor:
        """bool [B]: no motion at all."""
        moves = torch.cat([self.velocity, self.shake, self.turn[:, None], self.zoom[:, None] - 1], dim=1)
        return (moves == 0).all(dim=1)

    def of(self, clips: Tensor) -> Cameras:
        """Those of some clips, by a mask or indices."""
        return Cameras(**{field.name: getattr(self, field.name)[clips] for field in dataclasses.fields(self)})


def random_cameras(batch: int, generator: torch.Generator, device: torch.device) -> Cameras:
    """Speeds from a tenth of a pixel to 12 pixels a frame, log-uniform; a share of clips stands still, and a share
    is soft."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    moving = (uniform(0, 1) > STATIC).float()
    speed = torch.exp(uniform(math.log(0.1), math.log(12.0))) * moving
    heading = uniform(0, 2 * math.pi)
    some = (uniform(0, 1, 3) < 0.5).float() * moving[:, None]  # zoom, turn and shake, each in half of the clips
    soft = uniform(0, 1) < SOFT
    scale = torch.where(soft, uniform(math.log(SOFTEST), math.log(0.85)), uniform(math.log(0.85), math.log(1.35)))
    return Cameras(
        scale=scale.exp(),
        velocity=torch.stack([heading.cos() * speed, heading.sin() * speed], dim=-1),
        zoom=1 + uniform(-0.01, 0.01) * some[:, 0],
        turn=uniform(-0.012, 0.012) * some[:, 1],
        shake=uniform(0, 3, 2) * some[:, 2:],
        rate=uniform(0.1, 0.8, 2),
    )


def render(patches: Tensor, cameras: Cameras, frames: int, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Source patches [B, C, P, Q] (float) seen by their cameras: [B, frames, C, height, width].

    Paths are centred in time, so that a clip stays near the middle of its patch; beyond the edge the patch is
    mirrored.
    """
    if patches.device.type == "cpu" and frames > 1 and bool((still := cameras.still()).any()):
        # One frame shows all of a clip without motion. A GPU would have to be waited for to know.
        seen = patches.new_empty(len(patches), frames, patches.shape[1], *size)
        for some, count in ((still, 1), (~still, frames)):
            if bool(some.any()):
                seen[some] = _render(patches[some], cameras.of(some), count, size, mode).expand(-1, frames, -1, -1, -1)
        return seen
    return _render(patches, cameras, frames, size, mode)


def _render(patches: Tensor, cameras: Cameras, frames: int, size: tuple[int, int], mode: str) -> Tensor:
    batch, channels, p, q = patches.shape
    height, width = size
    device = patches.device
    t = torch.arange(frames, device=device, dtype=torch.float32) - (frames - 1) / 2
    shift = cameras.velocity[:, None] * t[:, None]
    shift = shift + cameras.shake[:, None] * torch.sin(cameras.rate[:, None] * t[:, None])  # [B, T, 2]
    scale = cameras.scale[:, None] * cameras.zoom[:, None] ** t  # [B, T]
    angle = cameras.turn[:, None] * t
    cos, sin = (scale * angle.cos())[..., None, None], (scale * angle.sin())[..., None, None]
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=device, dtype=torch.float32)[None, :] - (width - 1) / 2
    offset = shift * cameras.scale[:, None, None]
    u = (cos * x - sin * y + offset[..., 0, None, None]) * (2 / q)  # [B, T, h, w], -1..1 over the patch
    v = (sin * x + cos * y + offset[..., 1, None, None]) * (2 / p)
    grid = torch.stack([u, v], dim=-1).reshape(batch, frames * height, width, 2)
    # The same, a quarter faster, where nothing beyond the edge is seen.
    inside = patches.device.type == "cpu" and grid.abs().amax().item() < 1 - MARGIN / min(p, q)
    padding = "border" if inside else "reflection"
    seen = F.grid_sample(patches, grid, mode=mode, padding_mode=padding, align_corners=False)
    return seen.reshape(batch, channels, frames, height, width).transpose(1, 2)  # [B, T, C, h, w]
