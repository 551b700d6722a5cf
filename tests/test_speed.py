"""`python -m flashvsr_trt.runtime.speed`: what it tells, and that its comparison compares."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime import speed
from flashvsr_trt.runtime.agreement import agreement

FRAMES = 45  # the fewest: step 0, two steps that warm up, one that is timed


def _run(monkeypatch, path, *flags: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["speed", *flags, "--size", "128x128", "--device", "cpu", "--json", str(path)])
    speed.main()
    return json.loads(path.read_text(), parse_constant=pytest.fail)  # no Infinity, no NaN


@given(st.integers(1, 4), st.integers(1, 255), st.integers(0, 3))
def test_agreement_is_that_of_known_errors(frames, by, which):
    """One frame of `frames` is off by `by` in a quarter of its pixels."""
    expected = np.zeros((frames, 8, 8, 3), np.uint8)
    seen = expected.copy()
    seen[which % frames, :4, :4] += np.uint8(by)
    found = agreement(seen, expected)
    worst = 20 * np.log10(255 / by) + 20 * np.log10(2)
    assert found.frames == frames
    assert found.worst == pytest.approx(worst)
    assert found.psnr == pytest.approx(worst + 10 * np.log10(frames))


def test_agreement_of_the_same_frames_is_infinite():
    frame = np.full((2, 4, 4, 3), 7, np.uint8)
    assert agreement(frame, frame).worst == np.inf
    with pytest.raises(ValueError, match="shorter"):
        agreement(frame, frame[:1])


def test_figures(monkeypatch, tmp_path, seeded_bundle):
    facts = _run(monkeypatch, tmp_path / "a.json", str(seeded_bundle), "--frames", str(FRAMES))
    assert facts["frames"] == FRAMES
    assert facts["colour_fix"] == "adain"
    assert facts["ms_of_steps"] == [pytest.approx(facts["ms_per_step"], abs=0.01)]
    assert sum(facts["ms_by_graph"].values()) <= facts["ms_per_step"]
    assert {"dit", "lq_proj", "tc_decoder"} <= facts["ms_by_graph"].keys()
    assert "agreement" not in facts


def test_frames_are_compared_with_another_bundles(monkeypatch, tmp_path, seeded_bundle, seeded_bundle_fp16):
    command = [str(seeded_bundle_fp16), "--frames", str(FRAMES), "--against"]
    found = _run(monkeypatch, tmp_path / "b.json", *command, str(seeded_bundle))["agreement"]
    assert "fp32" in found["against"]
    assert found["frames"] == FRAMES
    assert 40 < found["worst"] <= found["psnr"] < 90  # 16 bits differ, and by little

    same = _run(monkeypatch, tmp_path / "c.json", *command, str(seeded_bundle_fp16))["agreement"]
    assert (same["psnr"], same["worst"]) == (None, None)


def test_a_reference_that_does_not_fit_is_told_before_anything_is_measured(
    monkeypatch, tmp_path, seeded_bundle, full_bundle
):
    monkeypatch.setattr(speed, "measure", lambda *given: pytest.fail("measured"))
    with pytest.raises(UsageError, match="local_range 11 was asked of a bundle made with 3"):
        _run(monkeypatch, tmp_path / "e.json", str(seeded_bundle), "--against", str(full_bundle))
    with pytest.raises(SystemExit):
        _run(monkeypatch, tmp_path / "f.json", str(seeded_bundle), "--against-device", "cpu")


def test_too_few_frames_are_refused(monkeypatch, tmp_path, seeded_bundle):
    with pytest.raises(UsageError, match="at least 45"):
        _run(monkeypatch, tmp_path / "d.json", str(seeded_bundle), "--frames", str(FRAMES - 1))
