"""The training loss: a robust distance of colours and of luma, of edges, of changes in time and of means over cells of
pixels, and the PSNR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_trt.export.demo.config import LossWeights

EPS = 0.005  # below about half an 8-bit level the distance turns quadratic
TIME_EPS = 0.001  # of changes in time: a flicker of half a level is seen where nothing else moves
STILL = 0.02  # a change of the truth, about 2.5 levels, that hides most of a flicker
# Share of a frame's mean error that counts. The colour fix takes the mean off at run time; left in full, it is
# by far the stiffest direction of the problem and sets off oscillations at any useful rate.
MEAN_SHARE = 0.1
CELLS = (4, 16, 64)  # sides in pixels; the input holds all that is coarser than the first
CELL_EPS = 0.002  # of a cell's mean: a quarter of a level is seen where it changes
FLOOR = (1 / 255) ** 2  # of a squared error: half an 8-bit level's
LUMA = (0.299, 0.587, 0.114)


def loss(result: Tensor, truth: Tensor, bicubic: Tensor, weights: LossWeights) -> Tensor:
    """Scalar. `result`, `truth` and `bicubic` fp32 [B, T, 3, H, W] in [-1, 1].

    Each clip counts by its distance relative to bicubic's: what is reported is the mean gain in dB, in which a
    smooth clip weighs as much as one full of texture, though its error is a tenth.

    All terms look at the error alone, so an error that stays put between frames costs no temporal term.
    """
    error = _mostly_centred(result - truth)
    value = _distance(error, weights) + weights.temporal * _flicker(error, truth, weights.still)
    value = value + weights.coarse * _coarse(error)
    with torch.no_grad():
        plain = _mostly_centred(bicubic - truth)
        scale = _distance(plain, weights)
    return (value / scale).mean() + weights.psnr * (_log_square(error) - _log_square(plain)).mean()


def _mostly_centred(error: Tensor) -> Tensor:
    return error - (1 - MEAN_SHARE) * error.mean(dim=(-2, -1), keepdim=True)


def _grey(error: Tensor) -> Tensor:
    red, green, blue = (share * error[:, :, i] for i, share in enumerate(LUMA))
    return red + green + blue  # [B, T, H, W]


def _log_square(error: Tensor) -> Tensor:
    """Of luma, per frame [B, T]: the negative PSNR, but for a factor and a constant."""
    return (_grey(error).square().mean(dim=(-2, -1)) + FLOOR).log()


def _distance(error: Tensor, weights: LossWeights) -> Tensor:
    """Of colours, luma and edges, per clip [B]; never 0."""
    grey = _grey(error)
    edges = _robust(grey[..., 1:, :] - grey[..., :-1, :]) + _robust(grey[..., 1:] - grey[..., :-1])
    return _robust(error) + _robust(grey) + weights.gradient * edges


def _flicker(error: Tensor, truth: Tensor, still: float) -> Tensor:
    """Of the error's changes in time, per clip [B]; up to 1 + `still` times where the truth does not change."""
    change = (truth[:, 1:] - truth[:, :-1]).abs().amax(dim=2, keepdim=True)
    distance = ((error[:, 1:] - error[:, :-1]).square() + TIME_EPS**2).sqrt()
    return (distance * (1 + still * torch.exp(-change / STILL))).mean(dim=(1, 2, 3, 4))


def _coarse(error: Tensor) -> Tensor:
    """Of the error's means over cells, and of their changes in time, per clip [B]; 0 without an error.

    Among fine errors a small coarse one hardly moves the distance of pixels: it adds to some what it takes from others.
    But it flickers as soon as the picture moves, where bicubic has none at all.
    """
    total = error.new_zeros(len(error))
    for cell in CELLS:
        sides = [min(cell, side) for side in error.shape[-2:]]
        means = F.avg_pool2d(error.flatten(0, 1), sides).unflatten(0, error.shape[:2])  # [B, T, 3, H / cell, W / cell]
        for x, eps in ((means, CELL_EPS), (means[:, 1:] - means[:, :-1], TIME_EPS)):
            total = total + (x.square() + eps**2).sqrt().flatten(1).mean(dim=1) - eps
    return total / len(CELLS)


def _robust(x: Tensor) -> Tensor:
    return (x.square() + EPS**2).sqrt().flatten(1).mean(dim=1)
