"""What the demo model trains on: resampling, metrics, degradation, motion and clips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr_trt.configs.errors import InputError
from flashvsr_trt.export.demo import (
    clips,
    degrade,
    metrics,
    motion,
    resample,
)
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.images import load
from flashvsr_trt.export.demo.motion import Cameras, render
from flashvsr_trt.export.demo.sources import SOURCES, TEST, VALIDATION, split_of

pytest_plugins = ("demo_images",)

CPU = torch.device("cpu")


# --- resampling, metrics, degradation: against PIL and closed forms


@pytest.mark.parametrize("size", [(37, 61), (512, 384), (100, 15)])
def test_resize_equals_pil(images: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    pixels = images["procedural/0"]
    ours = resample.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), *size).permute(1, 2, 0)
    theirs = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    difference = np.abs(ours.numpy() - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # fp32 against PIL's 22-bit fixed point


@pytest.mark.parametrize(("kind", "pil"), [("box", Image.Resampling.BOX), ("triangle", Image.Resampling.BILINEAR)])
def test_other_filters_equal_pil(images: dict[str, np.ndarray], kind: str, pil: Image.Resampling) -> None:
    pixels = images["procedural/2"][:128, :256]
    ours = resample.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), 32, 64, kind).permute(1, 2, 0)
    assert np.abs(ours.numpy() - np.asarray(Image.fromarray(pixels).resize((64, 32), pil))).max() <= 1


def test_psnr_and_flicker_of_known_errors() -> None:
    truth = torch.full((5, 16, 16, 3), 100, dtype=torch.uint8)
    # A grey step of 10 moves the studio-range luma by 10 * 219 / 255.
    expected = 20 * np.log10(255 / (10 * 219 / 255))
    assert metrics.psnr(truth + 10, truth).mean().item() == pytest.approx(expected, abs=1e-3)
    assert metrics.psnr(truth, truth).min().item() == pytest.approx(100)
    assert metrics.flicker(truth + 10, truth).item() == 0  # a constant error does not flicker
    blinking = truth + (10 * (torch.arange(5) % 2)).to(torch.uint8)[:, None, None, None]
    assert metrics.flicker(blinking, truth).item() == pytest.approx(10)


def test_ssim_against_direct_sums() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 256, (1, 13, 12, 3), dtype=np.uint8) for _ in range(2))
    x, y = (metrics.luma(torch.from_numpy(p))[0].double().numpy() for p in (a, b))
    tap = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(tap, tap) / tap.sum() ** 2
    values = []
    for r in range(3):
        for c in range(2):
            p, q = x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            c1, c2 = 2.55**2, 7.65**2
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    ours = metrics.ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert ours.item() == pytest.approx(np.mean(values), abs=1e-4)


def test_clean_low_resolution_is_plain_bicubic() -> None:
    frames = torch.randint(0, 256, (1, 2, 3, 64, 96)).float()
    low = degrade.low_resolution(frames, degrade.clean(1), torch.Generator())
    assert torch.equal(low, resample.resize(frames, 16, 24))


def test_blur_comes_before_the_reduction() -> None:
    """Joined with it or not: the same, but for a rounding of fp32 that falls on another side now and then."""
    frames = torch.randint(0, 256, (2, 2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()
    sigma = torch.tensor([[1.2, 0.5], [0.0, 2.0]])
    how = dataclasses.replace(degrade.clean(2), blur=sigma)
    low = degrade.low_resolution(frames, how, torch.Generator())
    across, down = (degrade._gaussian(n, sigma[:, i])[:, None, None] for i, n in ((0, 96), (1, 64)))
    difference = (low - resample.resize(down @ frames @ across.transpose(-1, -2), 16, 24)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-2


def test_most_degraded_clips_have_several_degradations() -> None:
    how = degrade.random_degradation(4000, 0.5, torch.Generator().manual_seed(0))
    coded = (how.quality > 0) | (how.crf > 0)
    degraded = (how.blur > 0).any(dim=1) | (how.noise > 0) | coded
    every = (how.blur > 0).all(dim=1) & (how.noise > 0) & coded
    assert degraded.float().mean() == pytest.approx(0.5, abs=0.03)
    assert every.sum() / degraded.sum() == pytest.approx(0.85**3, abs=0.04)
    assert not ((how.quality > 0) & (how.crf > 0)).any()
    assert how.crf[how.crf > 0].min() >= 14
    assert how.crf.max() <= 30


def test_codec_is_nearly_lossless_at_quality_100_and_coarser_below() -> None:
    frames = resample.resize(torch.randint(0, 256, (2, 3, 3, 4, 5)), 40, 48)  # smooth
    errors = {}
    for quality in (100, 60, 20):
        for inter in (False, True):
            setting = dataclasses.replace(degrade.clean(2), quality=torch.full((2,), quality), inter=inter)
            errors[quality, inter] = (degrade._compress(frames, setting) - frames).abs().mean().item()
    assert errors[100, False] < 1.5  # levels: chroma at half size, rounding to 8 bits
    assert errors[20, False] > errors[60, False] > errors[100, False]
    assert errors[20, True] > errors[100, True]


def test_video_is_coded_clip_by_clip() -> None:
    """Coarser at a higher CRF; the clip without one is left as it is."""
    frames = torch.randint(0, 256, (1, 5, 3, 128, 160), generator=torch.Generator().manual_seed(0)).float()
    how = dataclasses.replace(degrade.clean(3), crf=torch.tensor([0, 12, 30]))
    plain, coded = (
        degrade.low_resolution(frames.expand(3, -1, -1, -1, -1), one, torch.Generator())
        for one in (degrade.clean(3), how)
    )
    errors = (coded - plain).abs().mean(dim=(1, 2, 3, 4))
    assert errors[0] == 0
    assert 0 < errors[1] < errors[2] < 20


def test_coded_differences_leave_a_still_picture_alone() -> None:
    """Noise below the dead zone is not coded: every frame looks like the first, unlike frames coded one by one."""
    generator = torch.Generator().manual_seed(0)
    still = resample.resize(torch.randint(0, 256, (1, 1, 3, 4, 5), generator=generator), 40, 48)
    frames = still + torch.randn(1, 6, 3, 40, 48, generator=generator)
    changes = {}
    for inter in (False, True):
        setting = dataclasses.replace(degrade.clean(1), quality=torch.full((1,), 65), inter=inter)
        coded = degrade._compress(frames, setting)
        assert (coded - still).abs().mean() < 6
        changes[inter] = (coded[:, 1:] - coded[:, :-1]).abs().mean().item()
    assert changes[True] < 0.2 * changes[False]


# --- motion and clips


def _camera(**changes: torch.Tensor) -> Cameras:
    still = {
        "scale": torch.ones(1),
        "velocity": torch.zeros(1, 2),
        "zoom": torch.ones(1),
        "turn": torch.zeros(1),
    }
    return Cameras(**(still | {"shake": torch.zeros(1, 2), "rate": torch.ones(1, 2)} | changes))


def test_a_still_camera_sees_the_middle_of_the_patch() -> None:
    patch = torch.rand(1, 3, 64, 64) * 255
    seen = render(patch, _camera(), 3, (32, 32))
    assert torch.allclose(seen, patch[:, None, :, 16:48, 16:48].expand(-1, 3, -1, -1, -1), atol=1e-2)


def test_a_pan_by_whole_pixels_shifts_the_picture() -> None:
    patch = torch.rand(1, 3, 64, 64) * 255
    seen = render(patch, _camera(velocity=torch.tensor([[2.0, -1.0]])), 3, (32, 32))
    assert torch.allclose(seen[0, 2], patch[0, :, 15:47, 18:50], atol=1e-2)


def test_clips_with_and_without_motion_render_alike_in_one_batch() -> None:
    """A still one from a single frame, and what stays within the patch without mirroring."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(3, 3, 64, 64, generator=generator) * 255
    still = _camera()
    names = [field.name for field in dataclasses.fields(Cameras)]
    moves = {"velocity": torch.tensor([[0.0, 0.0], [0.4, -0.3], [9.0, 0.0]])}
    cameras = Cameras(**({n: torch.cat([getattr(still, n)] * 3) for n in names} | moves))
    assert cameras.still().tolist() == [True, False, False]
    seen = render(patches, cameras, 5, (32, 32))
    for clip in range(3):
        alone = motion._render(patches[clip : clip + 1], cameras.of(torch.tensor([clip])), 5, (32, 32), "bicubic")
        assert torch.allclose(seen[clip], alone[0], atol=1e-2)
    assert torch.equal(seen[0, 0], seen[0, 4])
    near = render(patches[1:2], cameras.of(torch.tensor([1])), 5, (32, 32))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(motion, "MARGIN", 1e6)  # always mirrored
        assert torch.equal(near, render(patches[1:2], cameras.of(torch.tensor([1])), 5, (32, 32)))


def _changes(images: dict[str, np.ndarray], number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean changes from frame to frame of the truth and of the input, [frames - 1]."""
    made = ClipMaker(images, (128, 128), seed=0, device=CPU).make(number, 1, 9, degraded=0.0)
    truth, lq = ((x[0, 1:].float() - x[0, :-1].float()).abs().mean(dim=(1, 2, 3)) for x in (made.truth, made.lq))
    return truth, lq


def test_a_cut_comes_before_any_frame(images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in ((motion, "STATIC", 1.0), (clips, "GRAINY", 0.0), (clips, "LAYERED", 0.0)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(clips, "CUT", 1.0)
    cuts = [_changes(images, number)[0] for number in range(8)]
    assert all((change > 0).sum() == 1 for change in cuts)
    assert len({int(change.argmax()) for change in cuts}) > 3


def test_grain_is_in_the_truth_and_little_of_it_in_the_input(
    images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in ((motion, "STATIC", 1.0), (clips, "LAYERED", 0.0), (clips, "CUT", 0.0)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(clips, "GRAINY", 0.0)
    assert _changes(images, 0)[0].max() == 0
    monkeypatch.setattr(clips, "GRAINY", 1.0)
    truth, lq = _changes(images, 0)
    assert 0 < lq.mean() < 0.8 * truth.mean()
    assert truth.max() < 2 * clips.GRAIN


def test_clips_are_reproducible_and_aligned(images: dict[str, np.ndarray]) -> None:
    first, second = (ClipMaker(images, (128, 128), seed=3, device=CPU) for _ in range(2))
    one, other = (first.make(number, 2, 5, degraded=0.5) for number in (0, 1))
    assert one.truth.shape == one.lq.shape == (2, 5, 128, 128, 3)
    assert not torch.equal(one.truth, other.truth)
    for number, made in ((1, other), (0, one)):  # whatever was made before
        again = second.make(number, 2, 5, degraded=0.5)
        assert torch.equal(made.truth, again.truth)
        assert torch.equal(made.lq, again.lq)
    clean = first.make(0, 4, 5, degraded=0.0)
    low = resample.resize(clean.truth.permute(0, 1, 4, 2, 3), 32, 32)
    assert torch.equal(resample.resize(low, 128, 128).permute(0, 1, 3, 4, 2).to(torch.uint8), clean.lq)


def test_held_out_images_exist_and_never_train() -> None:
    names = {f"{s.name}/{Path(image).stem}" for s in SOURCES for image in s.images}
    assert set(TEST) | set(VALIDATION) <= names
    assert not set(TEST) & set(VALIDATION)
    assert {split_of(name) for name in TEST} == {"test"}
    assert sum(split_of(name) == "train" for name in names) >= 40


def test_a_missing_pack_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images --out"):
        load(tmp_path / "none.zip", "train")
