"""From clean high-resolution clips to low-resolution ones: blur, reduction, noise, compression.

The compression is H.264's by libx264, on the CPU; or a DCT codec of 8x8 blocks with 4:2:0 chroma, on the device, in
which either every frame is a JPEG of its own; or, like
P frames without motion, the difference to the frame decoded before is coded with one step for all frequencies and
a dead zone, which leaves errors where they are as long as nothing moves. At a step of 17 its errors have about the
size, the spectrum and the persistence of x264's at CRF 24.
"""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_trt.export.demo.h264 import h264
from flashvsr_trt.export.demo.resample import resize, round8, sent

SCALE = 4
VIDEO = 0.75  # share of the compressed clips that libx264 codes
BLOCK = 8
# ITU-T T.81, annex K.
LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
CHROMA = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
    "99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"
)
FLAT = 24.0  # the step of differences at quality 50
# Where quantising rounds up: at a half as JPEG does, later for differences, as encoders of H.264 do.
ROUND, ROUND_FIRST, ROUND_DIFFERENCE = 1 / 2, 1 / 3, 1 / 6
# ITU-R BT.601, full range, as JPEG uses it.
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What happens to each clip of a batch; [B] each, on the CPU, where deciding by them costs no waiting.

    Blur in pixels of the input, noise in 8-bit levels.
    """

    blur: Tensor  # [B, 2] standard deviation across and down, 0 for none
    noise: Tensor  # standard deviation, 0 for none
    grey: Tensor  # bool: the same noise in all channels
    quality: Tensor  # JPEG's scale, 1..100, 0 for no compression
    inter: bool  # frames coded as differences
    crf: Tensor  # libx264's, integers; 0 for none
    kind: str  # reduction filter


def clean(batch: int) -> Degradation:
    """Plain bicubic reduction."""
    none = torch.zeros(batch)
    return Degradation(
        blur=none[:, None].expand(-1, 2),
        noise=none,
        grey=none > 0,
        quality=none,
        inter=False,
        crf=none.int(),
        kind="bicubic",
    )


def random_degradation(batch: int, share: float, generator: torch.Generator) -> Degradation:
    """`share` of the clips degraded, each by a random subset of blur, noise and compression; the rest clean.

    `generator` is the CPU's.
    """

    def rand(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    degraded = rand() < share
    some = (rand(3) < 0.85) & degraded[:, None]
    same = rand(1) < 0.75  # isotropic blur
    blur = 0.3 + 2.2 * rand(2) ** 1.5
    blur = torch.where(same, blur[:, :1].expand(-1, 2), blur)
    inter, other = torch.rand(2, generator=generator).tolist()
    video = (rand() < VIDEO) & some[:, 2]  # coded by libx264
    return Degradation(
        blur=blur * some[:, :1],
        noise=(0.3 + 8.7 * rand() ** 1.5) * some[:, 1],
        grey=rand() < 0.4,
        quality=(45 + 50 * rand()) * (some[:, 2] & ~video),
        inter=inter < 0.5,
        crf=torch.randint(7, 16, (2, batch), generator=generator).sum(dim=0) * video,  # mostly near 22
        # One filter a batch: a matrix product for all clips. Other filters only now and then.
        kind="bicubic" if other < 0.85 else "box" if other < 0.93 else "triangle",
    )


def low_resolution(frames: Tensor, degradation: Degradation, generator: torch.Generator) -> Tensor:
    """Frames [B, T, 3, H, W] of 0..255 to fp32 integers [B, T, 3, H/4, W/4] of 0..255."""
    height, width = frames.shape[-2:]
    blurs = None
    if bool((degradation.blur > 0).any()):
        sigma = sent(degradation.blur, frames.device)
        blurs = _gaussian(width, sigma[:, 0])[:, None, None], _gaussian(height, sigma[:, 1])[:, None, None]
    x = resize(frames, height // SCALE, width // SCALE, degradation.kind, first=blurs)
    if bool((degradation.noise > 0).any()):
        x = round8(x + _noise(x, degradation, generator))
    if bool((degradation.quality > 0).any()):
        coded = _compress(x, degradation)
        x = torch.where(sent(degradation.quality > 0, x.device)[:, None, None, None, None], coded, x)
    if bool((degradation.crf > 0).any()):
        _through_h264(x, degradation.crf)
    return x


def _through_h264(x: Tensor, crf: Tensor) -> None:
    """Replaces the clips of fp32 [B, T, 3, h, w] whose `crf` is above 0, several at a time: torch's threads, of which a
    process that is one of many has one."""
    coded = crf.nonzero()[:, 0]
    index = sent(coded, x.device)
    sources = x[index].to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    with ThreadPoolExecutor(min(len(coded), torch.get_num_threads())) as threads:
        results = list(threads.map(h264, sources, crf[coded].tolist()))
    decoded = torch.from_numpy(np.stack(results))
    x[index] = sent(decoded, x.device).permute(0, 1, 4, 2, 3).float()


def low_quality(low: Tensor) -> Tensor:
    """Low-resolution [..., h, w] of 0..255 to the canvas, uint8 [..., 4 h, 4 w], by bicubic."""
    return resize(low, low.shape[-2] * SCALE, low.shape[-1] * SCALE).to(torch.uint8)


def _gaussian(size: int, sigma: Tensor) -> Tensor:
    """[B, size, size]: blur along an axis, renormalised at its ends; the identity where sigma is 0."""
    index = torch.arange(size, device=sigma.device, dtype=torch.float32)
    distance = (index[:, None] - index[None, :]).square()
    weights = torch.exp(-distance / (2 * sigma.clamp_min(0.05)[:, None, None] ** 2))
    return weights / weights.sum(dim=-1, keepdim=True)


def _noise(x: Tensor, degradation: Degradation, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    grey, level = (sent(v, x.device)[:, None, None, None, None] for v in (degradation.grey, degradation.noise))
    return torch.where(grey, noise[:, :, :1], noise) * level


def _compress(x: Tensor, degradation: Degradation) -> Tensor:
    """The clips [B, T, 3, h, w] through the codec."""
    to_ycc, to_rgb = _colours(x.device)
    quality = sent(degradation.quality, x.device)
    ycc = torch.einsum("kc,btchw->btkhw", to_ycc, x)
    luma, chroma = ycc[:, :, :1] - 128, ycc[:, :, 1:]
    batch, frames, _, height, width = chroma.shape
    half = F.avg_pool2d(chroma.flatten(0, 1), 2).reshape(batch, frames, 2, height // 2, width // 2)
    code = _code_differences if degradation.inter else _code_frames
    luma = code(luma, _table(LUMA, quality, flat=degradation.inter)) + 128
    half = code(half, _table(CHROMA, quality, flat=degradation.inter))
    full = F.interpolate(half.flatten(0, 1), scale_factor=2, mode="bilinear")
    ycc = torch.cat([luma, full.reshape(chroma.shape)], dim=2)
    return round8(torch.einsum("ck,btkhw->btchw", to_rgb, ycc))


def _table(text: str, quality: Tensor, *, flat: bool) -> Tensor:
    """Quantisation steps [B, 1, 8, 1, 8] at each clip's quality."""
    table = _annex_k(text, quality.device)
    if flat:
        table = torch.full_like(table, FLAT)
    quality = quality.clamp_min(1).reshape(-1, 1, 1, 1, 1)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    return (table.reshape(1, 1, BLOCK, 1, BLOCK) * scale).clamp_min(1)


def _code_frames(x: Tensor, table: Tensor) -> Tensor:
    steps = table[:, None].expand(-1, x.shape[1], -1, -1, -1, -1).flatten(0, 1)
    return _quantise(x.flatten(0, 1), steps, ROUND).reshape(x.shape)


def _code_differences(x: Tensor, table: Tensor) -> Tensor:
    decoded = [_quantise(x[:, 0], table, ROUND_FIRST)]
    for t in range(1, x.shape[1]):
        decoded.append(decoded[-1] + _quantise(x[:, t] - decoded[-1], table, ROUND_DIFFERENCE))
    return torch.stack(decoded, dim=1)


def _quantise(x: Tensor, table: Tensor, offset: float) -> Tensor:
    """[N, C, h, w] to the DCT of its 8x8 blocks, in multiples of the table, and back.

    The edge is repeated up to whole blocks.
    """
    channels, height, width = x.shape[1:]
    padded = F.pad(x, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    blocks = padded.reshape(
        -1, channels, padded.shape[-2] // BLOCK, BLOCK, padded.shape[-1] // BLOCK, BLOCK
    )  # [N, C, rows, 8, columns, 8]
    basis = _dct(x.device)
    steps = table[:, :, None]
    coefficients = torch.einsum("ui,ncriej,vj->ncruev", basis, blocks, basis) / steps
    coefficients = coefficients.sign() * (coefficients.abs() + offset).floor() * steps
    blocks = torch.einsum("ui,ncruev,vj->ncriej", basis, coefficients, basis)
    return blocks.reshape(padded.shape)[:, :, :height, :width]


@functools.cache
def _annex_k(text: str, device: torch.device) -> Tensor:
    return torch.tensor([float(v) for v in text.split()], device=device)


@functools.cache
def _colours(device: torch.device) -> tuple[Tensor, Tensor]:
    """To YCbCr and back."""
    to_ycc = torch.tensor(YCC)
    return to_ycc.to(device), torch.linalg.inv(to_ycc).to(device)


@functools.cache
def _dct(device: torch.device) -> Tensor:
    """Orthonormal DCT-II matrix [8 frequencies, 8 samples]."""
    k = torch.arange(BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
