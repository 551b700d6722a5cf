"""Frames in and out of the upscaler, with a stand-in in place of the networks: the bookkeeping is what is tested."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import Sizes, graphs
from flashvsr_trt.configs.errors import BundleError, UsageError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime import upscaler as module
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.canvas import to_canvas
from flashvsr_trt.runtime.ring import KvRing
from flashvsr_trt.runtime.upscaler import Options, Upscaler


class StandIn:
    """Gives the LQ frames back, and checks that they are the schedule's."""

    def __init__(self, bundle, backend, config):
        self.canvas, self.colour_fix, self.step, self.seen, self.released = config.canvas, config.colour_fix, 0, [], []

    def reset(self):
        self.step, self.seen = 0, []

    def denoise(self, step, lq):
        assert step == self.step
        begin, end = schedule.step_input(step)
        assert len(self.seen) == begin
        self.seen += list(lq)
        assert len(self.seen) == end
        self.step += 1
        return np.full((1,), step)

    def decode(self, step, latents, lq):
        assert int(latents[0]) == step
        begin, end = schedule.step_output(step)
        assert all(np.array_equal(a, b) for a, b in zip(lq, self.seen[begin:end], strict=True))
        height, width = self.canvas.output
        return lq[:, :height, :width]

    def keep(self, latents):
        return latents.copy()

    restore = keep

    def release_denoise(self):
        self.released.append("denoise")

    def release_decode(self):
        self.released.append("decode")


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setattr(module, "Networks", StandIn)


SIZES = Sizes(dim=128, layers=1, lq_hidden=(1, 1))
BUNDLE = Bundle(
    folder=None,
    manifest=Manifest(
        model="stand-in",
        about="",
        model_version="v1.1",
        precision="fp32",
        local_range=11,
        op_abi=1,
        sizes=SIZES,
        graphs=graphs(SIZES, causal=True),
        files={},
    ),
)


def make(height, width, **options):
    return Upscaler(BUNDLE, None, height, width, Options(**options))


def numbered(count, height, width):
    """Frames whose content tells their index, and which no resize mixes up."""
    return [np.full((height, width, 3), 1 + i % 255, np.uint8) for i in range(count)]


def upscale_all(upscaler, frames):
    out = []
    for frame in frames:
        out += upscaler.push(upscaler.prepare(frame))
    return out + upscaler.flush()


@pytest.mark.parametrize("variant", ["tiny", "long"])
@pytest.mark.parametrize("count", [*range(1, 61)])
def test_every_count_gives_every_frame_once(variant, count):
    frames = numbered(count, 2, 3)
    out = upscale_all(make(2, 3, variant=variant, segment_steps=2), frames)
    assert [int(o[0, 0, 0]) for o in out] == [int(f[0, 0, 0]) for f in frames]
    assert all(o.shape == (8, 12, 3) for o in out)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.sampled_from([(1, 1), (31, 17), (90, 160), (480, 853)]), st.tuples(st.integers(1, 200), st.integers(1, 200))
    ),
    st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0]),
)
def test_every_size_is_exact(size, scale):
    height, width = size
    out = upscale_all(make(height, width, scale=scale), numbered(1, height, width))
    assert out[0].shape == (int(height * scale + 0.5), int(width * scale + 0.5), 3)
    assert (out[0] == 1).all()  # padding repeats the edge, it never shows


def test_a_stream_may_follow_a_stream():
    upscaler = make(2, 2)
    assert len(upscale_all(upscaler, numbered(30, 2, 2))) == 30
    assert len(upscale_all(upscaler, numbered(5, 2, 2))) == 5
    assert upscaler.flush() == []


def test_first_frames_leave_after_25():
    upscaler = make(2, 2)
    ready = [len(upscaler.push(upscaler.prepare(frame))) for frame in numbered(41, 2, 2)]
    assert ready == [0] * 24 + [21] + [0] * 7 + [8] + [0] * 7 + [8]


@pytest.mark.parametrize(("count", "expected"), [(21, 21), (28, 21), (29, 29), (36, 29), (37, 37)])
def test_reference_count(count, expected):
    assert len(upscale_all(make(2, 2, reference_count=True), numbered(count, 2, 2))) == expected


def test_tiny_holds_one_network_at_a_time():
    upscaler = make(2, 2, variant="tiny", segment_steps=2)
    upscale_all(upscaler, numbered(50, 2, 2))
    assert upscaler._order._networks.released == ["denoise", "decode"] * 3  # 6 steps in segments of 2


def test_crop_is_the_references():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (150, 301, 3), np.uint8)
    canvas = schedule.canvas(150, 301, output=(150, 301), fit="crop")
    np.testing.assert_array_equal(to_canvas(rgb, canvas), rgb[11:139, 22:278])


@pytest.mark.parametrize(
    "bad", [{"variant": "huge"}, {"colour_fix": "lab"}, {"bits": 12}, {"segment_steps": 0}, {"scale": 0}]
)
def test_senseless_options_are_refused(bad):
    with pytest.raises(UsageError):
        make(8, 8, **bad)


@pytest.mark.parametrize(
    ("asked", "suits", "taken"), [("auto", "adain", "adain"), ("auto", "none", "none"), ("adain", "wavelet", "adain")]
)
def test_colour_fix_is_the_bundles_unless_one_is_asked_for(asked, suits, taken):
    bundle = Bundle(None, replace(BUNDLE.manifest, colour_fix=suits))
    upscaler = Upscaler(bundle, None, 8, 8, Options(colour_fix=asked))
    assert upscaler._order._networks.colour_fix == taken


def test_full_needs_a_bundle_with_the_vae():
    with pytest.raises(BundleError, match="variant full was asked of a bundle without vae_decoder"):
        make(8, 8, variant="full")


def test_baked_parameters_are_refused():
    with pytest.raises(UsageError, match="local_range 9 was asked of a bundle made with 11"):
        make(8, 8, parameters=Parameters(local_range=9))


def test_frames_of_another_size_are_refused():
    with pytest.raises(UsageError, match=r"uint8 \[9, 8, 3\]"):
        make(8, 8).prepare(np.zeros((9, 8, 3), np.uint8))


@given(st.floats(1, 9), st.integers(1, 40))
def test_ring_never_overwrites_a_valid_slab(kv_ratio, steps):
    ring, held = KvRing(kv_ratio), []
    for step in range(steps):
        slots = ring.begin(3 if step == 0 else 1)
        assert not set(slots) & set(ring.valid)
        ring.commit(slots)
        held += list(slots)
        held = held[1:] if len(held) > int(kv_ratio) else held
        assert ring.valid == held
