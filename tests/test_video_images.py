"""Folders of images and single images, in and out."""

import io
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media import Clip, frames_of, number_of, picture, planes, write_clip
from PIL import Image, ImageOps

from flashvsr_trt.configs.errors import InputError, OutputExists, UsageError, WriteError
from flashvsr_trt.runtime.video import OutputOptions, default_output, open_source, open_writer, plan_output
from flashvsr_trt.runtime.video.images import natural_key


def copy(path, out, options=None, pixels=None, **part):
    with open_source(path, **part) as source:
        plan = plan_output(source.info, out, (source.info.width, source.info.height), options or OutputOptions())
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(frame.rgb if pixels is None else pixels, frame.timing)
    return source, plan


def folder_of(path, names):
    path.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(picture(index)).save(path / name)
    return path


def test_natural_order_and_names(tmp_path):
    names = ["1.png", "2.png", "10.png", "a1.png", "a2.png", "a10.png", "ä.png", "第2.png", "第10.png"]
    folder = folder_of(tmp_path / "in.v2", names)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image either")
    with open_source(folder) as source:
        frames = list(source)
    assert [f.timing.name for f in frames] == names
    assert [number_of(f.rgb) for f in frames] == list(range(len(names)))
    assert (source.info.kind, source.info.frames, source.info.frames_exact) == ("images", len(names), True)
    copy(folder, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(names)
    for index, name in enumerate(names):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / name)), picture(index))


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8, unique=True), st.sampled_from(["", "f", "é_"]))
def test_natural_order_is_numeric_order(numbers, prefix):
    names = [f"{prefix}{n}.png" for n in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{n}.png" for n in sorted(numbers)]


def test_same_stem_twice_keeps_both(tmp_path):
    folder = folder_of(tmp_path / "in", ["a.bmp", "a.png"])
    copy(folder, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "a.png.png"]


@pytest.mark.parametrize(("part", "expected"), [
    ({"start": 2}, [2, 3, 4, 5]), ({"end": 2}, [0, 1]), ({"frames": 3, "start": 1}, [1, 2, 3]),
    ({"start": Fraction(1, 10), "end": Fraction(1, 5)}, [3, 4]),
])  # fmt: skip
def test_ranges(tmp_path, part, expected):
    folder = folder_of(tmp_path / "in", [f"{i}.png" for i in range(6)])
    with open_source(folder, **part) as source:
        assert [number_of(f.rgb) for f in source] == expected
    with pytest.raises(UsageError, match="none of the 6 images"):
        open_source(folder, start=6)


def test_broken_images_are_repeated_and_counted(tmp_path):
    folder = folder_of(tmp_path / "in", [f"{i}.png" for i in range(5)])
    for broken in ("0.png", "3.png"):
        (folder / broken).write_bytes(b"this is no image")
    with open_source(folder) as source:
        assert [number_of(f.rgb) for f in source] == [1, 1, 2, 2, 4]
    assert source.stats.repeated == 2
    for path in folder.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="no image can be decoded"):
        open_source(folder)


def test_images_of_different_sizes(tmp_path):
    folder = folder_of(tmp_path / "in", ["0.png", "1.png"])
    Image.fromarray(picture(2, 32, 32)).save(folder / "2.png")
    with (
        pytest.raises(InputError, match=r"2\.png is 32x32, the images before it are 64x48"),
        open_source(folder) as source,
    ):
        list(source)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_one_image_in_one_image_out(tmp_path, suffix):
    path = tmp_path / f"Bild 100% é{suffix}"
    options = (
        {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
    )
    Image.fromarray(picture(4)).save(path, **options)
    with open_source(path) as source:
        assert (source.info.kind, source.info.frames) == ("image", 1)
        name = default_output(source.info, "4x", OutputOptions())
    assert name == str(tmp_path / f"Bild 100% é_flashvsr_4x{suffix}")
    copy(path, name)
    result = np.asarray(Image.open(name).convert("RGB")).astype(int)
    # JPEG is decoded and coded once more; the others are lossless.
    assert np.abs(result - picture(4)).max() <= (6 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_other_colour_modes(tmp_path, mode):
    image = Image.fromarray(picture(4)).convert(mode)
    image.save(tmp_path / "a.png")
    with open_source(tmp_path / "a.png") as source:
        (frame,) = list(source)
    assert np.abs(frame.rgb.astype(int) - np.asarray(image.convert("RGB"))).max() <= 1
    assert any("alpha" in note for note in source.info.notes) == (mode in ("RGBA", "LA"))


def test_sixteen_bit_png(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(format="rgb48be")
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb48be"
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    _, plan = copy(tmp_path / "a.png", tmp_path / "b.png", pixels=pixels)
    assert (plan.depth, plan.dtype) == (16, np.uint16)
    result = frames_of(tmp_path / "b.png")[0]
    assert result.format.name == "rgb48be"
    assert np.array_equal(result.reformat(format="rgb48le").to_ndarray(), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_picture_is_turned_upright(tmp_path, orientation):
    rgb = picture(0)
    rgb[:20, :30] = (250, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    copy(tmp_path / "a.jpg", tmp_path / "b.png")
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg"))).astype(int)
    result = np.asarray(Image.open(tmp_path / "b.png"))
    assert result.shape == wanted.shape
    assert np.abs(result - wanted).max() <= 3  # two JPEG decoders


def test_video_to_folder_and_folder_to_video(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", [picture(i) for i in range(12)], Clip(audio="aac"))
    _, plan = copy(clip, tmp_path / "frames", OutputOptions(png=True))
    assert any("audio stream 1" in w for w in plan.warnings)
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == [f"{i:06d}.png" for i in range(12)]
    with open_source(tmp_path / "frames", image_rate=Fraction(30000, 1001)) as source:
        plan = plan_output(source.info, tmp_path / "b.mp4", (64, 48), OutputOptions(crf=1))
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(frame.rgb, frame.timing)
    result = frames_of(tmp_path / "b.mp4")
    assert [number_of(f.to_ndarray(format="rgb24")) for f in result] == list(range(12))
    assert [f.pts * f.time_base for f in result] == [i * Fraction(1001, 30000) for i in range(12)]
    assert (result[0].colorspace, result[0].color_range, result[0].format.name) == (1, 1, "yuv420p")


def test_existing_folders(tmp_path):
    folder = folder_of(tmp_path / "in", ["0.png", "1.png"])
    out = folder_of(tmp_path / "out", ["0.png", "other.png"])
    with pytest.raises(OutputExists):
        copy(folder, out)
    copy(folder, out, OutputOptions(overwrite=True), pixels=picture(30))
    assert sorted(p.name for p in out.iterdir()) == ["0.png", "1.png", "other.png"]
    assert number_of(np.asarray(Image.open(out / "0.png"))) == 30
    assert number_of(np.asarray(Image.open(out / "other.png"))) == 1
    (tmp_path / "empty").mkdir()
    copy(folder, tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 2


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("size", [(64, 48), (33, 17)])
def test_y4m_through_stdout_and_stdin(tmp_path, monkeypatch, pix_fmt, size):
    pictures = [picture(i, *size) for i in range(4)]
    clip = Clip("ffv1", pix_fmt, matrix=1, rate=Fraction(30000, 1001), options={}, audio="flac")
    path = write_clip(tmp_path / "a.mkv", pictures, clip)
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    _, plan = copy(path, "-")
    data = pipe.getvalue()
    monkeypatch.undo()
    assert data.startswith(f"YUV4MPEG2 W{size[0]} H{size[1]} F30000:1001".encode())
    assert data.count(b"FRAME\n") == 4
    assert any("audio" in w for w in plan.warnings)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with open_source("-") as source:
        frames = list(source)
    assert (source.info.width, source.info.height, source.info.pix_fmt) == (*size, pix_fmt)
    assert source.info.rate == Fraction(30000, 1001)
    assert [f.timing.time for f in frames] == [i * Fraction(1001, 30000) for i in range(4)]
    (tmp_path / "b.y4m").write_bytes(data)
    for before, after in zip(frames_of(path), frames_of(tmp_path / "b.y4m"), strict=True):
        # One trip through 8-bit RGB; chroma at the picture's border is interpolated on the way.
        worst = 4 if "10" not in pix_fmt else 12
        assert all(
            np.abs(a.astype(int) - b).mean() < worst / 4 for a, b in zip(planes(before), planes(after), strict=True)
        )


def test_a_closed_pipe_is_an_error_not_a_traceback(tmp_path, monkeypatch):
    class Closed(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise BrokenPipeError(32, "Broken pipe")

    path = write_clip(tmp_path / "a.mp4", [picture(0)] * 3)
    fake = type("Stdout", (), {"buffer": Closed()})()
    monkeypatch.setattr(sys, "stdout", fake)
    with pytest.raises(WriteError, match="Broken pipe"):
        copy(path, "-")
