"""The training loss: a robust distance of colours and of luma, of edges, and of changes in time."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 0.005  # below about half an 8-bit level the distance turns quadratic
# Share of a frame's mean error that counts. The colour fix takes the mean off at run time; left in full, it is
# by far the stiffest direction of the problem and sets off oscillations at any useful rate.
MEAN_SHARE = 0.1


def loss(result: Tensor, truth: Tensor, *, gradient_weight: float, temporal_weight: float) -> Tensor:
    """Scalar. `result` and `truth` fp32 [B, T, 3, H, W] in [-1, 1].

    All terms look at the error alone, so an error that stays put between frames costs no temporal term.
    """
    error = result - truth
    error = error - (1 - MEAN_SHARE) * error.mean(dim=(-2, -1), keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=error.device)[:, None, None]
    grey = (error * weights).sum(dim=2)  # [B, T, H, W]
    total = _robust(error) + _robust(grey)
    edges = _robust(grey[..., 1:, :] - grey[..., :-1, :]) + _robust(grey[..., 1:] - grey[..., :-1])
    total = total + gradient_weight * edges
    return total + temporal_weight * _robust(error[:, 1:] - error[:, :-1])


def _robust(x: Tensor) -> Tensor:
    return (x.square() + EPS**2).sqrt().mean()
