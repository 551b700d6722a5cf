"""Reading videos: every frame, its exact time, ranges, and what damage does."""

import io
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from media import FILM, Clip, number_of, picture, write_clip

from flashvsr_trt.configs.errors import InputError, UsageError
from flashvsr_trt.runtime.video import open_source, parse_position
from flashvsr_trt.runtime.video.timeline import Timeline

RGB = Clip(codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0", "preset": "ultrafast"})


def read(path, **part):
    with open_source(path, **part) as source:
        frames = list(source)
    return source, frames


def numbers(frames):
    return [number_of(f.rgb) for f in frames]


def test_frames_and_info(tmp_path):
    pictures = [picture(i) for i in range(12)]
    source, frames = read(write_clip(tmp_path / "a.mp4", pictures, RGB))
    info = source.info
    assert (info.width, info.height, info.frames, info.frames_exact) == (64, 48, 12, True)
    assert (info.codec, info.bit_depth, info.kind, info.duration) == ("h264", 8, "video", Fraction(12, 25))
    assert all((f.rgb == p).all() and f.rgb.flags.c_contiguous for f, p in zip(frames, pictures, strict=True))
    assert [f.timing.index for f in frames] == list(range(12))
    assert source.stats.clean
    assert source.stats.delivered == 12


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "webm"])
def test_film_rate_is_exact(tmp_path, suffix):
    clip = Clip(rate=FILM, codec="libvpx-vp9" if suffix == "webm" else "libx264", options={"crf": "30"})
    source, frames = read(write_clip(tmp_path / f"a.{suffix}", [picture(i) for i in range(10)], clip))
    assert source.info.rate == FILM
    step = source.info.time_base
    # Matroska counts in milliseconds, MP4 exactly.
    assert all(abs(f.timing.time - f.timing.index / FILM) <= (step if step == Fraction(1, 1000) else 0) for f in frames)


def test_variable_rate_time_stamps_are_exact(tmp_path):
    stamps = [0, 40, 41, 120, 1000, 1033, 5000]
    clip = Clip(time_base=Fraction(1, 12000), stamps=stamps)
    _, frames = read(write_clip(tmp_path / "a.mp4", [picture(i) for i in range(7)], clip))
    assert [f.timing.time for f in frames] == [Fraction(s, 12000) for s in stamps]


@pytest.mark.parametrize("name", ["Grüße – 視頻 (1).mp4", "100%d.mp4", "a:b.mp4", "-dash.mp4", "two\nlines.mp4"])
def test_any_file_name(tmp_path, name):
    _, frames = read(write_clip(tmp_path / "plain.mp4", [picture(0)] * 2).rename(tmp_path / name))
    assert len(frames) == 2


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"start": 7}, range(7, 20)),
        ({"end": 3}, range(3)),
        ({"start": 5, "end": 9}, range(5, 9)),
        ({"frames": 4}, range(4)),
        ({"start": Fraction(2, 5), "frames": 2}, range(10, 12)),
        ({"start": Fraction(1, 10), "end": Fraction(1, 5)}, range(3, 5)),
        ({"start": Fraction(1, 5), "end": 7}, range(5, 7)),
        ({"end": 100}, range(20)),
    ],
)
def test_ranges(tmp_path, part, expected):
    clip = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(20)])
    source, frames = read(clip, **part)
    assert numbers(frames) == list(expected)
    assert frames[0].timing.pts == 0
    assert source.info.frames == len(expected)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize("start", [Fraction(3), Fraction(29, 5)])
def test_seeking_start_finds_the_same_frames(tmp_path, suffix, start):
    # More than two seconds in: the reader seeks. Key frames every 12 frames, B-frames between.
    clip = Clip(options={"crf": "10", "g": "12", "bf": "0" if suffix == "avi" else "2"})
    path = write_clip(tmp_path / f"a.{suffix}", [picture(i, 32, 32) for i in range(150)], clip)
    _, frames = read(path, start=start, frames=3)
    first = int(start * 25)
    assert numbers(frames) == [n % 50 for n in range(first, first + 3)]


def test_start_beyond_the_end(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(5)])
    for start in (5, Fraction(10)):
        with pytest.raises(UsageError, match="beyond the last frame"):
            open_source(clip, start=start)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120", 120), ("4.5", Fraction(9, 2)), ("4s", Fraction(4)), ("1:02.5", Fraction(125, 2)),
        ("1:00:01", Fraction(3601)), ("0:05", Fraction(5)), (".5", Fraction(1, 2)),
    ],
)  # fmt: skip
def test_positions(text, expected):
    position = parse_position(text)
    assert position == expected
    assert type(position) is type(expected)


@pytest.mark.parametrize("text", ["", "-3", "abc", "1:2:3:4", "4m", "nan"])
def test_bad_positions(text):
    with pytest.raises(UsageError, match="neither a time nor a frame number"):
        parse_position(text)


# --- damage ---------------------------------------------------------------------------------------------------------


def _packet_ranges(path):
    import av

    with av.open(str(path)) as source:
        return [(p.pos, p.size) for p in source.demux(video=0) if p.size]


def _overwrite(path, position, size):
    data = bytearray(path.read_bytes())
    data[position : position + size] = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8).tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize("lost", [0, 5, 19])
@pytest.mark.parametrize("codec", ["mjpeg", "ffv1", "libx264"])
def test_an_undecodable_frame_is_repeated_not_dropped(tmp_path, lost, codec):
    options = {"libx264": {"crf": "10", "g": "1"}, "mjpeg": {"qmin": "1", "qmax": "2"}}.get(codec, {})
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_clip(tmp_path / "a.mkv", [picture(i) for i in range(20)], Clip(codec, pix_fmt, options=options))
    position, size = _packet_ranges(path)[lost]
    _overwrite(path, position + 8, size - 8)
    source, frames = read(path)
    assert len(frames) == 20
    assert source.stats.repeated + source.stats.concealed >= 1
    stamps = [f.timing.pts for f in frames]
    assert stamps == sorted(set(stamps))
    good = [n for i, n in enumerate(numbers(frames)) if i != lost]
    if codec != "ffv1":  # FFV1 conceals with the frame before, slice by slice
        assert good == [i for i in range(20) if i != lost]


def test_file_cut_in_the_middle_gives_what_decodes(tmp_path):
    clip = Clip(codec="mjpeg", pix_fmt="yuvj420p", options={})
    whole = write_clip(tmp_path / "a.mkv", [picture(i) for i in range(20)], clip)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    source, frames = read(whole)
    assert 8 <= len(frames) <= 13
    assert numbers(frames)[:8] == list(range(8))
    # MP4 says how many frames there should be.
    mp4 = tmp_path / "a.mp4"
    _faststart_clip(mp4)
    mp4.write_bytes(mp4.read_bytes()[: mp4.stat().st_size * 6 // 10])
    source, frames = read(mp4)
    assert 0 < len(frames) <= 20
    assert source.stats.repeated + source.stats.missing + source.stats.concealed >= 5
    assert not source.stats.clean


def test_a_file_shorter_than_it_announces_is_reported(tmp_path):
    clip = Clip(codec="mjpeg", pix_fmt="yuvj420p", options={})
    path = write_clip(tmp_path / "a.mkv", [picture(i, 32, 32) for i in range(100)], clip)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source, _ = read(path)
    assert any("about 100 in 4.00 s announced" in line for line in source.stats.complaints)


def _faststart_clip(path):
    import av

    with av.open(str(path), "w", container_options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "5", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(20):
            noise = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        output.mux(stream.encode(None))


def test_size_change_names_frame_and_sizes(tmp_path):
    parts = [write_clip(tmp_path / f"{w}.ts", [picture(i, w, 48) for i in range(30)]) for w in (64, 96)]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(p.read_bytes() for p in parts))
    with (
        pytest.raises(InputError, match=r"changes at frame 30 from 64x48 to 96x48") as caught,
        open_source(joined) as source,
    ):
        list(source)
    assert "--end 30" in caught.value.todo


def test_a_clock_that_starts_again_goes_on(tmp_path):
    part = write_clip(tmp_path / "p.ts", [picture(i) for i in range(50)])
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    source, frames = read(joined)
    stamps = [f.timing.pts for f in frames]
    assert len(frames) == 100
    assert stamps == sorted(set(stamps))
    assert source.stats.retimed >= 1


def test_timeline_repairs():
    line = Timeline(restart=1000)
    assert [line.place(s, 40) for s in (0, 40, 40, None, 160, 5000)] == [0, 40, 41, 81, 160, 5000]
    assert [line.place(s, 40) for s in (0, 40, 3000)] == [5040, 5080, 8040]  # the clock began again
    assert line.repaired == 3


# --- what is refused ------------------------------------------------------------------------------------------------


def _text(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("these are just notes\n" * 50)
    return path


def _empty(tmp_path):
    path = tmp_path / "a.mp4"
    path.touch()
    return path


def _no_index(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(20)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _audio_only(tmp_path):
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48000, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def _no_frames(tmp_path):
    import av

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        output.start_encoding()
    return path


def _all_broken(tmp_path):
    path = write_clip(tmp_path / "a.mkv", [picture(i) for i in range(5)])
    for position, size in _packet_ranges(path):
        _overwrite(path, position + 4, size - 4)
    return path


def _empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_text("no images here")
    return tmp_path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t / "missing.mp4", "does not exist"),
        (_text, "not a video that FFmpeg can read"),
        (_empty, "is empty"),
        (_no_index, "no moov box"),
        (_audio_only, r"no video stream.*audio \(aac\)"),
        (_no_frames, "frame"),
        (_all_broken, "no frame can be decoded"),
        (_empty_folder, "holds no image"),
    ],
)
def test_bad_inputs_are_named(tmp_path, make, message):
    with pytest.raises(InputError, match=message) as caught:
        open_source(make(tmp_path))
    assert caught.value.expected or caught.value.todo


@pytest.mark.parametrize("part", [{"frames": 0}, {"start": -1}, {"start": 4, "end": 4}, {"end": 0}])
def test_empty_ranges_are_refused(tmp_path, part):
    with pytest.raises(UsageError):
        open_source(tmp_path, **part)


def test_y4m_on_stdin(tmp_path):
    clip = write_clip(
        tmp_path / "a.y4m", [picture(i) for i in range(6)], Clip("rawvideo", options={}, matrix=2, rate=FILM)
    )
    code = (
        "from flashvsr_trt.runtime.video import open_source\n"
        "with open_source('-') as s:\n print(s.info.rate, [f.timing.time for f in s], s.info.width)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=clip.read_bytes(), capture_output=True, check=True)
    out = done.stdout.decode()
    assert out.startswith("24000/1001 [Fraction(0, 1), Fraction(1001, 24000)")
    assert out.strip().endswith("64")


def test_stdin_that_is_not_y4m(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"hello" * 100))
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(InputError, match="not a y4m stream"):
        open_source("-")
