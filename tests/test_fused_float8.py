"""The ops in float8: their function bodies through ONNX Runtime against numpy in double."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from test_fused import DIM, HEADS, TOLERANCE, numbers, root_mean_square, rotation, run

from flashvsr_trt.plugins_trt import spec

# BlockSparseAttention of float32
WIDE = {
    side: tuple((name, "float" if kind == "T" else kind) for name, kind in getattr(spec.BLOCK_SPARSE_ATTENTION, side))
    for side in ("inputs", "outputs")
}


@pytest.mark.parametrize("op", [spec.LINEAR8, spec.LINEAR_GELU8, spec.LINEAR_ADD8], ids=lambda op: op.name)
def test_linear_in_float8(op):
    x, weight = (eighths(numbers(*shape, seed=seed) * 60) for seed, shape in ((1, (2, 3, 64)), (2, (48, 64))))
    units = np.array([1 / 100, 1 / 500], np.float32)
    feed = {"x": x, "weight": weight, "bias": numbers(48, seed=3), "scales": np.repeat(units[:, None], 4, axis=1)}
    if op is spec.LINEAR_ADD8:
        feed["residual"] = numbers(2, 3, 48, seed=4)
    expected = (x.astype(np.float64) @ weight.astype(np.float64).T) * float(units[0]) * float(units[1]) + feed["bias"]
    expected += feed.get("residual", 0)
    if op is not spec.LINEAR_GELU8:
        (out,) = run(op, feed)
        assert out.dtype == np.float16
        np.testing.assert_allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE)
        return
    expected *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (expected + 0.044715 * expected**3)))
    feed["scales"] = np.concatenate([feed["scales"], np.array([[200, 1 / 200, 1 / 200, 1 / 200]], np.float32)])
    (out,) = run(op, feed)
    assert (out.view(np.uint8) != eighths(expected * 200).view(np.uint8)).mean() < 0.01  # on the edge between two
    assert (np.abs(expected) * 200 > 448).any()


def test_convolution_in_float8():
    """Of the inner pixels, tap by tap."""
    x, weight = eighths(numbers(2, 6, 9, 32, seed=1) * 60), eighths(numbers(16, 3, 3, 32, seed=2) * 60)
    units, bias = np.array([1 / 60, 1 / 900], np.float32), numbers(16, seed=3)
    (out,) = run(spec.CONVOLVE_INNER8, {"x": x, "weight": weight, "bias": bias, "scales": units})
    taps = [
        x[:, row : row + 4, column : column + 7].astype(np.float64) @ weight[:, row, column].astype(np.float64).T
        for row in range(3)
        for column in range(3)
    ]
    expected = sum(taps) * float(units[0]) * float(units[1]) + bias
    assert out.dtype == np.float16
    assert out.shape == (2, 4, 7, 16)
    np.testing.assert_allclose(out, expected, atol=5e-3, rtol=5e-3)  # its inputs are rounded to float16


@pytest.mark.parametrize("op", [spec.TO_FLOAT8, spec.LAYER_NORM8], ids=lambda op: op.name)
def test_rounding_to_float8(op):
    """ml_dtypes rounds on its own; some numbers are beyond the largest."""
    x, unit = numbers(2, 3, 64, seed=1), np.array([1 / 200], np.float32)
    (out,) = run(op, {"x": x, "unit": unit})
    exact = x.astype(np.float64)
    if op is spec.LAYER_NORM8:
        exact = (exact - exact.mean(axis=-1, keepdims=True)) / np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-6)
    assert (np.abs(exact) * 200 > 448).any()
    assert (out.view(np.uint8) != eighths(exact * 200).view(np.uint8)).mean() < 5e-3


def turned(values: np.ndarray) -> np.ndarray:
    """[..., 128, dim] to [..., dim, 128], number 16g + 4t + 2b + e being token 16g + 8b + 2t + e."""
    order = [16 * g + 8 * b + 2 * t + e for g in range(8) for t in range(4) for b in range(2) for e in range(2)]
    return np.ascontiguousarray(np.moveaxis(values[..., order, :], -1, -2))


def test_norm_rotate_in_float8():
    """The same numbers as NormRotate's in float32, rounded by ml_dtypes; some are beyond the largest."""
    shape = (2, 2, 1, 128)
    feed, angles = rotation(*shape)
    scales = np.array([1 / 128, 1 / 64, 1 / 200], np.float32)
    q, k, v = run(spec.NORM_ROTATE8, feed | {"scales": scales})
    parts = np.split(feed["qkv"].astype(np.float64), 3, axis=-1)
    for part, gain, unit, out in zip(parts, ("gain_q", "gain_k"), scales, (q, k), strict=False):
        heads = (part / root_mean_square(part) * feed[gain]).reshape(*shape, HEADS, 64, 2)
        complexes = (heads[..., 0] + 1j * heads[..., 1]) * np.exp(1j * angles)
        exact = np.stack([complexes.real, complexes.imag], axis=-1).reshape(part.shape) / unit
        assert (out.view(np.uint8) != eighths(exact).view(np.uint8)).mean() < 1e-4  # on the edge between two
    assert (np.abs(parts[2] / scales[2]) > 448).any()
    np.testing.assert_array_equal(v.view(np.uint8), eighths(turned(parts[2] / scales[2])).view(np.uint8))


def eighths(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)


def test_attention_in_float8():
    """Is BlockSparseAttention of what the numbers stand for."""
    shape, units = (2, 3, 128, DIM), np.array([0.02, 0.01, 0.03], np.float32)
    rounded = {
        name: eighths(numbers(count, *shape, seed=seed, dtype=np.float32) * 60)
        for seed, (name, count) in enumerate((("q", 1), ("k", 1), ("v", 1), ("k_cache", 3), ("v_cache", 3)))
    }
    choice = {"slabs": np.array([2, 0]), "topk": np.array(40)}
    stood = {name: (x.astype(np.float32) * units["qkv".index(name[0])]) for name, x in rounded.items()}
    (expected,) = run(replace(spec.BLOCK_SPARSE_ATTENTION, **WIDE), stood | choice, heads=HEADS, local_range=11)
    feed = {name: turned(x) if name[0] == "v" else x for name, x in rounded.items()} | choice
    feed |= {"scales": units, "like": np.zeros(1, np.float16)}
    (out,) = run(spec.BLOCK_SPARSE_ATTENTION8, feed, heads=HEADS, local_range=11)
    assert out.dtype == np.float16
    np.testing.assert_allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert np.abs(expected).max() > 0.1
