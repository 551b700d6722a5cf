"""Sets up an output container: the video encoder and every copied stream, up to the written header."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from flashvsr_trt.runtime.video.frames import ColourTags, SourceInfo
from flashvsr_trt.runtime.video.options import QSCALE_CODECS, EncoderSettings
from flashvsr_trt.runtime.video.probe import KEEP_TAGS, open_container
from flashvsr_trt.runtime.video.streams import StreamCopier, copy_tags

_QP2LAMBDA = 118  # FFmpeg's FF_QP2LAMBDA
_GOOD_QSCALE = 2
# What the MP4 and MOV muxers write without being asked; other tags need use_metadata_tags.
_MP4_TAGS = {
    "title", "artist", "album", "album_artist", "comment", "genre", "date", "composer", "copyright", "creation_time",
    "description", "synopsis", "show", "episode_id", "network", "lyrics", "track", "disc", "grouping", "media_type",
    "encoder", "performer", "make", "model", "location", "timecode", "language", "keywords", "rating",
}  # fmt: skip


@dataclass(frozen=True)
class VideoTarget:
    """What a video output is made of."""

    muxer: str
    size: tuple[int, int]
    encoder: EncoderSettings
    colour: ColourTags
    display_matrix: tuple[int, ...] | None = None
    copied: tuple[int, ...] = ()


def open_output(
    file: Any, info: SourceInfo, target: VideoTarget
) -> tuple[OutputContainer, VideoStream, StreamCopier | None]:
    """Opens `file` (a path or a binary file object), adds all streams and writes the header.

    Raises:
        FFmpegError, ValueError: the encoder or the container refuses something.
    """
    copier = StreamCopier(info, target.copied) if target.copied else None
    output: OutputContainer | None = None
    try:
        with_source = info.kind == "video" and info.path != "-"
        source = open_container(info.path) if with_source else None
        options = _container_options(target.muxer, source)
        output = av.open(file, "w", format=target.muxer, container_options=options, **KEEP_TAGS)
        stream = add_video(output, info, target)
        if source is not None:
            with source:
                copy_tags(info, output, source, stream)
        if copier is not None:
            copier.add_to(output)
        output.start_encoding()
    except BaseException:
        if copier is not None:
            copier.close()
        if output is not None:
            output.close()
        raise
    return output, stream, copier


def _container_options(muxer: str, source: InputContainer | None) -> dict[str, str]:
    if muxer == "mpegts":
        return {"mpegts_copyts": "1"}
    if muxer in ("mp4", "mov", "3gp"):
        tags = set() if source is None else {key.casefold() for key in source.metadata}
        known = _MP4_TAGS | {"major_brand", "minor_version", "compatible_brands"}
        return {"movflags": "use_metadata_tags"} if tags - known else {}
    if muxer == "yuv4mpegpipe":
        return {"strict": "-1"}  # more than 8 bit is an extension that every reader of y4m knows
    return {}


def add_video(output: OutputContainer, info: SourceInfo, target: VideoTarget) -> VideoStream:
    """Adds the video encoder's stream; the encoder opens with the header."""
    settings = target.encoder
    if settings.codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it writes thirty lines to stderr otherwise; 1 is errors only
    stream = output.add_stream(settings.codec, rate=info.rate, options=dict(settings.options))
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height = target.size
    context.pix_fmt = settings.pix_fmt
    context.time_base = settings.time_base
    stream.time_base = settings.time_base
    context.thread_type = "AUTO"  # PyAV's own default, slices, costs x264 quality
    colour = target.colour
    context.colorspace, context.color_range = colour.matrix, 2 if colour.full_range else 1
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    if info.sample_aspect is not None:
        context.sample_aspect_ratio = info.sample_aspect
    if settings.tag:
        context.codec_tag = settings.tag
    if settings.codec in QSCALE_CODECS and "b" not in settings.options:
        context.qscale, context.global_quality = True, _GOOD_QSCALE * _QP2LAMBDA
    if target.display_matrix is not None:
        stream.set_display_matrix(target.display_matrix)
    return stream
