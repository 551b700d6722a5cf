"""Two videos or images in one picture: side by side, split down the middle, or as crops one above the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from flashvsr_trt.configs.errors import InputError, UsageError
from flashvsr_trt.runtime.video import OutputOptions, Position, Source, open_source, open_writer, plan_output
from flashvsr_trt.runtime.video.frames import Frame, upright
from flashvsr_trt.runtime.video.images import IMAGE_SUFFIXES

_LINE = 2  # pixels between two pictures
_WHITE = 255


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels of the larger picture."""

    width: int
    height: int
    left: int
    top: int

    def of(self, picture: np.ndarray) -> np.ndarray:
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How two pictures share one. With crops each crop is a row, both pictures beside each other."""

    split: bool = False
    crops: tuple[Crop, ...] = ()

    def join(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] and [h, w, 3] to one picture; the smaller one is enlarged (bicubic) to the larger one."""
        size = max(first.shape[:2], second.shape[:2], key=lambda shape: shape[0] * shape[1])
        first, second = _resized(first, size), _resized(second, size)
        if not self.crops:
            return self._pair(first, second)
        return _stacked([self._pair(crop.of(first), crop.of(second)) for crop in self.crops])

    def _pair(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if not self.split:
            line = np.full((first.shape[0], _LINE, 3), _WHITE, np.uint8)
            return np.concatenate([first, line, second], axis=1)
        middle = first.shape[1] // 2
        joined = np.concatenate([first[:, :middle], second[:, middle:]], axis=1)
        joined[:, max(0, middle - _LINE // 2) : middle + _LINE // 2] = _WHITE
        return joined


def parse_crop(text: str) -> Crop:
    """WIDTHxHEIGHT+LEFT+TOP, e.g. 320x240+100+50."""
    match = re.fullmatch(r"(\d+)x(\d+)\+(\d+)\+(\d+)", text)
    if match is None or not (int(match[1]) and int(match[2])):
        raise UsageError(f"--crop {text!r} is no rectangle", expected="WxH+LEFT+TOP, e.g. 320x240+100+50")
    return Crop(*(int(value) for value in match.groups()))


def compare(first: str, second: str, output: str, layout: Layout, at: Position | None = None) -> tuple[int, list[str]]:
    """Writes the comparison.

    Args:
        first, second: videos, images or folders of images; frames are paired by number.
        output: an image shows one frame, anything else all of them.
        layout: how.
        at: the frame that an image shows, or where a video begins.

    Returns:
        Frames written, and what the user should know.

    Raises:
        FlashVSRError: what cannot be read or written, a crop outside the picture.
    """
    still = Path(output).suffix.lower() in IMAGE_SUFFIXES
    frames = 1 if still else None
    with ExitStack() as stack:
        sources = [stack.enter_context(open_source(name, start=at, frames=frames)) for name in (first, second)]
        shape = _check(sources, layout)
        joined = layout.join(*(np.zeros((h, w, 3), np.uint8) for h, w in shape))
        info = replace(
            sources[1].info,
            kind="image" if still else sources[1].info.kind,
            width=joined.shape[1],
            height=joined.shape[0],
            display_matrix=None,
            sample_aspect=None,
            streams=(),
        )
        plan = plan_output(info, output, (joined.shape[1], joined.shape[0]), OutputOptions(overwrite=True))
        writer = stack.enter_context(open_writer(plan))
        notes: list[str] = []
        for one, other in _pairs(sources, notes):
            pictures = (upright(f.rgb, s.info.display_matrix) for f, s in zip((one, other), sources, strict=True))
            writer.write(layout.join(*pictures), other.timing)
        return writer.finish().frames, notes


def _check(sources: list[Source], layout: Layout) -> list[tuple[int, int]]:
    """(height, width) of both as shown."""
    shape = [source.info.display_size[::-1] for source in sources]
    height, width = max(shape, key=lambda size: size[0] * size[1])
    for crop in layout.crops:
        if crop.left + crop.width > width or crop.top + crop.height > height:
            raise UsageError(
                f"--crop {crop.width}x{crop.height}+{crop.left}+{crop.top} leaves the picture",
                expected=f"a rectangle inside {width}x{height}",
            )
    return shape


def _pairs(sources: list[Source], notes: list[str]) -> Iterator[tuple[Frame, Frame]]:
    for count, (one, other) in enumerate(zip_longest(*sources)):
        if one is None or other is None:
            if not count:
                raise InputError("one of the inputs has no frame there")
            shorter = sources[0 if one is None else 1].info.path
            notes.append(f"{shorter} ends after {count} frames: the rest of the other one is left out")
            return
        yield one, other


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of any width below each other, white beside the narrower ones."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_WHITE) for row in rows]
    line = np.full((_LINE, width, 3), _WHITE, np.uint8)
    parts = [part for row in padded for part in (line, row)]
    return np.concatenate(parts[1:])
