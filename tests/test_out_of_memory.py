"""Memory that runs out: the plan shrinks, the work goes on at the same frame, and it ends."""

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
from counts import FAULTS
from faults import Remembering
from long_jobs import call, clip, failing, left, pixels, same, upscale
from media import Clip, picture, write_clip

from flashvsr_trt.configs.errors import FlashVSRError, OutOfMemory
from flashvsr_trt.configs.schedule import canvas
from flashvsr_trt.runtime import upscaler
from flashvsr_trt.runtime.shrink import smaller
from flashvsr_trt.runtime.upscaler import Options


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, Remembering)


def test_tiles_that_were_forbidden_are_not_taken(monkeypatch):
    write_clip(Path("in.mkv"), [picture(i, 160, 160) for i in range(5)], Clip("ffv1", "bgr0", options={}))
    with monkeypatch.context() as patch:
        failing(patch, 0, OutOfMemory("no memory for the ring"), times=1000)
        result = call("run", "in.mkv", "-o", "out.mkv", "--tile", "off")
    assert (result.exit_code, "tiles of" in result.stderr) == (5, False)
    assert left() == ["in.mkv"]


@pytest.mark.parametrize("step", [0, 4])
@pytest.mark.parametrize(
    "error", [OutOfMemory("no memory for the ring"), MemoryError("no memory")], ids=["device", "host"]
)
def test_out_of_memory_goes_on_with_a_smaller_plan(monkeypatch, step, error):
    clip()
    assert upscale("whole.mkv").exit_code == 0
    with monkeypatch.context() as patch:
        tries = failing(patch, step, error)
        result = upscale("out.mkv", "--report", "report.json")
    assert (result.exit_code, len(tries)) == (0, 1), result.stderr
    FAULTS["memory that ran out"] += 1
    FAULTS["frames lost"] += 90 - len(pixels("out.mkv"))
    assert "one network in memory at a time" in result.stderr
    assert f"going on at frame {0 if step == 0 else 45}" in result.stderr
    same("out.mkv", "whole.mkv")
    (report,) = json.loads(Path("report.json").read_text())
    assert (report["plan"]["variant"], len(report["plan_changes"])) == ("tiny", 1)


def test_out_of_memory_ends_when_nothing_smaller_is_left(monkeypatch):
    clip()
    with monkeypatch.context() as patch:
        tries = failing(patch, 4, OutOfMemory("no memory for the ring"), times=1000)
        result = upscale("out.mkv")
    assert result.exit_code == 5
    assert len(tries) == 2  # long, tiny; a canvas of one tile has no smaller ones
    assert "45 frames are kept" in result.stderr
    again = upscale("out.mkv")  # with the plan that was left
    assert again.exit_code == 0


class OnTiles:
    """In place of the networks on tiles: gives the LQ frames back, darker, so that they are told apart."""

    def __init__(self, bundle, backend, settings, tiling, on_work):
        self.size = settings.canvas.output

    def reset(self):
        self.step = 0

    def denoise(self, taken):
        self.step += len(taken)
        return [np.zeros(1) for _ in taken]

    def decode(self, decoded, conditions):
        for lq in conditions:
            yield from lq[:, : self.size[0], : self.size[1]] // 2

    def save_state(self):
        return {"position": np.asarray(self.step)}

    def load_state(self, arrays):
        self.step = int(arrays["position"])


def test_out_of_memory_goes_on_with_tiles_where_nothing_else_helps(monkeypatch):
    """From the last kept frame on, also in a later run; the frames before it stay."""
    write_clip(Path("in.mkv"), [picture(i, 160, 160) for i in range(90)], Clip("ffv1", "bgr0", options={}))
    monkeypatch.setattr(upscaler, "TiledNetworks", OnTiles)
    flags = ("run", "in.mkv", "-o", "out.mkv", "--lossless", "--segment", "0.8", "--scene-cut", "off")
    with monkeypatch.context() as patch:
        failing(patch, 4, OutOfMemory("no memory for the ring"), times=1000)
        patch.setattr(OnTiles, "denoise", lambda self, taken: (_ for _ in ()).throw(FlashVSRError("lost")))
        result = call(*flags)
    assert (result.exit_code, "tiles of 640x384 pixels" in result.stderr) == (1, True), result.stderr
    result = call(*flags, "--report", "report.json")
    assert (result.exit_code, "going on at frame 45" in result.stderr) == (0, True), result.stderr
    (report,) = json.loads(Path("report.json").read_text())
    assert report["plan"]["tiling"]["dit"] == [384, 640]
    assert len(report["plan_changes"]) == 2
    shown, expected = pixels("out.mkv"), pixels("in.mkv")
    assert len(shown) == 90
    darker = [frame.mean() < 0.7 * before.mean() for frame, before in zip(shown, expected, strict=True)]
    assert darker[45:] == [True] * 45


@pytest.mark.parametrize("variant", ["tiny", "long", "full"])
def test_plans_shrink_to_an_end(variant):
    place = canvas(1080, 1920, output=(2160, 3840))
    options, plans = Options(variant=variant), []
    while (step := smaller(options, place)) is not None:
        options, text = step
        plans.append(text)
        assert len(plans) < 30
    assert options.tiling is not None
    assert options.tiling.dit == (384, 384)
    assert len(set(plans)) == len(plans)
