"""How the weights move: parameter groups by fan-in, centred and clipped gradients, a running average."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flashvsr_trt.export.demo.config import Training

BETAS = (0.9, 0.99)


def adamw(model: nn.Module, settings: Training) -> torch.optim.AdamW:
    """AdamW with parameter groups by fan-in; each group's `share` of the learning rate is among its keys.

    Adam moves every weight by about the rate, all in step at first, so an output moves by rate x fan-in: with
    one rate for all, the wide layers would throw the initial weights away in a few iterations. Biases, norms
    and modulations do not decay: gates and offsets have no reason to be small.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        matrix = _is_matrix(parameter)
        fan_in = parameter[0].numel() if matrix else 1
        key = (min(1.0, settings.full_rate_fan_in / fan_in), settings.weight_decay if matrix else 0.0)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "share": share, "weight_decay": decay, "lr": settings.rate * share}
            for (share, decay), params in groups.items()
        ],
        betas=BETAS,
        fused=next(model.parameters()).is_cuda,
    )


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]


def tame_gradients(parameters: Iterable[nn.Parameter], norm: float) -> None:
    """Centres the gradients of all filters and clips the whole to `norm`.

    Gradient centralization (Yong et al. 2020): behind ReLU all inputs are positive, so a common shift of a
    filter's weights moves its output most, which is what its bias is for; left in, that one direction sets off
    oscillations at any useful rate.
    """
    parameters = list(parameters)
    for parameter in parameters:
        if _is_matrix(parameter) and parameter.grad is not None:
            grad = parameter.grad
            grad -= grad.mean(dim=tuple(range(1, grad.ndim)), keepdim=True)
    nn.utils.clip_grad_norm_(parameters, norm)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average = keep * average + (1 - keep) * model."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and parameter.shape[0] > 1 and parameter[0].numel() > 1
