"""Disks that fill up, joins and streams that fail: what is finished is kept."""

import json
import os
from pathlib import Path

import command_line
import pytest
from counts import FAULTS
from faults import Remembering
from long_jobs import clip, failing, left, same, upscale
from media import frames_of

from flashvsr_trt.runtime import execution
from flashvsr_trt.runtime.video import segments as segments_module
from flashvsr_trt.runtime.video.streams import StreamCopier
from flashvsr_trt.runtime.work import Work


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, Remembering)


def test_a_full_disk_keeps_what_is_closed(monkeypatch):
    clip()
    assert upscale("whole.mkv").exit_code == 0
    original = segments_module._OpenSegment._mux

    def full(self, packets):
        if self._path.name.startswith("000002"):
            raise OSError(28, "No space left on device")
        original(self, packets)

    with monkeypatch.context() as patch:
        patch.setattr(segments_module._OpenSegment, "_mux", full)
        result = upscale("out.mkv")
    assert (result.exit_code, "No space left" in result.stderr, "45 frames are kept" in result.stderr) == (
        1,
        True,
        True,
    )
    assert upscale("out.mkv").exit_code == 0
    same("out.mkv", "whole.mkv")
    FAULTS["writes that failed"] += 1


def test_a_join_that_fails_is_taken_up(monkeypatch):
    clip(40)
    with monkeypatch.context() as patch:
        patch.setattr(execution, "join", lambda *args: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert upscale("out.mkv").exit_code == 1
    assert Work("out.mkv").load().finished
    with monkeypatch.context() as patch:
        failing(patch, 0, AssertionError("no frame is upscaled again"))
        assert upscale("out.mkv").exit_code == 0
    assert len(frames_of(Path("out.mkv"))) == 40
    FAULTS["writes that failed"] += 1


def test_a_copied_stream_that_fails_does_not_cost_the_video(monkeypatch):
    clip(30, audio="aac")
    original = StreamCopier._mux

    def refuse(self, output, packet):
        if packet.pts and packet.pts > 500:
            packet.pts, packet.dts = 0, 10  # no muxer takes a frame that is shown before it is decoded
        original(self, output, packet)

    with monkeypatch.context() as patch:
        patch.setattr(StreamCopier, "_mux", refuse)
        result = upscale("out.mkv")
    assert (result.exit_code, "complete but for: audio stream 1 stops at" in result.stderr) == (1, True), result.stderr
    assert len(frames_of(Path("out.mkv"))) == 30
    assert left() == ["in.mkv", "out.mkv"]
    FAULTS["writes that failed"] += 1


def test_an_output_that_appears_meanwhile_costs_nothing(monkeypatch):
    clip(40)
    with monkeypatch.context() as patch:
        original = execution.publish

        def late(part, plan):
            Path("out.mkv").write_bytes(b"precious")
            return original(part, plan)

        patch.setattr(execution, "publish", late)
        result = upscale("out.mkv")
    assert (result.exit_code, Path("out.mkv").read_bytes()) == (6, b"precious")
    assert upscale("out.mkv", "-y").exit_code == 0
    assert len(frames_of(Path("out.mkv"))) == 40
    assert left() == ["in.mkv", "out.mkv"]
    FAULTS["writes that failed"] += 1


def test_everything_is_on_the_disk_before_the_state_names_it(monkeypatch):
    """The order of fsync and rename, as a loss of power would need it."""
    clip()
    synced, problems = set(), []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(number):
        synced.add(os.readlink(f"/proc/self/fd/{number}"))
        real_fsync(number)

    def replace(source, target):
        real = str(Path(source).absolute())
        if real not in synced and not Path(source).is_dir():
            problems.append(f"{source} is renamed before it is on the disk")
        if Path(target).name == "state.json":
            state = json.loads(Path(source).read_text())
            names = [s["name"] for s in state["segments"]] + ([state["stream"]] if state["stream"] else [])
            names += [str(Path(s["name"]).with_suffix(".json")) for s in state["segments"]]
            problems.extend(
                f"{n} is named too early" for n in names if str(Path(source).absolute().parent / n) not in synced
            )
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    assert upscale("out.mkv").exit_code == 0
    assert problems == []
    assert any(path.endswith("000001.nut") for path in synced)
