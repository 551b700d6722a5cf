"""Several devices: inputs spread over worker processes, one video split at its scene cuts; workers that die."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import worker_faults
from click.testing import CliRunner
from counts import FAULTS
from hypothesis import given, settings
from hypothesis import strategies as st
from media import Clip, packets_of, picture, write_clip
from stand_in import bundle, manifest

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime import crew as crew_module
from flashvsr_trt.runtime import pipeline, upscaler
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.cli import cli
from flashvsr_trt.runtime.commands import run as run_module
from flashvsr_trt.runtime.crew import parse_devices
from flashvsr_trt.runtime.parts import find_parts
from flashvsr_trt.runtime.scenes import Listed
from flashvsr_trt.runtime.upscaler import Options, Upscaler
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming
from flashvsr_trt.runtime.video.timeline import EncoderClock
from flashvsr_trt.runtime.work import Kept, Work

SHOT, SHOTS = 40, 5  # frames of a scene, scenes of a clip
COUNT = SHOT * SHOTS
# Lossless: x264 gives other bytes for the same small pictures now and then.
FLAGS = ["-s", "1", "--segment", "1.6", "--lossless"]  # 40 frames; after 20 at a cut
TWO = ["--devices", "cpu,cpu"]
RUN = ["run", "in.mkv", *FLAGS, "-o"]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setattr(upscaler, "Networks", worker_faults.Faulty)
    monkeypatch.setattr(worker_faults.Faulty, "streams", 0)
    monkeypatch.setattr(run_module, "open_for", worker_faults.open_backend)
    monkeypatch.delenv(worker_faults.VARIABLE, raising=False)
    bundle(tmp_path / "bundle")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FLASHVSR_TRT_BUNDLE", str(tmp_path / "bundle"))


def clip(name="in.mkv", shots=SHOTS, **settings):
    pictures = [picture(i) if shot % 2 else 255 - picture(i) for shot in range(shots) for i in range(SHOT)]
    return write_clip(Path(name), pictures, Clip(**{"audio": "aac", "chapters": True} | settings))


def call(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert "Traceback" not in result.stderr
    return result


def upscale(out, *flags):
    return call(*RUN, out, *flags)


def left():
    return sorted(path.name for path in Path.cwd().iterdir())


def whole():
    """The bytes that one device writes."""
    result = upscale("whole.mp4")
    assert result.exit_code == 0, result.stderr
    return Path("whole.mp4").read_bytes()


def content(name):
    """What two runs have in common: Matroska gives each file a random number."""
    if not name.endswith(".mkv"):
        return Path(name).read_bytes()
    return packets_of(Path(name), "video") + packets_of(Path(name), "audio")


def with_fault(monkeypatch, fault, *args):
    """A run in whose workers something goes wrong."""
    with monkeypatch.context() as patch:
        patch.setenv(worker_faults.VARIABLE, fault)
        return call(*args)


# --- where a video is cut


class Noting(pipeline.Session):
    """Keeps every point, and has scenes at given frames."""

    def __init__(self, cuts, every):
        self.every, self.points, self._cuts = every, [], cuts

    def scenes(self, frames):
        return Listed(self._cuts).mark(frames)

    def keep(self, point):
        self.points.append(point)


def frames(count):
    pixels = np.zeros((1, 1, 3), np.uint8)
    return [Frame(pixels, FrameTiming(index, index, 1, Fraction(1, 25))) for index in range(count)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 90), st.sets(st.integers(1, 199), max_size=12))
def test_parts_begin_where_a_run_ends_a_segment_at_a_cut(count, every, cuts):
    session = Noting(sorted(cuts), every)
    stream = Upscaler(Bundle(None, manifest()), None, 1, 1, Options(scale=1))
    pipeline.run(frames(count), stream, lambda pixels, timing: None, session=session)
    at_cuts = [point.frames for point in session.points if point.frames in cuts and not point.arrays]
    parts = list(find_parts(Listed(sorted(cuts)).mark(frames(count)), every, EncoderClock(Fraction(1, 25))))
    assert [part.start for part in parts] == [0, *at_cuts]
    assert [part.end for part in parts] == [*at_cuts, count]
    inside = {cut for cut in cuts if cut < count} - set(at_cuts)
    assert {cut for part in parts for cut in part.cuts} == inside
    assert [part.timeline[1] for part in parts] == [part.start for part in parts]


# --- one video


@pytest.mark.parametrize(
    ("out", "flags"), [("out.mp4", []), ("out.mkv", ["-m", "tiny", "--segment-steps", "3"]), ("out.avi", [])]
)
def test_the_file_is_that_of_one_device(out, flags):
    clip()
    name = f"whole{Path(out).suffix}"
    assert upscale(name, *flags, "--report", "one.json").exit_code == 0
    result = upscale(out, *flags, *TWO, "--report", "two.json", "--json")
    assert result.exit_code == 0, result.stderr
    assert content(out) == content(name)
    assert left() == sorted(["in.mkv", name, "one.json", "two.json", out])
    (one,), (two,) = (json.loads(Path(f"{n}.json").read_text()) for n in ("one", "two"))
    for key in ("frames", "scene_cuts", "settings", "plan", "plan_changes"):
        assert one[key] == two[key]
    assert [s["frames"] for s in one["segments"]] == [s["frames"] for s in two["segments"]]
    assert len({Path(segment["name"]).parent for segment in two["segments"]}) >= 3
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] != "progress"] == ["plan", "done"]
    assert (events[-1]["frames"], events[-1]["read"]) == (COUNT, COUNT)


def test_listed_cuts_and_a_part_of_the_source():
    clip()
    Path("cuts.txt").write_text("1.2\n95\n")
    flags = ["--scene-cut", "cuts.txt", "--start", "0.4", "--frames", "150"]
    assert upscale("whole.mp4", *flags).exit_code == 0
    assert upscale("out.mp4", *flags, *TWO).exit_code == 0
    assert Path("out.mp4").read_bytes() == Path("whole.mp4").read_bytes()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("kill@2.1/once", "has died (signal 9)"),
        ("lost@2.1/once", "the device is lost"),
        ("memory@2.1/once", "one network in memory at a time"),
    ],
)
def test_what_one_device_cannot_do_another_does(monkeypatch, fault, says):
    clip()
    expected = whole()
    result = with_fault(monkeypatch, fault, *RUN, "out.mp4", *TWO)
    assert (result.exit_code, says in result.stderr) == (0, True), result.stderr
    assert ("left to another device" in result.stderr) == ("memory" not in fault)
    FAULTS["devices lost"] += "memory" not in fault
    assert Path("out.mp4").read_bytes() == expected


@pytest.mark.parametrize("devices", ["cpu,cpu", "cpu"])
def test_when_all_have_died_the_rest_is_taken_up(monkeypatch, devices):
    clip()
    expected = whole()
    result = with_fault(monkeypatch, "kill@2.2", *RUN, "out.mp4", *TWO)
    assert (result.exit_code, "has died" in result.stderr) == (1, True)
    kept = Work("out.mp4").frames()
    assert kept >= 2 * SHOT
    assert f"{kept} frames are kept in .out.mp4.flashvsr" in result.stderr
    refused = upscale("out.mp4", *TWO, "--seed", "1")
    assert (refused.exit_code, "seed 0, now 1" in refused.stderr) == (2, True)
    result = upscale("out.mp4", "--devices", devices, "--resume", "--report", "report.json")
    assert result.exit_code == 0, result.stderr
    FAULTS["devices lost"] += 2
    FAULTS["frames lost"] += COUNT - len(packets_of(Path("out.mp4"), "video"))
    assert Path("out.mp4").read_bytes() == expected
    (report,) = json.loads(Path("report.json").read_text())
    assert report["frames"]["done_by_earlier_runs"] == kept


def test_several_devices_go_on_with_what_one_began(monkeypatch):
    clip()
    flags = (*RUN, "out.mp4", "--segment", "0.8")
    assert with_fault(monkeypatch, "lost@2.2", *flags).exit_code == 1
    kept = Work("out.mp4").load()
    assert kept.stream is not None  # in the middle of a scene
    result = call(*flags, *TWO)
    assert (result.exit_code, f"going on at frame {kept.frames}" in result.stderr) == (0, True), result.stderr
    assert upscale("short.mp4", "--segment", "0.8").exit_code == 0
    assert Path("out.mp4").read_bytes() == Path("short.mp4").read_bytes()


def test_one_device_does_not_throw_away_what_several_have(monkeypatch):
    """Parts that lie ahead of a gap are counted, and refused to a run that could not use them."""
    clip()
    assert with_fault(monkeypatch, "lost@2.2", *RUN, "out.mp4").exit_code == 1
    work = Work("out.mp4")
    kept, ahead = work.load(), work.part(160)
    ahead.path.mkdir()
    ahead.save(Kept(settings=kept.settings, first=160, frames=21))
    assert work.frames() == kept.frames + 21
    result = upscale("out.mp4")
    assert (result.exit_code, "21 frames of parts" in result.stderr) == (2, True), result.stderr
    assert ahead.begun
    assert upscale("out.mp4", "--restart").exit_code == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--scene-cut", "off"], "scene cuts"),
        (["-o", "out", "--png"], "not made of segments"),
        (["-o", "-"], "not made of segments"),
    ],
)
def test_what_cannot_be_shared_is_refused(flags, says):
    clip()
    result = call("run", "in.mkv", "-s", "1", *TWO, *flags)
    assert (result.exit_code, says in result.stderr) == (2, True), result.stderr
    assert left() == ["in.mkv"]


# --- many videos


def test_inputs_are_shared_and_a_bad_one_costs_only_itself():
    Path("many").mkdir()
    for name in "abc":
        clip(f"many/{name}.mp4", shots=1)
    Path("many/d.mp4").write_text("no video")
    assert call("run", "many", *FLAGS, "-o", "one").exit_code == 3
    result = call("run", "many", *FLAGS, "-o", "two", *TWO, "--report", "report.json", "--json")
    assert result.exit_code == 3, result.stderr
    assert "3 done, 0 skipped, 1 failed" in result.stderr
    for name in "abc":
        assert Path(f"two/{name}_flashvsr_1x.mp4").read_bytes() == Path(f"one/{name}_flashvsr_1x.mp4").read_bytes()
    assert sorted(Path(entry["input"]).name for entry in json.loads(Path("report.json").read_text())) == [
        "a.mp4",
        "b.mp4",
        "c.mp4",
    ]
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {e["input"] for e in events if e["event"] == "progress"} == {"a.mp4", "b.mp4", "c.mp4"}
    again = call("run", "many", *FLAGS, "-o", "two", *TWO, "-n")
    assert (again.exit_code, "0 done, 3 skipped, 1 failed" in again.stderr) == (3, True)


def test_a_device_that_dies_costs_one_input(monkeypatch):
    Path("many").mkdir()
    for name in "abcd":
        clip(f"many/{name}.mp4", shots=1)
    flags = ("run", "many", *FLAGS, "-o", "out", *TWO)
    result = with_fault(monkeypatch, "kill@1.1/once", *flags)
    assert (result.exit_code, "3 done, 0 skipped, 1 failed" in result.stderr) == (3, True), result.stderr
    result = with_fault(monkeypatch, "kill@1.0", *flags, "--resume")
    assert (result.exit_code, "0 done, 3 skipped, 1 failed" in result.stderr) == (3, True), result.stderr
    result = call(*flags, "--resume")
    assert (result.exit_code, "1 done, 3 skipped, 0 failed" in result.stderr) == (0, True), result.stderr


# --- devices


def test_devices_on_the_command_line(monkeypatch):
    assert parse_devices("0, 1,cpu") == ["0", "1", "cpu"]
    for bad in ("", "0,", "gpu", "-1", "0;1", "²"):
        with pytest.raises(UsageError):
            parse_devices(bad)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-17")
    assert crew_module._visible("1") == "GPU-17"
    with pytest.raises(UsageError, match="shows 2"):
        crew_module._visible("2")


def test_a_gpu_that_is_not_there_is_4(monkeypatch):
    clip()
    monkeypatch.setattr(run_module, "open_for", worker_faults.open_processor)
    result = upscale("out.mp4", "--devices", "cpu,0")
    assert (result.exit_code, "names GPU 0" in result.stderr) == (4, True), result.stderr
    assert left() == ["in.mkv"]
