"""Packets to frames without losing one: what cannot be decoded is repeated and counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import cast

from av.container import InputContainer
from av.container.core import Flags as ContainerFlags
from av.error import FFmpegError
from av.format import Flags as FormatFlags
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
_CLOCK_RESTART_S = 0.5  # careless muxers step back by a frame or two; a joined recording by its length
Shown = tuple[VideoFrame, int | None]


class LossTracker:
    """Which packets have not come out as a frame.

    Decoders report errors late (frame threads) or not at all (frames that wait for a lost key frame), so the
    loss is read off the time stamps: a packet stamped earlier than a frame that came out is lost. Where the clock
    begins again (joined recordings) stamps are compared within one run of the clock only.
    """

    def __init__(self, codec: str, broadcast: bool, stats: ReadStats) -> None:
        # A recorded broadcast may begin anywhere; in a file with an index the first packet starts the video.
        self._broadcast = broadcast
        self._strict = codec in _ONE_FRAME_PER_PACKET
        self._stats = stats
        self._runs: deque[list[int]] = deque([[]])  # heaps of stamps sent and not yet shown, one per run
        self._first_key: int | None = None
        self._last_dts: int | None = None
        self._last_pts: int | None = None
        self._shown: VideoFrame | None = None
        self._damaged = False
        self._unstamped = 0  # losses in a stream without presentation times (AVI), where only errors are known

    def sent(self, packet: Packet) -> None:
        if packet.dts is not None:
            if self._last_dts is not None and (self._last_dts - packet.dts) * packet.time_base > _CLOCK_RESTART_S:
                self._runs.append([])
            self._last_dts = packet.dts
        if packet.pts is None or packet.is_discard or not packet.size:
            return
        if self._first_key is None and (packet.is_keyframe or not self._broadcast):
            self._first_key = packet.pts
        heappush(self._runs[-1], packet.pts)
        self._damaged |= packet.is_corrupt

    def failed(self, packet: Packet, error: FFmpegError) -> None:
        self._damaged = True
        self._unstamped += packet.pts is None and packet.size > 0
        self._stats.complain(str(error))

    def came(self, frame: VideoFrame) -> Iterator[Shown]:
        """The frames to show up to and including `frame`: lost ones first, each as a copy of the one before it."""
        if frame.pts is None:
            self._runs = deque([[]])
            yield from self._repeated_unstamped(frame)
        else:
            yield from self._repeated(frame, self._lost_before(frame.pts))
            self._last_pts = frame.pts
        self._stats.concealed += frame.is_corrupt
        self._shown = frame
        yield frame, frame.dts if frame.pts is None else frame.pts

    def ended(self) -> Iterator[Shown]:
        """Frames still missing after the last one came out."""
        if self._shown is not None:
            yield from self._repeated(self._shown, [stamp for run in self._runs for stamp in sorted(run)])
            yield from self._repeated_unstamped(self._shown)
        self._runs = deque([[]])

    def _lost_before(self, pts: int) -> list[int]:
        lost: list[int] = []
        if len(self._runs) > 1 and self._last_pts is not None and pts < self._last_pts:
            lost = sorted(self._runs.popleft())
        run = self._runs[0]
        while run and run[0] <= pts:
            stamp = heappop(run)
            if stamp < pts:
                lost.append(stamp)
        return lost

    def _repeated(self, frame: VideoFrame, stamps: list[int]) -> Iterator[Shown]:
        """A frame for each lost stamp: the last one shown, or `frame` at the beginning."""
        if not self._damaged and (not self._strict or frame.interlaced_frame):
            return
        for stamp in stamps:
            # Pictures that refer to before the first key frame are never shown by any player.
            if self._shown is None and (self._first_key is None or stamp < self._first_key):
                self._stats.skipped += 1
                continue
            self._stats.repeated += 1
            self._damaged = False
            yield self._shown or frame, stamp

    def _repeated_unstamped(self, frame: VideoFrame) -> Iterator[Shown]:
        for _ in range(self._unstamped):
            self._stats.repeated += 1
            yield self._shown or frame, None
        self._unstamped = 0


def decode(container: InputContainer, stream: VideoStream, stats: ReadStats) -> Iterator[Shown]:
    """All frames from the container's position on, in presentation order, each with its time stamp.

    A read error ends the sequence like the end of the file does and is kept in `stats.complaints`.
    """
    # PyAV's default makes up presentation times where the container has none (AVI): one frame late with H.264.
    container.flags &= ~cast(int, ContainerFlags.gen_pts.value)
    broadcast = bool(container.format.flags & cast(int, FormatFlags.ts_discont.value))
    tracker = LossTracker(stream.codec_context.name, broadcast, stats)
    for packet in _packets(container, stream, stats):
        tracker.sent(packet)
        try:
            frames = stream.decode(packet if packet.size else None)
        except EOFError:
            frames = []
        except FFmpegError as error:
            tracker.failed(packet, error)
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
