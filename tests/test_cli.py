"""The command line with a stand-in for the networks: flags, files and what is said."""

import os
from fractions import Fraction
from pathlib import Path

import av
import command_line
import pytest
from command_line import FAST, call, clip, left
from media import frames_of, number_of, picture
from PIL import Image
from stand_in import NoBackend, StandIn, bundle

from flashvsr_trt.runtime import jobs, upscaler
from flashvsr_trt.runtime.cli import COMMANDS


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, StandIn)


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


def test_the_length_of_stdin_is_not_known():
    result = call("run", "-", "-o", "out.mkv", "--dry-run", "--json", stdin=y4m())
    (plan,) = result.events
    assert (plan["source"]["frames"], plan["steps"], "length not known" in result.err) == (None, None, True)


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


def test_tiles_are_taken_where_host_memory_is_short(monkeypatch):
    clip(count=2, width=320, height=320)
    (plan,) = call("run", "in.mp4", "--dry-run", "--json").events
    assert plan["tiles"] is None
    short = int(0.8 * plan["memory"])
    monkeypatch.setattr(jobs, "machine_memory", lambda: (short, short))
    monkeypatch.setattr(NoBackend, "name", "onnxruntime-cpu")
    (tiled,) = call("run", "in.mp4", "--dry-run", "--json").events
    assert tiled["tiles"]["dit"][0] < 1280
    assert tiled["memory"] < plan["memory"]
    (whole,) = call("run", "in.mp4", "--dry-run", "--json", "--tile", "off").events
    assert whole["tiles"] is None


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


def test_previews():
    clip("in.mkv", 80, audio="aac")
    assert call("run", "in.mkv", "-s", 1, *FAST, "--preview", "1s@0:01.2").code == 0
    assert len(frames_of(Path("in_flashvsr_1x_preview.mkv"))) == 25
    assert call("run", "in.mkv", "-s", 1, *FAST, "--preview", "10@30", "-y").code == 0
    assert len(frames_of(Path("in_flashvsr_1x_preview.mkv"))) == 10
    for bad in ("3s@x", "1s@30", "0"):
        assert call("run", "in.mkv", "--preview", bad).code == 2
    assert call("run", "in.mkv", "--preview", "1s", "--start", "3").code == 2
