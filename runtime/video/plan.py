"""Decides what will be written, and finds everything that cannot be before work starts."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from flashvsr_trt.configs.errors import OutputExists, UsageError
from flashvsr_trt.runtime.video.colour import bit_depth, matrix_name, output_colours
from flashvsr_trt.runtime.video.frames import SourceInfo, StreamInfo
from flashvsr_trt.runtime.video.images import IMAGE_SUFFIXES, WRITABLE_SUFFIXES
from flashvsr_trt.runtime.video.mux import VideoTarget, open_output
from flashvsr_trt.runtime.video.options import CONTAINERS, Container, OutputOptions, choose_encoder
from flashvsr_trt.runtime.video.streams import wanted_streams

STDOUT = "-"


@dataclass(frozen=True)
class OutputPlan:
    """One output, fully decided.

    Attributes:
        path: where it goes; "-" is y4m on stdout.
        kind: "video", "image" or "images" (a folder).
        size: (width, height) of the pictures handed to the writer, in stored orientation.
        depth: bits per component that are kept; `dtype` is what the writer should get.
        turn: display matrix to apply to the pixels, where the output cannot carry it.
        video: encoder and streams, for kind "video".
        lines: the plan in words; warnings: what is lost or changed.
    """

    info: SourceInfo
    path: str
    kind: str
    size: tuple[int, int]
    depth: int = 8
    overwrite: bool = False
    turn: tuple[int, ...] | None = None
    video: VideoTarget | None = None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """uint16 keeps what the output can hold; the writer takes both."""
        return np.uint16 if self.depth > 8 else np.uint8

    @property
    def encoder(self) -> str | None:
        """FFmpeg's name of the video encoder; None for pictures."""
        return None if self.video is None else self.video.encoder.codec

    @property
    def temporary(self) -> Path:
        """Where it grows until it is complete."""
        path = Path(self.path)
        return path.with_name(f".{path.name}.part")


def default_output(info: SourceInfo, tag: str, options: OutputOptions) -> str:
    """`<stem>_flashvsr_<tag><suffix>` next to the source, of its kind and container where they can be written."""
    name = "stdin" if info.path == "-" else Path(info.path).name
    folder = Path(".") if info.path == "-" else Path(info.path).parent
    if info.kind == "images":
        stem, suffix = name, f".{options.container.lstrip('.')}" if options.container else ""
    else:
        stem = Path(name).stem
        suffix = _default_suffix(info, Path(name).suffix.lower(), options)
    return str(folder / f"{stem}_flashvsr_{tag}{suffix}")


def _default_suffix(info: SourceInfo, suffix: str, options: OutputOptions) -> str:
    if options.png and info.kind == "video":
        return ""
    if options.container:
        return f".{options.container.lstrip('.')}"
    if info.kind == "image":
        return suffix if suffix in WRITABLE_SUFFIXES else ".png"
    if options.lossless and not CONTAINERS.get(suffix, CONTAINERS[".mkv"]).lossless_codec:
        return ".mkv"
    return suffix if suffix in CONTAINERS and info.path != "-" else ".mkv"


def plan_output(info: SourceInfo, path: str | Path, size: tuple[int, int], options: OutputOptions) -> OutputPlan:
    """What will be written to `path`; nothing is created or changed on the disk.

    The container is tried with the encoder and all streams in memory, so what is planned here opens later.

    Args:
        info: the source; path: a file, a folder for images, or "-" for y4m on stdout.
        size: (width, height) of the finished pictures, in stored orientation.

    Raises:
        UsageError: a flag that cannot be honoured, a stream the container cannot hold, a folder that cannot be
            written to.
        OutputExists: the output exists and may not be overwritten.
    """
    path = str(path)
    if path == STDOUT:
        return _plan_video(info, path, size, CONTAINERS[".y4m"], options)
    suffix = Path(path).suffix.lower()
    stills = options.png or (suffix == "" and info.kind == "images")
    if not stills and Path(path).is_dir():
        raise UsageError(
            f"{path} is a folder, the output is one file",
            todo=f"name a file, e.g. {Path(path) / 'out.mkv'}, or give --png",
        )
    if options.container and not stills and suffix != f".{options.container.lstrip('.')}":
        raise UsageError(
            f"{path} and the container {options.container} contradict each other",
            todo=f"name the output {Path(path).with_suffix('.' + options.container.lstrip('.')).name}",
        )
    if stills:
        plan = _plan_images(info, path, size, options)
    elif suffix in IMAGE_SUFFIXES:
        plan = _plan_image(info, path, suffix, size, options)
    elif suffix in CONTAINERS:
        plan = _plan_video(info, path, size, CONTAINERS[suffix], options)
    else:
        raise UsageError(
            f"{path}: no output format is known for {suffix or 'a name without a suffix'}",
            expected=" ".join(CONTAINERS) + ", or --png for a folder of images",
        )
    _check_place(plan)
    return plan


def _check_place(plan: OutputPlan) -> None:
    path = Path(plan.path)
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist", todo=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"the folder {folder} is not writable", todo="choose another with -o")
    same = path.exists() and Path(plan.info.path).exists() and path.samefile(plan.info.path)
    if same:
        raise UsageError(f"{path} is the input itself", todo="choose another name with -o")
    if path.exists() and not plan.overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise OutputExists(f"{path} exists", todo="-y overwrites it, -o chooses another name")


def _no_encoder_flags(options: OutputOptions, target: str) -> None:
    given = {
        "--codec": options.codec, "--crf": options.crf, "--preset": options.preset, "--pix-fmt": options.pix_fmt,
        "-e": options.encoder or None,
    }  # fmt: skip
    names = [flag for flag, value in given.items() if value is not None]
    if names:
        raise UsageError(f"{', '.join(names)} has no meaning for {target}", todo="drop it, or write a video")


def _plan_images(info: SourceInfo, path: str, size: tuple[int, int], options: OutputOptions) -> OutputPlan:
    _no_encoder_flags(options, "a folder of PNG files")
    if Path(path).exists() and not Path(path).is_dir():
        raise UsageError(f"{path} is a file, PNG frames need a folder", todo="choose another name with -o")
    depth = 8 if info.bit_depth <= 8 else 16
    lines = [f"a folder of {depth}-bit PNG files: {path}"]
    lost = [f"{s.kind} stream {s.index} ({s.codec}) is not kept in a folder of images" for s in info.streams]
    return OutputPlan(
        info,
        path,
        "images",
        size,
        depth,
        options.overwrite,
        info.display_matrix,
        None,
        tuple(lines),
        tuple(lost),
    )


def _plan_image(info: SourceInfo, path: str, suffix: str, size: tuple[int, int], options: OutputOptions) -> OutputPlan:
    if info.kind != "image":
        raise UsageError(
            f"{path} names one image, the source has {info.frames or 'several'} frames",
            todo="give --png and a folder, or a video name",
        )
    if suffix not in WRITABLE_SUFFIXES:
        raise UsageError(f"{path}: {suffix} is read but not written", expected=" ".join(sorted(WRITABLE_SUFFIXES)))
    if options.lossless and suffix in (".jpg", ".jpeg"):
        raise UsageError(f"--lossless: {suffix} is a lossy format", todo="write .png")
    _no_encoder_flags(options, "an image")
    depth = 16 if suffix == ".png" and info.bit_depth > 8 else 8
    line = f"one {depth}-bit {suffix[1:]} image: {path}"
    return OutputPlan(info, path, "image", size, depth, options.overwrite, info.display_matrix, None, (line,))


def _plan_video(
    info: SourceInfo, path: str, size: tuple[int, int], container: Container, options: OutputOptions
) -> OutputPlan:
    carries = container.rotation or info.display_matrix is None
    turned = not carries and info.rotation % 180 == 90
    coded = (size[1], size[0]) if turned else size
    encoder = choose_encoder(info, coded, container, options)
    streams, warnings = wanted_streams(info, options.audio, options.subtitles)
    if path == STDOUT or container.muxer == "yuv4mpegpipe":
        warnings += [f"{s.kind} stream {s.index} is not kept in y4m" for s in streams]
        streams = []
    target = VideoTarget(
        container.muxer, coded, encoder, output_colours(info.colour, encoder.pix_fmt),
        info.display_matrix if carries else None, tuple(s.index for s in streams),
    )  # fmt: skip
    refused = _refused_stream(info, target, streams)
    if refused is not None:
        stream, reason = refused
        if options.may_switch and container.muxer != "matroska":
            moved = _plan_video(info, str(Path(path).with_suffix(".mkv")), size, CONTAINERS[".mkv"], options)
            why = f"{container.muxer} cannot hold {_named(stream)}: writing .mkv instead"
            return replace(moved, warnings=(why, *moved.warnings))
        raise UsageError(
            f"{Path(path).suffix or path} cannot hold {_named(stream)} ({reason})",
            todo="write .mkv, or drop it with " + ("--no-audio" if stream.kind == "audio" else "--no-subs"),
        )
    turn = None if carries else info.display_matrix
    plan = OutputPlan(info, path, "video", size, bit_depth(encoder.pix_fmt), options.overwrite, turn, target)
    return replace(plan, lines=tuple(_lines(plan, streams)), warnings=(*encoder.warnings, *warnings))


def _named(stream: StreamInfo) -> str:
    language = f", {stream.language}" if stream.language else ""
    return f"{stream.kind} stream {stream.index} ({stream.codec}{language})"


def _refused_stream(info: SourceInfo, target: VideoTarget, streams: list[StreamInfo]) -> tuple[StreamInfo, str] | None:
    """The first stream the container refuses, and why.

    Raises:
        UsageError: the encoder does not open.
    """
    problem = _trial(info, target)
    if problem is None:
        return None
    alone = _trial(info, replace(target, copied=()))
    if alone is not None:
        settings = " ".join(f"{k}={v}" for k, v in target.encoder.options.items())
        raise UsageError(
            f"{target.encoder.codec} does not encode {target.size[0]}x{target.size[1]} {target.encoder.pix_fmt} "
            f"into {target.muxer} ({alone})",
            expected=f"settings it accepts; given were: {settings or 'none'}",
            todo="choose another --codec, or change --preset, --pix-fmt or the -e options",
        )
    for stream in streams:
        reason = _trial(info, replace(target, copied=(stream.index,)))
        if reason is not None:
            return stream, reason
    raise UsageError(f"{target.muxer} cannot hold these streams together ({problem})", todo="write .mkv")


def _trial(info: SourceInfo, target: VideoTarget) -> str | None:
    """Writes the header to memory; the error's text if that fails."""
    try:
        output, _, copier = open_output(io.BytesIO(), info, target)
    except (FFmpegError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    if copier is not None:
        copier.close()
    output.close()
    return None


def _lines(plan: OutputPlan, streams: list[StreamInfo]) -> list[str]:
    assert plan.video is not None
    target = plan.video
    encoder = target.encoder
    settings = ", ".join(f"{k} {v}" for k, v in encoder.options.items())
    colour = f"{matrix_name(target.colour.matrix)}, {'full' if target.colour.full_range else 'limited'} range"
    lines = [
        f"{target.muxer}, {target.size[0]}x{target.size[1]}, {encoder.codec} {encoder.pix_fmt}"
        + (f" ({settings})" if settings else ""),
        f"time: {plan.info.rate} frames/s on average, stamps in units of {encoder.time_base} s; colours: {colour}",
        *encoder.lines,
    ]
    if target.muxer == "yuv4mpegpipe":
        lines.append("y4m names neither colour matrix nor time stamps: tell the next program the matrix above")
    elif plan.info.colour.matrix_assumed and target.colour.matrix:
        lines.append("the output names the colour matrix that the source leaves open, so that both look alike")
    if encoder.time_base != plan.info.time_base and plan.info.kind == "video":
        lines.append(
            f"{target.muxer} with {encoder.codec} counts in frames: stamps are rounded to 1/{plan.info.rate} s"
        )
    if plan.turn is not None:
        lines.append(f"{target.muxer} carries no rotation: the pictures are turned by {plan.info.rotation} degrees")
    elif plan.info.display_matrix is not None:
        lines.append(f"rotation by {plan.info.rotation} degrees is carried over")
    if streams:
        lines.append("copied: " + ", ".join(_named(s) for s in streams))
    return lines
