"""The kernels that choose key windows, compiled by a C++ compiler and run on the host, against numpy in double."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest
from on_host import NEEDS, compiled, pointers, stored, wide

pytestmark = NEEDS

ROWS, COLUMNS, HEADS = 3, 3, 2  # not whole groups of four query windows
WIN, DIM = ROWS * COLUMNS, 128 * HEADS


@pytest.fixture(scope="module")
def selection(tmp_path_factory):
    return compiled("selection", tmp_path_factory.mktemp("selection"))


@pytest.mark.parametrize("kind", ["window_means_float16", "window_means_bfloat16", "window_means8"])
def test_window_means(selection, kind):
    """Of a query slab, of the listed ring slots, then of the step's own keys."""
    random = np.random.default_rng(1)
    win, slabs = 3, np.array([2, 0], np.int64)
    tensors = {"q": (win, 128, DIM), "k": (win, 128, DIM), "k_cache": (3 * win, 128, DIM)}
    scales = np.array([1 / 32, 1 / 64, 1], np.float32)
    arrays, exact = {}, {}
    for name, shape in tensors.items():
        x = random.standard_normal(shape) + random.standard_normal((shape[0], 1, DIM))
        if kind == "window_means8":
            arrays[name] = (x * 16).astype(ml_dtypes.float8_e4m3fn)
            exact[name] = arrays[name].astype(np.float64) * scales[0 if name == "q" else 1]
        else:
            element = kind.removeprefix("window_means_")
            arrays[name] = stored(x, element)
            exact[name] = wide(arrays[name], element)
    q_means, k_means = (np.full((count * win, DIM), np.nan, np.float32) for count in (1, len(slabs) + 1))
    sizes = (ctypes.c_int * 5)(win, len(slabs) * win, win, DIM, win)
    getattr(selection, f"run_{kind}")(*pointers(*arrays.values(), slabs, scales, q_means, k_means), sizes)
    np.testing.assert_allclose(q_means, exact["q"].mean(axis=1), atol=1e-5)
    kept = np.concatenate([np.arange(win) + win * slot for slot in slabs])
    keys = np.concatenate([exact["k_cache"][kept], exact["k"]])
    np.testing.assert_allclose(k_means, keys.mean(axis=1), atol=1e-5)


def in_range(local_range: int, k_windows: int) -> np.ndarray:
    """[query window, key window] of one query slab."""
    query, key = np.arange(WIN)[:, None], np.arange(k_windows)[None] % WIN
    near = []
    for q, k in ((query // COLUMNS, key // COLUMNS), (query % COLUMNS, key % COLUMNS)):
        near.append((k >= q - local_range // 2) & (k <= q - local_range // 2 + local_range - 1))
    return near[0] & near[1]


@pytest.mark.parametrize(
    ("local_range", "key_slabs"), [(3, 3), (11, 5), (2, 2)]
)  # the second is too much for shared memory
def test_group_scores(selection, local_range, key_slabs):
    random = np.random.default_rng(local_range)
    k_windows = key_slabs * WIN
    q, k = (random.standard_normal((count, DIM)).astype(np.float32) * 3 for count in (WIN, k_windows))
    scores = np.full((HEADS, WIN, k_windows), np.nan, np.float32)
    selection.run_group_scores(*pointers(q, k, scores), HEADS, WIN, k_windows, ROWS, COLUMNS, local_range)
    for head in range(HEADS):
        own = slice(128 * head, 128 * head + 128)
        products = q[:, own].astype(np.float64) @ k[:, own].T.astype(np.float64) / np.sqrt(128)
        products[~in_range(local_range, k_windows)] = -np.inf
        weights = np.exp(products - products.max(axis=1, keepdims=True))
        np.testing.assert_allclose(scores[head], weights / weights.sum(axis=1, keepdims=True), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("win", "key_slabs", "topk"),
    [(12, 3, 50), (12, 3, 10**6), (12, 3, 0), (96, 3, 9000)],  # the last does not fit into the threads' registers
)
def test_select_windows(selection, win, key_slabs, topk):
    """Half of the scores are 0, as outside the local range; some are equal."""
    random = np.random.default_rng(topk)
    heads, k_windows = 2, key_slabs * win
    scores = random.random((heads, win * k_windows)).astype(np.float32) ** 8 * (random.random((1, 1)) + 1)
    scores[random.random(scores.shape) < 0.5] = 0
    scores[:, 7:13] = scores[:, 20:21]
    scores = np.ascontiguousarray(scores, np.float32)
    items = heads * win
    lists = np.full((items, k_windows), -1, np.int32)
    counts, order = np.full(items, -1, np.int32), np.full(items, -1, np.int32)
    selection.run_select_windows(
        *pointers(scores, np.array(topk, np.int64), lists, counts, order), items, k_windows, win
    )
    rank = min(topk, win * k_windows - 1)
    thresholds = np.sort(scores, axis=1)[:, ::-1][:, rank]
    for head in range(heads):
        kept = scores[head].reshape(win, k_windows) > thresholds[head]
        for window in range(win):
            item = head * win + window
            expected = np.flatnonzero(kept[window])
            assert counts[item] == len(expected)
            np.testing.assert_array_equal(lists[item, : len(expected)], expected)
    assert sorted(order) == list(range(items))
    bins = counts[order] * 2047 // k_windows
    assert (np.diff(bins) <= 0).all()
