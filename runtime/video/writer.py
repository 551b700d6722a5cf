"""Writes the output under a temporary name and renames it when it is complete."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from av.error import FFmpegError
from av.packet import Packet

from flashvsr_trt.configs.errors import OutputExists, UsageError, WriteError
from flashvsr_trt.runtime.video.colour import RgbWriter
from flashvsr_trt.runtime.video.frames import FrameTiming, Pixels, upright
from flashvsr_trt.runtime.video.images import ImageEncoder, sync_file
from flashvsr_trt.runtime.video.mux import open_output
from flashvsr_trt.runtime.video.plan import STDOUT, OutputPlan
from flashvsr_trt.runtime.video.streams import FATAL
from flashvsr_trt.runtime.video.timeline import Timeline

try:
    import fcntl
except ImportError:  # Windows: two runs on one output are not told apart there
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What was written. `warnings` name what the source could not give, e.g. audio that ends early."""

    path: str
    frames: int
    bytes: int | None
    warnings: tuple[str, ...] = ()


class Writer(Protocol):
    """Takes finished pictures in order. A context manager: leaving it with an error removes what was begun."""

    def write(self, pixels: Pixels, timing: FrameTiming) -> None:
        """uint8 or uint16 [H, W, 3] of the plan's size, full range; `timing` as the reader gave it."""

    def finish(self) -> WriteResult:
        """Completes the output and gives it its name; called once, or by leaving the context."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(plan: OutputPlan) -> Writer:
    """Opens the planned output under its temporary name.

    Raises:
        WriteError: it cannot be created.
    """
    return VideoWriter(plan) if plan.kind == "video" else ImageWriter(plan)


class _BaseWriter:
    """Finishing and clearing up, common to all outputs."""

    def __init__(self, plan: OutputPlan) -> None:
        self.plan = plan
        self.frames = 0
        self._result: WriteResult | None = None
        self._settled = False  # the output has its name, or its temporary file is kept on purpose

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif not self._settled:
            self.abort()

    def finish(self) -> WriteResult:
        if self._result is None:
            if not self.frames:
                self.abort()
                raise WriteError(f"no frame was written to {self.plan.path}", expected="1 frame or more")
            self._result = self._complete()
        return self._result

    def _complete(self) -> WriteResult:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def _prepared(self, pixels: Pixels) -> Pixels:
        width, height = self.plan.size
        if pixels.shape != (height, width, 3):
            raise ValueError(f"got a picture of shape {pixels.shape}, expected {(height, width, 3)}")
        return upright(pixels, self.plan.turn)

    def _failed(self, error: Exception, kept: Path | None = None) -> WriteError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = f"writing {self.plan.path} failed after {self.frames} frames: {reason}"
        if kept is not None:
            return WriteError(what, todo=f"all frames are in {kept}: rename it if it plays, else run again")
        return WriteError(
            what, todo="free space, or choose another place with -o; nothing half-written was left"
        )


class VideoWriter(_BaseWriter):
    """One video file, or y4m on stdout. See `Writer`."""

    def __init__(self, plan: OutputPlan) -> None:
        super().__init__(plan)
        assert plan.video is not None
        self._target = plan.video
        self._base = plan.video.encoder.time_base
        self._to_frame = RgbWriter(plan.video.encoder.pix_fmt, plan.video.colour)
        self._timeline = Timeline(restart=round(1 / self._base))
        self._durations: dict[int, int] = {}
        self._end = Fraction(0)
        self._muxed = 0
        self._lock: IO[bytes] | None = None
        self._closed = False
        to_stdout = plan.path == STDOUT
        self._part = None if to_stdout else plan.temporary
        if self._part is not None:
            self._lock = _locked(self._part)
        try:
            file = sys.stdout.buffer if self._part is None else f"file:{self._part}"
            self._output, self._stream, self._copier = open_output(file, plan.info, plan.video)
        except BaseException as error:
            self._remove()
            if isinstance(error, (FFmpegError, OSError, ValueError)):
                raise self._failed(error) from error
            raise

    def write(self, pixels: Pixels, timing: FrameTiming) -> None:
        frame = self._to_frame(self._prepared(pixels))
        duration = max(1, round(timing.duration * timing.time_base / self._base))
        frame.pts = self._timeline.place(round(timing.pts * timing.time_base / self._base), duration)
        frame.time_base = self._base
        self._durations[frame.pts] = duration
        self._end = (frame.pts + duration) * self._base
        try:
            self._mux(self._stream.encode(frame))
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self.frames += 1

    def _mux(self, packets: list[Packet]) -> None:
        """Muxes encoded packets, each after the copied packets that come before it."""
        for packet in packets:
            if packet.pts is not None:
                # Encoders lose the durations of a variable frame rate; the last one decides how long the file is.
                packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
            stamp = packet.dts if packet.dts is not None else packet.pts
            if self._copier is not None and stamp is not None:
                self._copier.advance(self._output, stamp * packet.time_base)
            self._output.mux_one(packet)
            self._muxed += 1

    def _complete(self) -> WriteResult:
        """All frames are there: from here on only a full disk and an interruption remove the file."""
        try:
            last = self._stream.encode(None)
            if not self._muxed:
                _set_decode_times(last)
            self._mux(last)
            if self._copier is not None:
                self._copier.advance(self._output, self._end if self.plan.info.cut else None)
            self._close()
            size = None if self._part is None else _publish(self._part, self.plan)
        except (FFmpegError, OSError) as error:
            if error.errno in FATAL and not self._closed:
                self.abort()
                raise self._failed(error) from error
            self._settled = True
            self._release()
            raise self._failed(error, self._part) from error
        except OutputExists:
            self._settled = True
            self._release()
            raise
        except BaseException:
            self.abort()
            raise
        self._settled = True
        self._release()
        failures = [] if self._copier is None else self._copier.failures
        if failures:
            raise WriteError(
                f"{self.plan.path} is complete but for: {'; '.join(failures)}",
                todo="the video itself is finished; take the lost stream from the source, or write .mkv",
            )
        complaints = () if self._copier is None else tuple(self._copier.complaints)
        return WriteResult(self.plan.path, self.frames, size, complaints)

    def _close(self) -> None:
        if not self._closed:
            self._output.close()
            self._closed = True
            if self._part is None:
                sys.stdout.buffer.flush()

    def _release(self) -> None:
        if self._copier is not None:
            self._copier.close()
        if self._lock is not None:
            self._lock.close()

    def abort(self) -> None:
        """Gives up: closes what is open and removes the temporary file."""
        try:
            self._close()
        except (FFmpegError, OSError):
            self._closed = True  # the disk is full or the pipe is closed: that is why we are here
        finally:
            self._release()
            self._remove()

    def _remove(self) -> None:
        if self._lock is not None:
            self._lock.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def _set_decode_times(packets: list[Packet]) -> None:
    """Decode times for a whole video in coding order.

    x265 leaves them uninitialised where the video is shorter than its reordering; the smallest valid delay it is.
    """
    coded = [packet.pts for packet in packets if packet.pts is not None]
    shown = sorted(coded)
    delay = max((s - c for s, c in zip(shown, coded, strict=True)), default=0)
    for packet, stamp in zip((p for p in packets if p.pts is not None), shown, strict=True):
        packet.dts = stamp - delay


def _locked(part: Path) -> IO[bytes]:
    """Creates the temporary file and holds a lock on it for as long as it is open.

    Raises:
        UsageError: another run is writing the same output.
        WriteError: it cannot be created.
    """
    try:
        file = part.open("ab")
    except OSError as error:
        raise WriteError(
            f"{part} cannot be created: {error.strerror}", todo="choose another place with -o"
        ) from error
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UsageError(
                f"another run is writing {part}", todo="wait for it, or choose another name"
            ) from error
    return file


def _publish(part: Path, plan: OutputPlan) -> int:
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


class ImageWriter(_BaseWriter):
    """One image, or a folder of PNG files. See `Writer`.

    A new folder appears complete or not at all; in an existing one (overwrite) files are replaced at the end.
    """

    def __init__(self, plan: OutputPlan) -> None:
        super().__init__(plan)
        self._encoder = ImageEncoder(plan.depth)
        self._folder = plan.kind == "images"
        self._part = plan.temporary
        self._bytes = 0
        self._names: set[str] = set()
        if self._folder:
            try:
                if self._part.exists():
                    shutil.rmtree(self._part)
                self._part.mkdir()
            except OSError as error:
                raise self._failed(error) from error

    def write(self, pixels: Pixels, timing: FrameTiming) -> None:
        path = self._part / self._name(timing) if self._folder else self._part
        suffix = ".png" if self._folder else Path(self.plan.path).suffix.lower()
        try:
            self._encoder.write(self._prepared(pixels), path, suffix)
            self._bytes += path.stat().st_size
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self.frames += 1

    def _name(self, timing: FrameTiming) -> str:
        """The source image's name where that is unique as .png, else the frame number."""
        name = f"{Path(timing.name).stem}.png" if timing.name else f"{timing.index:06d}.png"
        if name in self._names:
            name = f"{timing.name}.png"
        self._names.add(name)
        return name

    def _complete(self) -> WriteResult:
        self._settled = True
        target = Path(self.plan.path)
        try:
            if self._folder and target.is_dir():
                for path in sorted(self._part.iterdir()):
                    os.replace(path, target / path.name)
                self._part.rmdir()
            elif target.exists() and not self.plan.overwrite:
                raise OutputExists(
                    f"{target} appeared while this run was working", todo=f"kept in {self._part}"
                )
            else:
                sync_file(self._part)
                os.replace(self._part, target)
            sync_file(target.parent)
        except OSError as error:
            raise self._failed(error, self._part) from error
        return WriteResult(self.plan.path, self.frames, self._bytes)

    def abort(self) -> None:
        """Gives up and removes the temporary file or folder."""
        if self._folder:
            shutil.rmtree(self._part, ignore_errors=True)
        else:
            self._part.unlink(missing_ok=True)
