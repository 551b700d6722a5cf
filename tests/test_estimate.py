"""Memory predicted from the manifest, and the tiles chosen by it."""

from __future__ import annotations

import pytest
import stand_in
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime import estimate
from flashvsr_trt.runtime.sizes import parse_tile
from flashvsr_trt.runtime.tiles import Tiling
from flashvsr_trt.runtime.upscaler import Options

MANIFEST = stand_in.manifest()
FOUR_K = schedule.canvas(540, 960, output=(2160, 3840))


def total(**options) -> int:
    return estimate.memory(MANIFEST, FOUR_K, Options(**options)).total


def test_phases_and_tiles_need_less():
    tiles = [Tiling(dit=(side, side), decoder=(side, side)) for side in (1536, 1024, 512)]
    phases = total(variant="tiny", segment_steps=1)
    assert phases < total()
    assert all(total(tiling=tiling, segment_steps=1) < phases for tiling in tiles)


def test_more_steps_a_segment_need_more():
    tiling = Tiling(dit=(512, 512), decoder=(512, 512))
    assert total(tiling=tiling, segment_steps=8) > total(tiling=tiling, segment_steps=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 40).map(lambda bits: 2**bits))
def test_chosen_tiles_fit_or_need_least(free):
    tiling = estimate.choose_tiling(MANIFEST, FOUR_K, Options(), free)
    needed = estimate.memory(MANIFEST, FOUR_K, Options(tiling=tiling)).total
    least = min(total(tiling=Tiling(dit=(side, side), decoder=(side, side))) for side in range(384, 2049, 128))
    assert needed <= free or needed == least
    assert (tiling is None) == (total() <= free * estimate.USABLE)


def test_tiles_on_the_command_line():
    assert parse_tile("auto", None) is None
    assert parse_tile("off", None) is None
    assert parse_tile("1024x768", None) == Tiling(dit=(768, 1024), decoder=(768, 1024))
    assert parse_tile("512x512", 128) == Tiling(
        dit=(512, 512), decoder=(512, 512), dit_overlap=128, decoder_overlap=128
    )


@pytest.mark.parametrize(("tile", "overlap"), [("big", None), ("512", None), ("auto", 64), ("off", 64)])
def test_senseless_tiles_are_refused(tile, overlap):
    with pytest.raises(UsageError):
        parse_tile(tile, overlap)
