"""Which back end a run takes, on a machine without a GPU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from engine_sets import fake, key
from stand_in import NoBackend

from flashvsr_trt.configs.errors import BackendUnavailable, UsageError
from flashvsr_trt.configs.tiers import GIB
from flashvsr_trt.engines import store
from flashvsr_trt.runtime.backends.choice import has_engines, open_for, plan_for
from flashvsr_trt.runtime.bundle import open_bundle
from flashvsr_trt.runtime.card import Card

pytestmark = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """A set of the packaged bundle, for whatever GPU."""
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path))
    digest = open_bundle().manifest.digest()
    return store.create(key(bundle=digest), fake("dit"), {"bundle": "x", "source": "/b"})


def test_engines_of_the_bundle_are_looked_for(engines, seeded_bundle):
    assert has_engines(open_bundle(), "tiny")
    assert has_engines(open_bundle(), "long")
    assert not has_engines(open_bundle(), "full")
    assert not has_engines(open_bundle(seeded_bundle), "tiny")


def test_auto_tells_why_engines_are_not_used(engines, caplog):
    with caplog.at_level(logging.WARNING, "flashvsr_trt.backends"):
        assert open_for("auto").name == "onnxruntime-cpu"
    assert "the engines of this bundle are not used" in caplog.text


def test_auto_without_engines_says_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING, "flashvsr_trt.backends"):
        assert open_for("auto", threads=1).name == "onnxruntime-cpu"
    assert not caplog.text


def test_engines_that_were_asked_for_are_not_replaced(engines):
    with pytest.raises(BackendUnavailable):
        open_for("tensorrt")


def test_an_unknown_device_is_refused_before_the_bundle_is_opened():
    with pytest.raises(BackendUnavailable, match="'tpu'") as raised:
        open_for("tpu", bundle="/nowhere")
    assert "tensorrt" in raised.value.expected


def test_a_tier_is_the_memory_that_is_planned_for():
    class Gpu(NoBackend):
        planned_memory = None

        def device_memory(self):
            return 80 * GIB, 141 * GIB

        def plan_within(self, size):
            self.planned_memory = size

    gpu = Gpu()
    for tier, planned in ((None, 80), ("24", 24), ("48gb", 48)):
        plan_for(tier, gpu)
        assert Card.of(gpu).tier.memory_gib == planned
    with pytest.raises(UsageError, match="there is no tier '25'"):
        plan_for("25", gpu)
    with pytest.raises(UsageError, match="--tier 24 on stand-in"):
        plan_for("24", NoBackend())
