"""Folders of PNG files are kept and taken up like videos."""

import os
from pathlib import Path

import command_line
import numpy as np
import pytest
from counts import FAULTS
from faults import Remembering
from long_jobs import FLAGS, call, clip, failing
from media import picture
from PIL import Image

from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime.video import stills
from flashvsr_trt.runtime.work import Work


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, Remembering)


def upscale(out, *flags, source="in.mkv"):
    return call("run", source, "-o", out, "--png", *FLAGS, *flags)


def interrupted(monkeypatch, *flags, source="in.mkv"):
    """A run that dies in step 4, after two segments of 21 and 24 frames; what it wrote of the third stays."""
    with monkeypatch.context() as patch:
        failing(patch, 4, FlashVSRError("the device is lost"))
        result = upscale("out", *flags, source=source)
    assert (result.exit_code, "45 frames are kept in .out.flashvsr" in result.stderr) == (1, True), result.stderr


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_frames_that_are_there_are_kept(monkeypatch):
    clip()
    assert upscale("whole").exit_code == 0
    interrupted(monkeypatch)
    assert not Path("out").exists()
    before = {path.name: path.stat().st_mtime_ns for path in Path(".out.flashvsr/output").iterdir()}
    result = upscale("out", "--resume")
    assert (result.exit_code, "going on at frame 45 of" in result.stderr) == (0, True), result.stderr
    assert content("out") == content("whole")
    assert sorted(content("out")) == [f"{index:06d}.png" for index in range(90)]
    assert all(Path(f"out/{index:06d}.png").stat().st_mtime_ns == before[f"{index:06d}.png"] for index in range(45))
    assert sorted(os.listdir()) == ["in.mkv", "out", "whole"]
    FAULTS["frames lost"] += 90 - len(content("out"))


def test_names_of_source_images_are_told_apart_after_a_stop_too(monkeypatch):
    Path("in").mkdir()
    for index in range(60):  # 0.jpg, 0.png, 1.jpg ...
        Image.fromarray(picture(index)).save(f"in/{index // 2}.{'png' if index % 2 else 'jpg'}")
    assert upscale("whole", source="in").exit_code == 0
    interrupted(monkeypatch, source="in")
    assert upscale("out", source="in").exit_code == 0
    assert len(content("whole")) == 60
    assert content("out") == content("whole")


def test_a_damaged_file_is_refused(monkeypatch):
    clip()
    interrupted(monkeypatch)
    path = Path(".out.flashvsr/output/000010.png")
    path.write_bytes(path.read_bytes()[:-1])
    result = upscale("out")
    assert (result.exit_code, "000010.png" in result.stderr, "--restart" in result.stderr) == (2, True, True)
    assert upscale("out", "--restart").exit_code == 0
    assert len(content("out")) == 90


def test_other_settings_are_refused(monkeypatch):
    clip()
    interrupted(monkeypatch)
    result = upscale("out", "--seed", "1")
    assert (result.exit_code, "seed 0, now 1" in result.stderr) == (2, True)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_renamed_is_taken_up(monkeypatch, there):
    """Also half-way through the files of a folder that is overwritten; other files in it stay."""
    clip()
    assert upscale("whole").exit_code == 0
    expected = content("whole")
    if there:
        Path("out").mkdir()
        Path("out/notes.txt").write_text("mine")
        expected["notes.txt"] = b"mine"
    real, done = os.replace, []

    def full(source, target):
        done.append(str(target).startswith("out"))
        if sum(done) == (40 if there else 1) and done[-1]:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(stills.os, "replace", full)
        result = upscale("out", "-y")
    assert (result.exit_code, "could not be given its name: No space left" in result.stderr) == (1, True), result.stderr
    assert Work("out").load().finished
    with monkeypatch.context() as patch:
        failing(patch, 0, AssertionError("no frame is upscaled again"))
        assert upscale("out", "-y").exit_code == 0
    assert content("out") == expected
    assert not list(Path.cwd().glob(".out*"))
    FAULTS["writes that failed"] += 1


def test_the_frames_are_those_of_the_networks():
    clip(30)
    assert upscale("out").exit_code == 0
    shown = [np.asarray(Image.open(f"out/{index:06d}.png")) for index in range(30)]
    assert shown[0].shape == (48, 64, 3)
    assert len({frame.tobytes() for frame in shown}) == 30
