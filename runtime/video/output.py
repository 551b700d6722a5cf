"""One output file: the container with all its streams, closed, synced and given its name."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from flashvsr_trt.configs.errors import OutputExists, UsageError, WriteError
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime.video.colour import RgbWriter
from flashvsr_trt.runtime.video.frames import FrameTiming, Pixels, upright
from flashvsr_trt.runtime.video.mux import open_output
from flashvsr_trt.runtime.video.plan import OutputPlan
from flashvsr_trt.runtime.video.timeline import EncoderClock

try:
    import fcntl
except ImportError:  # Windows: two runs on one output are not told apart there
    fcntl = None  # type: ignore[assignment]


class Pictures:
    """Turns pictures and their times into frames for the encoder. `end` is the time at which the last one ends."""

    def __init__(self, plan: OutputPlan) -> None:
        assert plan.video is not None
        self._plan, self.clock = plan, EncoderClock(plan.video.encoder.time_base)
        self._to_frame = RgbWriter(plan.video.encoder.pix_fmt, plan.video.colour)
        self.end = Fraction(0)

    def __call__(self, pixels: Pixels, timing: FrameTiming) -> tuple[VideoFrame, int]:
        """uint8 or uint16 [H, W, 3] to a frame, and its duration in units of the clock."""
        frame = self._to_frame(prepared(self._plan, pixels))
        frame.pts, duration = self.clock.place(timing)
        frame.time_base = self.clock.base
        self.end = (frame.pts + duration) * self.clock.base
        return frame, duration


def prepared(plan: OutputPlan, pixels: Pixels) -> Pixels:
    """The picture as it is stored: checked, and turned where the output carries no rotation."""
    width, height = plan.size
    if pixels.shape != (height, width, 3):
        raise ValueError(f"got a picture of shape {pixels.shape}, expected {(height, width, 3)}")
    return upright(pixels, plan.turn)


@dataclass(frozen=True)
class Copied:
    """What the source's streams could not give (`complaints`), and what the container refused (`failures`)."""

    path: str
    complaints: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    def check(self) -> tuple[str, ...]:
        """The complaints. Ask when the video has its name.

        Raises:
            WriteError: a stream had to be given up; the video is complete.
        """
        if self.failures:
            raise WriteError(
                f"{self.path} is complete but for: {'; '.join(self.failures)}",
                todo="the video itself is finished; take the lost stream from the source, or write .mkv",
            )
        return self.complaints


class OutputFile:
    """The output's container, open at `part` (None: stdout), with every copied stream in step with the video.

    Raises:
        FFmpegError, OSError, ValueError: it cannot be opened.
    """

    def __init__(self, plan: OutputPlan, part: Path | None) -> None:
        assert plan.video is not None
        self.part, self._plan = part, plan
        self.muxed, self.closed = 0, False
        file = sys.stdout.buffer if part is None else f"file:{part}"
        self._output, self.stream, self._copier = open_output(file, plan.info, plan.video)

    def mux(self, packet: Packet) -> None:
        """Muxes a video packet after the copied packets that come before it."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if self._copier is not None and stamp is not None:
            self._copier.advance(self._output, stamp * packet.time_base)
        self._output.mux_one(packet)
        self.muxed += 1

    def finish(self, end: Fraction) -> None:
        """Adds what is left of the copied streams, up to `end` where only a part was upscaled, and closes."""
        if self._copier is not None:
            self._copier.advance(self._output, end if self._plan.info.cut else None)
        self._close()

    def _close(self) -> None:
        if not self.closed:
            self._output.close()
            self.closed = True
            if self.part is None:
                sys.stdout.buffer.flush()

    def abandon(self) -> None:
        """Closes what will not be completed."""
        try:
            self._close()
        except (FFmpegError, OSError):
            self.closed = True  # the disk is full or the pipe is closed: that is why we are here

    def release(self) -> None:
        """Closes the source of the copied streams."""
        if self._copier is not None:
            self._copier.close()

    @property
    def copied(self) -> Copied:
        """What became of the copied streams."""
        if self._copier is None:
            return Copied(self._plan.path)
        return Copied(self._plan.path, tuple(self._copier.complaints), tuple(self._copier.failures))


def set_decode_times(packets: list[Packet]) -> None:
    """Decode times for a whole video in coding order.

    x265 leaves them uninitialised where the video is shorter than its reordering; the smallest valid delay it is.
    """
    coded = [packet.pts for packet in packets if packet.pts is not None]
    shown = sorted(coded)
    delay = max((s - c for s, c in zip(shown, coded, strict=True)), default=0)
    for packet, stamp in zip((p for p in packets if p.pts is not None), shown, strict=True):
        packet.dts = stamp - delay


def lock(part: Path, output: str) -> IO[bytes]:
    """Creates the temporary file and holds a lock on it for as long as it is open.

    Raises:
        UsageError: another run is writing the same output.
        WriteError: it cannot be created.
    """
    try:
        file = part.open("ab")
    except OSError as error:
        raise WriteError(f"{part} cannot be created: {error.strerror}", todo="choose another place with -o") from error
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UsageError(f"another run is writing {output}", todo="wait for it, or choose another name") from error
    return file


def publish(part: Path, plan: OutputPlan) -> int:
    """Flushes the finished file to the disk and gives it its name; returns its size in bytes."""
    sync_file(part)
    target = Path(plan.path)
    if target.exists() and not plan.overwrite:
        raise OutputExists(
            f"{target} appeared while this run was working", todo=f"the finished video is kept in {part}"
        )
    size = part.stat().st_size
    os.replace(part, target)
    sync_file(target.parent)
    return size
