"""Audio, subtitles, covers and attachments: copied packet by packet, in step with the video."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from flashvsr_trt.runtime.video.frames import SourceInfo, StreamInfo
from flashvsr_trt.runtime.video.probe import open_container
from flashvsr_trt.runtime.video.timeline import Timeline

# Errors of the disk or the pipe, not of one stream.
FATAL = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EDQUOT,
    errno.EROFS,
    errno.EPIPE,
    errno.EBADF,
    errno.ENOMEM,
}
# Counted or computed for the old video; wrong for the new one.
_STALE_TAGS = ("encoder", "rotate", "BPS", "NUMBER_OF_BYTES", "_STATISTICS", "vendor_id")
_CONTAINER_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")


class StreamCopier:
    """Reads the source a second time for the streams in `indexes` and hands their packets to a muxer unchanged.

    Holds one packet at a time. A stream that the muxer refuses half-way is given up and named in `failures`; the
    video goes on. A stream whose source cannot be read on ends there and is named in `complaints`.
    """

    def __init__(self, info: SourceInfo, indexes: tuple[int, ...]) -> None:
        self.failures: list[str] = []
        self.complaints: list[str] = []
        self._input: InputContainer = open_container(info.path)
        self._indexes = indexes
        self._start = info.cut[0] if info.cut else None
        self._targets: dict[int, Stream] = {}
        self._timelines: dict[int, Timeline] = {}
        self._pending: tuple[Fraction, Packet] | None = None
        for stream in self._input.streams:
            if stream.index not in indexes:
                stream.discard = Discard.all

    def add_to(self, output: OutputContainer) -> None:
        """Adds the streams to `output`, in the source's order, with language, title and disposition.

        Raises:
            FFmpegError, ValueError: the container cannot hold one of them.
        """
        for index in self._indexes:
            source = self._input.streams[index]
            target = output.add_stream_from_template(source, opaque=True)
            target.metadata.update(source.metadata)
            target.disposition = source.disposition
            self._targets[index] = target
            self._timelines[index] = Timeline(restart=round(1 / (source.time_base or Fraction(1, 1000))))
        self._packets = self._read()

    def _read(self) -> Iterator[tuple[Fraction, Packet]]:
        """(time in seconds, packet) of the copied streams from the cut on, time stamps moved to the cut."""
        moving = [self._input.streams[i] for i in self._indexes if self._input.streams[i].type != "attachment"]
        if not moving:
            return
        if self._start is not None:
            # Where the container cannot seek it is read from the beginning: packets before the cut are dropped.
            with suppress(FFmpegError):
                self._input.seek(max(0, int(self._start * 1_000_000) - 1_000_000))
        try:
            for packet in self._input.demux(moving):
                if packet.size and not _is_gap(packet) and (time := self._place(packet)) is not None:
                    yield time, packet
        except FFmpegError as error:
            self.complaints.append(f"audio and subtitles end early, the source cannot be read on: {error}")

    def _place(self, packet: Packet) -> Fraction | None:
        """Moves the packet's stamps and returns its time; None if it lies before the cut."""
        base = packet.time_base
        stamp = packet.dts if packet.dts is not None else packet.pts
        cover = bool(packet.stream.disposition & Disposition.attached_pic)
        if self._start is not None and not cover:
            first = packet.pts if packet.pts is not None else stamp
            if first is None or first * base < self._start:
                return None
            shift = round(self._start / base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            stamp = None if stamp is None else stamp - shift
        delay = 0 if packet.pts is None or stamp is None else packet.pts - stamp
        placed = self._timelines[packet.stream.index].place(stamp, packet.duration or 0)
        packet.dts, packet.pts = placed, placed + delay
        return placed * base

    def advance(self, output: OutputContainer, until: Fraction | None) -> None:
        """Muxes the packets up to the time `until` (seconds on the output's clock), or all that are left.

        Raises:
            FFmpegError: the disk or the pipe failed.
        """
        while (item := self._pending or next(self._packets, None)) is not None:
            self._pending = item
            if until is not None and item[0] > until:
                return
            self._pending = None
            self._mux(output, item[1])

    def _mux(self, output: OutputContainer, packet: Packet) -> None:
        index = packet.stream.index
        target = self._targets.get(index)
        if target is None:
            return
        source = packet.stream
        packet.stream = target
        try:
            output.mux_one(packet)
        except FFmpegError as error:
            if error.errno in FATAL:
                raise
            del self._targets[index]
            when = float((packet.pts or 0) * packet.time_base)
            self.failures.append(f"{source.type} stream {index} stops at {when:.2f} s: {error}")

    def close(self) -> None:
        self._input.close()


def _is_gap(packet: Packet) -> bool:
    """An empty MP4 text sample, which only fills the time to the next one: the muxer writes its own."""
    return packet.stream.type == "subtitle" and packet.size == 2 and bytes(packet) == b"\0\0"


def wanted_streams(info: SourceInfo, audio: bool, subtitles: bool) -> tuple[list[StreamInfo], list[str]]:
    """The streams to copy, and a line for each that is left out although nobody asked for that."""
    chosen, left_out = [], []
    for stream in info.streams:
        if stream.kind in ("video", "data", "unknown"):
            left_out.append(f"{stream.kind} stream {stream.index} ({stream.codec}) is not copied")
        elif (audio or stream.kind != "audio") and (subtitles or stream.kind != "subtitle"):
            chosen.append(stream)
    return chosen, left_out


def copy_tags(info: SourceInfo, output: OutputContainer, source: InputContainer, video: Stream) -> None:
    """Title, chapters and the video stream's own tags; chapters move with the cut."""
    output.metadata.update({k: v for k, v in source.metadata.items() if k not in _CONTAINER_TAGS})
    for stream in source.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            video.metadata.update({k: v for k, v in stream.metadata.items() if not k.startswith(_STALE_TAGS)})
            video.disposition = stream.disposition
            break
    start, end = info.cut or (Fraction(0), None)
    chapters = []
    for chapter in source.chapters():
        base = chapter["time_base"] or Fraction(1, 1000)
        first, last = chapter["start"] * base - start, chapter["end"] * base - start
        if last > 0 and (end is None or first < end - start):
            last = last if end is None else min(last, end - start)
            chapter["start"], chapter["end"] = round(max(first, Fraction(0)) / base), round(last / base)
            chapters.append(chapter)
    output.set_chapters(chapters)
