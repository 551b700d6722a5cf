"""Kernels that choose the key windows of block-sparse attention (plugins_trt.spec, steps 1 and 2).

Key window j of a call is window j % win of slab j // win, where the slabs are the ring slots listed in `slabs`,
then the step's own. Every kernel addresses windows through that rule, so no keys are moved together.
"""

from __future__ import annotations

import triton
import triton.language as tl

WINDOW_TOKENS = tl.constexpr(128)
HEAD_DIM = tl.constexpr(128)


@triton.jit
def window_pointer(own, cache, slabs, j, cached, win, dim):
    """Address of the first token of key window j; `cached` is the number of cached windows."""
    slot = tl.load(slabs + j // win, mask=j < cached, other=0)
    in_cache = cache + (slot * win + j % win) * (WINDOW_TOKENS * dim).to(tl.int64)
    in_own = own + (j - cached).to(tl.int64) * WINDOW_TOKENS * dim
    return tl.where(j < cached, in_cache, in_own)


@triton.jit
def window_means(q, k, k_cache, slabs, q_means, k_means, q_windows, cached, win, dim, BLOCK: tl.constexpr):
    """Mean of q and k over the tokens of each window, float32 [windows, dim].

    Grid (q_windows + key windows, dim / BLOCK).
    """
    w = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    j = w - q_windows
    key = window_pointer(k, k_cache, slabs, tl.maximum(j, 0), cached, win, dim)
    source = tl.where(j >= 0, key, q + w.to(tl.int64) * WINDOW_TOKENS * dim)
    target = tl.where(j >= 0, k_means + j.to(tl.int64) * dim, q_means + w.to(tl.int64) * dim)
    rows = tl.arange(0, WINDOW_TOKENS)
    tile = tl.load(source + rows[:, None] * dim + columns[None, :])  # [128, BLOCK]
    tl.store(target + columns, tl.sum(tile.to(tl.float32), axis=0) / WINDOW_TOKENS)


@triton.jit
def window_scores(q_means, k_means, scores, q_windows, k_windows, rows, columns, dim, local_range, BLOCK: tl.constexpr):
    """softmax(q.k / sqrt(128)) over all key windows, 0 outside the local range: float32 [heads, q_windows, k_windows].

    Grid (q_windows, heads). A query window with no key in range cannot occur: its own window is always in range.
    """
    i = tl.program_id(0)
    head = tl.program_id(1)
    channels = head * HEAD_DIM + tl.arange(0, HEAD_DIM)
    query = tl.load(q_means + i * dim + channels)
    win = rows * columns
    top = (i % win) // columns - local_range // 2
    left = i % columns - local_range // 2
    out = scores + (head * q_windows + i).to(tl.int64) * k_windows
    highest = -float("inf")
    total = 0.0
    for begin in range(0, k_windows, BLOCK):
        j = begin + tl.arange(0, BLOCK)
        row = (j % win) // columns - top
        column = j % columns - left
        inside = (j < k_windows) & (row >= 0) & (row < local_range) & (column >= 0) & (column < local_range)
        keys = tl.load(k_means + j[:, None] * dim + channels[None, :], mask=inside[:, None], other=0.0)
        score = tl.sum(keys * query[None, :], axis=1) * 0.08838834764831845  # 1/sqrt(128)
        score = tl.where(inside, score, -float("inf"))
        tl.store(out + j, score, mask=j < k_windows)
        higher = tl.maximum(highest, tl.max(score, axis=0))
        # Before the first key in range both are -inf, and their difference is not a number.
        rescale = tl.where(highest == -float("inf"), 0.0, tl.exp(highest - higher))
        weights = tl.where(inside, tl.exp(score - higher), 0.0)
        total = total * rescale + tl.sum(weights, axis=0)
        highest = higher
    tl.debug_barrier()  # the scores that other threads of this block stored are read below
    for begin in range(0, k_windows, BLOCK):
        j = begin + tl.arange(0, BLOCK)
        score = tl.load(out + j, mask=j < k_windows, other=-float("inf"))
        tl.store(out + j, tl.exp(score - highest) / total, mask=j < k_windows)


@triton.jit
def select_threshold(scores, thresholds, topk, count, BLOCK: tl.constexpr):
    """The (min(topk, count-1)+1)-th largest of the `count` scores of one head and query slab, float32.

    Radix select, 8 bits a pass from the top: scores are not negative, so their bits order like integers.
    Grid (heads * query slabs); scores of one (head, slab) are adjacent.
    """
    group = tl.program_id(0)
    base = scores + group.to(tl.int64) * count
    wanted = tl.minimum(tl.load(topk), tl.cast(count - 1, tl.int64)).to(tl.int32) + 1  # from the largest, 1-based
    prefix = 0
    bins = tl.arange(0, 256)
    for step in tl.static_range(4):
        shift = 24 - 8 * step
        histogram = tl.zeros([256], dtype=tl.int32)
        for begin in range(0, count, BLOCK):
            index = begin + tl.arange(0, BLOCK)
            bits = tl.load(base + index, mask=index < count, other=0.0).to(tl.int32, bitcast=True)
            if step == 0:  # noqa: SIM108 - a shift by 32 bits has no defined result
                active = index < count
            else:
                active = (index < count) & ((bits >> (shift + 8)) == (prefix >> (shift + 8)))
            histogram += tl.histogram((bits >> shift) & 255, 256, mask=active)
        at_least = tl.sum(histogram, axis=0) - tl.cumsum(histogram, axis=0) + histogram  # how many in this bin or above
        digit = tl.max(tl.where(at_least >= wanted, bins, 0), axis=0)
        wanted -= tl.sum(tl.where(bins > digit, histogram, 0), axis=0)
        prefix = prefix | (digit << shift)
    tl.store(thresholds + group, tl.cast(prefix, tl.float32, bitcast=True))


@triton.jit
def list_kept(scores, thresholds, lists, counts, q_windows, k_windows, win, BLOCK: tl.constexpr):
    """Ascending key windows whose score exceeds the threshold: int32 [heads, q_windows, k_windows] and counts.

    Grid (q_windows, heads).
    """
    i = tl.program_id(0)
    head = tl.program_id(1)
    row = (head * q_windows + i).to(tl.int64)
    threshold = tl.load(thresholds + head * (q_windows // win) + i // win)
    found = 0
    for begin in range(0, k_windows, BLOCK):
        j = begin + tl.arange(0, BLOCK)
        keep = tl.load(scores + row * k_windows + j, mask=j < k_windows, other=-1.0) > threshold
        ones = keep.to(tl.int32)
        tl.store(lists + row * k_windows + found + tl.cumsum(ones, axis=0) - ones, j, mask=keep)
        found += tl.sum(ones, axis=0)
    tl.store(counts + row, found)
