"""Exact attention over the kept windows (plugins_trt.spec, step 3): one program per head and query window.

Online softmax over key blocks (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022).
"""

from __future__ import annotations

import triton
import triton.language as tl

from flashvsr_trt.plugins_trt.kernels.selection import HEAD_DIM, WINDOW_TOKENS, window_pointer

# exp2 is the hardware's: exp(x) = 2^(x * log2(e)), and 1/sqrt(128) goes into the same factor
SCALE_LOG2 = tl.constexpr(0.08838834764831845 * 1.4426950408889634)
RAISE = tl.constexpr(8.0)  # weights in float8 go up to 2^8: small ones would be lost below 2^-9


@triton.jit
def block_sparse_attention(
    q, k, v, k_cache, v_cache, slabs, lists, counts, out, q_windows, k_windows, cached, win, dim, BLOCK_N: tl.constexpr
):
    """out = softmax(q k^T / sqrt(128)) v over the kept windows, [q_windows, 128, dim]; 0 where none is kept.

    Grid (heads, q_windows): heads innermost, since the heads of a window share its cache lines.
    """
    head = tl.program_id(0)
    i = tl.program_id(1)
    row = (head * q_windows + i).to(tl.int64)
    tokens = tl.arange(0, WINDOW_TOKENS)
    channels = tl.arange(0, HEAD_DIM)
    keys = tl.arange(0, BLOCK_N)
    offset = i.to(tl.int64) * WINDOW_TOKENS * dim + head * HEAD_DIM
    tile = tokens[:, None] * dim + channels[None, :]
    query = tl.load(q + offset + tile)  # [128, 128]
    key_tile = channels[:, None] + keys[None, :] * dim  # transposed
    value_tile = keys[:, None] * dim + channels[None, :]
    highest = tl.full([WINDOW_TOKENS], -float("inf"), tl.float32)
    total = tl.zeros([WINDOW_TOKENS], tl.float32)
    gathered = tl.zeros([WINDOW_TOKENS, HEAD_DIM], tl.float32)
    parts: tl.constexpr = WINDOW_TOKENS // BLOCK_N
    for n in range(0, tl.load(counts + row) * parts):
        j = tl.load(lists + row * k_windows + n // parts)
        within = (n % parts) * BLOCK_N * dim + head * HEAD_DIM
        key = tl.load(window_pointer(k, k_cache, slabs, j, cached, win, dim) + within + key_tile)
        scores = tl.dot(query, key) * SCALE_LOG2  # [128, BLOCK_N]
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None])
        rescale = tl.exp2(highest - higher)
        total = total * rescale + tl.sum(weights, axis=1)
        value = tl.load(window_pointer(v, v_cache, slabs, j, cached, win, dim) + within + value_tile)
        gathered = gathered * rescale[:, None]
        gathered = tl.dot(weights.to(value.dtype), value, gathered)
        highest = higher
    result = gathered / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + offset + tile, result.to(out.dtype.element_ty))


@triton.jit
def block_sparse_attention8(
    q,
    k,
    v,
    k_cache,
    v_cache,
    slabs,
    lists,
    counts,
    scales,
    out,
    q_windows,
    k_windows,
    cached,
    win,
    dim,
    BLOCK_N: tl.constexpr,
):
    """The same in float8, in units of `scales`; values are [windows, dim, 128], their tokens in the order of
    plugins_trt.spec, which keys are read in too."""
    head = tl.program_id(0)
    i = tl.program_id(1)
    row = (head * q_windows + i).to(tl.int64)
    tokens = tl.arange(0, WINDOW_TOKENS)
    channels = tl.arange(0, HEAD_DIM)
    places = tl.arange(0, BLOCK_N)
    keys = places // 16 * 16 + places // 2 % 2 * 8 + places // 4 % 4 * 2 + places % 2  # the token at each place
    offset = i.to(tl.int64) * WINDOW_TOKENS * dim + head * HEAD_DIM
    tile = tokens[:, None] * dim + channels[None, :]
    query = tl.load(q + offset + tile)  # [128, 128]
    key_tile = head * HEAD_DIM + channels[:, None] + keys[None, :] * dim  # transposed
    value_tile = (head * HEAD_DIM + channels[None, :]) * WINDOW_TOKENS + places[:, None]
    factor = tl.load(scales) * tl.load(scales + 1) * SCALE_LOG2
    highest = tl.full([WINDOW_TOKENS], -float("inf"), tl.float32)
    total = tl.zeros([WINDOW_TOKENS], tl.float32)
    gathered = tl.zeros([WINDOW_TOKENS, HEAD_DIM], tl.float32)
    parts: tl.constexpr = WINDOW_TOKENS // BLOCK_N
    for n in range(0, tl.load(counts + row) * parts):
        j = tl.load(lists + row * k_windows + n // parts)
        begin = (n % parts) * BLOCK_N
        key = tl.load(window_pointer(k, k_cache, slabs, j, cached, win, dim) + begin * dim + key_tile)
        scores = tl.dot(query, key) * factor  # [128, BLOCK_N]
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - higher[:, None] + RAISE)
        rescale = tl.exp2(highest - higher)
        total = total * rescale + tl.sum(weights, axis=1)
        value = tl.load(window_pointer(v, v_cache, slabs, j, cached, win, dim) + begin + value_tile)
        gathered = gathered * rescale[:, None]
        gathered = tl.dot(weights.to(value.dtype), value, gathered)
        highest = higher
    result = gathered * (tl.load(scales + 2) / tl.where(total > 0, total, 1.0))[:, None]
    tl.store(out + offset + tile, result.to(out.dtype.element_ty))
