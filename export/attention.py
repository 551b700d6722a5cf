"""Block-sparse attention over windows of 128 tokens: selection, dense reference, and the torch custom op.

Source: FlashVSR (paper 2510.12747), locality-constrained sparse attention. The custom op is what export turns
into the node `flashvsr::BlockSparseAttention`; `attend` is the same function, differentiable.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_trt.configs.contract import HEAD_DIM, TOKENS_PER_WINDOW


class Attend(Protocol):
    """What `Dit` calls once per layer; the arguments of `attend`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        slabs: Tensor,
        topk: Tensor,
        *,
        local_range: int,
        heads: int,
    ) -> Tensor: ...


def block_mask(q: Tensor, keys: Tensor, topk: Tensor, *, local_range: int, heads: int) -> Tensor:
    """Which key windows each query window attends to.

    Window means of q and k give scores, a softmax over all key windows in local range gives P, and per head
    and query slab the entries of P above the (min(topk, n-1)+1)-th largest of n are kept.

    Args:
        q: [slabs, rows, columns, 128, D], after RMSNorm and RoPE.
        keys: [key slabs, rows, columns, 128, D], likewise.
        topk: int64 scalar, `schedule.topk`.
        local_range: R; key rows r-R//2 .. r-R//2+R-1 of query row r, same for columns.
        heads: D / 128.

    Returns: bool [heads, slabs, windows, key slabs * windows].
    """
    slabs, rows, columns = q.shape[:3]
    windows, key_windows = rows * columns, keys.shape[0] * rows * columns
    q_mean = q.float().mean(dim=3).reshape(slabs, windows, heads, HEAD_DIM)
    k_mean = keys.float().mean(dim=3).reshape(key_windows, heads, HEAD_DIM)
    scores = torch.einsum("sqhd,khd->hsqk", q_mean, k_mean) * HEAD_DIM**-0.5
    near = _local(rows, columns, local_range, q.device).repeat(1, keys.shape[0])
    p = scores.masked_fill(~near, float("-inf")).softmax(dim=-1)
    flat = p.reshape(heads, slabs, windows * key_windows)
    kept = topk.to(q.device).clamp(max=windows * key_windows - 1).reshape(1)
    threshold = flat.sort(dim=-1, descending=True).values.index_select(-1, kept)  # [heads, slabs, 1]
    return p > threshold.unsqueeze(-1)


def _local(rows: int, columns: int, local_range: int, device: torch.device) -> Tensor:
    """bool [windows, windows]: key window in the local range of the query window, never shifted at edges."""

    def near(size: int) -> Tensor:
        index = torch.arange(size, device=device)
        offset = index[None, :] - index[:, None] + local_range // 2
        return (offset >= 0) & (offset < local_range)

    both = near(rows)[:, None, :, None] & near(columns)[None, :, None, :]  # [r, c, r', c']
    return both.reshape(rows * columns, rows * columns)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slabs: Tensor,
    topk: Tensor,
    *,
    local_range: int,
    heads: int,
) -> Tensor:
    """Attention of q to the kept blocks of `k_cache[slabs]` followed by k, as dense attention under the mask.

    Args:
        q, k, v: [n, rows, columns, 128, D], windows row-major, q and k after RMSNorm and RoPE.
        k_cache, v_cache: [ring, rows, columns, 128, D].
        slabs: int64 [m], the valid slots of the ring.
        topk, local_range, heads: see `block_mask`.

    Returns: [n, rows, columns, 128, D] in q's dtype; computed in fp32. A query window without any kept block
    gives 0.
    """
    keys = torch.cat([k_cache.index_select(0, slabs), k])
    values = torch.cat([v_cache.index_select(0, slabs), v])
    mask = block_mask(q, keys, topk, local_range=local_range, heads=heads)
    some = mask.any(dim=-1, keepdim=True)
    # A row without any key would be NaN in the softmax and in its gradient; it attends to all, then becomes 0.
    blocks = mask | ~some  # [heads, slabs, windows, key windows]
    kh, vh = _heads(keys, 1, heads), _heads(values, 1, heads)  # [1, heads, tokens, 128]
    out = [_slab(qs, kh, vh, blocks[:, i], some[:, i]) for i, qs in enumerate(_heads(q, q.shape[0], heads).split(1))]
    return torch.cat(out).transpose(1, 2).reshape(q.shape).to(q.dtype)


def _heads(x: Tensor, batch: int, heads: int) -> Tensor:
    return x.float().reshape(batch, -1, heads, HEAD_DIM).transpose(1, 2)  # [batch, heads, tokens, 128]


def _slab(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, some: Tensor) -> Tensor:
    """Attention of one query slab [1, heads, tokens, 128] under its mask of blocks [heads, windows, keys]."""
    mask = blocks.repeat_interleave(TOKENS_PER_WINDOW, -1).repeat_interleave(TOKENS_PER_WINDOW, -2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(0))
    return out * some.repeat_interleave(TOKENS_PER_WINDOW, -2)


@torch.library.custom_op("flashvsr::block_sparse_attention", mutates_args=())
def block_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slabs: Tensor,
    topk: Tensor,
    *,
    local_range: int,
    heads: int,
) -> Tensor:
    """`attend` as one opaque node for export; it has no gradient."""
    return attend(q, k, v, k_cache, v_cache, slabs, topk, local_range=local_range, heads=heads)


@block_sparse_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slabs: Tensor,
    topk: Tensor,
    *,
    local_range: int,
    heads: int,
) -> Tensor:
    return torch.empty_like(q)
