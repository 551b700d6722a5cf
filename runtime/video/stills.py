"""A folder of PNG files as output: its files' names, its growth in segments, and how it gets its own name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from av.error import FFmpegError

from flashvsr_trt.configs.errors import InputError, OutputExists, WriteError
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime.video.frames import FrameTiming, Pixels
from flashvsr_trt.runtime.video.images import ImageEncoder
from flashvsr_trt.runtime.video.output import prepared
from flashvsr_trt.runtime.video.plan import OutputPlan
from flashvsr_trt.runtime.video.segments import Segment


class FileNames:
    """Names for frames: the source image's where that is unique as .png, else the frame number."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._used = set(used)

    def __call__(self, timing: FrameTiming) -> str:
        name = f"{Path(timing.name).stem}.png" if timing.name else f"{timing.index:06d}.png"
        if name in self._used:
            name = f"{timing.name}.png"
        self._used.add(name)
        return name


class ImageSegments:
    """Writes the files of one output, some at a time. See `segments.SegmentWriter` for the methods.

    A segment is a list of files that are on the disk; the files themselves are where they will be renamed from.

    Args:
        plan: of the output.
        folder: where the lists go.
        joined: where the files go.
        segments: those that are there already.

    Raises:
        InputError: a file of them is missing or has another size.
    """

    timeline = None

    def __init__(self, plan: OutputPlan, folder: Path, joined: Path, segments: Iterable[Segment] = ()) -> None:
        self.plan, self._folder, self._joined = plan, folder, joined
        self.segments = list(segments)
        listed = [file for segment in self.segments for file in json.loads((folder / segment.name).read_text("utf-8"))]
        _check(joined, listed)
        self._name, self._encoder = FileNames(name for name, _ in listed), ImageEncoder(plan.depth)
        self._new: list[tuple[str, int]] = []  # name and size

    @property
    def frames(self) -> int:
        """Frames in closed segments."""
        return sum(segment.frames for segment in self.segments)

    def write(self, pixels: Pixels, timing: FrameTiming) -> None:
        path = self._joined / self._name(timing)
        try:
            self._joined.mkdir(exist_ok=True)
            self._encoder.write(prepared(self.plan, pixels), path, ".png")
            self._new.append((path.name, path.stat().st_size))
        except (FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def close_segment(self) -> None:
        """Waits until the files since the last segment are on the disk, and lists them."""
        if not self._new:
            return
        listing = self._folder / f"{len(self.segments):06d}.json"
        try:
            for name, _ in self._new:
                sync_file(self._joined / name)
            sync_file(self._joined)
            listing.write_text(json.dumps(self._new), encoding="utf-8")
            sync_file(listing)
            sync_file(self._folder)
        except OSError as error:
            raise self._failed(error) from error
        size = listing.stat().st_size
        self.segments.append(Segment(name=listing.name, frames=len(self._new), bytes=size, reorder=0))
        self._new = []

    def abandon(self) -> None:
        """Drops what no segment lists; files that were written will be written again."""
        self._new = []

    def _failed(self, error: Exception) -> WriteError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return WriteError(
            f"writing {self.plan.path} failed after {self.frames + len(self._new)} frames: {reason}",
            todo="free space, or choose another place with -o",
        )


def _check(folder: Path, listed: list[list[str | int]]) -> None:
    there = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if listed else {}
    broken = [str(name) for name, size in listed if there.get(str(name)) != size]
    if broken:
        raise InputError(
            f"{folder}: {', '.join(broken[:3])} is not as it was written",
            expected="the work of an earlier run",
            todo="--restart throws it away and begins again",
        )


def folder_bytes(folder: Path) -> int:
    """Sizes of all files in it."""
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def publish_folder(part: Path, plan: OutputPlan) -> None:
    """Gives a finished folder its name; in one that exists, files are replaced one by one.

    Raises:
        OutputExists: it has appeared meanwhile.
    """
    target = Path(plan.path)
    if target.is_dir():
        if not plan.overwrite and any(target.iterdir()):
            raise OutputExists(f"{target} is no longer empty", todo=f"-y goes on, the files are kept in {part}")
        for path in sorted(part.iterdir()):
            os.replace(path, target / path.name)
        part.rmdir()
    elif target.exists():
        raise OutputExists(f"{target} appeared while this run was working", todo=f"the files are kept in {part}")
    else:
        sync_file(part)
        os.replace(part, target)
    sync_file(target.parent)
