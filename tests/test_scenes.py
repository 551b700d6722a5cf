"""Hard cuts: found where clips were spliced, nowhere else, and nothing of the old scene in the new one."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from counts import FIGURES
from faults import Remembering
from hypothesis import given, settings
from hypothesis import strategies as st
from media import Clip, frames_of, write_clip
from stand_in import NoBackend, bundle

from flashvsr_trt.configs.errors import InputError
from flashvsr_trt.runtime import Job, Options, upscale_file, upscaler
from flashvsr_trt.runtime.scenes import MEMORY, Detector, Listed, parse_scene_cut
from flashvsr_trt.runtime.video import OutputOptions
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming

WIDTH, HEIGHT = 96, 72


def texture(seed):
    """A picture of soft blobs, larger than the frame: a camera has room to move over it."""
    rng = np.random.default_rng(seed)
    size = (2 * HEIGHT, 2 * WIDTH)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    out = np.empty((*size, 3))
    out[:] = rng.uniform(30, 200, 3)
    for _ in range(25):
        cy, cx, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(5, 40)
        blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius**2))
        out += blob[..., None] * rng.uniform(-120, 120, 3)
    return out


def scene(seed, count, motion="pan"):
    """Frames uint8 of one shot: a pan, a zoom's brightness change, noise, or a flash in the middle."""
    rng, whole = np.random.default_rng(seed + 1000), texture(seed)
    speed = rng.uniform(0.3, 3.0, 2)
    for index in range(count):
        # Back and forth: a camera does not jump.
        top, left = (int(s - abs((v * index) % (2 * s) - s)) for v, s in zip(speed, (HEIGHT, WIDTH), strict=True))
        view = whole[top : top + HEIGHT, left : left + WIDTH].copy()
        if motion == "fade":
            view *= 1 - 0.7 * index / count
        if motion == "noise":
            view += rng.normal(0, 12, view.shape)
        if motion == "flash" and index == count // 2:
            view += 150
        yield np.clip(view, 0, 255).astype(np.uint8)


def frames(pictures):
    return [Frame(rgb, FrameTiming(i, i, 1, Fraction(1, 25))) for i, rgb in enumerate(pictures)]


def cuts(marked):
    return [frame.timing.index for frame, begins in marked if begins]


def spliced(seed):
    """(frames, true cuts) of some shots of random kinds and lengths."""
    rng = np.random.default_rng(seed)
    pictures, true = [], []
    for shot in range(6):
        kind = ("pan", "fade", "noise", "flash")[rng.integers(4)]
        if pictures:
            true.append(len(pictures))
        pictures += scene(100 * seed + shot, int(rng.integers(12, 40)), kind)
    return frames(pictures), true


def test_precision_and_recall_on_spliced_clips():
    found = right = there = 0
    for seed in range(20):
        stream, true = spliced(seed)
        marked = cuts(Detector().mark(stream))
        found, right, there = found + len(marked), right + len({*marked} & {*true}), there + len(true)
    precision, recall = right / found, right / there
    FIGURES.append(f"scene cuts: {there} in 20 spliced clips, precision {precision:.3f}, recall {recall:.3f}")
    assert precision >= 0.97
    assert recall >= 0.97


@pytest.mark.parametrize("motion", ["pan", "fade", "noise", "flash"])
def test_one_shot_has_no_cuts(motion):
    for seed in range(8):
        assert cuts(Detector().mark(frames(scene(seed, 50, motion)))) == []


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 19), start=st.integers(0, 60))
def test_a_decision_depends_on_few_frames(seed, start):
    """What is taken up in the middle finds the same cuts: the runtime shows the detector so many frames before."""
    stream, _ = spliced(seed)
    from_there = Detector().mark(stream[max(0, start - MEMORY) :])
    assert [c for c in cuts(from_there) if c >= start] == [c for c in cuts(Detector().mark(stream)) if c >= start]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 1), (1, 200), (72, 96)])
def test_any_size(size):
    rng = np.random.default_rng(0)
    stream = frames(rng.integers(0, 256, (5, *size, 3), np.uint8))
    assert len(list(Detector().mark(stream))) == 5


def test_no_frames_and_one_frame():
    assert list(Detector().mark([])) == []
    assert cuts(Detector().mark(frames(scene(0, 1)))) == []


def test_a_list_of_cuts(tmp_path):
    path = tmp_path / "cuts.txt"
    path.write_text("5\n 1.0  # one second\n\n# nothing\n0\n200\n")
    listed = parse_scene_cut(str(path))
    assert isinstance(listed, Listed)
    assert cuts(listed.mark(frames(scene(0, 40)))) == [5, 25]
    assert parse_scene_cut("off") is None
    path.write_text("soon\n")
    for bad in (path, tmp_path / "missing.txt"):
        with pytest.raises(InputError):
            parse_scene_cut(str(bad))


def upscaled(tmp_path, name, pictures, cut, **changes):
    source = write_clip(tmp_path / f"{name}.mkv", pictures, Clip(codec="ffv1", pix_fmt="bgr0", options={}))
    job = Job(
        source=str(source),
        output=str(tmp_path / f"{name}_out.mkv"),
        options=Options(scale=1, **changes),
        video=OutputOptions(lossless=True),
        scene_cut=cut,
        segment=1.0,
    )
    report = upscale_file(job, bundle=tmp_path / "bundle", backend=NoBackend())
    return report, [f.to_ndarray(format="rgb24") for f in frames_of(Path(job.output))]


@pytest.mark.parametrize("variant", ["tiny", "long"])
@pytest.mark.parametrize("lengths", [(30, 45), (3, 50), (26, 1, 40), (60, 22)])
def test_no_trace_of_the_old_scene(tmp_path, monkeypatch, variant, lengths):
    """Each scene of a spliced clip equals a run of that scene alone, with networks whose every frame knows the past."""
    monkeypatch.setattr(upscaler, "Networks", Remembering)
    bundle(tmp_path / "bundle")
    scenes = [list(scene(seed, count)) for seed, count in enumerate(lengths)]
    begins = [sum(lengths[: i + 1]) for i in range(len(lengths) - 1)]
    listed = tmp_path / "cuts.txt"
    listed.write_text("\n".join(map(str, begins)))
    options = {"variant": variant, "segment_steps": 2}
    report, together = upscaled(tmp_path, "all", [p for shot in scenes for p in shot], str(listed), **options)
    assert list(report.scene_cuts) == begins
    alone = [p for i, shot in enumerate(scenes) for p in upscaled(tmp_path, f"s{i}", shot, "off", **options)[1]]
    assert len(together) == sum(lengths)
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_cuts_are_found_by_themselves_and_can_be_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(upscaler, "Networks", Remembering)
    bundle(tmp_path / "bundle")
    pictures = [*scene(1, 30), *scene(2, 30)]
    report, with_cut = upscaled(tmp_path, "auto", pictures, "auto")
    assert report.scene_cuts == (30,)
    report, without = upscaled(tmp_path, "off", pictures, "off")
    assert report.scene_cuts == ()
    assert all(np.array_equal(a, b) for a, b in zip(with_cut[:21], without[:21], strict=True))
    assert not np.array_equal(with_cut[45], without[45])
