"""What happens to long jobs: kills, stops, other settings, damage; what is kept and reported."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import command_line
import numpy as np
import pytest
from counts import FAULTS
from faults import FRAMES, KINDS, Remembering
from long_jobs import FLAGS, call, clip, failing, interrupted, left, pixels, same, upscale
from media import frames_of, packets_of
from stand_in import NoBackend, StandIn, bundle

from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime.identity import Described, differences
from flashvsr_trt.runtime.work import Work

KILLS = 25


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, Remembering)


def test_killed_at_25_random_moments_every_file_is_the_same(tmp_path):
    """Byte for byte, with sound and chapters; some runs are killed a second time while they are taken up."""
    program = [sys.executable, str(Path(__file__).with_name("faults.py")), str(tmp_path / "work"), "1", str(KILLS)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    *kills, counts = map(json.loads, done.stdout.splitlines())
    FAULTS["kills survived"] += sum(kill["killed"] and kill["same"] for kill in kills)
    FAULTS["frames lost"] += sum(FRAMES for kill in kills if not kill["same"])
    assert len(kills) >= KILLS
    assert [kill for kill in kills if not (kill["killed"] and kill["same"])] == []
    assert [kill for kill in kills if kill["left"]] == []
    assert all(counts["kills"][kind] for kind in KINDS)


def test_a_failure_keeps_segments_and_says_how_to_go_on(monkeypatch):
    clip(audio="aac")
    assert upscale("whole.mkv").exit_code == 0
    result = interrupted(monkeypatch)
    assert "45 frames are kept in .out.mkv.flashvsr" in result.stderr
    assert "flashvsr-trt run in.mkv -o out.mkv --lossless -s 1 --segment 0.8 --resume" in result.stderr
    work = Path(".out.mkv.flashvsr")
    assert [len(frames_of(path)) for path in sorted(work.glob("*.nut"))][:2] == [21, 24]
    again = upscale("out.mkv", "--resume")
    assert (again.exit_code, "going on at frame 45 of" in again.stderr) == (0, True), again.stderr
    same("out.mkv", "whole.mkv")
    assert packets_of(Path("out.mkv"), "audio") == packets_of(Path("whole.mkv"), "audio")
    assert left() == ["in.mkv", "out.mkv", "whole.mkv"]


@pytest.mark.parametrize("variant", ["tiny", "long"])
def test_the_same_command_goes_on_also_with_the_other_variant(monkeypatch, variant):
    clip()
    assert upscale("whole.mkv").exit_code == 0
    interrupted(monkeypatch)
    result = upscale("out.mkv", "-m", variant, "--segment-steps", "3")
    assert (result.exit_code, "going on at frame 45" in result.stderr) == (0, True), result.stderr
    same("out.mkv", "whole.mkv")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--seed", "1"], "seed 0, now 1"),
        (["--kv-ratio", "2"], "kv ratio 3.0, now 2.0"),
        (["--colour-fix", "none"], "colour fix adain, now none"),
        (["--scene-cut", "off"], "scene cuts True, now False"),
        (["--end", "80"], "now None to 80"),
        (["--segment", "2"], "segment length 20, now 50"),
        (["--codec", "libx264rgb"], "encoder ffv1, now libx264rgb"),
        (["--no-audio"], "copied streams [1], now []"),
    ],
)
def test_other_settings_are_refused_by_name(monkeypatch, flags, says):
    clip(audio="aac")
    interrupted(monkeypatch)
    for more in ([], ["--resume"]):
        result = upscale("out.mkv", *flags, *more)
        assert (result.exit_code, says in result.stderr) == (2, True), result.stderr
    assert "45 frames that were made with other settings" in result.stderr
    assert Work("out.mkv").load().frames == 45
    assert upscale("out.mkv", *flags, "--restart").exit_code == 0
    assert left() == ["in.mkv", "out.mkv"]


def test_another_source_or_bundle_is_refused(monkeypatch, tmp_path):
    clip()
    interrupted(monkeypatch)
    bundle(tmp_path / "other", about="another one")
    result = upscale("out.mkv", "--bundle", tmp_path / "other")
    assert (result.exit_code, "bundle" in result.stderr) == (2, True)
    with open("in.mkv", "ab") as file:
        file.write(b"grown")
    result = upscale("out.mkv")
    assert (result.exit_code, "source size" in result.stderr, "source content" in result.stderr) == (2, True, True)


def test_engines_are_part_of_what_decides_the_bits():
    """Two builds of one network may choose other kernels, so the plans themselves count, not only their tier."""

    class OnEngines(NoBackend):
        def __init__(self, digest):
            super().__init__()
            self.engines, self.tier = SimpleNamespace(digest=digest), None

    one, other = (Described.of(OnEngines(digest)).identity for digest in ("aa", "bb"))
    assert one["back end"] == other["back end"] == "stand-in"
    assert differences(one, other) == ["engines aa, now bb"]
    assert "engines" not in Described.of(NoBackend()).identity


def test_there_must_be_something_to_resume():
    clip(5)
    result = upscale("out.mkv", "--resume")
    assert (result.exit_code, "nothing to go on with" in result.stderr) == (2, True)
    result = call("run", "in.mkv", "-o", "out", "--png", "--resume")
    assert (result.exit_code, "nothing to go on with" in result.stderr) == (2, True)
    result = call("run", "in.mkv", "-o", "out.y4m", "--resume")
    assert (result.exit_code, "not kept in segments" in result.stderr) == (2, True)
    assert upscale("out.mkv", "--resume", "--restart").exit_code == 2


@pytest.mark.parametrize("what", ["state.json", "000000.nut", "stream-45.npz"])
def test_damaged_work_is_refused(monkeypatch, what):
    clip()
    interrupted(monkeypatch)
    path = Path(".out.mkv.flashvsr") / what
    path.write_bytes(path.read_bytes()[:-20])
    result = upscale("out.mkv")
    assert (result.exit_code, "--restart" in result.stderr) == (2, True), result.stderr
    assert upscale("out.mkv", "--restart").exit_code == 0


def test_two_runs_cannot_share_an_output(monkeypatch):
    clip()
    interrupted(monkeypatch)
    holder = Work("out.mkv")
    holder.enter()
    result = upscale("out.mkv")
    assert (result.exit_code, "another run is writing out.mkv" in result.stderr) == (2, True)
    holder.leave(keep=True)
    assert upscale("out.mkv").exit_code == 0


def test_a_batch_resumes_and_skips_what_is_done(monkeypatch):
    Path("many").mkdir()
    for name in ("a", "b", "c"):
        clip(50, f"many/{name}.mkv")
    flags = ("run", "many", "-o", "out", "--lossless", *FLAGS)
    with monkeypatch.context() as patch:
        original, made = Remembering.__init__, []

        def init(self, *args):
            original(self, *args)
            made.append(self)
            if len(made) == 2:
                failing(patch, 4, FlashVSRError("the device is lost"))

        patch.setattr(Remembering, "__init__", init)
        result = call(*flags)
    assert (result.exit_code, "2 done, 0 skipped, 1 failed" in result.stderr) == (3, True), result.stderr
    result = call(*flags, "--resume")
    assert (result.exit_code, "1 done, 2 skipped, 0 failed" in result.stderr) == (0, True), result.stderr
    assert "going on at frame 45" in result.stderr
    assert len(frames_of(Path("out/b_flashvsr_1x.mkv"))) == 50


def test_a_report_has_everything(monkeypatch):
    clip(60, audio="aac")
    interrupted(monkeypatch, step=4, out="out.mkv")
    assert upscale("out.mkv", "--report", "report.json").exit_code == 0
    (report,) = json.loads(Path("report.json").read_text())
    assert report["frames"] == {
        "in": 60, "out": 60, "done_by_earlier_runs": 45, "repeated": 0, "concealed": 0, "retimed": 0, "skipped": 0,
        "missing": 0,
    }  # fmt: skip
    assert report["scene_cuts"] == [50]  # the test pictures begin again there
    assert re.fullmatch("[0-9a-f]{64}", report["settings"]["bundle"])
    assert sum(segment["frames"] for segment in report["segments"]) == 60
    assert report["fps_by_stage"]["decode"] > 0
    assert report["peak_memory"] > 0


def test_what_is_kept_and_what_it_takes_is_in_the_plan():
    clip(30)
    result = call("run", "in.mkv", "--dry-run", "--json")
    (event,) = (json.loads(line) for line in result.stdout.splitlines() if line.startswith("{"))
    assert event["segment"] == 250  # 10 seconds
    assert event["state"] > 0
    assert "disk: twice the output's size" in result.stderr


def test_without_state_the_stand_in_would_notice():
    """The pictures of these tests do depend on the state."""
    clip(60)
    assert upscale("with.mkv", "--scene-cut", "off").exit_code == 0
    assert call("run", "in.mkv", "-o", "part.mkv", "--lossless", "-s", 1, "--start", "21").exit_code == 0
    assert not np.array_equal(pixels("with.mkv")[30], pixels("part.mkv")[9])
    assert issubclass(Remembering, StandIn)
    assert FRAMES > 60
