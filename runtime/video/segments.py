"""An output that grows as closed segments, each a playable file of its own, and is joined at the end.

A segment is a NUT file: it keeps every packet as the encoder gave it and counts time in the encoder's own units, so
that joining changes no bit. Presentation times and durations stand beside it, for NUT knows no durations; decode times
are worked out anew over all segments, for an encoder knows only its own segment.

Every segment has an encoder of its own and begins with a key frame. Where the segments end decides what is encoded, so
it never depends on the clock: a run that was killed writes the same file as one that was not.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import av
from av.codec import Codec
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer
from av.error import FFmpegError
from av.format import ContainerFormat
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.video.stream import VideoStream

from flashvsr_trt.configs.errors import WriteError
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime.video.frames import FrameTiming, Pixels
from flashvsr_trt.runtime.video.mux import add_video
from flashvsr_trt.runtime.video.output import Copied, OutputFile, Pictures, set_decode_times
from flashvsr_trt.runtime.video.plan import OutputPlan

_MUXERS = ("nut", "mov")  # the first that knows the codec; both keep packets and time base as they are
_TIMES = ".json"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A closed segment: file name, frames, bytes, and by how many places its encoder reorders frames."""

    name: str
    frames: int
    bytes: int
    reorder: int


class SegmentWriter:
    """Writes the segments of one output into a folder. See `Writer` for `write`.

    Args:
        plan: of the whole output.
        folder: where the segments go.
        segments: those that are there already.
        timeline: state of the clock after them, see Timeline.state.
    """

    def __init__(
        self, plan: OutputPlan, folder: Path, segments: Iterable[Segment] = (), timeline: list[Any] | None = None
    ) -> None:
        self.plan, self._folder = plan, folder
        self.segments = list(segments)
        self._pictures = Pictures(plan)
        if timeline is not None:
            self._pictures.clock.restore(timeline)
        self._open: _OpenSegment | None = None

    @property
    def frames(self) -> int:
        """Frames in closed segments."""
        return sum(segment.frames for segment in self.segments)

    @property
    def timeline(self) -> list[Any]:
        """State of the clock, for another writer to go on with."""
        return self._pictures.clock.state()

    def write(self, pixels: Pixels, timing: FrameTiming) -> None:
        try:
            if self._open is None:
                self._open = _OpenSegment(self.plan, self._folder, f"{len(self.segments):06d}")
            frame, duration = self._pictures(pixels, timing)
            self._open.encode(frame, duration)
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error

    def close_segment(self) -> None:
        """Ends the open segment and waits until it is on the disk."""
        if self._open is None:
            return
        try:
            closed = self._open.close()
            sync_file(self._folder)
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error
        self._open = None
        self.segments.append(closed)

    def abandon(self) -> None:
        """Drops the open segment."""
        if self._open is not None:
            self._open.abandon()
            self._open = None

    def _failed(self, error: Exception) -> WriteError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        frames = self.frames + (0 if self._open is None else self._open.frames)
        return WriteError(
            f"writing {self.plan.path} failed after {frames} frames: {reason}",
            todo="free space, or choose another place with -o",
        )


class _OpenSegment:
    """The segment that is being written."""

    def __init__(self, plan: OutputPlan, folder: Path, name: str) -> None:
        assert plan.video is not None
        muxer = _muxer(plan.video.encoder.codec)
        self._path = folder / f"{name}.{muxer}"
        self._durations: dict[int, int] = {}  # by presentation time
        self._times: list[tuple[int, int]] = []  # (presentation time, duration) in coding order
        self._first: int | None = None
        self.frames = 0
        self._output: OutputContainer = av.open(f"file:{self._path}", "w", format=muxer)
        # It may know the codec by another tag; the header of the joined file has the right one.
        target = replace(plan.video, encoder=replace(plan.video.encoder, tag=""), display_matrix=None)
        self._stream: VideoStream = add_video(self._output, plan.info, target)
        if not ContainerFormat(plan.video.muxer, "w").flags & cast(int, FormatFlags.global_header.value):
            # Headers stand where the joined file will have them: in the packets.
            self._stream.codec_context.flags &= ~CodecFlags.global_header.value
        self._output.start_encoding()

    def encode(self, frame: av.VideoFrame, duration: int) -> None:
        assert frame.pts is not None
        if self._first is None:
            self._first = frame.pts
        self._durations[frame.pts] = duration
        self._mux(self._stream.encode(frame))
        self.frames += 1

    def _mux(self, packets: list[Packet]) -> None:
        assert self._first is not None
        for packet in packets:
            assert packet.pts is not None
            self._times.append((packet.pts, self._durations.pop(packet.pts, packet.duration or 0)))
            packet.pts -= self._first  # NUT takes no negative times
            packet.dts = None if packet.dts is None else packet.dts - self._first
            self._output.mux_one(packet)

    def close(self) -> Segment:
        last = self._stream.encode(None)
        if not self._times:
            set_decode_times(last)
        self._mux(last)
        self._output.close()
        times = self._path.with_suffix(_TIMES)
        times.write_text(json.dumps(self._times), encoding="utf-8")
        if len(self._times) != self.frames:
            raise ValueError(f"the encoder gave {len(self._times)} packets for {self.frames} frames")
        for path in (times, self._path):
            sync_file(path)
        stamps = [stamp for stamp, _ in self._times]
        return Segment(
            name=self._path.name, frames=self.frames, bytes=self._path.stat().st_size, reorder=_reordering(stamps)
        )

    def abandon(self) -> None:
        try:
            self._output.close()
        except (FFmpegError, OSError):
            self.frames = 0  # the disk may be full: nothing of this segment is used


def _muxer(encoder: str) -> str:
    name = Codec(encoder, "w").canonical_name
    for muxer in _MUXERS:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            if name in trial.supported_codecs:
                return muxer
    raise ValueError(f"{name} can be put into none of {', '.join(_MUXERS)}")


def _reordering(stamps: list[int]) -> int:
    """The least delay, in frames, with which times in presentation order serve as decode times."""
    rank = {stamp: place for place, stamp in enumerate(sorted(stamps))}
    return max((place - rank[stamp] for place, stamp in enumerate(stamps)), default=0)


def join(plan: OutputPlan, folder: Path, segments: list[Segment], part: Path) -> Copied:
    """Copies the packets of all segments into `part`, with every stream of the source that is kept.

    Args:
        plan: of the output.
        folder, segments: where they are and which.
        part: the file to write; not synced yet.

    Returns:
        What became of the copied streams.

    Raises:
        WriteError: a segment is damaged, or the disk is full.
    """
    assert plan.video is not None
    base = plan.video.encoder.time_base
    file: OutputFile | None = None
    try:
        file = OutputFile(plan, part)
        decode_times = _decode_times(folder, segments)
        last = 0
        for packet, (stamp, duration) in _packets(folder, segments):
            packet.stream, packet.time_base = file.stream, base
            packet.pts, packet.dts, packet.duration = stamp, next(decode_times), duration
            file.mux(packet)
            last = max(last, stamp + duration)
        file.finish(last * base)
    except (FFmpegError, OSError, ValueError) as error:
        if file is not None:
            file.abandon()
        reason = getattr(error, "strerror", None) or str(error)
        raise WriteError(
            f"joining {plan.path} failed: {reason}",
            todo="free space if the disk is full, and run the same command again",
        ) from error
    finally:
        if file is not None:
            file.release()
    return file.copied


def _times(folder: Path, segment: Segment) -> list[tuple[int, int]]:
    """(presentation time, duration) in coding order."""
    text = (folder / segment.name).with_suffix(_TIMES).read_text(encoding="utf-8")
    return [(stamp, duration) for stamp, duration in json.loads(text)]


def _decode_times(folder: Path, segments: list[Segment]) -> Iterator[int]:
    """Decode times for all packets: the presentation times in order, as late as the deepest reordering asks."""

    def stamps() -> Iterator[int]:
        return chain.from_iterable(sorted(stamp for stamp, _ in _times(folder, segment)) for segment in segments)

    delay = max(segment.reorder for segment in segments)
    begin = list(islice(stamps(), delay + 1))
    shift = begin[-1] - begin[0]
    return chain((stamp - shift for stamp in begin[:-1]), stamps())


def _packets(folder: Path, segments: list[Segment]) -> Iterator[tuple[Packet, tuple[int, int]]]:
    for segment in segments:
        with av.open(f"file:{folder / segment.name}", "r") as source:
            packets = (packet for packet in source.demux(video=0) if packet.size)
            yield from zip(packets, _times(folder, segment), strict=True)


def damaged(folder: Path, segments: list[Segment]) -> list[str]:
    """Names of segments that are not as long as they were when they were closed."""
    return [s.name for s in segments if not (folder / s.name).is_file() or os.path.getsize(folder / s.name) != s.bytes]
