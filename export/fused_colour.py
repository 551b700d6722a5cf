"""AdaIN and conversion to integers as one node (plugins_trt.spec.ADAPT_COLOURS), for ONNX Runtime on CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flashvsr_trt.export.colour import PIXEL_TYPES, Post
from flashvsr_trt.plugins_trt import spec


class FusedAdain(nn.Module):
    """One call, inputs and outputs as of `colour.Post`."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, frames: Tensor, lq: Tensor, size: Tensor) -> Tensor:
        return (adapt_colours if self.bits == 8 else adapt_colours_16)(frames, lq, size)


@torch.library.custom_op(f"{spec.DOMAIN}::adapt_colours", mutates_args=())
def adapt_colours(frames: Tensor, lq: Tensor, size: Tensor) -> Tensor:
    return Post("adain", 8)(frames, lq, size).contiguous()


@torch.library.custom_op(f"{spec.DOMAIN}::adapt_colours_16", mutates_args=())
def adapt_colours_16(frames: Tensor, lq: Tensor, size: Tensor) -> Tensor:
    return Post("adain", 16)(frames, lq, size).contiguous()


def _unknown_size(frames: Tensor, bits: int) -> Tensor:
    context = torch.library.get_ctx()
    height, width = context.new_dynamic_size(), context.new_dynamic_size()
    return frames.new_empty((frames.shape[0], height, width, 3), dtype=PIXEL_TYPES[bits])


@adapt_colours.register_fake
def _(frames: Tensor, lq: Tensor, size: Tensor) -> Tensor:
    return _unknown_size(frames, 8)


@adapt_colours_16.register_fake
def _(frames: Tensor, lq: Tensor, size: Tensor) -> Tensor:
    return _unknown_size(frames, 16)


NODES: dict[Any, spec.Op] = {adapt_colours: spec.ADAPT_COLOURS, adapt_colours_16: spec.ADAPT_COLOURS_16}
"""The torch ops and the nodes that they become."""
