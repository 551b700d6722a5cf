"""Sources: anything FFmpeg reads, a folder of images, one image, y4m on stdin; frames out one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from av.error import FFmpegError
from av.video.frame import VideoFrame

from flashvsr_trt.configs.errors import InputError, UsageError
from flashvsr_trt.runtime.video.colour import RgbReader
from flashvsr_trt.runtime.video.cut import Position
from flashvsr_trt.runtime.video.decode import Shown, decode
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming, ReadStats, SourceInfo
from flashvsr_trt.runtime.video.images import IMAGE_SUFFIXES, ImageSource, list_images
from flashvsr_trt.runtime.video.probe import STDIN, describe, main_video, open_container
from flashvsr_trt.runtime.video.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Range:
    """The part to read: from `start` up to, not including, `end`, at most `frames` frames."""

    start: Position | None = None
    end: Position | None = None
    frames: int | None = None

    @property
    def whole(self) -> bool:
        return self == Range()


class Source(Protocol):
    """Frames of one input, in presentation order. A context manager; iterate it once, from one thread."""

    info: SourceInfo
    stats: ReadStats
    hidden: int
    """So many frames are decoded and counted, but not given: an earlier run has done them."""

    def __iter__(self) -> Iterator[Frame]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(
    path: str | Path,
    *,
    start: Position | None = None,
    end: Position | None = None,
    frames: int | None = None,
    image_rate: Fraction = Fraction(25),
) -> Source:
    """Opens an input and decodes its first frame.

    Args:
        path: a video file, an image, a folder of images (read in natural order), or "-" for y4m on stdin.
        start, end: int is a frame number from 0, Fraction a time in seconds since the first frame; `end` is exclusive.
        frames: read at most this many.
        image_rate: frames per second that a folder of images stands for.

    Raises:
        InputError: there is nothing to decode, and why.
        UsageError: the range holds no frame.
    """
    part = Range(start, end, frames)
    _check_range(part)
    if str(path) == STDIN:
        return VideoSource(STDIN, part)
    here = Path(path)
    if here.is_dir():
        return ImageSource(here, list_images(here), part.start, part.end, part.frames, image_rate)
    if here.is_file() and here.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource(here, [here], part.start, part.end, part.frames, image_rate)
    return VideoSource(str(path), part)


def _check_range(part: Range) -> None:
    if part.frames is not None and part.frames < 1:
        raise UsageError(f"--frames {part.frames} asks for no frame", expected="1 or more")
    for flag, value in (("--start", part.start), ("--end", part.end)):
        if value is not None and value < 0:
            raise UsageError(f"{flag} {value} is negative", expected="0 or later")
    comparable = type(part.start) is type(part.end)
    if part.start is not None and part.end is not None and comparable and part.end <= part.start:
        raise UsageError(f"--end {part.end} is not after --start {part.start}")
    if part.end == 0:
        raise UsageError("--end 0 leaves no frame")


def _size(path: str) -> int:
    """Bytes of a file; 0 for a pipe and for a file that has gone."""
    here = Path(path)
    return here.stat().st_size if path != STDIN and here.is_file() else 0


class VideoSource:
    """A video stream read by FFmpeg. See `Source`."""

    def __init__(self, path: str, part: Range) -> None:
        self.stats, self.hidden = ReadStats(), 0
        self._path, self._part, self._bytes = path, part, _size(path)
        self._container = open_container(path)
        try:
            self._open_stream()
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self) -> None:
        self._stream = main_video(self._container, self._path)
        self._stream.thread_type = "AUTO"
        self._shown = decode(self._container, self._stream, self.stats)
        first = next(self._shown, None)
        if first is None:
            raise self._nothing_decoded()
        info = describe(self._path, self._container, self._stream, first[0])
        self._duration = max(1, round(1 / info.rate / info.time_base))
        self._clock_zero = first[1] or 0
        self._to_rgb = RgbReader(info.colour)
        # (number in the source, frame, stamp); the number is unknown after a seek, where no flag uses it.
        self._head, self._number = self._find_start(first, info)
        self.info = info if self._part.whole else self._describe_cut(info)

    def _nothing_decoded(self) -> InputError:
        if not self.stats.complaints:
            return InputError(f"{self._path} holds a video stream without a single frame", expected="1 frame or more")
        return InputError(
            f"{self._path}: no frame can be decoded ({self.stats.complaints[0]})",
            todo="check that the file plays; get it again if it was damaged on the way",
        )

    def _find_start(self, first: Shown, info: SourceInfo) -> tuple[Shown, int]:
        """The first frame to deliver and its number."""
        start, number = self._part.start, 0
        if not start:
            return first, number
        head: Shown | None = first
        if isinstance(start, Fraction) and not isinstance(self._part.end, int):
            head = self._seek(first, start, info.time_base)
        target = self._clock_zero + (start / info.time_base if isinstance(start, Fraction) else 0)
        while head is not None:
            stamp = head[1] if head[1] is not None else self._clock_zero + number * self._duration
            if number >= start if isinstance(start, int) else stamp >= target:
                return head, number
            head, number = next(self._shown, None), number + 1
        unit = "s" if isinstance(start, Fraction) else ""
        raise UsageError(
            f"--start {float(start):g}{unit} is beyond the last frame of {self._path}",
            expected=f"less than {f'{float(info.duration):.3f} s' if info.duration else 'the length of the video'}",
        )

    def _seek(self, first: Shown, start: Fraction, time_base: Fraction) -> Shown | None:
        """A frame at or before `start`, near it where the container can seek and `first` where it cannot."""
        target = self._clock_zero + int(start / time_base)
        if self._path == STDIN or start < 2:
            return first
        try:
            self._container.seek(target, stream=self._stream)
        except FFmpegError:
            return self._rewound(first)
        self._shown = decode(self._container, self._stream, self.stats)
        found = next(self._shown, None)
        early_enough = found is not None and found[1] is not None and found[1] <= target
        return found if early_enough else self._rewound(first)

    def _rewound(self, first: Shown) -> Shown | None:
        """Back to the first frame, by opening the file again: not every container seeks to its beginning."""
        self._container.close()
        self._container = open_container(self._path)
        self._stream = main_video(self._container, self._path)
        self._stream.thread_type = "AUTO"
        self._shown = decode(self._container, self._stream, self.stats)
        return next(self._shown, first)

    def _describe_cut(self, info: SourceInfo) -> SourceInfo:
        begin = Fraction(self._head[1] or 0) * info.time_base
        zero = self._clock_zero * info.time_base
        ends: list[Fraction] = []
        if isinstance(self._part.end, Fraction):
            ends.append(zero + self._part.end)
        elif self._part.end is not None:
            ends.append(zero + self._part.end / info.rate)
        if self._part.frames is not None:
            ends.append(begin + self._part.frames / info.rate)
        available = None if info.duration is None else zero + info.duration
        end = min([*ends, *([] if available is None else [available])], default=None)
        length = None if end is None else max(end - begin, 1 / info.rate)
        frames = None if length is None else max(1, round(length * info.rate))
        if frames is not None and self._part.frames is not None:
            frames = min(frames, self._part.frames)
        cut = (begin, min(ends) if ends else None)
        return replace(info, cut=cut, duration=length, frames=frames, frames_exact=False)

    def __iter__(self) -> Iterator[Frame]:
        timeline = Timeline(restart=round(1 / self.info.time_base))
        origin = (self._head[1] or 0) if self.info.cut is not None else 0
        for index, (shown, stamp) in enumerate(self._selected()):
            self._check_size(shown, index)
            duration = shown.duration or self._duration
            placed = timeline.place(None if stamp is None else stamp - origin, duration)
            self.stats.retimed = timeline.repaired
            self.stats.delivered = index + 1
            if index >= self.hidden:
                yield Frame(self._to_rgb(shown), FrameTiming(index, placed, duration, self.info.time_base))
        self.stats.grown = _size(self._path) - self._bytes
        self._count_missing((placed + duration - self._clock_zero) * self.info.time_base)

    def _selected(self) -> Iterator[Shown]:
        end, limit = self._part.end, self._part.frames
        last = self._clock_zero + end / self.info.time_base if isinstance(end, Fraction) else None
        shown: Shown | None = self._head
        delivered = 0
        while shown is not None:
            number = self._number + delivered
            late = last is not None and shown[1] is not None and shown[1] >= last
            if late or (isinstance(end, int) and number >= end) or delivered == limit:
                return
            yield shown
            delivered += 1
            # The decoder is not asked for a frame that nobody wants: stdin would block on it.
            shown = next(self._shown, None) if delivered != limit else None

    def _check_size(self, frame: VideoFrame, index: int) -> None:
        if (frame.width, frame.height) != (self.info.width, self.info.height):
            raise InputError(
                f"{self._path}: the picture size changes at frame {index} from "
                f"{self.info.width}x{self.info.height} to {frame.width}x{frame.height}",
                expected="one size throughout",
                todo=f"upscale the parts one by one: --end {index}, then --start {index}",
            )

    def _count_missing(self, length: Fraction) -> None:
        """A file cut off in the middle announces more frames, or seconds, than it has."""
        info = self.info
        if info.frames_exact and info.frames is not None:
            self.stats.missing = max(0, info.frames - self.stats.delivered - self.stats.skipped)
        elif info.cut is None and info.frames is not None and self.stats.delivered < 0.98 * info.frames - 1:
            self.stats.complain(
                f"{self.stats.delivered} frames in {float(length):.2f} s were found, "
                f"about {info.frames} in {float(info.duration or 0):.2f} s announced"
            )

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
