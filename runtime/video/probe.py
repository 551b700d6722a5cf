"""What a video file is: opened, described, and refused with a reason where it cannot be read."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.container
import numpy as np
from av.buffer import Buffer
from av.error import FFmpegError
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flashvsr_trt.configs.errors import InputError
from flashvsr_trt.runtime.video.colour import bit_depth, read_colours
from flashvsr_trt.runtime.video.frames import SourceInfo, StreamInfo, readable

STDIN = "-"
# For av.open, of the source and of the output. Old files have tags in other encodings than UTF-8: such bytes are read
# as surrogates and written as the bytes that they were. PyAV 18 refuses the file unless told to do so; PyAV 19 does it
# by itself and refuses the argument. Text from tags that people are to read goes through `readable`.
KEEP_TAGS: dict[str, Any] = {"metadata_errors": "surrogateescape"} if av.__version__.startswith("18.") else {}


def open_container(path: str) -> av.container.InputContainer:
    """The opened file, or y4m from stdin for "-".

    Raises:
        InputError: missing, empty, unreadable, cut before its index, or nothing FFmpeg knows.
    """
    try:
        if path == STDIN:
            return av.open(sys.stdin.buffer, "r", format="yuv4mpegpipe")
        _check_readable(Path(path))
        # "file:" keeps FFmpeg from taking a name with a colon for a protocol or one with % for a pattern.
        return av.open(f"file:{path}", "r", **KEEP_TAGS)
    except (FFmpegError, ValueError) as error:
        raise _refusal(path, error) from error


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} does not exist", expected="a video, an image or a folder of images")
    try:
        with path.open("rb") as file:
            if path.is_file() and not file.read(1):
                raise InputError(f"{path} is empty (0 bytes)", todo="get the file again")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", todo="check its permissions") from error


def _refusal(path: str, error: Exception) -> InputError:
    if path == STDIN:
        return InputError(
            f"stdin is not a y4m stream ({error})",
            expected="YUV4MPEG2, as from `ffmpeg -i in.mp4 -f yuv4mpegpipe -`",
        )
    with open(path, "rb") as file:
        if _mp4_without_index(file):
            return InputError(
                f"{path} was cut before its index was written (no moov box)",
                todo="record or download it again, or repair it with a tool such as untrunc",
            )
    if isinstance(error, EOFError):
        return InputError(f"{path} ends before its first frame", expected="1 frame or more")
    return InputError(
        f"{path} is not a video that FFmpeg can read ({error})",
        expected="a video file, an image, or a folder of images",
    )


def _mp4_without_index(file: BinaryIO) -> bool:
    """Whether the top-level boxes are those of an MP4 or MOV file without `moov`."""
    kinds: set[bytes] = set()
    while len(header := file.read(8)) == 8:
        size, kind = int.from_bytes(header[:4], "big"), header[4:]
        kinds.add(kind)
        if size == 1:
            size = int.from_bytes(file.read(8), "big") - 8
        if size < 8:
            break
        file.seek(size - 8, 1)
    return b"ftyp" in kinds and b"moov" not in kinds


def main_video(container: av.container.InputContainer, path: str) -> VideoStream:
    """The first video stream that is not a cover picture.

    Raises:
        InputError: there is none.
    """
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    found = ", ".join(f"{s.type} ({codec_name(s)})" for s in container.streams) or "nothing"
    raise InputError(
        f"{path} has no video stream that can be decoded; it holds {found}",
        expected="a file with a video stream",
    )


def codec_name(stream: Stream) -> str:
    context = stream.codec_context
    if context is not None:
        return context.codec.canonical_name
    return readable(stream.name or "unknown")  # an attachment's is its file name, which is a tag


def describe(path: str, container: av.container.InputContainer, stream: VideoStream, first: VideoFrame) -> SourceInfo:
    """Everything the container and the first decoded frame say."""
    colour, notes = read_colours(first)
    rate = _fraction(stream.average_rate or stream.guessed_rate or 25)
    time_base = _fraction(stream.time_base or 1 / rate)
    if first.interlaced_frame:
        notes.append("the source is interlaced: its frames are upscaled as stored, combing included")
    # Of a pipe FFmpeg knows only what it has seen.
    duration, frames, exact = (None, None, False) if path == STDIN else _length(container, stream, rate, time_base)
    aspect = stream.sample_aspect_ratio
    return SourceInfo(
        path=path,
        kind="video",
        container=container.format.name,
        codec=codec_name(stream),
        width=first.width,
        height=first.height,
        rate=rate,
        time_base=time_base,
        pix_fmt=first.format.name,
        bit_depth=bit_depth(first.format.name),
        colour=colour,
        frames=frames,
        frames_exact=exact,
        duration=duration,
        sample_aspect=_fraction(aspect) if aspect and aspect != 1 else None,
        display_matrix=display_matrix(first),
        streams=tuple(_stream_info(s) for s in container.streams if s.index != stream.index),
        chapters=len(container.chapters()),
        notes=tuple(notes),
    )


def _fraction(value: Any) -> Fraction:
    """Of PyAV 18's fractions and PyAV 19's own rationals, which round to 32 bits when computed with each other."""
    return Fraction(value)


def _length(
    container: av.container.InputContainer, stream: VideoStream, rate: Fraction, time_base: Fraction
) -> tuple[Fraction | None, int | None, bool]:
    """(seconds, frames, whether the frame count is the container's own)."""
    duration: Fraction | None = None
    if stream.duration is not None:
        duration = stream.duration * time_base
    elif container.duration is not None:
        duration = Fraction(container.duration, av.time_base)
    if stream.frames:
        return duration, stream.frames, True
    return duration, None if duration is None else max(1, round(duration * rate)), False


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """The nine integers of the frame's display matrix, None if upright."""
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18 gives up on all side data where one kind is unknown to it; the angle it reads by another way.
        return None if not frame.rotation else quarter_turn(frame.rotation)
    if side_data is None:
        return None
    matrix = tuple(int(v) for v in np.frombuffer(bytes(cast(Buffer, side_data)), np.int32))
    upright = (matrix[0] > 0 and matrix[4] > 0) and not (matrix[1] or matrix[3])
    return None if upright else matrix


def quarter_turn(degrees: int) -> tuple[int, ...]:
    """The display matrix of a counter-clockwise turn to the nearest quarter."""
    one = 1 << 16
    cos, sin = [(one, 0), (0, one), (-one, 0), (0, -one)][round(degrees / 90) % 4]
    return (cos, -sin, 0, sin, cos, 0, 0, 0, 1 << 30)


def _stream_info(stream: Stream) -> StreamInfo:
    kind = "cover" if stream.disposition & Disposition.attached_pic else str(stream.type)
    detail = readable(stream.metadata.get("title", stream.metadata.get("filename", "")))
    if kind == "audio" and stream.codec_context is not None:
        audio = cast(av.AudioStream, stream)
        detail = f"{audio.codec_context.sample_rate} Hz {audio.codec_context.layout.name} {detail}".strip()
    return StreamInfo(stream.index, kind, codec_name(stream), readable(stream.language or ""), detail)
