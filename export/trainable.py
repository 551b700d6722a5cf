"""Training form of a network: parameters in the checkpoint's own layout, the step module's code on top.

The step modules (Dit, LqProj, ...) hold weights as they are exported: fused, folded, re-laid out. For training
the official tensors are the parameters, and the step module's tensors are computed from them at each call, so
gradients reach the official layout and `state_dict()` is a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.func import functional_call

M = TypeVar("M", bound=nn.Module)


class Trainable(nn.Module):
    """`step` run with `prepare(parameters)` in place of its own tensors.

    Args:
        official: tensors in the checkpoint's layout; copied to fp32.
        step: the step module; its own tensors are never used, only its code.
        prepare: official tensors to the step module's tensors, differentiable.
    """

    def __init__(
        self,
        official: Mapping[str, torch.Tensor],
        step: nn.Module,
        prepare: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    ) -> None:
        super().__init__()
        # A parameter's name must not contain a dot; a slash never occurs in an official name.
        self.official = nn.ParameterDict({k.replace(".", "/"): v.float().clone() for k, v in official.items()})
        self._prepare = prepare
        # Held in a tuple so that its tensors are neither parameters nor moved by .to().
        self._step = (step,)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parameters under their official names."""
        return {name.replace("/", "."): value for name, value in self.official.items()}

    def forward(self, *inputs: torch.Tensor) -> Any:
        return functional_call(self._step[0], self._prepare(self.tensors()), inputs)


def assigned(module: M, state: Mapping[str, torch.Tensor]) -> M:
    """`module`, built on the meta device, with `state` as its tensors (no copy), frozen, in eval mode."""
    module.load_state_dict(dict(state), strict=True, assign=True)
    return module.requires_grad_(False).eval()
