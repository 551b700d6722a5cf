"""Output flags: what is chosen by default, and what is refused before work starts."""

import os
import re
from fractions import Fraction
from pathlib import Path

import pytest
from media import Clip, frames_of, picture, write_clip

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime.video import (
    ColourTags,
    OutputOptions,
    SourceInfo,
    StreamInfo,
    default_output,
    plan_output,
)


def info(**changes):
    values = {
        "path": "dir.v1/my.clip.mp4", "kind": "video", "container": "mov", "codec": "h264", "width": 64, "height": 48,
        "rate": Fraction(25), "time_base": Fraction(1, 12800), "pix_fmt": "yuv420p", "bit_depth": 8,
        "colour": ColourTags(),
    }  # fmt: skip
    return SourceInfo(**{**values, **changes})


@pytest.fixture
def source(tmp_path):
    path = write_clip(tmp_path / "in.mp4", [picture(0)] * 2)
    return info(path=str(path))


@pytest.mark.parametrize(
    ("changes", "options", "tag", "expected"),
    [
        ({}, OutputOptions(), "4x", "dir.v1/my.clip_flashvsr_4x.mp4"),
        ({}, OutputOptions(), "1.5x", "dir.v1/my.clip_flashvsr_1.5x.mp4"),
        ({}, OutputOptions(container="mkv"), "2x", "dir.v1/my.clip_flashvsr_2x.mkv"),
        ({}, OutputOptions(png=True), "4x", "dir.v1/my.clip_flashvsr_4x"),
        ({"path": "a/視頻.WMV"}, OutputOptions(), "4x", "a/視頻_flashvsr_4x.mkv"),
        ({"path": "x.MOV"}, OutputOptions(), "4x", "x_flashvsr_4x.mov"),
        ({"path": "x.mpg"}, OutputOptions(lossless=True), "4x", "x_flashvsr_4x.mkv"),
        ({"path": "-"}, OutputOptions(), "4x", "stdin_flashvsr_4x.mkv"),
        ({"path": "frames.d", "kind": "images"}, OutputOptions(), "4x", "frames.d_flashvsr_4x"),
        ({"path": "p.jpg", "kind": "image"}, OutputOptions(), "4x", "p_flashvsr_4x.jpg"),
        ({"path": "p.ppm", "kind": "image"}, OutputOptions(), "4x", "p_flashvsr_4x.png"),
    ],
)
def test_default_names(changes, options, tag, expected):
    assert default_output(info(**changes), tag, options) == expected


@pytest.mark.parametrize(("name", "container"), [("out.mp4", "mkv"), ("out.mkv", ".mov")])
def test_a_name_and_a_container_must_agree(source, tmp_path, name, container):
    with pytest.raises(UsageError, match="contradict"):
        plan_output(source, tmp_path / name, (64, 48), OutputOptions(container=container))
    agreed = (tmp_path / name).with_suffix("." + container.lstrip("."))
    assert plan_output(source, agreed, (64, 48), OutputOptions(container=container)).path == str(agreed)


@pytest.mark.parametrize(
    ("suffix", "changes", "codec", "pix_fmt"),
    [
        ("mp4", {}, "libx264", "yuv420p"),
        ("mov", {"pix_fmt": "yuv422p"}, "libx264", "yuv422p"),
        ("mkv", {"pix_fmt": "yuv420p10le", "bit_depth": 10}, "libx265", "yuv420p10le"),
        ("mp4", {"pix_fmt": "yuv444p12le", "bit_depth": 12}, "libx265", "yuv444p12le"),
        ("webm", {}, "libvpx-vp9", "yuv420p"),
        ("webm", {"pix_fmt": "yuv420p10le", "bit_depth": 10}, "libsvtav1", "yuv420p10le"),
        ("mkv", {"pix_fmt": "gray"}, "libx264", "yuv420p"),
        ("mkv", {"pix_fmt": "nv12"}, "libx264", "yuv420p"),
        ("mkv", {"pix_fmt": "gbrp"}, "libx264", "yuv444p"),
        ("mkv", {"pix_fmt": "yuva420p"}, "libx264", "yuv420p"),
        ("mkv", {"pix_fmt": "yuvj420p"}, "libx264", "yuv420p"),
        ("mkv", {"pix_fmt": "yuv411p"}, "libx264", "yuv422p"),
        ("avi", {}, "libx264", "yuv420p"),
        ("ts", {}, "libx264", "yuv420p"),
    ],
)
def test_defaults_follow_the_source(tmp_path, source, suffix, changes, codec, pix_fmt):
    plan = plan_output(info(path=source.path, **changes), tmp_path / f"o.{suffix}", (128, 96), OutputOptions())
    assert (plan.video.encoder.codec, plan.video.encoder.pix_fmt) == (codec, pix_fmt)
    assert plan.video.encoder.options["crf"] == "18"
    assert plan.warnings == ()


def test_prores_takes_the_nearest_format(tmp_path, source):
    plan = plan_output(source, tmp_path / "o.mov", (128, 96), OutputOptions(codec="prores_ks"))
    assert plan.video.encoder.pix_fmt == "yuv422p10le"
    deep = info(path=source.path, pix_fmt="yuv420p10le", bit_depth=10)
    plan = plan_output(deep, tmp_path / "o.mp4", (128, 96), OutputOptions(codec="mpeg4"))
    assert "takes 8 bit here: the source has 10" in plan.warnings[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "x264"}, "no such encoder"),
        ({"codec": "aac"}, "encodes audio"),
        ({"crf": 52}, "out of range for libx264"),
        ({"crf": -1}, "out of range"),
        ({"codec": "libvpx-vp9", "crf": 64}, "out of range"),
        ({"codec": "prores_ks", "crf": 10}, "has no CRF"),
        ({"preset": "fastest"}, "does not encode"),
        ({"codec": "ffv1", "preset": "fast"}, "has no presets"),
        ({"pix_fmt": "yuv420p12le"}, "does not take it"),
        ({"pix_fmt": "nonsense"}, "does not take it"),
        ({"encoder": (("nonsense", "1"),)}, "knows no option 'nonsense'"),
        ({"encoder": (("refs", "many"),)}, "does not encode"),
        ({"lossless": True, "crf": 18}, "exclude each other"),
        ({"lossless": True, "codec": "libsvtav1"}, "no RGB format"),
        ({"lossless": True, "codec": "libx265", "pix_fmt": "yuv444p"}, "not lossless"),
    ],
)
def test_flags_that_cannot_be_honoured_stop_the_run(tmp_path, source, options, message):
    with pytest.raises(UsageError, match=message):
        plan_output(source, tmp_path / "o.mkv", (128, 96), OutputOptions(**options))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing/o.mp4", {}, "does not exist"),
        ("o.xyz", {}, "no output format is known for .xyz"),
        ("o", {}, "a name without a suffix"),
        ("o.png", {}, "names one image"),
        (".", {}, "is a folder"),
        ("frames", {"png": True, "codec": "libx264"}, "--codec has no meaning"),
        ("o.webm", {"codec": "libx264"}, "does not encode"),
        ("in.mp4", {"overwrite": True}, "is the input itself"),
        ("o.mpg", {"lossless": True}, "no lossless encoder"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, source, name, options, message):
    with pytest.raises(UsageError, match=message):
        plan_output(source, tmp_path / name, (128, 96), OutputOptions(**options))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path, source):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(UsageError, match="is not writable"):
        plan_output(source, folder / "o.mp4", (128, 96), OutputOptions())


def test_unwritable_folder_by_the_access_check(tmp_path, source, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="is not writable"):
        plan_output(source, tmp_path / "o.mp4", (128, 96), OutputOptions())


def test_odd_sizes(tmp_path, source):
    plan = plan_output(source, tmp_path / "o.mp4", (97, 72), OutputOptions())
    assert plan.video.encoder.pix_fmt == "yuv444p"
    with pytest.raises(UsageError, match="even sizes only"):
        plan_output(source, tmp_path / "o.mp4", (97, 72), OutputOptions(pix_fmt="yuv420p"))
    with pytest.raises(UsageError, match="without losing a line"):
        plan_output(source, tmp_path / "o.mkv", (97, 72), OutputOptions(codec="libsvtav1"))


def test_unknown_streams_are_named_not_copied(tmp_path, source):
    streams = (StreamInfo(1, "data", "bin_data"),)
    plan = plan_output(info(path=source.path, streams=streams), tmp_path / "o.mkv", (128, 96), OutputOptions())
    assert plan.warnings == ("data stream 1 (bin_data) is not copied",)


def test_encoder_options_reach_the_encoder(tmp_path, source):
    options = OutputOptions(codec="libx265", preset="ultrafast", encoder=(("x265-params", "keyint=1"), ("g", "5")))
    plan = plan_output(source, tmp_path / "o.mkv", (128, 96), options)
    assert plan.video.encoder.options == {
        "crf": "18", "preset": "ultrafast", "x265-params": "log-level=error:keyint=1", "g": "5",
    }  # fmt: skip
    assert "libx265 yuv420p (crf 18" in plan.lines[0]


def test_only_this_package_imports_av():
    root = Path(__file__).parent.parent / "runtime"
    users = {p for p in root.rglob("*.py") if re.search(r"^\s*(import|from) av\b", p.read_text(), re.MULTILINE)}
    # doctor reports on FFmpeg itself.
    assert {p.relative_to(root).parts[0] for p in users - {root / "commands" / "doctor.py"}} == {"video"}
    heavy = re.compile(r"^\s*(import|from) (torch|onnx|onnxruntime)\b", re.MULTILINE)
    assert not [p for p in (root / "video").glob("*.py") if heavy.search(p.read_text())]


def test_clips_of_the_helper_are_what_they_say(tmp_path):
    path = write_clip(tmp_path / "a.mkv", [picture(0)] * 2, Clip("ffv1", options={}))
    assert frames_of(path)[0].format.name == "yuv420p"
