"""A stream that is saved and taken up by another upscaler goes on bit for bit, on real networks of random weights."""

import io

import numpy as np
import pytest

from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime import Options, Upscaler
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.bundle import open_bundle
from flashvsr_trt.runtime.tiles import Tiling

FRAMES = 45  # 4 steps
TILES = Tiling(dit=(128, 256), decoder=(128, 256), dit_overlap=64, decoder_overlap=32)


def frame(index):
    y, x = np.mgrid[0:32, 0:96]
    return np.stack([x * 3 + index, y * 2 + 2 * index, (x * y) // 9 + index], axis=-1).astype(np.uint8)


def make(bundle, **options):
    return Upscaler(open_bundle(bundle), open_backend("cpu", threads=1), 32, 96, Options(**options))


def feed(upscaler, indices):
    return [pixels for index in indices for pixels in upscaler.push(upscaler.prepare(frame(index)))]


def stored(arrays):
    """Through a file, as a run stores them."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file) as loaded:
        return dict(loaded)


@pytest.mark.parametrize("cut", [3, 35])  # before the first step, and 2 frames into the third
@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "tiny", "segment_steps": 2}, {"parameters": Parameters(kv_ratio=1.0)}, {"tiling": TILES}],
    ids=["long", "tiny", "one slab", "tiles"],
)
def test_a_stream_goes_on_bit_for_bit(seeded_bundle, options, cut):
    whole = make(seeded_bundle, **options)
    expected = feed(whole, range(FRAMES)) + whole.flush()

    first = make(seeded_bundle, **options)
    given = feed(first, range(cut)) + list(first.settle())
    assert len(given) == first.settled
    arrays = stored(first.save_state())
    second = make(seeded_bundle, **options)
    second.load_state(arrays)
    given += feed(second, range(len(given), FRAMES)) + second.flush()
    assert len(given) == FRAMES
    assert all(np.array_equal(a, b) for a, b in zip(given, expected, strict=True))


def test_saving_does_not_disturb_the_stream(seeded_bundle):
    plain, saving = make(seeded_bundle), make(seeded_bundle)
    expected = feed(plain, range(40)) + plain.flush()
    given = []
    for index in range(40):
        given += feed(saving, [index])
        saving.save_state()
    given += saving.flush()
    assert all(np.array_equal(a, b) for a, b in zip(given, expected, strict=True))
