"""CUDA kernels compiled by a C++ compiler and run on the host (tests/fake_cuda/grid.hpp), against numpy in double."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from flashvsr_trt.export.fused_decoder import phase_weights
from flashvsr_trt.plugins_trt.kernels import build, library

HERE = Path(__file__).parent
HAS_CUDA_TYPES = library.cuda_headers() is not None and (library.cuda_headers() / "cuda_fp16.h").is_file()
pytestmark = pytest.mark.skipif(library.compiler() is None or not HAS_CUDA_TYPES, reason="needs g++ and cuda_fp16.h")
# Half of the last place of each type, and what a root and a product in float32 add to it.
TOLERANCES = {"float16": 6e-4, "bfloat16": 5e-3}


def compiled(source: str, folder: Path, *more: Path) -> ctypes.CDLL:
    target = folder / f"{source}.so"
    includes = [f"-I{place}" for place in (*more, build.SOURCES, HERE / "fake_cuda", library.cuda_headers())]
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w"]
    subprocess.run(
        [library.compiler(), *options, *includes, "-o", target, HERE / f"fake_cuda/{source}.cpp"], check=True
    )
    return ctypes.CDLL(str(target))


def stored(x: np.ndarray, element: str) -> np.ndarray:
    """As the type's bits; bfloat16 cut off, which for inputs is as good as rounded."""
    if element == "float16":
        return x.astype(np.float16)
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def wide(x: np.ndarray, element: str) -> np.ndarray:
    if element == "float16":
        return x.astype(np.float64)
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def pointers(*arrays: np.ndarray) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return compiled("fused", tmp_path_factory.mktemp("fused"))


def normalised(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * gain


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


# --- Convolutions


@pytest.fixture(scope="module")
def convolve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convolve")
    sources = [build.SOURCES / name for name in ("convolve.cuh", "convolve_sm90.cu", "convolve8_sm90.cu")]
    for path in (*sources, HERE / "fake_cuda/host_hopper/hopper.cuh"):
        shutil.copy(path, folder)  # so that the kernel includes the host's instructions, not Hopper's
    return compiled("convolve", folder, folder)


def plain_convolution(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """x [T, h, w, C] with weight [N, 3, 3, C], zeros outside: [T, h, w, N] in double."""
    frames, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((frames, height, width, len(weight)))
    for row in range(3):
        for column in range(3):
            out += padded[:, row : row + height, column : column + width] @ weight[:, row, column].T
    return out


def run_convolve(convolve, element, arrays, sizes, shape, blocks=3):
    """`sizes`: frames, height, width, channels, sources, outputs, growth, side, relu."""
    out = np.full(shape, 0x7FFF, np.uint16)
    given = [None if array is None else ctypes.c_void_p(array.ctypes.data) for array in (*arrays, out)]
    getattr(convolve, f"run_convolve_{element}")(*given, (ctypes.c_int * 9)(*sizes), blocks)
    return wide(out.view(np.float16) if element == "float16" else out, element)


@pytest.mark.parametrize(
    ("element", "frames", "height", "width", "channels", "outputs", "kind"),
    [
        ("float16", 1, 16, 32, 64, 128, "plain"),
        ("float16", 2, 16, 16, 64, 256, "past"),
        ("bfloat16", 1, 24, 8, 128, 128, "add"),  # not whole tiles
    ],
)
def test_convolution(convolve, element, frames, height, width, channels, outputs, kind):
    random = np.random.default_rng(outputs + height)
    sources = 2 if kind == "past" else 1
    x = stored(random.standard_normal((frames, height, width, channels)), element)
    past = stored(random.standard_normal((height, width, channels)), element)
    scale = (9 * sources * channels) ** -0.5
    weight = stored(random.standard_normal((outputs, 3, 3, sources * channels)) * scale, element)
    bias = stored(random.standard_normal(outputs), element)
    residual = stored(random.standard_normal((frames, height, width, outputs)), element) if kind == "add" else None
    sizes = (frames, height, width, channels, sources, outputs, 1, 3, int(kind != "plain"))
    out = run_convolve(convolve, element, (x, past, weight, bias, residual), sizes, (frames, height, width, outputs))
    source = wide(x, element)
    if kind == "past":
        before = np.concatenate([wide(past, element)[None], source[:-1]])
        source = np.concatenate([source, before], axis=-1)
    expected = plain_convolution(source, wide(weight, element)) + wide(bias, element)
    if residual is not None:
        expected += wide(residual, element)
    if kind != "plain":
        expected = np.maximum(expected, 0)
    tolerance = TOLERANCES[element]
    np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("element", "height", "width"), [("float16", 8, 24), ("bfloat16", 16, 8)])
def test_convolution_in_float8(convolve, element, height, width):
    """Of the inner pixels of x; two rounds of channels."""
    random = np.random.default_rng(height)
    frames, channels, outputs = 1, 256, 128
    x = (random.standard_normal((frames, height + 2, width + 2, channels)) * 60).astype(ml_dtypes.float8_e4m3fn)
    weight = (random.standard_normal((outputs, 3, 3, channels)) * 60).astype(ml_dtypes.float8_e4m3fn)
    scales = np.array([1 / 60, 1 / 60 / np.sqrt(9 * channels)], np.float32)
    bias = stored(random.standard_normal(outputs), element)
    out = np.full((frames, height, width, outputs), 0x7FFF, np.uint16).view(bias.dtype)
    sizes = (ctypes.c_int * 5)(frames, height, width, channels, outputs)
    getattr(convolve, f"run_convolve8_{element}")(*pointers(x, weight, scales, bias, out), sizes, 2)
    full = plain_convolution(x.astype(np.float64), weight.astype(np.float64))[:, 1:-1, 1:-1]
    expected = full * float(scales[0]) * float(scales[1]) + wide(bias, element)
    tolerance = TOLERANCES[element]
    np.testing.assert_allclose(wide(out, element), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("element", "frames", "height", "width", "channels"),
    [("float16", 2, 9, 35, 128), ("bfloat16", 1, 15, 5, 256)],  # two tiles, not whole ones
)
def test_convolution_to_colours(tmp_path, element, frames, height, width, channels):
    random = np.random.default_rng(height)
    x = stored(random.standard_normal((frames, height, width, channels)), element)
    weight = stored(random.standard_normal((3, 3, 3, channels)) * (9 * channels) ** -0.5, element)
    bias = stored(random.standard_normal(3), element)
    out = np.full((frames, 3, height, width), 0x7FFF, np.uint16).view(x.dtype)
    run = getattr(compiled("colours", tmp_path), f"run_convolve_colours_{element}")
    run(*pointers(x, weight, bias, out), (ctypes.c_int * 4)(frames, height, width, channels))
    expected = plain_convolution(wide(x, element), wide(weight, element)) + wide(bias, element)
    tolerance = TOLERANCES[element]
    np.testing.assert_allclose(wide(out, element), expected.transpose(0, 3, 1, 2), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("growth", [1, 2])
def test_convolution_after_upsampling(convolve, growth):
    """Phase weights of 2x2 taps against the 3x3 convolution of the upsampled picture."""
    frames, height, width, channels, outputs = 1, 16, 8, 64, 128
    random = np.random.default_rng(growth)
    x = stored(random.standard_normal((frames, height, width, channels)), "float16")
    weight = random.standard_normal((growth * outputs, 3, 3, channels)) * 0.04
    phases = stored(phase_weights(torch.from_numpy(weight)).numpy(), "float16")
    sizes = (frames, height, width, channels, 1, outputs, growth, 2, 0)
    shape = (frames * growth, 2 * height, 2 * width, outputs)
    out = run_convolve(convolve, "float16", (x, x, phases, None, None), sizes, shape)
    large = wide(x, "float16").repeat(2, axis=1).repeat(2, axis=2)
    expected = plain_convolution(large, weight).reshape(frames, *shape[1:3], growth, outputs)
    expected = expected.transpose(0, 3, 1, 2, 4).reshape(shape)
    np.testing.assert_allclose(out, expected, atol=3e-3, rtol=3e-3)  # the summed weights are rounded too
