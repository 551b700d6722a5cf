"""What happens to long jobs: kills, stops, other settings, damage, memory that runs out, full disks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from faults import FRAMES, KINDS, Remembering
from media import Clip, frames_of, packets_of, picture, write_clip
from stand_in import NoBackend, StandIn, bundle

from flashvsr_trt.configs.errors import FlashVSRError, OutOfMemory
from flashvsr_trt.configs.schedule import canvas
from flashvsr_trt.runtime import execution, upscaler
from flashvsr_trt.runtime.cli import cli
from flashvsr_trt.runtime.commands import run as run_module
from flashvsr_trt.runtime.shrink import smaller
from flashvsr_trt.runtime.upscaler import Options
from flashvsr_trt.runtime.video import segments as segments_module
from flashvsr_trt.runtime.video.streams import StreamCopier
from flashvsr_trt.runtime.work import Work

KILLS = 25
FLAGS = ["-s", "1", "--segment", "0.8"]  # 20 frames, so segments of 21, 24, 24 ...


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setattr(upscaler, "Networks", Remembering)
    monkeypatch.setattr(run_module, "open_backend", lambda *args, **settings: NoBackend())
    bundle(tmp_path / "bundle")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FLASHVSR_TRT_BUNDLE", str(tmp_path / "bundle"))


def clip(count=90, name="in.mkv", **settings):
    settings = {"codec": "ffv1", "pix_fmt": "bgr0", "options": {}} | settings
    return write_clip(Path(name), [picture(i) for i in range(count)], Clip(**settings))


def call(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert "Traceback" not in result.stderr
    return result


def upscale(out, *flags):
    return call("run", "in.mkv", "-o", out, "--lossless", *FLAGS, *flags)


def pixels(path):
    return [frame.to_ndarray(format="rgb24") for frame in frames_of(Path(path))]


def same(one, other):
    """Same pictures, same times, same packets in the copied streams."""
    a, b = frames_of(Path(one)), frames_of(Path(other))
    assert [f.pts * f.time_base for f in a] == [f.pts * f.time_base for f in b]
    assert all(np.array_equal(x, y) for x, y in zip(pixels(one), pixels(other), strict=True))


def left():
    return sorted(path.name for path in Path.cwd().iterdir())


def failing(monkeypatch, step, error, times=1):
    """The networks raise at the decode of a step, so many times."""
    original, tries = Remembering.decode, []

    def decode(self, index, latents, lq):
        if index == step and len(tries) < times:
            tries.append(index)
            raise error
        return original(self, index, latents, lq)

    monkeypatch.setattr(Remembering, "decode", decode)
    return tries


def interrupted(monkeypatch, out="out.mkv", *flags, step=4):
    """A run that dies in step 4, after two segments of 21 and 24 frames."""
    with monkeypatch.context() as patch:
        failing(patch, step, FlashVSRError("the device is lost"))
        result = upscale(out, *flags)
    assert (result.exit_code, "the device is lost" in result.stderr) == (1, True), result.stderr
    return result


def test_killed_at_25_random_moments_every_file_is_the_same(tmp_path):
    """Byte for byte, with sound and chapters; some runs are killed a second time while they are taken up."""
    program = [sys.executable, str(Path(__file__).with_name("faults.py")), str(tmp_path / "work"), "1", str(KILLS)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    *kills, counts = map(json.loads, done.stdout.splitlines())
    assert len(kills) >= KILLS
    assert [kill for kill in kills if not (kill["killed"] and kill["same"])] == []
    assert [kill for kill in kills if kill["left"]] == []
    assert all(counts["kills"][kind] for kind in KINDS)
    print(f"\nkills survived: {len(kills)} of {len(kills)} ({counts['kills']}), frames lost: 0")


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


def test_there_must_be_something_to_resume():
    clip(5)
    result = upscale("out.mkv", "--resume")
    assert (result.exit_code, "nothing to go on with" in result.stderr) == (2, True)
    result = call("run", "in.mkv", "-o", "out", "--png", "--resume")
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


def test_tiles_that_were_forbidden_are_not_taken(monkeypatch):
    write_clip(Path("in.mkv"), [picture(i, 160, 160) for i in range(5)], Clip("ffv1", "bgr0", options={}))
    with monkeypatch.context() as patch:
        failing(patch, 0, OutOfMemory("no memory for the ring"), times=1000)
        result = call("run", "in.mkv", "-o", "out.mkv", "--tile", "off")
    assert (result.exit_code, "tiles of" in result.stderr) == (5, False)
    assert left() == ["in.mkv"]


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


def test_previews():
    clip(80, audio="aac")
    assert call("run", "in.mkv", "-s", 1, "--preview", "1s@0:01.2").exit_code == 0
    assert len(frames_of(Path("in_flashvsr_1x_preview.mkv"))) == 25
    assert call("run", "in.mkv", "-s", 1, "--preview", "10@30", "-y").exit_code == 0
    assert len(frames_of(Path("in_flashvsr_1x_preview.mkv"))) == 10
    for bad in ("3s@x", "1s@30", "0"):
        assert call("run", "in.mkv", "--preview", bad).exit_code == 2
    assert call("run", "in.mkv", "--preview", "1s", "--start", "3").exit_code == 2


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
