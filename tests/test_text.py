"""Tags and file names that are not UTF-8: shown with a stand-in for the byte, copied as they are."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import command_line
import pytest
from command_line import FAST, call, clip, left
from stand_in import StandIn

from flashvsr_trt.runtime.video import OutputOptions, open_source, open_writer, plan_output
from flashvsr_trt.runtime.video.frames import readable
from flashvsr_trt.runtime.video.probe import open_container

# What `clip` writes and what old programs wrote in its place, of the same length: Latin-1.
OLD = {b"Gruss e": b"Gr\xfc\xdf e\xe9", b"Erster Teil": b"\xc9rster Teil", b"font.ttf": b"f\xf6nt.ttf"}
LANGUAGE = b"\x22\xb5\x9c\x83"  # Matroska's element and its length


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, StandIn)


def old_clip(name="in.mkv", **settings):
    """A clip whose title, chapter, attachment's name and subtitles' language are not UTF-8."""
    path = clip(name, 10, tags={"title": "Gruss e", "my_tag": "Gruss e"}, chapters=True, **settings)
    data = path.read_bytes()
    for new, old in {**OLD, LANGUAGE + b"ger": LANGUAGE + b"g\xe9r"}.items():
        data = data.replace(new, old)
    path.write_bytes(data)
    return path


def copy(source_path, out):
    with open_source(source_path) as source:
        plan = plan_output(source.info, str(out), (source.info.width, source.info.height), OutputOptions())
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(frame.rgb, frame.timing)


def tags(path):
    """[the title and my_tag, chapter titles, attachment names, subtitle languages], as bytes."""
    with open_container(str(path)) as container:
        own = {key.lower(): value for key, value in container.metadata.items()}
        found = [
            [own["title"], own["my_tag"]],
            [chapter["metadata"]["title"] for chapter in container.chapters()],
            [stream.metadata["filename"] for stream in container.streams if stream.type == "attachment"],
            [stream.metadata["language"] for stream in container.streams if stream.type == "subtitle"],
        ]
    return [[text.encode("utf-8", "surrogateescape") for text in texts] for texts in found]


def test_text_for_people_has_no_surrogates():
    assert readable("Grüße 橋") == "Grüße 橋"
    assert readable(b"Gr\xfc\xdf e".decode("utf-8", "surrogateescape")) == "Gr\ufffd\ufffd e"


def test_what_is_said_of_a_source_can_be_encoded():
    path = old_clip(subtitles="subrip", attachment=b"\0font" * 100)
    with open_source(path) as source:
        streams = {stream.kind: stream for stream in source.info.streams}
        json.dumps(asdict(source.info), default=str, ensure_ascii=False).encode()
    assert streams["attachment"].codec == streams["attachment"].detail == "f\ufffdnt.ttf"
    assert streams["subtitle"].language == "g\ufffdr"


def test_tags_are_copied_byte_by_byte():
    path = old_clip(audio="aac", subtitles="subrip", attachment=b"\0font" * 100)
    copy(path, "out.mkv")
    before = tags(path)
    assert before[0] == [OLD[b"Gruss e"]] * 2
    assert before[1][0] == OLD[b"Erster Teil"]
    assert before[2:] == [[OLD[b"font.ttf"]], [b"g\xe9r"]]
    assert tags("out.mkv") == before


@pytest.mark.parametrize("suffix", ["mp4", "mov", "webm", "avi", "flv", "ts", "3gp"])
def test_no_container_refuses_old_tags(suffix):
    copy(old_clip(), f"out.{suffix}")
    assert OLD[b"Gruss e"] in Path(f"out.{suffix}").read_bytes()


def test_a_run_on_old_tags():
    old_clip(subtitles="subrip", attachment=b"\0font" * 100)
    told = call("info", "in.mkv")
    assert (told.code, "g\ufffdr" in told.out, "f\ufffdnt.ttf" in told.out) == (0, True, True)
    assert json.loads(call("info", "in.mkv", "--json").out)["streams"][1]["detail"] == "f\ufffdnt.ttf"
    result = call("run", "in.mkv", "-s", 1, "-o", "out.mkv", "--log-file", "log", "--report", "report", "--json", *FAST)
    assert result.code == 0, result.err
    assert json.loads(Path("report").read_text(encoding="utf-8"))[0]["frames"]["out"] == 10
    assert "g\ufffdr" in Path("log").read_text(encoding="utf-8")
    assert tags("out.mkv") == tags("in.mkv")


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_a_file_name_that_is_not_utf8():
    name = os.fsdecode(b"b\xe9.mp4")
    try:
        Path(name).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    clip(name, 10)
    assert r"b\udce9.mp4: h264" in call("info", name).out
    assert json.loads(call("info", name, "--json").out)["path"] == name
    result = call("run", name, "-s", 1, "--log-file", "log", "--report", "report", *FAST)
    assert result.code == 0, result.err
    out = os.fsdecode(b"b\xe9_flashvsr_1x.mp4")
    assert out in left()
    assert r"done      b\udce9_flashvsr_1x.mp4" in Path("log").read_text(encoding="utf-8")
    assert json.loads(Path("report").read_text(encoding="utf-8"))[0]["output"] == out
