"""What is shown of a run: the bar, the lines, JSON; and the sizes a user may ask for."""

import io
import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.progress import STAGES, Bar, JsonLines, Lines, Status, clock, shortened
from flashvsr_trt.runtime.sizes import Size, parse_size


def status(frames, total=100, elapsed=10.0):
    seconds = dict.fromkeys(STAGES, 0.5) | {"networks": 9.0}
    return Status(frames=frames, total=total, read=frames + 4, upscaled=frames, elapsed=elapsed, seconds=seconds)


@pytest.fixture(autouse=True)
def _console():
    console.reset()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_frames_speed_time_left_and_shares(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = sys.stderr
    bar = Bar()
    bar.begin("a.mp4", 100)
    bar.update(status(40))
    time.sleep(0.6)  # two redraws
    bar.end()
    shown = terminal.getvalue()
    for text in ("a.mp4", "40/100 frames", "fps", "left", "decode 5 %", "networks 8", "40%"):
        assert text in shown


def test_the_lines_come_while_nothing_happens(capsys):
    lines = Lines(interval=0.05)
    lines.begin("a.mp4", None)
    time.sleep(0.2)
    lines.update(status(7, total=None))
    time.sleep(0.2)
    lines.end()
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) >= 4
    assert shown[0].startswith("a.mp4: no frame yet, ")
    assert "networks" not in shown[0]
    assert shown[-1].startswith("a.mp4: 7 frames, ")
    assert "left" not in shown[-1]


def test_json_progress_is_limited_to_two_a_second():
    stream = io.StringIO()
    events = JsonLines(stream)
    for frames in range(100):
        events.progress("a.mp4", status(frames))
    events.progress("b.mp4", status(1))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["input"], line["total"]) for line in lines] == [("a.mp4", 100), ("b.mp4", 100)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (3.44, "3.4 s"), (17.2, "17 s"), (60, "1:00"), (754, "12:34"), (3723, "1:02:03")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_nothing_is_divided_by_zero():
    empty = status(0, elapsed=0.0)
    assert (empty.fps, empty.left) == (0.0, None)
    assert "decode 0 %" in empty.shares()


@given(st.text(max_size=60))
def test_a_name_fits_and_keeps_both_ends(name):
    short = shortened(name)
    assert len(short) <= 24
    assert short == name or (short[:5] == name[:5] and short[-5:] == name[-5:])


sides = st.integers(1, 8000)


@given(sides, sides, st.integers(1, 4320))
def test_lines_keep_the_aspect_ratio(height, width, lines):
    out_h, out_w = Size(lines=lines).output(height, width)
    assert out_h == lines
    assert out_w % 2 == 0
    assert abs(out_w - max(2, width * lines / height)) <= 1 + 1e-6


@given(sides, sides, sides, sides)
def test_a_box_is_filled_and_never_left(height, width, box_w, box_h):
    out_h, out_w = Size(box=(box_w, box_h)).output(height, width)
    assert out_h <= box_h + 1  # the side that follows is rounded to an even number
    assert out_w <= box_w + 1
    assert out_h == box_h or out_w == box_w


def test_a_box_of_nearly_the_same_shape_is_met():
    assert Size(box=(1920, 1080)).output(480, 853) == (1080, 1920)
    assert Size(box=(1920, 1080)).output(480, 720) == (1080, 1620)


@given(sides, sides)
def test_a_turned_picture_is_measured_as_shown(height, width):
    assert Size(lines=1080).output(height, width, turned=True) == Size(lines=1080).output(width, height)[::-1]


@pytest.mark.parametrize(
    ("scale", "target", "tag"),
    [(None, None, "4x"), (1.5, None, "1.5x"), (None, "1080P", "1080p"), (None, "640X360", "640x360")],
)
def test_tags(scale, target, tag):
    assert parse_size(scale, target).tag == tag


@pytest.mark.parametrize("bad", ["", "p", "0p", "-5p", "12", "0x5", "1.5x2", "1080px"])
def test_senseless_targets_are_refused(bad):
    with pytest.raises(UsageError):
        parse_size(None, bad)
