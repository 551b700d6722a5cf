"""Sources that go wrong in mid-stream, through a whole run, uninterrupted and taken up half-way."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from counts import FAULTS
from faults import Remembering
from media import Clip, frames_of, packets_of, picture, write_clip
from stand_in import NoBackend, bundle

from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime import upscaler
from flashvsr_trt.runtime.cli import cli
from flashvsr_trt.runtime.commands import run as run_module
from flashvsr_trt.runtime.video import open_source

COUNT = 60
INTRA = Clip("mjpeg", "yuvj420p", options={"qmin": "1", "qmax": "2"}, audio="pcm_s16le")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setattr(upscaler, "Networks", Remembering)
    monkeypatch.setattr(run_module, "open_for", lambda *args, **settings: NoBackend())
    bundle(tmp_path / "bundle")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FLASHVSR_TRT_BUNDLE", str(tmp_path / "bundle"))


def pictures(count=COUNT, width=64):
    return [picture(i % 40, width) for i in range(count)]


def noise_over(path, kind, wanted):
    """Fills the payload of some packets of a stream with noise."""
    with av.open(str(path)) as source:
        places = [(p.pos, p.size) for p in source.demux() if p.size and p.stream.type == kind]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for position, size in (places[index] for index in wanted):
        data[position + 8 : position + size] = rng.integers(0, 256, size - 8).astype(np.uint8).tobytes()
    path.write_bytes(data)


def undecodable(path):
    noise_over(write_clip(path, pictures(), INTRA), "video", [0, 7, 30, 31, 32, COUNT - 1])


def noisy_sound(path):
    noise_over(write_clip(path, pictures(), INTRA), "audio", [1, 5, 9])


def repeated_stamps(path):
    stamps = [i * 40 for i in range(COUNT)]
    stamps[20], stamps[21], stamps[22] = 760, 760, 780  # back, and again
    _raw(path, stamps)


def jumping_stamps(path):
    _raw(path, [i * 40 + (100_000 if i >= 35 else 0) for i in range(COUNT)])


def restarting_stamps(path):
    part = write_clip(path.with_suffix(".part.ts"), pictures(COUNT // 2))
    path.write_bytes(part.read_bytes() * 2)
    part.unlink()


def no_sound_at_the_end(path):
    with av.open(str(path), "w") as output:
        video, sound = output.add_stream("libx264", rate=25), output.add_stream("pcm_s16le", rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index, rgb in enumerate(pictures()):
            output.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            if index < COUNT // 3:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1920), np.int16), format="s16", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = 48000, 1920 * index, Fraction(1, 48000)
                output.mux(sound.encode(frame))
        output.mux([*video.encode(None), *sound.encode(None)])


def _raw(path, stamps):
    """Packets with any stamps at all: a container of its own would repair them."""
    coded = write_clip(path.with_suffix(".coded.avi"), pictures(len(stamps)), Clip("mjpeg", "yuvj420p", options={}))
    packets = packets_of_avi(coded)
    coded.unlink()
    head = b"\x1a\x45\xdf\xa3" + _ebml(
        _element(0x4282, b"matroska") + _element(0x4287, b"\x04") + _element(0x4285, b"\x02")
    )
    track = _element(0xD7, b"\1") + _element(0x73C5, b"\1") + _element(0x83, b"\1") + _element(0x86, b"V_MJPEG")
    track += _element(0x23E383, (40_000_000).to_bytes(4, "big"))
    track += _element(0xE0, _element(0xB0, b"\x40") + _element(0xBA, b"\x30"))
    body = _element(0x1549A966, _element(0x2AD7B1, (1_000_000).to_bytes(3, "big")))
    body += _element(0x1654AE6B, _element(0xAE, track))
    for stamp, data in zip(stamps, packets, strict=True):
        body += _element(0x1F43B675, _element(0xE7, stamp.to_bytes(8, "big")) + _element(0xA3, b"\x81\0\0\x80" + data))
    path.write_bytes(head + _element(0x18538067, body))


def packets_of_avi(path):
    with av.open(str(path)) as source:
        return [bytes(p) for p in source.demux(video=0) if p.size]


def _element(identity, payload):
    return identity.to_bytes((identity.bit_length() + 7) // 8, "big") + _ebml(payload)


def _ebml(payload):
    return (len(payload) | 1 << 56).to_bytes(8, "big") + payload


KINDS = {
    undecodable: (".mkv", COUNT, "could not be decoded"),
    noisy_sound: (".mkv", COUNT, ""),
    repeated_stamps: (".mkv", COUNT, "out of order"),
    jumping_stamps: (".mkv", COUNT, ""),
    restarting_stamps: (".ts", COUNT, "out of order"),
    no_sound_at_the_end: (".mkv", COUNT, ""),
}


def run(source, out, *flags):
    args = ["run", source, "-o", out, "--lossless", "-s", "1", "--segment", "0.8", "--scene-cut", "off", *flags]
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert "Traceback" not in result.stderr
    return result


def shown(path):
    return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in frames_of(Path(path))]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_no_frame_is_lost_and_resume_is_exact(make, monkeypatch):
    suffix, count, says = KINDS[make]
    source = Path(f"in{suffix}")
    make(source)
    result = run(source, "whole.mkv")
    assert (result.exit_code, says in result.stderr) == (0, True), result.stderr
    whole = shown("whole.mkv")
    FAULTS["bad inputs tried"] += 1
    FAULTS["frames lost"] += count - len(whole)
    assert len(whole) == count
    times = [time for time, _ in whole]
    assert times == sorted(set(times))

    original = Remembering.decode

    def lost(self, step, latents, lq):
        if step == 3:
            raise FlashVSRError("the device is lost")
        return original(self, step, latents, lq)

    with monkeypatch.context() as patch:
        patch.setattr(Remembering, "decode", lost)
        assert run(source, "out.mkv").exit_code == 1
    again = run(source, "out.mkv", "--resume")
    assert (again.exit_code, says in again.stderr) == (0, True), again.stderr
    for (a, one), (b, other) in zip(whole, shown("out.mkv"), strict=True):
        assert a == b
        assert np.array_equal(one, other)
    with av.open(str(source)) as container:
        sound = bool(container.streams.audio)
    if sound:
        assert packets_of(Path("out.mkv"), "audio") == packets_of(Path("whole.mkv"), "audio")


def test_a_size_that_changes_ends_the_run_with_both_sizes():
    parts = [write_clip(Path(f"{w}.ts"), pictures(30, w)) for w in (64, 96)]
    Path("in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    result = run("in.ts", "out.mkv")
    assert (result.exit_code, "changes at frame 30 from 64x48 to 96x48" in result.stderr) == (2, True)
    assert not Path("out.mkv").exists()
    assert run("in.ts", "a.mkv", "--end", "30").exit_code == 0
    assert len(shown("a.mkv")) == 30


def test_a_file_cut_in_the_middle_gives_what_it_has():
    write_clip(Path("in.mkv"), pictures(), INTRA)
    data = Path("in.mkv").read_bytes()
    Path("in.mkv").write_bytes(data[: len(data) // 2])
    assert run("in.mkv", "out.mkv").exit_code == 0
    assert 0.3 * COUNT < len(shown("out.mkv")) < 0.7 * COUNT


def test_a_file_that_grows_while_it_is_read_is_told():
    """What is there when the reader arrives is upscaled; it says that there was more to come."""
    path = write_clip(Path("in.mkv"), pictures(), INTRA)
    whole = path.read_bytes()
    path.write_bytes(whole[: 2 * len(whole) // 3])
    with open_source(path) as source:
        frames = []
        for index, frame in enumerate(source):
            frames.append(frame)
            if index == 3:
                with path.open("ab") as file:
                    file.write(whole[2 * len(whole) // 3 :])
    assert source.stats.grown == len(whole) - 2 * len(whole) // 3
    assert not source.stats.clean
    assert 0.5 * COUNT < len(frames) <= COUNT


def test_a_file_that_has_grown_is_not_taken_up(monkeypatch):
    path = write_clip(Path("in.mkv"), pictures(), INTRA)
    with monkeypatch.context() as patch:
        patch.setattr(Remembering, "decode", lambda *args: (_ for _ in ()).throw(FlashVSRError("lost")))
        assert run("in.mkv", "out.mkv").exit_code == 1
    assert run("in.mkv", "out.mkv", "--frames", "30").exit_code == 0  # nothing was kept: nothing is in the way
    assert path.exists()
