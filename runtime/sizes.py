"""Sizes on the command line: of the output (a scale, a number of lines, or a box) and of tiles."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime.tiles import Tiling

_LINES = re.compile(r"(\d+)p", re.IGNORECASE)
_BOX = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the output shall be: `scale` times the source, unless `lines` or `box` is set.

    Attributes:
        scale: round(scale x side), halves up.
        lines: picture height as displayed; the width follows the aspect ratio, rounded to an even number.
        box: (width, height) as displayed, which the picture fills as far as its aspect ratio lets it. Where that
            misses the box by less than 2 pixels the box itself is taken.
    """

    scale: float = 4.0
    lines: int | None = None
    box: tuple[int, int] | None = None

    def output(self, height: int, width: int, *, turned: bool = False) -> tuple[int, int]:
        """(height, width) of the output as stored.

        Args:
            height, width: of the source as stored.
            turned: a player turns the picture by a quarter, so that height and width change places.
        """
        if turned:
            shown = self.output(width, height)
            return shown[1], shown[0]
        if self.lines is not None:
            return self.lines, _even(width * self.lines / height)
        if self.box is None:
            return schedule.scaled(height, width, self.scale)
        return _fit(height, width, self.box)

    @property
    def tag(self) -> str:
        """The part of a default file name that tells the size: 4x, 1.5x, 1080p, 1920x1080."""
        if self.lines is not None:
            return f"{self.lines}p"
        return f"{self.scale:g}x" if self.box is None else f"{self.box[0]}x{self.box[1]}"


def parse_size(scale: float | None, target: str | None) -> Size:
    """The size that `--scale` and `--target` ask for.

    Raises:
        UsageError: both were given, or one that makes no picture.
    """
    if scale is not None and target is not None:
        raise UsageError(f"--scale {scale:g} and --target {target} contradict each other", todo="give one of them")
    if target is None:
        return Size(scale=_checked_scale(4.0 if scale is None else scale))
    lines, box = _LINES.fullmatch(target), _BOX.fullmatch(target)
    if lines and int(lines[1]) > 0:
        return Size(lines=int(lines[1]))
    if box and int(box[1]) > 0 and int(box[2]) > 0:
        return Size(box=(int(box[1]), int(box[2])))
    raise UsageError(
        f"--target {target!r} is not a size",
        expected="a number of lines such as 1080p or 2160p, or WIDTHxHEIGHT such as 3840x2160",
    )


def _checked_scale(scale: float) -> float:
    if math.isfinite(scale) and scale > 0:
        return scale
    raise UsageError(f"--scale {scale:g} makes no picture", expected="a number above 0, e.g. 2, 3 or 4")


def _fit(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    box_w, box_h = box
    factor = min(box_w / width, box_h / height)
    exact_h, exact_w = height * factor, width * factor
    if abs(exact_h - box_h) < 2 and abs(exact_w - box_w) < 2:
        return box_h, box_w
    # One side is the box's; the other follows.
    return (_even(exact_h), box_w) if box_w / width <= box_h / height else (box_h, _even(exact_w))


def _even(value: float) -> int:
    # Coders with subsampled colour need even sides, and nobody asked for this one to the pixel.
    return max(2, 2 * int(value / 2 + 0.5))


def parse_tile(text: str, overlap: int | None) -> Tiling | None:
    """--tile and --overlap: None where nothing or something to be found out was asked for."""
    if text in ("auto", "off"):
        if overlap is not None:
            raise UsageError(f"--overlap {overlap} with --tile {text}", expected="--tile WxH beside it")
        return None
    match = _BOX.fullmatch(text)
    if match is None:
        raise UsageError(f"--tile {text!r} is no size", expected="auto, off or WxH, e.g. 1024x768")
    size = (int(match[2]), int(match[1]))
    overlaps = {} if overlap is None else {"dit_overlap": overlap, "decoder_overlap": overlap}
    return Tiling(dit=size, decoder=size, **overlaps)
