"""The command line with a stand-in for the networks: flags, files, exit codes and what is said."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from media import Clip, frames_of, number_of, picture, write_clip
from PIL import Image
from stand_in import NoBackend, StandIn, bundle

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import OutOfMemory
from flashvsr_trt.runtime import upscaler
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.cli import COMMANDS, cli
from flashvsr_trt.runtime.commands import bench as bench_module
from flashvsr_trt.runtime.commands import run as run_module
from flashvsr_trt.runtime.video import segments as segments_module

FAST = ["-e", "preset=ultrafast"]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a stand-in bundle in the environment."""
    monkeypatch.setattr(upscaler, "Networks", StandIn)
    monkeypatch.setattr(bench_module, "matrix_rate", lambda backend, dtype: 1e12)
    for module in (run_module, bench_module):
        monkeypatch.setattr(module, "open_backend", lambda *args, **settings: NoBackend())
    bundle(tmp_path / "bundle")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FLASHVSR_TRT_BUNDLE", str(tmp_path / "bundle"))


class Result:
    """Exit code, stdout and stderr of a command."""

    def __init__(self, result):
        self.code, self.out, self.err, self.bytes = result.exit_code, result.stdout, result.stderr, result.stdout_bytes
        self.events = [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


def call(*args, stdin=None):
    result = Result(CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin))
    assert "Traceback" not in result.err
    return result


def clip(name="in.mp4", count=30, width=64, height=48, **settings):
    return write_clip(Path(name), [picture(i, width, height) for i in range(count)], Clip(**settings))


def left():
    return sorted(path.name for path in Path.cwd().iterdir())


def test_no_arguments_give_the_help():
    result = call()
    assert result.code == 0
    assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", ["run", "info", "doctor", "bench", "completions"])
def test_each_command_has_help(name):
    assert call(name, "--help").code == 0


def test_version():
    assert call("-V").out.startswith("flashvsr-trt ")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completions(shell):
    assert "_FLASHVSR_TRT_COMPLETE" in call("completions", shell).out


def test_a_file_in_place_of_a_command_is_understood():
    clip()
    result = call("in.mp4")
    assert (result.code, "did you mean `flashvsr-trt run in.mp4`" in result.err) == (2, True)


@pytest.mark.parametrize("variant", ["tiny", "long"])
def test_a_run_gives_every_frame_at_its_time_in_its_order(variant):
    clip(count=40, rate=Fraction(24000, 1001))
    result = call("run", "in.mp4", "--scale", 2, "-m", variant, *FAST)
    assert result.code == 0, result.err
    before, after = frames_of(Path("in.mp4")), frames_of(Path("in_flashvsr_2x.mp4"))
    assert [f.pts * f.time_base for f in after] == [f.pts * f.time_base for f in before]
    assert all((f.width, f.height) == (128, 96) for f in after)
    assert [number_of(f.to_ndarray(format="rgb24")) for f in after] == list(range(40))
    assert result.out == ""
    for word in ("bundle", "device", "input", "output", "canvas of 128x128", "steps", "memory", "done", "busy"):
        assert word in result.err


@pytest.mark.parametrize(
    ("size", "scale"), [((1, 1), 4), ((17, 31), 4), ((160, 90), 2), ((853, 480), 1.5), ((31, 17), 3)]
)
def test_sizes_are_exact_through_real_files(size, scale):
    width, height = size
    clip("in.mkv", 3, width, height, codec="ffv1", pix_fmt="bgr0", options={})
    result = call("run", "in.mkv", "-s", scale, "-o", "out.mkv", "--lossless")
    assert result.code == 0, result.err
    frames = frames_of(Path("out.mkv"))
    expected = (int(width * scale + 0.5), int(height * scale + 0.5))
    assert [(f.width, f.height) for f in frames] == [expected] * 3


@pytest.mark.parametrize("count", [1, 2, 5, 20, 21, 22, 25, 29, 33, 60])
def test_counts_are_exact_through_real_files(count):
    clip(count=count)
    assert call("run", "in.mp4", "-s", 1, *FAST).code == 0
    assert len(frames_of(Path("in_flashvsr_1x.mp4"))) == count


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        (["--target", "96p"], (128, 96)),
        (["--target", "300x100"], (134, 100)),
        (["--target", "128x96"], (128, 96)),
        (["--target", "129x96"], (129, 96)),
        (["--fit", "crop", "--scale", "3"], (128, 128)),
    ],
)
def test_targets(flags, size):
    clip(count=2)
    assert call("run", "in.mp4", "-o", "out.mkv", *flags, *FAST).code == 0
    assert [(f.width, f.height) for f in frames_of(Path("out.mkv"))] == [size] * 2


def test_a_target_counts_as_displayed():
    clip(count=2, rotation=90)  # 64x48 stored, 48x64 shown
    assert call("run", "in.mp4", "--target", "128p", *FAST).code == 0
    frame = frames_of(Path("in_flashvsr_128p.mp4"))[0]
    assert (frame.width, frame.height) == (128, 96)


def test_ten_bits_stay_ten_bits(monkeypatch):
    seen = []

    class Noting(StandIn):
        def __init__(self, bundle, backend, settings):
            seen.append(settings.bits)
            super().__init__(bundle, backend, settings)

    monkeypatch.setattr(upscaler, "Networks", Noting)
    clip("in.mkv", 3, pix_fmt="yuv420p10le", codec="libx265", options={"x265-params": "log-level=error"})
    assert call("run", "in.mkv", "-s", 2, *FAST).code == 0
    assert frames_of(Path("in_flashvsr_2x.mkv"))[0].format.name == "yuv420p10le"
    assert seen == [16]


def test_part_of_a_source():
    clip(count=40)
    assert call("run", "in.mp4", "-s", 1, "--start", "10", "--end", "1.2", "--frames", 12, *FAST).code == 0
    numbers = [number_of(f.to_ndarray(format="rgb24")) for f in frames_of(Path("in_flashvsr_1x.mp4"))]
    assert numbers == list(range(10, 22))


def test_names_keep_their_dots_and_their_alphabet():
    clip("my.clip.v2 日本.mp4", 2)
    Path("out").mkdir()
    assert call("run", "my.clip.v2 日本.mp4", "-o", "out", *FAST).code == 0
    assert os.listdir("out") == ["my.clip.v2 日本_flashvsr_4x.mp4"]


def test_a_folder_of_images_is_one_video():
    Path("frames").mkdir()
    for index in range(3):
        Image.fromarray(picture(index)).save(f"frames/{index}.png")
    assert call("run", "frames", "-s", 2).code == 0
    assert sorted(os.listdir("frames_flashvsr_2x")) == ["0.png", "1.png", "2.png"]
    assert call("run", "frames", "-s", 2, "-o", "film.mp4", "--rate", "24000/1001", *FAST).code == 0
    with av.open("film.mp4") as film:
        assert film.streams.video[0].average_rate == Fraction(24000, 1001)


def test_a_single_image():
    Image.fromarray(picture(5)).save("one.png")
    assert call("run", "one.png").code == 0
    assert Image.open("one_flashvsr_4x.png").size == (256, 192)


def test_png_and_prores():
    clip(count=2)
    assert call("run", "in.mp4", "--png", "-s", 2).code == 0
    assert len(os.listdir("in_flashvsr_2x")) == 2
    assert call("run", "in.mp4", "--prores", "-s", 2).code == 0
    with av.open("in_flashvsr_2x.mov") as film:
        assert film.streams.video[0].codec_context.name == "prores"


def test_audio_is_copied_or_left():
    clip(count=10, audio="aac")
    assert call("run", "in.mp4", "-s", 1, *FAST).code == 0
    with av.open("in_flashvsr_1x.mp4") as film:
        assert len(film.streams.audio) == 1
    assert call("run", "in.mp4", "-s", 1, "--no-audio", "-y", *FAST).code == 0
    with av.open("in_flashvsr_1x.mp4") as film:
        assert not film.streams.audio


def test_y4m_on_stdout_is_alone_there():
    clip(count=3)
    result = call("run", "in.mp4", "-o", "-", "-s", 1)
    assert result.code == 0, result.err
    assert result.bytes.startswith(b"YUV4MPEG2 W64 H48")
    assert result.bytes.count(b"FRAME") == 3
    assert "done" in result.err


def y4m(frames=3):
    return b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + bytes(384)) * frames


def test_y4m_on_stdin_needs_a_name():
    result = call("run", "-", stdin=y4m())
    assert (result.code, "-o" in result.err) == (2, True)


def test_y4m_on_stdin():
    result = call("run", "-", "-o", "out.mkv", stdin=y4m())
    assert result.code == 0, result.err
    assert len(frames_of(Path("out.mkv"))) == 3


def test_an_existing_output_is_kept_overwritten_or_skipped():
    clip(count=2)
    there = Path("in_flashvsr_4x.mp4")
    there.write_bytes(b"precious")
    result = call("run", "in.mp4")
    assert (result.code, there.read_bytes()) == (6, b"precious")
    assert "-y" in result.err
    result = call("run", "in.mp4", "-n", "--json")
    assert (result.code, there.read_bytes()) == (0, b"precious")
    assert [event["event"] for event in result.events] == ["skipped"]
    assert call("run", "in.mp4", "-y", *FAST).code == 0
    assert len(frames_of(there)) == 2


def test_a_dry_run_writes_nothing():
    clip(count=2)
    result = call("run", "in.mp4", "-o", "new/folder/", "--dry-run", "--json")
    assert result.code == 0
    assert left() == ["in.mp4"]
    (event,) = result.events
    assert (event["event"], event["size"], event["canvas"], event["steps"]) == ("plan", [256, 192], [256, 256], 1)
    assert event["output"] == "new/folder/in_flashvsr_4x.mp4"


def test_json_lines():
    clip(count=40)
    result = call("run", "in.mp4", "--json", "-s", 2, *FAST)
    assert result.code == 0
    assert len(result.events) == len(result.out.splitlines())
    assert [event["event"] for event in result.events if event["event"] != "progress"] == ["plan", "done"]
    done = result.events[-1]
    assert (done["frames"], done["read"], done["size"]) == (40, 40, [128, 96])
    assert set(done["seconds"]) == {"decode", "resize", "load", "networks", "runtime", "encode", "keep", "join"}
    assert done["bytes"] == Path(done["output"]).stat().st_size
    assert result.err.count("done") == 1


def test_json_errors():
    result = call("run", "nothing.mp4", "--json")
    (event,) = result.events
    assert (result.code, event["event"], event["exit_code"]) == (2, "error", 2)
    assert "nothing.mp4" in event["came"]


def test_quiet_says_nothing_but_warnings(tmp_path):
    clip(count=2)
    assert call("run", "in.mp4", "-q", *FAST).err == ""
    bundle(tmp_path / "seeded", meaningful=False)
    result = call("run", "in.mp4", "-q", "-y", "--bundle", tmp_path / "seeded", *FAST)
    assert result.err.splitlines() == [
        "warning: the weights of this bundle are random: its picture content means nothing"
    ]


def test_log_file_has_everything():
    clip(count=2)
    assert call("run", "in.mp4", "-q", "--log-file", "run.log", *FAST).err == ""
    assert "done" in Path("run.log").read_text()
    assert call("run", "in.mp4", "--log-file", "no/such/folder.log").code == 2


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
    monkeypatch.setattr(run_module, "open_backend", open_backend)
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


def test_info_of_a_video_and_of_a_bundle(tmp_path):
    clip(count=12, audio="aac")
    result = call("info", "in.mp4", "--json")
    facts = json.loads(result.out)
    assert (facts["width"], facts["frames"], facts["streams"][0]["codec"]) == (64, 12, "aac")
    assert "64x48" in call("info", "in.mp4").out
    facts = json.loads(call("info", tmp_path / "bundle", "--json").out)
    assert (facts["kind"], facts["model_version"], facts["local_range"]) == ("bundle", "v1.1", 11)
    assert "gives its input back" in call("info", tmp_path / "bundle").out
    assert call("info", "nothing").code == 2


def test_doctor_says_what_is_in_the_way():
    result = call("doctor", "--json")  # the stand-in bundle holds no graphs
    facts = json.loads(result.out)
    assert result.code == 4
    assert not facts["ok"]
    assert "libx264" in facts["video"]["encoders"]
    assert "CPUExecutionProvider" in facts["a run would use"]["providers"]
    assert call("doctor", "--bundle", "nothing").code == 4


def test_bench_of_a_generated_clip(monkeypatch):
    monkeypatch.setattr(StandIn, "pause", 0.01)
    facts = json.loads(call("bench", "--canvas", "256x128", "--frames", "48", "--json").out)
    assert (facts["frames"], facts["canvas"]) == (48, [256, 128])
    assert facts["ms_per_step"]["tc_decoder"] == pytest.approx(10, abs=0.5)  # the pause, one decode a step
    assert facts["fps_steady"] < 8 / 0.01
    projector = facts["graphs"]["lq_proj"]
    assert facts["matrix_tflops"] == 1
    assert 0 < projector["limit_ms"] == pytest.approx(1000 * projector["tflop"], abs=0.06)  # rounded to 4 places
    assert facts["peak_rss"] > 0


def test_bench_with_more_and_more_frames(monkeypatch):
    monkeypatch.setattr(bench_module, "_GROWTH", (2,))
    facts = json.loads(call("bench", "--canvas", "256x128", "--frames", "32", "--growth", "--json").out)
    assert [run["frames"] for run in facts["growth"]] == [32, 64]
    clip(count=25)
    assert call("bench", "in.mp4", "--growth").code == 2


def test_bench_needs_to_know_what_to_run():
    assert call("bench", "--precision", "fp16").code == 2
    assert call("bench", "--random-weights", "--bundle", "x").code == 2


@pytest.mark.parametrize("variant", ["tiny", "long"])
def test_bench_of_a_clip(variant):
    clip(count=120)
    result = call("bench", "in.mp4", "-m", variant)
    assert result.code == 0, result.err
    for word in ("fps steady", "ms a step", "own share", "peak memory", "cpu"):
        assert word in result.out
    assert left() == ["in.mp4"]


def test_python_use(tmp_path):
    from flashvsr_trt.runtime import Job, upscale_file

    clip(count=25)
    seen = []
    job = Job(source="in.mp4", output="out.mkv")
    report = upscale_file(job, bundle=tmp_path / "bundle", backend=NoBackend(), on_status=seen.append)
    assert (report.size, report.status.frames, report.read.clean) == ((256, 192), 25, True)
    assert seen[-1].frames == 25
    assert len(frames_of(Path("out.mkv"))) == 25
