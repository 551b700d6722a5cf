"""The schedule as a table, and its properties. The C++ runtime reads the same table (tests/data/schedule.json)."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import UsageError

TABLE = json.loads((Path(__file__).parent / "data" / "schedule.json").read_text())


@pytest.mark.parametrize("row", TABLE["streams"], ids=lambda row: f"N={row['frames']}")
def test_stream_table(row):
    padded = schedule.padded_frames(row["frames"])
    assert padded == row["padded"]
    assert schedule.steps(padded) == row["steps"]


@pytest.mark.parametrize("row", TABLE["steps"], ids=lambda row: f"step {row['step']}")
def test_step_table(row):
    assert list(schedule.step_input(row["step"])) == row["input"]
    assert list(schedule.step_output(row["step"])) == row["output"]
    assert list(schedule.step_latents(row["step"])) == row["latents"]


@pytest.mark.parametrize("row", TABLE["topk"], ids=lambda row: f"{row['width']}x{row['height']} r{row['ratio']}")
def test_topk_table(row):
    assert schedule.topk(row["height"], row["width"], row["ratio"]) == row["topk"]


@pytest.mark.parametrize("row", TABLE["slabs"], ids=lambda row: f"kv {row['kv_ratio']}")
def test_slab_table(row):
    held, seen = 0, []
    for new in (3, 1, 1, 1, 1):
        held = schedule.cached_slabs(held + new, row["kv_ratio"])
        seen.append(held)
    assert seen == row["after_steps"]
    assert schedule.ring_slots(row["kv_ratio"]) == row["ring_slots"]


def test_topk_differs_from_the_exact_value_where_rounding_decides():
    """One canvas in 17 rounds down because of the order of the double operations; an exact topk would differ."""
    canvases = [(128 * i, 128 * j) for i in range(1, 33) for j in range(1, 33)]
    different = 0
    for height, width in canvases:
        windows = height * width // 128**2
        exact = int(Fraction(windows * windows * 2 * 768 * 1280, height * width)) - 1
        got = schedule.topk(height, width, 2.0)
        assert got in (exact, exact - 1)
        different += got != exact
    assert different > len(canvases) // 50


@given(st.integers(1, 100_000))
def test_padding_is_the_smallest_that_gives_every_frame(frames):
    padded = schedule.padded_frames(frames)
    assert padded % 8 == 1
    assert padded >= 25
    assert padded >= frames + 4
    assert padded == 25 or padded - 8 < frames + 4
    last = schedule.steps(padded) - 1
    assert schedule.step_input(last)[1] == padded
    assert schedule.step_output(last)[1] == padded - 4 >= frames


@given(st.integers(0, 10_000))
def test_steps_follow_each_other(step):
    for boundary in (schedule.step_input, schedule.step_output, schedule.step_latents):
        assert boundary(step)[1] == boundary(step + 1)[0]


@given(st.integers(21, 5000))
def test_reference_count_is_the_largest_below(frames):
    padded = schedule.reference_frames(frames)
    assert padded % 8 == 1
    assert frames + 4 - 8 < padded <= frames + 4


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_padded_canvas_holds_the_output(height, width):
    canvas = schedule.canvas(height, width, output=(height, width))
    assert canvas.height % 128 == canvas.width % 128 == 0
    assert height <= canvas.height < height + 128
    assert width <= canvas.width < width + 128
    assert canvas.output == (height, width)


@given(st.integers(128, 4000), st.integers(128, 4000))
def test_cropped_canvas_is_centred(height, width):
    canvas = schedule.canvas(height, width, output=(height, width), fit="crop")
    for side, cut, offset in zip((height, width), canvas.output, canvas.offset, strict=True):
        assert cut == side - side % 128
        assert offset == (side - cut) // 2


@pytest.mark.parametrize(("value", "scale", "expected"), [(1, 4, 4), (853, 1.5, 1280), (5, 0.5, 3), (1, 0.1, 1)])
def test_scaled_rounds_halves_up_and_never_to_nothing(value, scale, expected):
    assert schedule.scaled(value, value, scale) == (expected, expected)


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_senseless_scale_is_refused(scale):
    with pytest.raises(UsageError, match="scale is"):
        schedule.scaled(10, 10, scale)


@pytest.mark.parametrize("bad", [{"sparse_ratio": 0}, {"kv_ratio": 0.5}, {"local_range": 0}, {"seed": -1}])
def test_senseless_parameters_are_refused(bad):
    with pytest.raises(UsageError):
        schedule.Parameters(**bad)
