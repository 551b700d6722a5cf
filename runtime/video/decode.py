"""Packets to frames without losing one: what cannot be decoded is repeated and counted."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flashvsr_trt.runtime.video.frames import ReadStats

# Codecs where each packet shows one frame. Elsewhere (VP8's hidden reference frames, MPEG-4's packed packets) a
# packet may legally show none, so only a reported error counts as a lost frame.
_ONE_FRAME_PER_PACKET = {
    "h264",
    "hevc",
    "av1",
    "libdav1d",
    "vp9",
    "ffv1",
    "prores",
    "mjpeg",
    "png",
    "mpeg2video",
}
Shown = tuple[VideoFrame, int | None]


class LossTracker:
    """Which packets have not come out as a frame.

    Decoders report errors late (frame threads) or not at all (frames that wait for a lost key frame), so the
    loss is read off the time stamps: a packet stamped earlier than a frame that came out is lost.
    """

    def __init__(self, codec: str, stats: ReadStats) -> None:
        self._strict = codec in _ONE_FRAME_PER_PACKET
        self._stats = stats
        self._waiting: list[int] = []
        self._first_key: int | None = None
        self._shown: VideoFrame | None = None
        self._damaged = False

    def sent(self, packet: Packet) -> None:
        if packet.pts is None or packet.is_discard or not packet.size:
            return
        if packet.is_keyframe and self._first_key is None:
            self._first_key = packet.pts
        heappush(self._waiting, packet.pts)
        self._damaged |= packet.is_corrupt

    def failed(self, error: FFmpegError) -> None:
        self._damaged = True
        self._stats.complain(str(error))

    def came(self, frame: VideoFrame) -> Iterator[Shown]:
        """The frames to show up to and including `frame`: lost ones first, each as a copy of the one before it."""
        if frame.pts is None:
            self._waiting.clear()
        else:
            lost = self._before(frame.pts)
            strict = self._strict and not frame.interlaced_frame
            if lost and (strict or self._damaged):
                yield from self._repeated(self._shown or frame, lost)
                self._damaged = False
        self._stats.concealed += frame.is_corrupt
        self._shown = frame
        yield frame, frame.pts

    def ended(self) -> Iterator[Shown]:
        """Frames still missing after the last one came out."""
        if self._shown is not None and (self._strict or self._damaged) and not self._shown.interlaced_frame:
            yield from self._repeated(self._shown, sorted(self._waiting))
        self._waiting.clear()

    def _before(self, pts: int) -> list[int]:
        lost = []
        while self._waiting and self._waiting[0] <= pts:
            stamp = heappop(self._waiting)
            if stamp < pts:
                lost.append(stamp)
        return lost

    def _repeated(self, frame: VideoFrame, stamps: list[int]) -> Iterator[Shown]:
        for stamp in stamps:
            # Pictures that refer to before the first key frame are never shown by any player.
            if self._shown is None and (self._first_key is None or stamp < self._first_key):
                self._stats.skipped += 1
                continue
            self._stats.repeated += 1
            yield frame, stamp


def decode(container: InputContainer, stream: VideoStream, stats: ReadStats) -> Iterator[Shown]:
    """All frames from the container's position on, in presentation order, each with its time stamp.

    A read error ends the sequence like the end of the file does and is kept in `stats.complaints`.
    """
    tracker = LossTracker(stream.codec_context.name, stats)
    for packet in _packets(container, stream, stats):
        tracker.sent(packet)
        try:
            frames = stream.decode(packet if packet.size else None)
        except EOFError:
            frames = []
        except FFmpegError as error:
            tracker.failed(error)
            frames = []
        for frame in frames:
            yield from tracker.came(frame)
    yield from tracker.ended()


def _packets(container: InputContainer, stream: VideoStream, stats: ReadStats) -> Iterator[Packet]:
    """The stream's packets, then empty ones until the decoder has given all its frames."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except FFmpegError as error:
        stats.complain(f"reading stopped: {error}")
    yield Packet()
