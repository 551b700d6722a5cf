"""libflashvsr's NV12 and P010 against their definition, and flashvsr_y4m's 4:4:4 against FFmpeg's scaler."""

from __future__ import annotations

import numpy as np
import pytest
from av.video.frame import VideoFrame

from flashvsr_trt.runtime.video.colour import RgbReader, RgbWriter
from flashvsr_trt.runtime.video.frames import ColourTags

pytest_plugins = ("cpp_fixtures",)

RGB24, RGB48, NV12, P010 = range(4)
LEFT, CENTRE, TOP_LEFT = range(3)
_WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def _coding(fmt: int, full: bool) -> tuple[float, float, float, float, int]:
    """Black, range of luma, middle, range of chroma, largest."""
    unit, largest = (4, 1023) if fmt == P010 else (1, 255)
    return (
        (0, largest, 128 * unit, largest, largest) if full else (16 * unit, 219 * unit, 128 * unit, 224 * unit, largest)
    )


def _upsampled(chroma: np.ndarray, shape: tuple[int, int], location: int) -> np.ndarray:
    """Linear interpolation at the place of each luma sample, edges repeated, in float64."""
    for axis, centred in ((0, location != TOP_LEFT), (1, location == CENTRE)):
        count = chroma.shape[axis]
        position = np.arange(shape[axis]) / 2 - (0.25 if centred else 0)
        low = np.floor(position).astype(int)
        weight = (position - low).reshape((-1, 1) if axis == 0 else (1, -1))
        first, second = (np.take(chroma, np.clip(low + i, 0, count - 1), axis) for i in (0, 1))
        chroma = first * (1 - weight) + second * weight
    return chroma


def _exact_rgb(luma, u, v, fmt, matrix, full, location):
    black, luma_range, middle, chroma_range, _ = _coding(fmt, full)
    red, blue = _WEIGHTS[matrix]
    grey = (luma - black) / luma_range
    u, v = ((_upsampled(c.astype(float), luma.shape, location) - middle) / chroma_range for c in (u, v))
    r, b = grey + 2 * (1 - red) * v, grey + 2 * (1 - blue) * u
    g = (grey - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack((r, g, b), -1), 0, 1) * 255


@pytest.mark.parametrize("fmt", [NV12, P010])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize(("full", "location"), [(False, LEFT), (True, CENTRE), (False, TOP_LEFT)])
def test_yuv_to_rgb_is_the_definition(inside, fmt, matrix, full, location):
    rng = np.random.default_rng(fmt * 100 + matrix)
    height, width = 13, 21
    dtype, shift = (np.uint16, 6) if fmt == P010 else (np.uint8, 0)
    largest = _coding(fmt, full)[-1]
    luma = rng.integers(0, largest + 1, (height, width))
    u, v = rng.integers(0, largest + 1, (2, 7, 11))
    data = (luma << shift).astype(dtype).tobytes() + (np.stack((u, v), -1) << shift).astype(dtype).tobytes()
    got = inside("decode", fmt, matrix, int(full), location, height, width, data=data).reshape(height, width, 3)
    exact = _exact_rgb(luma, u, v, fmt, matrix, full, location)
    assert np.abs(got - exact).max() <= 0.501  # the nearest byte; 0.001 for float32


@pytest.mark.parametrize(("fmt", "bits"), [(NV12, 8), (P010, 8), (NV12, 16), (P010, 16)])
@pytest.mark.parametrize("location", [LEFT, CENTRE, TOP_LEFT])
def test_rgb_to_yuv_is_the_definition(inside, fmt, bits, location):
    rng = np.random.default_rng(bits + fmt)
    height, width, matrix = 13, 21, 6
    red, blue = _WEIGHTS[matrix]
    rgb = rng.integers(0, 2**bits, (height, width, 3))
    pixels = rgb.astype(np.uint16 if bits == 16 else np.uint8).tobytes()
    planes = inside("encode", fmt, matrix, 0, location, height, width, bits, data=pixels)
    planes = planes.view(np.uint16) >> 6 if fmt == P010 else planes
    black, luma_range, middle, chroma_range, _ = _coding(fmt, False)
    unit = rgb / (2**bits - 1)
    grey = unit @ (red, 1 - red - blue, blue)
    assert np.abs(planes[: height * width].reshape(height, width) - black - luma_range * grey).max() <= 0.501
    u, v = (unit[..., 2] - grey) / (2 - 2 * blue), (unit[..., 0] - grey) / (2 - 2 * red)
    chroma = np.moveaxis(planes[height * width :].reshape(7, 11, 2).astype(float), -1, 0)
    for got, exact in zip(chroma, (u, v), strict=True):
        padded = np.pad(exact, 1, mode="edge")
        padded = np.pad(padded, ((0, 1), (0, 1)), mode="edge")  # odd sizes: one more for the last sample
        for axis, centred in ((0, location != TOP_LEFT), (1, location == CENTRE)):
            n = got.shape[axis]
            taps = [np.take(padded, np.arange(n) * 2 + i, axis) for i in range(3)]
            weights = (0, 0.5, 0.5) if centred else (0.25, 0.5, 0.25)
            padded = sum(w * tap for w, tap in zip(weights, taps, strict=True))
        assert np.abs(got - middle - chroma_range * padded).max() <= 0.501


@pytest.mark.parametrize("matrix", [1, 6])
def test_planar_444_is_the_command_lines(inside, matrix):
    """The numbers of FFmpeg's scaler with limited range, so that y4m files can be compared byte for byte."""
    rng = np.random.default_rng(matrix)
    planes = rng.integers(0, 256, (3, 512, 1024), np.uint8)
    tags = ColourTags(2, 2, matrix, False)
    expected = RgbReader(tags)(VideoFrame.from_ndarray(planes, format="yuv444p"))
    got = inside("planar444", 1, int(matrix == 1), 0, data=planes.tobytes()).reshape(expected.shape)
    # Where blue would be more than twice white the scaler wraps to black; ours stays at white.
    luma, u, _ = planes.astype(np.int64)
    blue = (luma - 16) * 255 / 219 + (u - 128) * 255 / 224 * 2 * (1 - _WEIGHTS[matrix][1])
    shown = blue < 511
    np.testing.assert_array_equal(got[shown], expected[shown])
    rgb = rng.integers(0, 256, (512, 1024, 3), np.uint8)
    encoded = RgbWriter("yuv444p", tags)(rgb).to_ndarray()
    np.testing.assert_array_equal(inside("planar444", 0, int(matrix == 1), 0, data=rgb.tobytes()), encoded.ravel())
