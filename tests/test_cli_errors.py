"""What the command line refuses or fails at, with a stand-in for the networks: exit codes, and nothing left."""

import os
from pathlib import Path

import av
import command_line
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import FAST, call, clip, left
from media import picture, write_clip
from stand_in import StandIn, bundle

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import OutOfMemory
from flashvsr_trt.runtime.backends.choice import open_for
from flashvsr_trt.runtime.cli import cli
from flashvsr_trt.runtime.commands import run as run_module
from flashvsr_trt.runtime.video import segments as segments_module


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, StandIn)


def make_bad(kind):
    """A file or folder of that kind of badness; its name."""
    path = Path("bad.mp4")
    if kind == "text":
        path.write_text("this is not a video\n" * 100)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated before the index":
        path.write_bytes(clip("whole.mp4", 60).read_bytes()[:3000])
    elif kind == "audio only":
        with av.open(str(path), "w") as output:
            stream = output.add_stream("aac", rate=48000)
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 48000
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    elif kind == "no frames":
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height = 64, 48
            output.start_encoding()
    elif kind == "folder without images":
        path = Path("folder")
        path.mkdir()
        (path / "notes.txt").write_text("no image")
    elif kind == "missing":
        path = Path("missing.mp4")
    return path


BAD = ["missing", "text", "empty", "truncated before the index", "audio only", "no frames", "folder without images"]


@pytest.mark.parametrize("kind", BAD)
def test_bad_inputs(kind):
    path = make_bad(kind)
    before = left()
    result = call("run", path)
    assert result.code == 2, result.err
    assert path.name in result.err
    assert left() == before


def test_a_size_that_changes_in_mid_stream_leaves_nothing():
    pictures = [picture(i) for i in range(30)] + [picture(i, 96, 64) for i in range(10)]
    first, second = (write_clip(Path(f"{n}.h264"), p) for n, p in (("a", pictures[:30]), ("b", pictures[30:])))
    Path("in.h264").write_bytes(first.read_bytes() + second.read_bytes())
    before = left()
    result = call("run", "in.h264", "-s", 1, "-o", "out.mkv")
    assert result.code == 2, result.err
    assert "frame 30" in result.err
    assert left() == before


def test_a_truncated_video_gives_what_it_has_and_says_so():
    whole = clip("whole.mkv", 60).read_bytes()
    Path("cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    result = call("run", "cut.mkv", "-s", 1, "--json", *FAST)
    assert result.code == 0, result.err
    assert 0 < result.events[-1]["frames"] < 60


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--scale", "0"], 2, "above 0"),
        (["--scale", "nan"], 2, "above 0"),
        (["--scale", "two"], 2, "--scale"),
        (["--scale", "2", "--target", "1080p"], 2, "contradict"),
        (["--target", "big"], 2, "1080p"),
        (["--target", "0p"], 2, "1080p"),
        (["--codec", "h266"], 2, "h266"),
        (["--codec", "aac"], 2, "video encoder"),
        (["--crf", "99"], 2, "out of range"),
        (["--preset", "warp"], 2, "warp"),
        (["--pix-fmt", "yuv999"], 2, "yuv999"),
        (["-e", "nonsense"], 2, "KEY=VALUE"),
        (["-e", "nonsense=1"], 2, "nonsense"),
        (["--lossless", "--crf", "3"], 2, "--lossless"),
        (["--prores", "--lossless"], 2, "exclude"),
        (["-y", "-n"], 2, "exclude"),
        (["--json", "-o", "-"], 2, "stdout"),
        (["--start", "soon"], 2, "soon"),
        (["--start", "900"], 2, "900"),
        (["--frames", "0"], 2, "--frames 0"),
        (["--rate", "0"], 2, "--rate"),
        (["--variant", "huge"], 2, "huge"),
        (["--colour-fix", "lab"], 2, "lab"),
        (["--local-range", "9"], 2, "made with 11"),
        (["--sparse-ratio", "0"], 2, "sparse_ratio"),
        (["--kv-ratio", "nan"], 2, "kv-ratio"),
        (["--seed", "-1"], 2, "seed"),
        (["--segment-steps", "0"], 2, "segment_steps"),
        (["--threads", "0"], 2, "threads"),
        (["--reference-count"], 2, "21"),
        (["--fit", "crop", "--scale", "1"], 2, "128x128"),
        (["--no-such-flag"], 2, "no-such-flag"),
        (["--bundle", "no/such/bundle"], 2, "manifest.json"),
        (["-o", "no/such/folder/out.mp4"], 2, "mkdir"),
        (["-o", "out.xyz"], 2, ".xyz"),
        (["-o", "in.mp4"], 2, "input itself"),
        (["-o", "in.mp4/x/"], 2, "in.mp4"),
        (["--png", "--crf", "3"], 2, "--crf"),
    ],
)
def test_a_flag_that_cannot_be_honoured_stops_before_work(flags, code, says):
    clip(count=10)
    result = call("run", "in.mp4", *flags)
    assert (result.code, says in result.err) == (code, True), result.err
    assert left() == ["in.mp4"]


def test_a_device_without_back_end_is_4(monkeypatch):
    clip(count=2)
    monkeypatch.setattr(run_module, "open_for", open_for)
    result = call("run", "in.mp4", "--device", "tpu")
    assert (result.code, "tpu" in result.err) == (4, True)


def test_out_of_memory_is_5(monkeypatch):
    clip(count=2)
    for error in (OutOfMemory("no memory for the ring"), MemoryError("no memory for a frame")):
        monkeypatch.setattr(StandIn, "fail_at", 0)
        monkeypatch.setattr(StandIn, "error", error)
        result = call("run", "in.mp4")
        assert (result.code, "no memory for" in result.err) == (5, True)
        assert left() == ["in.mp4"]


def test_a_fault_of_the_program_is_one_line_and_1(monkeypatch):
    clip(count=2)
    monkeypatch.setattr(StandIn, "fail_at", 0)
    monkeypatch.setattr(StandIn, "error", RuntimeError("the ring is bent"))
    result = call("run", "in.mp4")
    assert result.code == 1
    assert "the ring is bent (stand_in.py:" in result.err
    assert "doctor" in result.err
    assert left() == ["in.mp4"]
    debug = CliRunner().invoke(cli, ["run", "in.mp4", "--log-level", "debug"])
    assert "Traceback" in debug.stderr


def test_a_full_disk_is_1_and_leaves_nothing(monkeypatch):
    clip(count=60)
    original = segments_module._OpenSegment._mux

    def full(self, packets):
        if self.frames > 30:
            raise OSError(28, "No space left on device")
        original(self, packets)

    monkeypatch.setattr(segments_module._OpenSegment, "_mux", full)
    result = call("run", "in.mp4", *FAST)
    assert (result.code, "No space left" in result.err) == (1, True)
    assert left() == ["in.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder_is_2():
    clip(count=2)
    Path("locked").mkdir(mode=0o555)
    assert call("run", "in.mp4", "-o", "locked/").code == 2


def test_another_schema_version_is_2(tmp_path):
    clip(count=2)
    path = tmp_path / "bundle" / manifests.FILE_NAME
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    result = call("run", "in.mp4")
    assert (result.code, "version 99" in result.err) == (2, True)


def test_a_damaged_bundle_is_2(tmp_path):
    clip(count=2)
    (tmp_path / "bundle" / manifests.FILE_NAME).write_text("{")
    assert call("run", "in.mp4").code == 2
    bundle(tmp_path / "short", files={"dit.bin": manifests.File(sha256="0" * 64, bytes=10)})
    (tmp_path / "short" / "dit.bin").write_bytes(b"123")
    result = call("run", "in.mp4", "--bundle", tmp_path / "short")
    assert (result.code, "3 bytes" in result.err) == (2, True)
