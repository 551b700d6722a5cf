"""Colour fix and integer pixels, where the golden recording does not tell variants apart."""

from __future__ import annotations

import pytest
import torch
from golden import error

from flashvsr_trt.configs import contract
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.export.colour import Post, adain, fix_colour, to_pixels, wavelet


def test_adain_epsilon():
    """A flat frame: std = sqrt(variance + 1e-5) on both sides, in double."""
    x = torch.full((1, 3, 16, 16), 0.25)
    x[..., ::2] += 2e-3
    reference = torch.full((1, 3, 16, 16), -0.5)
    reference[..., ::2, :] += 4e-3
    exact = (x.double() - 0.251) * ((4e-6 + 1e-5) / (1e-6 + 1e-5)) ** 0.5 - 0.498
    assert error(adain(x, reference), exact) < 1e-6


def test_wavelet_replaces_low_frequencies_only():
    x, flat = torch.rand(1, 3, 64, 64) * 0.2, torch.full((1, 3, 64, 64), 0.3)
    # A constant has no high frequencies: the result differs from x by something smooth.
    assert error(wavelet(flat, flat - 0.5), flat - 0.5) < 1e-6
    assert error(wavelet(x, x), x) < 1e-6


@pytest.mark.parametrize("fix", contract.COLOUR_FIXES)
@pytest.mark.parametrize("bits", contract.BITS)
def test_post_cuts_before_the_statistics(fix, bits):
    frames, lq = (
        torch.rand(2, 3, 128, 256) * 2 - 1,
        torch.randint(0, 256, (2, 128, 256, 3), dtype=torch.uint8),
    )
    size = torch.tensor([101, 203])
    cut = to_pixels(fix_colour(frames[:, :, :101, :203], lq[:, :101, :203], fix), bits)
    frames[:, :, 101:], lq[:, :, 203:] = 9, 0
    pixels = Post(fix, bits)(frames, lq, size)
    assert pixels.shape == (2, 101, 203, 3)
    assert torch.equal(pixels.int(), cut.int())


def test_pixels_are_truncated_and_clipped():
    values = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 7.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_pixels(values, 8)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]
    assert to_pixels(values, 16)[0, 0, :, 0].int().tolist() == [0, 0, 32767, 65502, 65535, 65535]
    with pytest.raises(UsageError, match="10 bits"):
        to_pixels(values, 10)
    with pytest.raises(UsageError, match="sepia"):
        Post("sepia", 8)
