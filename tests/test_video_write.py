"""Writing videos: exact times, copied streams, and what is left on the disk when something goes wrong."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from media import FILM, Clip, frames_of, number_of, packets_of, picture, write_clip
from PIL import Image

from flashvsr_trt.configs.errors import OutputExists, UsageError, WriteError
from flashvsr_trt.runtime.video import OutputOptions, open_source, open_writer, plan_output
from flashvsr_trt.runtime.video.streams import StreamCopier


def copy(source_path, out, options=None, *, fail_at=None, error=RuntimeError, **part):
    """Runs a source through reader and writer at its own size; raises `error` before frame `fail_at`."""
    with open_source(source_path, **part) as source:
        plan = plan_output(source.info, out, (source.info.width, source.info.height), options or OutputOptions())
        with open_writer(plan) as writer:
            for frame in source:
                if frame.timing.index == fail_at:
                    raise error
                writer.write(frame.rgb, frame.timing)
            return plan, writer.finish()


def times(path):
    # AVI has decode times only.
    return [(f.dts if f.pts is None else f.pts) * f.time_base for f in frames_of(path)]


def listing(folder: Path):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("bframes", ["0", "3"])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_variable_rate_is_kept_exactly(tmp_path, suffix, bframes):
    stamps = [0, 40, 41, 120, 1000, 1033, 5000, 5001, 5400, 9000, 9090, 9500]
    clip = Clip(time_base=Fraction(1, 1000), stamps=stamps)
    path = write_clip(tmp_path / f"a.{suffix}", [picture(i) for i in range(12)], clip)
    copy(path, tmp_path / f"b.{suffix}", OutputOptions(encoder=(("bf", bframes),), crf=4))
    assert times(tmp_path / f"b.{suffix}") == times(path) == [Fraction(s, 1000) for s in stamps]
    assert [number_of(f.to_ndarray(format="rgb24")) for f in frames_of(tmp_path / f"b.{suffix}")] == list(range(12))


@pytest.mark.parametrize("rate", [FILM, Fraction(30000, 1001), Fraction(25), Fraction(2997, 100)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_rate_is_kept_exactly(tmp_path, suffix, rate):
    path = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(40)], Clip(rate=rate))
    copy(path, tmp_path / f"b.{suffix}")
    with open_source(tmp_path / f"b.{suffix}") as source:
        tolerance = 0 if suffix in ("mp4", "avi") else Fraction(1, 1000)
        assert source.info.rate == rate or (suffix == "ts" and abs(source.info.rate - rate) < rate / 1000)
        shown = [f.timing.time for f in source]
    # MPEG-TS has no negative decode times: the muxer moves everything by the reordering delay.
    offset = shown[0] if suffix == "ts" else 0
    assert all(abs(t - offset - i / rate) <= tolerance for i, t in enumerate(shown))
    assert len(shown) == 40


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "mpeg4", "ffv1"])
@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_every_encoder_keeps_count_and_times(tmp_path, codec, count):
    path = write_clip(
        tmp_path / "a.mkv", [picture(i, 64, 64) for i in range(count)], Clip(time_base=Fraction(1, 90000))
    )
    out = tmp_path / "b.mkv"
    copy(path, out, OutputOptions(codec=codec))
    assert times(out) == times(path)


def test_last_frame_keeps_its_duration(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(25)])
    copy(path, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as result:
        stream = result.streams.video[0]
        assert stream.duration * stream.time_base == 1
        assert stream.frames == 25


# --- copied streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "audio", "subtitles"), [
    ("mkv", "aac", "subrip"), ("mkv", "flac", "ass"), ("mkv", "libopus", "subrip"), ("mp4", "aac", "mov_text"),
    ("mov", "pcm_s16le", "mov_text"), ("webm", "libopus", "webvtt"), ("ts", "mp2", ""), ("avi", "mp2", ""),
])  # fmt: skip
def test_streams_are_copied_bit_for_bit(tmp_path, suffix, audio, subtitles):
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    clip = Clip(
        codec,
        audio=audio,
        subtitles="" if subtitles == "ass" else subtitles,
        options={"crf": "30", "bf": "0"},
    )
    path = write_clip(tmp_path / f"a.{suffix}", [picture(i) for i in range(25)], clip)
    plan, result = copy(path, tmp_path / f"b.{suffix}")
    before, after = packets_of(path, "audio"), packets_of(tmp_path / f"b.{suffix}", "audio")
    assert [data for _, data in before] == [data for _, data in after]
    shift = after[0][0] - before[0][0]
    step = Fraction(1, 1000)
    assert all(abs(a - b - shift) <= step for (b, _), (a, _) in zip(before, after, strict=True))
    # Sound and picture stay together: both move alike or not at all.
    video = times(tmp_path / f"b.{suffix}")[0] - times(path)[0]
    assert abs(video - shift) <= step
    assert suffix == "ts" or not shift
    if clip.subtitles:
        assert packets_of(path, "subtitle") == packets_of(tmp_path / f"b.{suffix}", "subtitle")
    assert result.warnings == ()
    assert any("audio stream 1" in line for line in plan.lines)


def test_chapters_tags_languages_and_attachments(tmp_path):
    tags = {"title": "Die Brücke – 橋", "artist": "x", "my_own_tag": "kept"}
    clip = Clip(audio="aac", subtitles="subrip", chapters=True, tags=tags, attachment=b"\0font" * 100)
    path = write_clip(tmp_path / "a.mkv", [picture(i) for i in range(25)], clip)
    copy(path, tmp_path / "b.mkv")
    with av.open(str(path)) as before, av.open(str(tmp_path / "b.mkv")) as after:
        assert after.metadata["title"] == tags["title"]
        assert {k.lower(): v for k, v in after.metadata.items()}["my_own_tag"] == "kept"
        assert [s.type for s in after.streams] == [s.type for s in before.streams]
        assert after.streams[2].language == "ger"
        assert after.streams[3].data == clip.attachment
        got, want = after.chapters(), before.chapters()
        assert [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"]) for c in got] == [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"]) for c in want
        ]
        assert len(got) == 2


def test_own_tags_survive_in_mp4(tmp_path):
    path = write_clip(
        tmp_path / "a.mkv", [picture(0)] * 3, Clip(tags={"title": "t", "my_own_tag": "kept"}, chapters=True)
    )
    copy(path, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as after:
        assert after.metadata["title"] == "t"
        assert {k.lower(): v for k, v in after.metadata.items()}["my_own_tag"] == "kept"
        assert len(after.chapters()) == 2


@pytest.mark.parametrize(("options", "kinds"), [
    (OutputOptions(audio=False), ["video", "subtitle"]), (OutputOptions(subtitles=False), ["video", "audio"]),
])  # fmt: skip
def test_streams_can_be_left_out(tmp_path, options, kinds):
    path = write_clip(tmp_path / "a.mkv", [picture(0)] * 5, Clip(audio="aac", subtitles="subrip"))
    copy(path, tmp_path / "b.mkv", options)
    with av.open(str(tmp_path / "b.mkv")) as after:
        assert [s.type for s in after.streams] == kinds


def test_the_cover_is_copied_and_never_upscaled(tmp_path):
    path = tmp_path / "a.mp4"
    cover = io.BytesIO()
    Image.fromarray(picture(9, 100, 100)).save(cover, "JPEG")
    cover.seek(0)
    movie = write_clip(tmp_path / "plain.mp4", [picture(i) for i in range(5)])
    with av.open(str(movie)) as source, av.open(cover) as still, av.open(str(path), "w") as output:
        streams = [output.add_stream_from_template(s.streams.video[0], opaque=True) for s in (still, source)]
        streams[0].disposition = Disposition.attached_pic
        for container, stream in zip((still, source), streams, strict=True):
            for packet in container.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux_one(packet)
    with open_source(path) as source:
        assert (source.info.width, source.info.frames, source.info.streams[0].kind) == (64, 5, "cover")
    copy(path, tmp_path / "b.mp4")
    with av.open(str(path)) as before, av.open(str(tmp_path / "b.mp4")) as after:
        kept = next(s for s in after.streams.video if s.disposition & Disposition.attached_pic)
        was = next(s for s in before.streams.video if s.disposition & Disposition.attached_pic)
        assert bytes(next(after.demux(kept))) == bytes(next(before.demux(was)))
        assert len(after.streams.video) == 2


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1"])
def test_encoders_keep_quiet(tmp_path, codec):
    path = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(3)])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_video_write import *\n"
        "copy(sys.argv[2], sys.argv[2] + '.mkv', OutputOptions(codec=sys.argv[3]))"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, here, path, codec], capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if "thread priority" not in line]  # SVT in a small container
    assert (done.stdout, lines) == ("", [])


def test_a_stream_the_container_cannot_hold_is_found_before_work(tmp_path):
    path = write_clip(tmp_path / "a.mkv", [picture(0)] * 5, Clip(audio="aac", subtitles="subrip"))
    with open_source(path) as source:
        with pytest.raises(UsageError, match=r"\.mp4 cannot hold subtitle stream 2 \(subrip, ger\)") as caught:
            plan_output(source.info, tmp_path / "b.mp4", (64, 48), OutputOptions())
        assert "--no-subs" in caught.value.todo
        plan = plan_output(source.info, tmp_path / "b.mp4", (64, 48), OutputOptions(may_switch=True))
    assert plan.path == str(tmp_path / "b.mkv")
    assert "writing .mkv instead" in plan.warnings[0]
    assert listing(tmp_path) == ["a.mkv"]
    copy(path, tmp_path / "b.mp4", OutputOptions(subtitles=False))


def test_a_cut_takes_sound_and_chapters_along(tmp_path):
    clip = Clip(audio="pcm_s16le", chapters=True, options={"crf": "1", "g": "5"})
    path = write_clip(tmp_path / "a.mkv", [picture(i) for i in range(25)], clip)
    copy(path, tmp_path / "b.mkv", start=10, frames=5)
    assert [number_of(f.to_ndarray(format="rgb24")) for f in frames_of(tmp_path / "b.mkv")] == list(range(10, 15))
    assert times(tmp_path / "b.mkv")[0] == 0
    before, after = packets_of(path, "audio"), packets_of(tmp_path / "b.mkv", "audio")
    start = Fraction(10, 25)
    wanted = [(t - start, data) for t, data in before if start <= t <= Fraction(15, 25)]
    assert [data for _, data in after] == [data for _, data in wanted]
    assert all(abs(a - w) <= Fraction(1, 1000) for (a, _), (w, _) in zip(after, wanted, strict=True))
    with av.open(str(tmp_path / "b.mkv")) as result:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in result.chapters()]
        assert chapters == [(0, Fraction(1, 5))]


def test_a_stream_that_fails_half_way_never_costs_the_video(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mkv", [picture(i) for i in range(50)], Clip(audio="aac"))
    real = StreamCopier._place

    def spoiled(self, packet):
        time = real(self, packet)
        if time is not None and time > 1:
            packet.dts = packet.pts = 0  # the muxer refuses a step backwards
        return time

    monkeypatch.setattr(StreamCopier, "_place", spoiled)
    with pytest.raises(WriteError, match=r"complete but for: audio stream 1 stops"):
        copy(path, tmp_path / "b.mp4")
    assert listing(tmp_path) == ["a.mkv", "b.mp4"]
    assert len(frames_of(tmp_path / "b.mp4")) == 50


# --- rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "ts", "avi", "y4m", "frames"])
def test_rotated_videos_display_alike(tmp_path, suffix, rotation):
    rgb = picture(0)
    rgb[:20, :30] = (250, 30, 30)
    path = write_clip(tmp_path / "a.mp4", [rgb] * 30, Clip(rotation=rotation))
    with open_source(path) as source:
        assert source.info.rotation == rotation
        assert (source.info.width, source.info.height) == (64, 48)
        assert source.info.display_size == ((48, 64) if rotation % 180 else (64, 48))
    out = tmp_path / (suffix if suffix == "frames" else f"b.{suffix}")
    copy(path, out, OutputOptions(png=suffix == "frames"))
    frame = frames_of(out / "000000.png" if suffix == "frames" else out)[0]
    shown = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4)
    wanted = np.rot90(rgb, rotation // 90 % 4)
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 6  # lossy codecs and 4:2:0; any wrong turn gives over 20


# --- what stays on the disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("out", ["b.mp4", "b.mkv", "frames"])
def test_nothing_half_written_stays(tmp_path, error, out):
    path = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(60)], Clip(audio="aac"))
    with pytest.raises(error):
        copy(path, tmp_path / out, OutputOptions(png=out == "frames"), fail_at=50, error=error)
    assert listing(tmp_path) == ["a.mp4"]


def test_the_name_appears_only_when_all_is_written(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(5)])
    with open_source(path) as source:
        plan = plan_output(source.info, tmp_path / "b.mp4", (64, 48), OutputOptions())
        assert listing(tmp_path) == ["a.mp4"]
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(frame.rgb, frame.timing)
            assert listing(tmp_path) == [".b.mp4.part", "a.mp4"]
            with pytest.raises(UsageError, match="another run is writing"):
                open_writer(plan)
    assert listing(tmp_path) == ["a.mp4", "b.mp4"]


def test_existing_outputs(tmp_path):
    path = write_clip(tmp_path / "a.mp4", [picture(0)] * 3)
    (tmp_path / "b.mp4").write_text("precious")
    with pytest.raises(OutputExists, match="exists"):
        copy(path, tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").read_text() == "precious"
    with pytest.raises(RuntimeError):
        copy(path, tmp_path / "b.mp4", OutputOptions(overwrite=True), fail_at=1)
    assert (tmp_path / "b.mp4").read_text() == "precious"
    copy(path, tmp_path / "b.mp4", OutputOptions(overwrite=True))
    assert len(frames_of(tmp_path / "b.mp4")) == 3
    with pytest.raises(UsageError, match="the input itself"):
        copy(path, path, OutputOptions(overwrite=True))


@pytest.mark.parametrize("out", ["b.mp4", "b.png"])
def test_an_output_that_appears_meanwhile_is_not_lost(tmp_path, out):
    if out == "b.png":
        path = tmp_path / "a.png"
        Image.fromarray(picture(0)).save(path)
    else:
        path = write_clip(tmp_path / "a.mp4", [picture(0)] * 3)
    with open_source(path) as source:
        plan = plan_output(source.info, tmp_path / out, (64, 48), OutputOptions())
        frames = list(source)

    def run():
        with open_writer(plan) as writer:
            for frame in frames:
                writer.write(frame.rgb, frame.timing)
            (tmp_path / out).write_text("precious")
            writer.finish()

    with pytest.raises(OutputExists, match="kept in"):
        run()
    assert (tmp_path / out).read_text() == "precious"
    kept = plan.temporary.rename(tmp_path / f"c{path.suffix}")
    assert len(frames_of(kept)) == len(frames)


def test_a_finished_video_that_cannot_be_renamed_is_kept(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", [picture(0)] * 3)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(WriteError, match=r"Permission denied\n.*all frames are in .*\.b\.mp4\.part"):
        copy(path, tmp_path / "b.mp4")
    assert len(frames_of((tmp_path / ".b.mp4.part").rename(tmp_path / "c.mp4"))) == 3


DISK_FULL = """
import resource, sys, numpy as np
from flashvsr_trt.runtime.video import *
from flashvsr_trt.configs.errors import WriteError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
rng = np.random.default_rng(0)
with open_source(sys.argv[1]) as source:
    plan = plan_output(source.info, sys.argv[2], (128, 128), OutputOptions(png=sys.argv[2].endswith('frames')))
    try:
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(rng.integers(0, 256, (128, 128, 3)).astype(np.uint8), frame.timing)
    except WriteError as error:
        print(error)
"""


@pytest.mark.parametrize("out", ["b.mp4", "b.mkv", "b.ts", "b.y4m", "frames"])
def test_disk_full(tmp_path, out):
    path = write_clip(tmp_path / "a.mp4", [picture(0)] * 40, Clip(audio="aac"))
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, path, tmp_path / out], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert "what to do" in done.stdout
    assert listing(tmp_path) == ["a.mp4"]
