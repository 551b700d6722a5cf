"""Several inputs: what exists, what fails, what is skipped."""

import os
import shutil
from pathlib import Path

import command_line
import pytest
from command_line import FAST, call, clip, left
from media import picture
from PIL import Image
from stand_in import StandIn


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, StandIn)


def test_a_batch_goes_on_after_a_failure():
    Path("many").mkdir()
    clip("many/a1.mp4", 2)
    Path("many/a2.mp4").write_text("no video")
    clip("many/a10.mp4", 3)
    result = call("run", "many", "-o", "out", "--json", *FAST)
    assert result.code == 3, result.err
    assert sorted(os.listdir("out")) == ["a10_flashvsr_4x.mp4", "a1_flashvsr_4x.mp4"]
    assert "1 of 3 inputs failed: many/a2.mp4" in result.err
    assert "2 done, 0 skipped, 1 failed" in result.err
    kinds = [event["event"] for event in result.events if event["event"] != "progress"]
    assert kinds == ["failed", "plan", "done", "plan", "done", "summary", "error"]
    again = call("run", "many", "-o", "out", "-n")
    assert again.code == 3
    assert "0 done, 2 skipped, 1 failed" in again.err


def test_a_batch_with_existing_outputs_asks_first():
    clip("a.mp4", 2)
    clip("b.mp4", 2)
    Path("b_flashvsr_4x.mp4").write_bytes(b"precious")
    result = call("run", "a.mp4", "-i", "b.mp4")
    assert (result.code, "-n skips" in result.err) == (6, True)
    assert "a_flashvsr_4x.mp4" not in left()
    result = call("run", "a.mp4", "b.mp4", "-n", *FAST)
    assert (result.code, "1 done, 1 skipped" in result.err) == (0, True)
    assert Path("b_flashvsr_4x.mp4").read_bytes() == b"precious"


def test_outputs_of_earlier_runs_are_no_inputs():
    Path("many").mkdir()
    clip("many/a.mp4", 2)
    assert call("run", "many", *FAST).code == 0
    result = call("run", "many", "-n")
    assert (result.code, "1 outputs of earlier runs" in result.err) == (0, True)
    assert sorted(os.listdir("many")) == ["a.mp4", "a_flashvsr_4x.mp4"]


def test_two_inputs_for_one_output_are_refused():
    for folder in ("x", "y"):
        Path(folder).mkdir()
        clip(f"{folder}/a.mp4", 2)
    result = call("run", "x/a.mp4", "y/a.mp4", "-o", "out")
    assert (result.code, "both be written" in result.err) == (2, True)
    assert left() == ["x", "y"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["a.mp4", "a.mp4"], "twice"),
        (["-", "a.mp4"], "stdin"),
        (["a.mp4", "b.mp4", "-o", "-"], "stdout"),
        (["a.mp4", "b.mp4", "-o", "a.mp4"], "is a file"),
        (["a.mp4", "b.mp4", "--codec", "h266"], "h266"),
        (["mixed"], "1 images and 1 videos"),
        ([], "no input"),
    ],
)
def test_senseless_batches_are_2(args, says):
    clip("a.mp4", 2)
    clip("b.mp4", 2)
    Path("mixed").mkdir()
    shutil.copy("a.mp4", "mixed/a.mp4")
    Image.fromarray(picture(0)).save("mixed/a.png")
    before = left()
    result = call("run", *args)
    assert (result.code, says in result.err) == (2, True), result.err
    assert left() == before
