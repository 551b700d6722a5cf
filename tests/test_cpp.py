"""libflashvsr part by part, each against the Python runtime's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from cpp_programs import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flashvsr_trt.configs import cpp_header, schedule
from flashvsr_trt.runtime.canvas import to_canvas
from flashvsr_trt.runtime.noise import noise
from flashvsr_trt.runtime.ring import KvRing
from flashvsr_trt.runtime.rope import rotary_table
from flashvsr_trt.runtime.upscaler import Options

pytest_plugins = ("cpp_fixtures",)


def test_generated_header_is_current(build):
    assert (build / "generated" / "flashvsr_contract.hpp").read_text() == cpp_header.render()


def test_schedule_table(inside):
    inside("schedule", ROOT / "tests" / "data" / "schedule.json")


@pytest.mark.parametrize("kv_ratio", [1, 2, 2.9, 3, 4, 6.5])
def test_ring_takes_the_same_slots(inside, kv_ratio):
    ring, expected = KvRing(kv_ratio), ""
    for step in range(30):
        ring.commit(ring.begin(3 if step == 0 else 1))
        expected += "".join(f"{slot} " for slot in ring.valid) + "\n"
    assert inside.text("ring", kv_ratio, 30) == expected


def test_defaults_are_those_of_python(inside):
    got, options = json.loads(inside.text("defaults")), Options()
    for name in ("scale", "segment_steps", "bits"):
        assert got[name] == getattr(options, name)
    for name in ("sparse_ratio", "kv_ratio", "seed"):
        assert got[name] == getattr(options.parameters, name)
    # The first of each enumeration: long, pad; and the bundle's colour fix.
    assert (options.variant, options.colour_fix, options.fit) == ("long", "auto", "pad")
    assert (got["variant"], got["colour_fix"], got["fit"]) == (0, -1, 0)


def test_philox_known_answer(inside):
    """Random123's known-answer test for philox4x32-10 on the digits of pi."""
    counter_and_key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    expected = (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert tuple(map(int, inside.text("philox", *counter_and_key).split())) == expected


@pytest.mark.parametrize(
    ("seed", "begin", "end", "height", "width"),
    [(0, 0, 6, 96, 176), (2**64 - 1, 6, 8, 17, 3), (12345, 2**33, 2**33 + 2, 5, 9), (7, 1_000_000, 1_000_002, 64, 64)],
)
def test_noise_is_the_same(inside, seed, begin, end, height, width):
    got = inside("noise", seed, begin, end, height, width, dtype=np.float16)
    np.testing.assert_array_equal(got, noise(seed, range(begin, end), height, width).ravel())


def test_float16_is_rounded_once(inside):
    rng = np.random.default_rng(0)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = np.sort(every[np.isfinite(every)].astype(np.float64))
    halfway = (every[1:] + every[:-1]) / 2
    values = np.concatenate(
        [
            every,
            halfway,
            np.nextafter(halfway, np.inf),
            np.nextafter(halfway, -np.inf),
            rng.normal(size=100_000),
            rng.normal(size=10_000) * 1e-7,
            [65519.999, 65520.0, 1e300, -1e300, np.inf, -np.inf, 0.0, -0.0],
        ]
    )
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    got = inside("half", data=values.tobytes(), dtype=np.uint16)
    np.testing.assert_array_equal(got, expected.view(np.uint16))


@pytest.mark.parametrize(("begin", "end", "pairs"), [(0, 240, 21), (0, 6, 22), (1_000_000, 1_000_400, 22)])
def test_rotary_tables_are_the_same(inside, begin, end, pairs):
    got = inside("rope", begin, end, pairs, dtype=np.float32)
    # Equal, but for a library of mathematics that rounds the last bit of a double otherwise: one float32 step then.
    np.testing.assert_allclose(got, rotary_table(range(begin, end), pairs).ravel(), rtol=0, atol=6e-8)


def _horizontal_first(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    for size in ((width, picture.shape[0]), (width, height)):
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    return picture


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_canvas_is_pillows_to_the_byte(inside, data):
    side = st.integers(1, 90)
    height, width = data.draw(side), data.draw(side)
    crop = data.draw(st.booleans())
    out = st.integers(128, 300) if crop else st.integers(1, 300)
    output = (height, width) if data.draw(st.integers(0, 9)) == 0 and not crop else (data.draw(out), data.draw(out))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    if data.draw(st.booleans()):
        picture = (picture > 127).astype(np.uint8) * 255  # overshoots on both sides
    canvas = schedule.canvas(height, width, output=output, fit="crop" if crop else "pad")
    got = inside("canvas", height, width, *output, int(crop), data=picture.tobytes())
    # Where a side shrinks, Pillow 13 begins with the pass that costs less; earlier ones always with the horizontal.
    resized = _horizontal_first(picture, *output)
    unscaled = schedule.canvas(*output, output=output, fit="crop" if crop else "pad")
    np.testing.assert_array_equal(got.reshape(canvas.height, canvas.width, 3), to_canvas(resized, unscaled))
    if output[0] >= height and output[1] >= width:
        np.testing.assert_array_equal(
            resized, to_canvas(picture, replace(canvas, height=output[0], width=output[1], offset=(0, 0)))
        )


def test_canvas_of_usual_scales(inside):
    rng = np.random.default_rng(5)
    for (height, width), scale in (((144, 176), 4), ((360, 640), 3), ((272, 640), 1.5)):
        picture = np.asarray(
            Image.fromarray(rng.integers(0, 256, (height // 3, width // 3, 3), np.uint8)).resize((width, height))
        )
        canvas = schedule.canvas(height, width, output=schedule.scaled(height, width, scale))
        got = inside("canvas", height, width, *canvas.output, 0, data=picture.tobytes())
        np.testing.assert_array_equal(got.reshape(canvas.height, canvas.width, 3), to_canvas(picture, canvas))


@pytest.mark.parametrize("length", [0, 3, 55, 56, 63, 64, 65, 119, 120, 1000])
def test_sha256(inside, length):
    text = (bytes(range(256)) * 4)[:length]
    assert inside.text("sha256", data=text) == hashlib.sha256(text).hexdigest()
