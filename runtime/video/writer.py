"""Writes the output under a temporary name and renames it when it is complete."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from av.error import FFmpegError
from av.packet import Packet

from flashvsr_trt.configs.errors import OutputExists, WriteError
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime.video.frames import FrameTiming, Pixels
from flashvsr_trt.runtime.video.images import ImageEncoder
from flashvsr_trt.runtime.video.output import OutputFile, Pictures, lock, prepared, publish, set_decode_times
from flashvsr_trt.runtime.video.plan import STDOUT, OutputPlan
from flashvsr_trt.runtime.video.stills import FileNames, publish_folder
from flashvsr_trt.runtime.video.streams import FATAL


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

    def _failed(self, error: Exception, kept: Path | None = None) -> WriteError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        what = f"writing {self.plan.path} failed after {self.frames} frames: {reason}"
        if kept is not None:
            return WriteError(what, todo=f"all frames are in {kept}: rename it if it plays, else run again")
        return WriteError(what, todo="free space, or choose another place with -o; nothing half-written was left")


class VideoWriter(_BaseWriter):
    """One video file, or y4m on stdout. See `Writer`."""

    def __init__(self, plan: OutputPlan) -> None:
        super().__init__(plan)
        self._pictures = Pictures(plan)
        self._times: dict[
            int | None, int
        ] = {}  # durations by presentation time: encoders lose those of a variable rate
        part = None if plan.path == STDOUT else plan.temporary
        self._lock = None if part is None else lock(part, plan.path)
        try:
            self._file = OutputFile(plan, part)
        except BaseException as error:
            self._remove()
            if isinstance(error, (FFmpegError, OSError, ValueError)):
                raise self._failed(error) from error
            raise

    def write(self, pixels: Pixels, timing: FrameTiming) -> None:
        frame, duration = self._pictures(pixels, timing)
        self._times[frame.pts] = duration
        try:
            self._mux(self._file.stream.encode(frame))
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self.frames += 1

    def _mux(self, packets: list[Packet]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._times.pop(packet.pts, packet.duration or 0)
            self._file.mux(packet)

    def _complete(self) -> WriteResult:
        """All frames are there: from here on only a full disk and an interruption remove the file."""
        try:
            last = self._file.stream.encode(None)
            if not self._file.muxed:
                set_decode_times(last)
            self._mux(last)
            self._file.finish(self._pictures.end)
            size = None if self._file.part is None else publish(self._file.part, self.plan)
        except (FFmpegError, OSError) as error:
            if error.errno in FATAL and not self._file.closed:
                self.abort()
                raise self._failed(error) from error
            self._settled = True
            self._release()
            raise self._failed(error, self._file.part) from error
        except OutputExists:
            self._settled = True
            self._release()
            raise
        except BaseException:
            self.abort()
            raise
        self._settled = True
        self._release()
        return WriteResult(self.plan.path, self.frames, size, self._file.copied.check())

    def _release(self) -> None:
        self._file.release()
        if self._lock is not None:
            self._lock.close()

    def abort(self) -> None:
        """Gives up: closes what is open and removes the temporary file."""
        try:
            self._file.abandon()
        finally:
            self._release()
            self._remove()

    def _remove(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self.plan.temporary.unlink(missing_ok=True)


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
        self._name = FileNames()
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
            self._encoder.write(prepared(self.plan, pixels), path, suffix)
            self._bytes += path.stat().st_size
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self.frames += 1

    def _complete(self) -> WriteResult:
        self._settled = True
        target = Path(self.plan.path)
        try:
            if self._folder:
                publish_folder(self._part, self.plan)
                return WriteResult(self.plan.path, self.frames, self._bytes)
            if target.exists() and not self.plan.overwrite:
                raise OutputExists(f"{target} appeared while this run was working", todo=f"kept in {self._part}")
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
