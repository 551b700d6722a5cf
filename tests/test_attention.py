"""The dense reference of block-sparse attention: selection and attention against loops in double."""

from __future__ import annotations

import numpy as np
import torch
from golden import error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashvsr_trt.export import attention

FLIPPED = 1e-3  # blocks whose scores tie within rounding


def _qkv(slabs: int, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(slabs, rows, columns, 128, 256, generator=generator) for _ in range(3))
    bias = torch.randn(2, slabs, rows, columns, 1, 256, generator=generator)  # else all window means are near 0
    return q + bias[0], k + bias[1], v


def _kept(q: np.ndarray, k: np.ndarray, topk: int, reach: int) -> np.ndarray:
    """The selection written out, in double: bool [heads, slabs, windows, key windows]."""
    slabs, rows, columns = q.shape[:3]
    place = [(r, c) for r in range(rows) for c in range(columns)]
    windows, keys = len(place), len(k) * len(place)
    out = np.zeros((2, slabs, windows, keys), bool)
    for head in range(2):
        part = slice(128 * head, 128 * head + 128)
        q_mean = q[..., part].mean(axis=3).reshape(slabs, windows, 128)
        k_mean = k[..., part].mean(axis=3).reshape(keys, 128)
        for slab in range(slabs):
            p = np.zeros((windows, keys))
            for i, (r, c) in enumerate(place):
                near = [
                    j
                    for j in range(keys)
                    if -(reach // 2) <= place[j % windows][0] - r < reach - reach // 2
                    and -(reach // 2) <= place[j % windows][1] - c < reach - reach // 2
                ]
                s = np.exp(k_mean[near] @ q_mean[slab, i] / np.sqrt(128))
                p[i, near] = s / s.sum()
            descending = np.sort(p.reshape(-1))[::-1]
            out[head, slab] = p > descending[min(topk, p.size - 1)]
    return out


@settings(max_examples=25, deadline=None)
@given(
    slabs=st.sampled_from([1, 3]),
    cached=st.integers(0, 2),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    reach=st.integers(1, 6),
    topk=st.sampled_from([0, 1, 5, 20, 10_000]),
)
def test_selection_and_attention(slabs, cached, rows, columns, reach, topk):
    """Against loops in double: odd and even local range, topk from none to more than there are."""
    q, k, v = _qkv(slabs, rows, columns, seed=rows * 7 + columns)
    _, k_cache, v_cache = _qkv(cached + 1, rows, columns, seed=99)
    slots = torch.arange(1, cached + 1)
    keys, values = torch.cat([k_cache[slots], k]), torch.cat([v_cache[slots], v])
    expected = _kept(q.double().numpy(), keys.double().numpy(), topk, reach)
    options = {"local_range": reach, "heads": 2}
    mask = attention.block_mask(q, keys, torch.tensor(topk), **options).numpy()
    assert (mask != expected).mean() <= FLIPPED

    out = attention.block_sparse_attention(q, k, v, k_cache, v_cache, slots, torch.tensor(topk), **options)
    windows = rows * columns
    for head, slab, window in {(0, 0, 0), (1, slabs - 1, windows - 1)}:
        part = slice(128 * head, 128 * head + 128)
        got = out[slab].reshape(windows, 128, 256)[window, :, part]
        chosen = np.flatnonzero(mask[head, slab, window])
        if not len(chosen):
            assert not got.any()
            continue
        k_kept = keys.reshape(-1, 128, 256)[chosen][..., part].reshape(-1, 128).double()
        v_kept = values.reshape(-1, 128, 256)[chosen][..., part].reshape(-1, 128).double()
        q_window = q[slab].reshape(windows, 128, 256)[window, :, part].double()
        weights = (q_window @ k_kept.T / 128**0.5).softmax(-1)
        assert error(got, weights @ v_kept) < 1e-5


def test_no_kept_block_gives_zero_and_no_gradient():
    q, k, v = (t.requires_grad_() for t in _qkv(1, 1, 2, seed=0))
    with torch.enable_grad():
        out = attention.attend(q, k, v, k, v, torch.arange(0), torch.tensor(0), local_range=11, heads=2)
        out.sum().backward()
    assert not out.any()
    assert not v.grad.any()
    assert not q.grad.isnan().any()


def test_topk_cap_keeps_all_but_the_smallest():
    """At the cap the threshold is the smallest P itself: everything above it stays."""
    q, k, _ = _qkv(1, 2, 2, seed=5)
    mask = attention.block_mask(q, k, torch.tensor(10**6), local_range=11, heads=2)
    assert mask.sum(dim=(1, 2, 3)).tolist() == [15, 15]


def test_custom_op_is_well_formed():
    q, k, v = _qkv(1, 1, 2, seed=0)
    torch.library.opcheck(
        attention.block_sparse_attention,
        (q, k, v, k.clone(), v.clone(), torch.arange(1), torch.tensor(2)),
        {"local_range": 3, "heads": 2},
    )
