"""Two videos in one picture."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from media import Clip, frames_of, picture, write_clip
from PIL import Image

from flashvsr_trt.runtime.cli import cli

GAP = 2


@pytest.fixture(autouse=True)
def _clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lossless = Clip(codec="ffv1", pix_fmt="bgr0", options={})
    write_clip(Path("small.mkv"), [picture(i, 32, 24) for i in range(12)], lossless)
    write_clip(Path("large.mkv"), [255 - picture(i, 64, 48) for i in range(10)], lossless)


def call(*args):
    result = CliRunner().invoke(cli, ["compare", *map(str, args)])
    assert "Traceback" not in result.stderr
    return result


def enlarged(index):
    return np.asarray(Image.fromarray(picture(index, 32, 24)).resize((64, 48), Image.Resampling.BICUBIC))


def test_side_by_side_at_a_frame():
    assert call("small.mkv", "large.mkv", "-o", "side.png", "--at", "7").exit_code == 0
    joined = np.asarray(Image.open("side.png"))
    assert joined.shape == (48, 64 + GAP + 64, 3)
    assert np.array_equal(joined[:, :64], enlarged(7))
    assert np.array_equal(joined[:, 64 + GAP :], 255 - picture(7))


def test_split():
    assert call("large.mkv", "small.mkv", "-o", "split.png", "--split").exit_code == 0
    joined = np.asarray(Image.open("split.png"))
    assert np.array_equal(joined[:, :31], (255 - picture(0))[:, :31])
    assert (joined[:, 31:33] == 255).all()
    assert np.array_equal(joined[:, 33:], enlarged(0)[:, 33:])


def test_crops_are_rows():
    assert call("large.mkv", "large.mkv", "-o", "c.png", "--crop", "20x10+3+5", "--crop", "8x6+0+0").exit_code == 0
    joined = np.asarray(Image.open("c.png"))
    assert joined.shape == (10 + GAP + 6, 20 + GAP + 20, 3)
    assert np.array_equal(joined[:10, :20], (255 - picture(0))[5:15, 3:23])
    assert np.array_equal(joined[12:, 10:18], (255 - picture(0))[:6, :8])


def test_a_video_ends_with_the_shorter_one():
    result = call("small.mkv", "large.mkv", "-o", "side.mp4")
    assert (result.exit_code, "large.mkv ends after 10 frames" in result.stderr) == (0, True), result.stderr
    frames = frames_of(Path("side.mp4"))
    assert [(f.width, f.height) for f in frames] == [(130, 48)] * 10


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["small.mkv", "missing.mkv", "-o", "x.png"], 2),
        (["small.mkv", "large.mkv", "-o", "x.png", "--crop", "80x10+0+0"], 2),
        (["small.mkv", "large.mkv", "-o", "x.png", "--crop", "10"], 2),
        (["small.mkv", "large.mkv", "-o", "x.txt"], 2),
        (["small.mkv", "large.mkv", "-o", "-"], 2),
        (["small.mkv", "large.mkv", "-o", "x.png", "--at", "500"], 2),
        (["small.mkv", "large.mkv", "-o", "large.mkv"], 6),
    ],
)
def test_what_cannot_be_is_refused(args, code):
    result = call(*args)
    assert result.exit_code == code, result.stderr
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["large.mkv", "small.mkv"]
