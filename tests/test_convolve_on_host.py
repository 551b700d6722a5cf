"""The convolution kernels on the host, against numpy in double."""

from __future__ import annotations

import ctypes
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from on_host import HERE, NEEDS, TOLERANCES, compiled, pointers, stored, wide

from flashvsr_trt.export.fused_decoder import phase_weights
from flashvsr_trt.plugins_trt.kernels import build

pytestmark = NEEDS


@pytest.fixture(scope="module")
def convolve(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convolve")
    for path in (*build.SOURCES.glob("convolve*"), HERE / "fake_cuda/host_hopper/hopper.cuh"):
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
