"""The DiT's chains of operations as functions that a network is built with: plain, or each one node of the op domain.

`PLAIN` traces to standard ONNX ops. `FUSED` traces to the ops of plugins_trt.spec.FUSED_OPS, for ONNX Runtime on CUDA;
the same numbers but for the rounding of intermediates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_trt.configs.contract import HEAD_DIM, TOKENS_PER_WINDOW
from flashvsr_trt.export.norms import rms_norm
from flashvsr_trt.plugins_trt import spec

EPS = 1e-6  # of every layer norm


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [..., K] to [..., N]."""
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return residual + F.linear(x, weight, bias)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotates the interleaved pairs of each head of fp32 x [n, rows, columns, 128, D]."""
    slabs, rows, columns, tokens, dim = x.shape
    x = x.reshape(slabs, rows, columns, tokens, dim // HEAD_DIM, HEAD_DIM // 2, 2)
    even, odd, cos, sin = x[..., 0], x[..., 1], table[..., 0], table[..., 1]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.reshape(slabs, rows, columns, tokens, dim)


def norm_rotate(qkv: Tensor, gain_q: Tensor, gain_k: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [n, rows, columns, 128, D] of qkv [n, rows, columns, 128, 3 D]; table of `dit.rope_table`."""
    q, k, v = qkv.split(gain_q.shape[0], dim=-1)
    q = rotate(rms_norm(q, gain_q), table).to(qkv.dtype)
    k = rotate(rms_norm(k, gain_k), table).to(qkv.dtype)
    return q, k, v


def prompt_attention(q: Tensor, gain: Tensor, k: Tensor, v: Tensor, *, heads: int) -> Tensor:
    """Attention of the RMS-normalised q [n, rows, columns, 128, D] to the prompt's k, v [heads, tokens, 128]."""
    slabs, rows, columns, tokens, dim = q.shape
    q = rms_norm(q, gain).to(q.dtype)
    q = q.reshape(1, slabs * rows * columns * tokens, heads, HEAD_DIM).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k.unsqueeze(0), v.unsqueeze(0))
    return y.transpose(1, 2).reshape(slabs, rows, columns, tokens, dim)


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis in fp32: fp32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=EPS)


@dataclass(frozen=True, kw_only=True)
class Ops:
    """What a DiT is built of.

    `by_head`: the prompt's keys and values are [heads, tokens, 128], else one row of all heads a token, [tokens, D].
    """

    linear: Callable[[Tensor, Tensor, Tensor], Tensor] = linear
    linear_gelu: Callable[[Tensor, Tensor, Tensor], Tensor] = linear_gelu
    linear_add: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = linear_add
    norm_rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = norm_rotate
    prompt_attention: Callable[..., Tensor] = prompt_attention
    layer_norm: Callable[[Tensor], Tensor] = layer_norm
    by_head: bool = True


def for_prompt(ops: Ops, tokens: int) -> Ops:
    """`ops` for a prompt of so many tokens: the fused attention takes whole windows of keys only."""
    if ops.by_head or tokens % TOKENS_PER_WINDOW == 0:
        return ops
    return replace(ops, prompt_attention=prompt_attention, by_head=True)


@torch.library.custom_op(f"{spec.DOMAIN}::linear", mutates_args=())
def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear(x, weight, bias)


@torch.library.custom_op(f"{spec.DOMAIN}::linear_gelu", mutates_args=())
def _linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear_gelu(x, weight, bias)


@torch.library.custom_op(f"{spec.DOMAIN}::linear_add", mutates_args=())
def _linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return linear_add(x, weight, bias, residual)


@torch.library.custom_op(f"{spec.DOMAIN}::norm_rotate", mutates_args=())
def _norm_rotate(qkv: Tensor, gain_q: Tensor, gain_k: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = norm_rotate(qkv, gain_q, gain_k, table)
    return q, k, v.clone()  # a view of an input is no result of a custom op


@torch.library.custom_op(f"{spec.DOMAIN}::layer_norm", mutates_args=())
def _layer_norm(x: Tensor) -> Tensor:
    """As `layer_norm`, in x's type."""
    return layer_norm(x).to(x.dtype)


@torch.library.custom_op(f"{spec.DOMAIN}::prompt_attention", mutates_args=())
def _prompt_attention(q: Tensor, gain: Tensor, k: Tensor, v: Tensor, *, heads: int) -> Tensor:
    k, v = (x.reshape(-1, heads, HEAD_DIM).transpose(0, 1) for x in (k, v))
    return prompt_attention(q, gain, k, v, heads=heads)


@_linear.register_fake
@_linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@_linear_add.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return torch.empty_like(residual)


@_norm_rotate.register_fake
def _(qkv: Tensor, gain_q: Tensor, gain_k: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*qkv.shape[:-1], gain_q.shape[0])
    return qkv.new_empty(shape), qkv.new_empty(shape), qkv.new_empty(shape)


@_layer_norm.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@_prompt_attention.register_fake
def _(q: Tensor, gain: Tensor, k: Tensor, v: Tensor, *, heads: int) -> Tensor:
    return torch.empty_like(q)


PLAIN = Ops()
FUSED = Ops(
    linear=_linear,
    linear_gelu=_linear_gelu,
    linear_add=_linear_add,
    norm_rotate=_norm_rotate,
    prompt_attention=_prompt_attention,
    layer_norm=_layer_norm,
    by_head=False,
)
NODES: dict[Any, spec.Op] = {
    _linear: spec.LINEAR,
    _linear_gelu: spec.LINEAR_GELU,
    _linear_add: spec.LINEAR_ADD,
    _norm_rotate: spec.NORM_ROTATE,
    _layer_norm: spec.LAYER_NORM,
    _prompt_attention: spec.PROMPT_ATTENTION,
}
"""The torch ops behind FUSED and the nodes that they become."""
