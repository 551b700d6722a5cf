"""The elementwise, norm, folding and colour kernels on the host, against numpy in double."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest
from on_host import NEEDS, TOLERANCES, compiled, normalised, pointers, stored, wide

pytestmark = NEEDS


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return compiled("fused", tmp_path_factory.mktemp("fused"))


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize(("tokens", "dim"), [(11, 1536), (8, 128), (1, 2048)])
def test_norm_rotate(fused, element, tokens, dim):
    random = np.random.default_rng(dim)
    qkv = stored(random.standard_normal((tokens, 3 * dim)) * 3, element)
    gains = [random.standard_normal(dim).astype(np.float32) for _ in "qk"]
    angles = random.uniform(-3, 3, (tokens, 64))
    table = np.ascontiguousarray(np.stack([np.cos(angles), np.sin(angles)], axis=-1), np.float32)
    results = [np.full((tokens, dim), 0x7FFF, np.uint16).view(qkv.dtype) for _ in "qkv"]
    arguments = pointers(qkv, *gains, table, *results)
    getattr(fused, f"run_norm_rotate_{element}")(*arguments, tokens, dim)
    parts = np.split(wide(qkv, element), 3, axis=-1)
    for part, gain, result in zip(parts, gains, results, strict=False):
        heads = normalised(part, gain).reshape(tokens, dim // 128, 64, 2)
        turned = (heads[..., 0] + 1j * heads[..., 1]) * np.exp(1j * angles)[:, None]
        expected = np.stack([turned.real, turned.imag], axis=-1).reshape(part.shape)
        tolerance = TOLERANCES[element]
        np.testing.assert_allclose(wide(result, element), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(wide(results[2], element), parts[2])


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_norm_rows(fused, element):
    random = np.random.default_rng(1)
    x, gain = stored(random.standard_normal((9, 256)), element), random.standard_normal(256).astype(np.float32)
    result = np.full_like(x, np.nan) if element == "float16" else np.full_like(x, 0x7FFF)
    getattr(fused, f"run_norm_rows_{element}")(*pointers(x, gain, result), 9, 256)
    tolerance = TOLERANCES[element]
    expected = normalised(wide(x, element), gain)
    np.testing.assert_allclose(wide(result, element), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize(("tokens", "dim"), [(9, 1536), (1, 2048), (3, 200)])
def test_layer_norm(fused, element, tokens, dim):
    """Rows far from zero: a variance from sums of squares would lose its digits."""
    random = np.random.default_rng(dim)
    x = stored(random.standard_normal((tokens, dim)) * 2 + random.uniform(-40, 40, (tokens, 1)), element)
    result = np.full((tokens, dim), 0x7FFF, np.uint16).view(x.dtype)
    getattr(fused, f"run_layer_norm_{element}")(*pointers(x, result), tokens, dim)
    rows, tolerance = wide(x, element), TOLERANCES[element]
    expected = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(rows.var(axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(wide(result, element), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize(("tokens", "dim"), [(9, 3072), (2, 72)])
def test_norm_silu(fused, element, tokens, dim):
    random = np.random.default_rng(dim)
    x, gain = random.standard_normal((tokens, dim)) * 3, random.standard_normal(dim).astype(np.float32)
    x[-1] = 0  # has no direction
    x = stored(x, element)
    result = np.full((tokens, dim), 0x7FFF, np.uint16).view(x.dtype)
    getattr(fused, f"run_norm_silu_{element}")(*pointers(x, gain, result), tokens, dim)
    rows, tolerance = wide(x, element), TOLERANCES[element]
    normal = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) * dim**0.5 * gain
    np.testing.assert_allclose(wide(result, element), normal / (1 + np.exp(-normal)), rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def float8(tmp_path_factory):
    return compiled("float8", tmp_path_factory.mktemp("float8"))


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_to_float8(float8, element):
    """ml_dtypes rounds on its own. Ties, subnormals and numbers beyond the largest are among them."""
    unit = np.array([1 / 64], np.float32)
    x = np.random.default_rng(8).standard_normal(16 * 300) * np.exp2(np.random.default_rng(9).integers(-14, 4, 4800))
    x[:6] = np.array([17, 18, 19, 449, -700, 2**-10]) / 64
    x = stored(x, element)
    out = np.full(x.size, 0x7F, np.uint8)
    getattr(float8, f"run_to_float8_{element}")(*pointers(x, unit, out), 300)
    expected = np.clip(wide(x, element) / unit, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(out, expected.view(np.uint8))


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize(("tokens", "dim"), [(11, 1536), (1, 2048)])
def test_layer_norm_to_float8(float8, element, tokens, dim):
    """Numbers on the edge between two may fall either way."""
    x = stored(np.random.default_rng(dim).standard_normal((tokens, dim)) * 3 + 5, element)
    out, unit = np.full((tokens, dim), 0x7F, np.uint8), np.array([1 / 150], np.float32)
    getattr(float8, f"run_layer_norm8_{element}")(*pointers(x, unit, out), tokens, dim)
    exact = wide(x, element)
    exact = (exact - exact.mean(axis=-1, keepdims=True)) / np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-6) * 150
    eighth = np.clip(exact, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    assert (np.abs(exact) > 448).any()
    assert (out != eighth.view(np.uint8)).mean() < 1e-3


# --- Folding of frames


@pytest.fixture(scope="module")
def fold(tmp_path_factory):
    return compiled("fold", tmp_path_factory.mktemp("fold"))


def folded(x: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Frame by frame: [T, h, w, C] and [2, h, w, C] to [T / 2, h + 2, w + 2, 4 C]."""
    every = np.pad(np.concatenate([past, x]), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return np.stack([np.concatenate(list(every[t : t + 4]), axis=-1) for t in range(0, len(x), 2)])


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize(("frames", "height", "width", "channels"), [(4, 2, 3, 264), (2, 1, 1, 8)])
def test_fold_frames(fold, element, frames, height, width, channels):
    random = np.random.default_rng(channels)
    x, past = (stored(random.standard_normal((n, height, width, channels)), element) for n in (frames, 2))
    result = np.zeros((frames // 2, height + 2, width + 2, 4 * channels), x.dtype)
    sizes = (ctypes.c_int * 4)(frames // 2, height, width, channels)
    getattr(fold, f"run_fold_frames_{element}")(*pointers(x, past, result), sizes)
    np.testing.assert_array_equal(result, folded(x, past))


@pytest.mark.parametrize(("pixels", "channels"), [(150, 128), (64, 64)])
def test_last_planes(fold, pixels, channels):
    x = np.random.default_rng(pixels).integers(0, 1 << 16, (pixels, channels), dtype=np.uint16)
    result = np.zeros((channels, pixels), np.uint16)
    fold.run_last_planes(*pointers(x, result), pixels, channels)
    np.testing.assert_array_equal(result, x.T)


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_fold_pixels(fold, element):
    frames, height, width = 4, 1, 2
    random = np.random.default_rng(7)
    x, past = (random.integers(0, 256, (n, 16 * height, 16 * width, 3), dtype=np.uint8) for n in (frames, 2))
    result = np.zeros((frames // 2, height + 2, width + 2, 4 * 768), stored(np.zeros(1), element).dtype)
    getattr(fold, f"run_fold_pixels_{element}")(*pointers(x, past, result), (ctypes.c_int * 3)(2, height, width))

    def cells(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels.reshape(-1, height, 16, width, 16, 3).transpose(0, 1, 3, 5, 2, 4)
        return pixels.reshape(-1, height, width, 768) / 127.5 - 1

    np.testing.assert_allclose(wide(result, element), folded(cells(x), cells(past)), atol=TOLERANCES[element])


def test_list_all(fused):
    lists, counts, order, ticket = (np.full(shape, -1, np.int32) for shape in ((6, 4), 6, 6, 1))
    fused.run_list_all(*pointers(lists, counts, order, ticket), 6, 4)
    assert (lists == np.arange(4)).all()
    assert (counts == 4).all()
    assert sorted(order) == list(range(6))
    assert ticket[0] == 0


@pytest.fixture(scope="module")
def adain(tmp_path_factory):
    return compiled("adain", tmp_path_factory.mktemp("adain"))


@pytest.mark.parametrize(("element", "bits"), [("float16", 8), ("bfloat16", 8), ("float16", 16)])
def test_adapt_colours(adain, element, bits):
    """The first rows and columns are the picture; a colour without variation divides by the root of eps."""
    frames, height, width, rows, columns = 2, 16, 40, 13, 33
    random = np.random.default_rng(3)
    x = random.standard_normal((frames, 3, height, width)) * 0.4 + random.standard_normal((frames, 3, 1, 1)) * 0.3
    x[1, 2] = 0.25
    x, lq = stored(x, element), random.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    pixels = np.zeros((frames, rows, columns, 3), f"uint{bits}")
    sums = np.full(frames * 3 * 3 * 4, np.nan)
    run = getattr(adain, f"run_adapt_colours{'' if bits == 8 else bits}_{element}")
    run(*pointers(x, lq, sums, pixels), frames, (ctypes.c_int * 4)(height, width, rows, columns))
    picture = wide(x, element)[:, :, :rows, :columns]
    target = (lq[:, :rows, :columns] / 255 * 2 - 1).transpose(0, 3, 1, 2)
    mean, std = (picture.mean((2, 3), keepdims=True), np.sqrt(picture.var((2, 3), keepdims=True) + 1e-5))
    fixed = (picture - mean) / std * np.sqrt(target.var((2, 3), keepdims=True) + 1e-5) + target.mean(
        (2, 3), keepdims=True
    )
    top = 2**bits - 1
    expected = np.trunc(np.clip((fixed + 1) * (top / 2), 0, top)).transpose(0, 2, 3, 1)
    off = np.abs(pixels - expected)
    assert off.max() <= 1  # truncation falls either way within rounding of an integer
    assert (off > 0).mean() < (2e-3 if bits == 8 else 2e-2)
