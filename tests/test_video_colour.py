"""Colours: the right matrix and range in both directions, checked against the standards' own formulas."""

import numpy as np
import pytest
from media import LUMA_WEIGHTS, Clip, frames_of, picture, planes, write_clip, ycbcr

from flashvsr_trt.runtime.video import ColourTags, OutputOptions, open_source, open_writer, plan_output
from flashvsr_trt.runtime.video.colour import RgbWriter

EXACT = {"qp": "0", "preset": "ultrafast"}


def wide_gamut(width=64, height=48):
    """Every corner of the RGB cube, in flat patches so that chroma sampling plays no part."""
    rng = np.random.default_rng(7)
    patches = rng.integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    patches[0] = [[255 * (i >> 2 & 1), 255 * (i >> 1 & 1), 255 * (i & 1)] for i in range(8)]
    return patches.repeat(8, 0).repeat(8, 1)


def decoded(path):
    with open_source(path) as source:
        return source.info, next(iter(source)).rgb


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", sorted(LUMA_WEIGHTS))
def test_tagged_clips_decode_to_the_same_rgb(tmp_path, matrix, full):
    rgb = wide_gamut()
    clip = Clip(pix_fmt="yuv444p", matrix=matrix, full=full, options=EXACT)
    info, got = decoded(write_clip(tmp_path / "a.mp4", [rgb], clip))
    assert (info.colour.matrix, info.colour.full_range, info.colour.matrix_assumed) == (matrix, full, False)
    # 8-bit YCbCr cannot name every RGB value: rounding three codes moves a channel by up to 2.
    assert np.abs(got.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize(("height", "matrix"), [(576, 6), (720, 1)])
def test_untagged_clips_follow_their_height(tmp_path, height, matrix):
    rgb = np.full((height, 64, 3), (200, 40, 90), np.uint8)
    codes = np.rint(ycbcr(rgb, matrix)).astype(np.uint8)
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=25, options=EXACT)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv444p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(codes, format="yuv444p")))
        output.mux(stream.encode(None))
    info, got = decoded(tmp_path / "a.mp4")
    assert info.colour.matrix == matrix
    assert info.colour.matrix_assumed
    assert any("no colour matrix" in note for note in info.notes)
    assert np.abs(got.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pix_fmt", "depth"), [("yuv444p", 8), ("yuv444p10le", 10), ("yuv444p12le", 12)])
@pytest.mark.parametrize("matrix", sorted(LUMA_WEIGHTS))
def test_encoding_follows_the_formulas(matrix, pix_fmt, depth, full):
    rgb = wide_gamut()
    pixels = rgb if depth == 8 else rgb.astype(np.uint16) * 257
    frame = RgbWriter(pix_fmt, ColourTags(matrix=matrix, full_range=full))(pixels)
    want = ycbcr(rgb, matrix, full, depth)
    top = 2**depth - 1
    # Half a code for rounding and what swscale's fixed-point coefficients cost: measured 1.0, 1.2 and 2.1 codes of
    # 8, 10 and 12 bit (full-range chroma is the worst), i.e. never more than one code of 8 bit.
    limit = {8: 1.1, 10: 1.3, 12: 2.3}[depth]
    assert all(np.abs(p - np.clip(w, 0, top)).max() < limit for p, w in zip(planes(frame), want, strict=True))


def write(source_path, out, options=None, pixels=None):
    with open_source(source_path) as source:
        plan = plan_output(source.info, out, (source.info.width, source.info.height), options or OutputOptions())
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(frame.rgb if pixels is None else pixels, frame.timing)
    return plan


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (1, True), (6, False), (9, False)])
def test_tags_reach_the_output(tmp_path, matrix, full):
    path = write_clip(tmp_path / "a.mp4", [picture(0)] * 3, Clip(matrix=matrix, full=full))
    write(path, tmp_path / "b.mp4")
    source, result = frames_of(path)[0], frames_of(tmp_path / "b.mp4")[0]
    for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
        assert getattr(result, tag) == getattr(source, tag), tag
    assert result.format.name.startswith("yuv")


def test_an_untagged_small_source_is_tagged_in_its_large_output(tmp_path):
    # Read as BT.601 for its 48 lines; with 720 lines and no tag a player would take it for BT.709.
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        output.mux(stream.encode(None))
    with open_source(tmp_path / "a.mp4") as source:
        plan = plan_output(source.info, tmp_path / "b.mp4", (960, 720), OutputOptions())
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(frame.rgb.repeat(15, 0).repeat(15, 1), frame.timing)
    assert frames_of(tmp_path / "b.mp4")[0].colorspace == 6
    assert any("names the colour matrix" in line for line in plan.lines)


def test_ten_bit_in_ten_bit_out(tmp_path):
    path = write_clip(tmp_path / "a.mkv", [picture(0)] * 2, Clip("libx265", "yuv420p10le", matrix=9, options={
        "crf": "4", "x265-params": "log-level=error"}))  # fmt: skip
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    pixels = np.repeat(np.repeat(ramp[None, :, None], 48, 0), 3, 2)
    plan = write(path, tmp_path / "b.mkv", OutputOptions(codec="ffv1"), pixels)
    result = frames_of(tmp_path / "b.mkv")[0]
    assert (plan.depth, plan.dtype, result.format.name) == (10, np.uint16, "yuv420p10le")
    luma = planes(result)[0][0].astype(float)
    assert np.abs(luma - (64 + ramp * (876 / 65535))).max() < 1.0
    assert np.count_nonzero(luma % 4) > 20  # values that 8 bit cannot name
    default = write(path, tmp_path / "c.mp4")
    assert default.video is not None
    assert default.video.encoder.codec == "libx265"
    assert frames_of(tmp_path / "c.mp4")[0].format.name == "yuv420p10le"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mkv", None),
        ("mp4", None),
        ("mkv", "libx265"),
        ("mkv", "libx264rgb"),
        ("webm", None),
        ("mkv", "ffv1"),
    ],
)
def test_lossless_returns_the_same_pixels(tmp_path, suffix, codec, deep):
    if deep and (codec == "libx264rgb" or suffix in ("webm", "mp4")):
        pytest.skip("8-bit encoder")
    source = Clip("ffv1", "yuv420p10le" if deep else "yuv420p", options={})
    path = write_clip(tmp_path / "a.mkv", [picture(0)] * 2, source)
    pixels = np.random.default_rng(3).integers(0, 65536 if deep else 256, (48, 64, 3))
    if deep and codec == "libx265":
        pixels = pixels >> 4 << 4  # 12 bit is the most that HEVC has
    pixels = pixels.astype(np.uint16 if deep else np.uint8)
    write(path, tmp_path / f"b.{suffix}", OutputOptions(lossless=True, codec=codec), pixels)
    frame = frames_of(tmp_path / f"b.{suffix}")[0]
    got = frame.to_ndarray() if frame.format.name.startswith("gbrp") else frame.reformat(format="rgb24").to_ndarray()
    if frame.format.name == "gbrp12le":
        got = got << 4
    assert np.array_equal(got, pixels)


def test_odd_sizes_keep_every_pixel(tmp_path):
    path = write_clip(tmp_path / "a.mkv", [picture(0, 64, 48)] * 2)
    for suffix, pix_fmt in (("mp4", "yuv444p"), ("mkv", "yuv444p"), ("webm", "yuv420p")):
        out = tmp_path / f"b.{suffix}"
        with open_source(path) as source:
            plan = plan_output(source.info, out, (97, 73), OutputOptions())
            with open_writer(plan) as writer:
                for frame in source:
                    writer.write(picture(5, 97, 73), frame.timing)
        result = frames_of(out)[0]
        assert (result.width, result.height, result.format.name) == (97, 73, pix_fmt)
        assert any("no pixel is lost" in line for line in plan.lines) == (pix_fmt == "yuv444p")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4), (16, 2), (8, 64)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "png"])
def test_tiny_sizes(tmp_path, size, suffix):
    path = write_clip(tmp_path / "a.mkv", [picture(0)] * 2)
    out = tmp_path / ("frames" if suffix == "png" else f"b.{suffix}")
    with open_source(path) as source:
        plan = plan_output(source.info, out, size, OutputOptions(png=suffix == "png"))
        with open_writer(plan) as writer:
            for frame in source:
                writer.write(picture(5, *size), frame.timing)
    first = frames_of(out / "000000.png" if suffix == "png" else out)[0]
    assert (first.width, first.height) == size
