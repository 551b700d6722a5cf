"""Still images in and out: natural order, 8 and 16 bit, one file or a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.codec import CodecContext
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from PIL import Image

from flashvsr_trt.configs.errors import InputError, UsageError
from flashvsr_trt.runtime.video.colour import RgbReader, bit_depth, read_colours
from flashvsr_trt.runtime.video.cut import Position
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming, Pixels, ReadStats, SourceInfo
from flashvsr_trt.runtime.video.probe import KEEP_TAGS

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
# Written by Pillow, 8 bit; PNG is written by FFmpeg, which knows 16-bit RGB.
_PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
    ".webp": {"format": "WEBP", "lossless": True},
}
_EXIF_ORIENTATION = 0x0112
# Orientation to (a, b, c, d): the point (x, y) is shown at (a x + c y, b x + d y), y downwards.
_EXIF_TURNS = {
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
WRITABLE_SUFFIXES = frozenset({".png", *_PILLOW_OPTIONS})


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p.casefold()) for p in parts)


def list_images(folder: Path) -> list[Path]:
    """The folder's images in natural order.

    Raises:
        InputError: there is none, or the folder cannot be read.
    """
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}", todo="check its permissions") from error
    images = [p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith(".")]
    if not images:
        raise InputError(
            f"{folder} holds no image ({len(entries)} other entries)",
            expected="files ending in " + " ".join(sorted(IMAGE_SUFFIXES)),
            todo="name the folder that holds the frames",
        )
    return sorted(images, key=lambda p: natural_key(p.name))


class ImageSource:
    """Images of one size as frames of a video. See `reader.Source`.

    An image that cannot be decoded is replaced by the one before it (the first good one at the beginning) and
    counted in `stats.repeated`.
    """

    def __init__(
        self,
        path: Path,
        images: list[Path],
        start: Position | None,
        end: Position | None,
        frames: int | None,
        rate: Fraction,
    ) -> None:
        self.stats, self.hidden = ReadStats(), 0
        self._path = path
        self._images = images[_number(start, rate, 0) : _number(end, rate, len(images))][:frames]
        if not self._images:
            raise UsageError(f"the range leaves none of the {len(images)} images of {path}")
        self._shown = self._first_good()
        colour, notes = read_colours(self._shown)
        self._to_rgb = RgbReader(colour)
        single = not path.is_dir()
        first = self._shown
        self.info = SourceInfo(
            path=str(path),
            kind="image" if single else "images",
            container="image" if single else "images",
            codec=self._images[0].suffix[1:].lower(),
            width=first.width,
            height=first.height,
            rate=rate,
            time_base=1 / rate,
            pix_fmt=first.format.name,
            bit_depth=bit_depth(first.format.name),
            colour=colour,
            frames=len(self._images),
            frames_exact=True,
            duration=len(self._images) / rate,
            display_matrix=_exif_matrix(self._images[0]),
            notes=tuple(notes),
        )

    def _first_good(self) -> VideoFrame:
        for path in self._images:
            frame = self._decoded(path)
            if frame is not None:
                self.stats.complaints.clear()
                return frame
        raise InputError(
            f"{self._path}: no image can be decoded ({self.stats.complaints[0]})",
            expected="images that FFmpeg reads",
            todo="check that they open in a viewer",
        )

    def _decoded(self, path: Path) -> VideoFrame | None:
        try:
            # A file object: FFmpeg would take % in a name for a pattern.
            with path.open("rb") as file, av.open(file, "r", **KEEP_TAGS) as container:
                return next(container.decode(video=0))
        except (FFmpegError, OSError, StopIteration, IndexError, ValueError) as error:
            self.stats.complain(f"{path.name}: {error or type(error).__name__}")
            return None

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._images):
            frame = self._decoded(path)
            if frame is None:
                self.stats.repeated += 1
            else:
                self._check_size(frame, path)
                self._shown = frame
            self.stats.delivered = index + 1
            if index >= self.hidden:
                timing = FrameTiming(index, index, 1, self.info.time_base, path.name)
                yield Frame(self._to_rgb(self._shown), timing)

    def _check_size(self, frame: VideoFrame, path: Path) -> None:
        if (frame.width, frame.height) != (self.info.width, self.info.height):
            raise InputError(
                f"{path} is {frame.width}x{frame.height}, the images before it are "
                f"{self.info.width}x{self.info.height}",
                expected="images of one size",
                todo="put the images of each size into a folder of their own",
            )

    def close(self) -> None:
        """Nothing stays open between images."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _exif_matrix(path: Path) -> tuple[int, ...] | None:
    """The display matrix of the EXIF orientation; None for upright, and for a file that Pillow cannot open."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError):
        return None
    if orientation not in _EXIF_TURNS:
        return None
    a, b, c, d = (value << 16 for value in _EXIF_TURNS[orientation])
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def _number(position: Position | None, rate: Fraction, default: int) -> int:
    if position is None:
        return default
    # A time means the first frame at or after it.
    return position if isinstance(position, int) else -int(-(position * rate) // 1)


@dataclass(frozen=True, slots=True)
class ImageEncoder:
    """Writes pictures as files; the suffix decides the format."""

    depth: int = 8

    def write(self, pixels: Pixels, path: Path, suffix: str) -> None:
        """uint8 or uint16 [H, W, 3] to `path` as the format of `suffix`.

        Raises:
            OSError: the file cannot be written.
        """
        if suffix == ".png":
            path.write_bytes(_png(pixels, self.depth))
            return
        eight = pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        with path.open("wb") as file:
            Image.fromarray(np.asarray(eight)).save(file, **_PILLOW_OPTIONS[suffix])


def _png(pixels: Pixels, depth: int) -> bytes:
    deep = depth > 8
    if deep and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * 257
    frame = VideoFrame.from_ndarray(pixels, format="rgb48le" if pixels.dtype == np.uint16 else "rgb24")
    frame = frame.reformat(format="rgb48be" if deep else "rgb24")
    context = CodecContext.create("png", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base = Fraction(1, 25)
    # Frame threads would hold the one picture back.
    context.thread_count = 1
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
