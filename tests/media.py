"""Tiny clips, made with PyAV directly so that nothing under test takes part in making them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container.core import Flags as ContainerFlags
from numpy.typing import NDArray

FILM = Fraction(24000, 1001)  # 23.976 frames per second
# (Kr, Kb) of the colour matrices by H.273 code point.
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


def picture(index: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Smooth colours with the frame's number readable from the mean: uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    base = 40 + 3 * (index % 50)
    channels = [base + 60 * x / width, base + 40 * y / height, base + 30 * (x + y) / (width + height)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def number_of(rgb: NDArray[np.uint8]) -> int:
    """The index that `picture` was called with (modulo 50)."""
    return round((float(rgb[..., 0].mean()) - float(picture(0, *rgb.shape[1::-1])[..., 0].mean())) / 3)


def ycbcr(rgb: NDArray[np.uint8], matrix: int, full: bool = False, depth: int = 8) -> NDArray[np.float64]:
    """Code values by the formulas of BT.601/709/2020, not rounded: [H, W, 3] to [3, H, W]."""
    kr, kb = LUMA_WEIGHTS[matrix]
    r, g, b = (rgb[..., i] / 255.0 for i in range(3))
    luma = kr * r + (1 - kr - kb) * g + kb * b
    chroma = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
    step = 2.0 ** (depth - 8)
    top = 2.0**depth - 1
    if full:
        return np.stack([luma * top, *(c * top + 128 * step for c in chroma)])
    return np.stack([luma * 219 * step + 16 * step, *(c * 224 * step + 128 * step for c in chroma)])


def planes(frame: av.VideoFrame) -> list[NDArray[np.uint16] | NDArray[np.uint8]]:
    """The planes as arrays without row padding."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    result = []
    for plane in frame.planes:
        rows = np.frombuffer(bytes(plane), dtype).reshape(plane.height, -1)
        result.append(rows[:, : plane.width].copy())
    return result


@dataclass
class Clip:
    """What `write_clip` makes. `stamps` in units of `time_base`; without them frames follow at `rate`."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    stamps: Sequence[int] | None = None
    matrix: int = 2
    full: bool = False
    rotation: int = 0
    options: dict[str, str] = field(default_factory=lambda: {"crf": "1", "preset": "ultrafast"})
    audio: str = ""
    subtitles: str = ""
    chapters: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    attachment: bytes = b""


def write_clip(path: Path, pictures: Sequence[NDArray[np.uint8]], clip: Clip | None = None) -> Path:
    """Writes `pictures` (uint8 RGB [H, W, 3]; they may differ in size) as a video file."""
    clip = clip or Clip()
    base = clip.time_base or 1 / clip.rate
    with av.open(str(path), "w") as output:
        output.metadata.update(clip.tags)
        video = output.add_stream(clip.codec, rate=clip.rate, options=clip.options)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = clip.pix_fmt
        context = video.codec_context
        context.time_base = video.time_base = base
        context.colorspace, context.color_range = clip.matrix, 2 if clip.full else 1
        context.color_primaries = context.color_trc = clip.matrix if clip.matrix in (1, 9) else 2
        if clip.rotation:
            video.set_display_rotation(clip.rotation)
        audio = _add_audio(output, clip)
        subtitles = _add_subtitles(output, clip)
        if clip.attachment:
            output.add_attachment("font.ttf", "application/x-truetype-font", clip.attachment)
        if clip.chapters:
            output.set_chapters(chapters())
        stamps = clip.stamps or [round(i / clip.rate / base) for i in range(len(pictures))]
        output.start_encoding()
        for rgb, stamp in zip(pictures, stamps, strict=True):
            output.mux(video.encode(_coded(rgb, clip, stamp, base)))
        output.mux(video.encode(None))
        if audio is not None:
            _write_audio(output, audio, float(len(pictures) / clip.rate))
        if subtitles is not None:
            _write_subtitles(output, subtitles)
    return path


def chapters() -> list[dict]:
    base = Fraction(1, 1000)
    return [
        {"id": 1, "start": 0, "end": 400, "time_base": base, "metadata": {"title": "Erster Teil"}},
        {"id": 2, "start": 400, "end": 800, "time_base": base, "metadata": {"title": "第二部"}},
    ]


def _coded(rgb: NDArray[np.uint8], clip: Clip, stamp: int, base: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    if clip.matrix in LUMA_WEIGHTS and clip.pix_fmt == "yuv444p":
        codes = np.clip(np.rint(ycbcr(rgb, clip.matrix, clip.full)), 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(codes, format="yuv444p")
    else:
        matrix = 1 if clip.matrix == 1 else 5
        frame = frame.reformat(format=clip.pix_fmt, dst_colorspace=matrix, dst_color_range=2 if clip.full else 1)
    frame.colorspace, frame.color_range = clip.matrix, 2 if clip.full else 1
    frame.pts, frame.time_base = stamp, base
    return frame


def _add_audio(output: av.container.OutputContainer, clip: Clip):
    return output.add_stream(clip.audio, rate=48000) if clip.audio else None


def _write_audio(output: av.container.OutputContainer, stream, seconds: float) -> None:
    count = int(48000 * seconds)
    tone = (8000 * np.sin(np.arange(count) * 0.05)).astype(np.int16)
    stereo = np.repeat(tone[None, :], 2, axis=1).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(stereo, format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    resampler = av.AudioResampler(stream.codec_context.format, "stereo", 48000, stream.codec_context.frame_size or 1024)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        output.mux(stream.encode(part))
    output.mux(stream.encode(None))


def _add_subtitles(output: av.container.OutputContainer, clip: Clip):
    if not clip.subtitles:
        return None
    stream = output.add_mux_stream(clip.subtitles)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "ger"
    return stream


def _write_subtitles(output: av.container.OutputContainer, stream) -> None:
    for start, text in ((0, "Grüße"), (300, "二")):
        data = text.encode()
        if output.format.name in ("mp4", "mov"):  # their text samples begin with the length
            data = len(data).to_bytes(2, "big") + data
        packet = av.Packet(data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = start
        packet.duration = 250
        output.mux_one(packet)


def packets_of(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(time in seconds, payload) of every packet of the first stream of `kind`."""
    with av.open(str(path)) as source:
        stream = next(s for s in source.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in source.demux(stream) if p.size]


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as source:
        source.flags &= ~ContainerFlags.gen_pts.value  # PyAV would invent times for AVI
        return list(source.decode(video=0))
