"""Hard cuts: where the networks forget the past, so that nothing of the old scene shows in the new one.

Detected on the source's frames while they stream, one frame ahead. A cut is a frame whose picture differs from the one
before it far more than neighbours have differed lately, whose colours or layout are others, and that is not undone by
the next frame, as a flash is. The decision depends on a fixed number of frames, so it is the same after a resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np

from flashvsr_trt.configs.errors import InputError, UsageError
from flashvsr_trt.runtime.video.cut import Position, parse_position
from flashvsr_trt.runtime.video.frames import Frame

Marked = tuple[Frame, bool]  # a frame, and whether it begins a scene

_ROWS, _COLUMNS = 18, 32  # cells of the small picture
_BINS = 8  # of each channel's histogram
_WINDOW = 8  # differences that "lately" means
_STAYS = 0.5  # share of a difference that is still there a frame later
MEMORY = _WINDOW + 2  # frames before one that the decision on it depends on
_JUMP, _LEAST = 2.0, 6.0  # times the usual difference, and grey levels at least
_COLOURS, _LAYOUT = 0.25, 0.5  # share of pixels in other bins; correlation of the small pictures


@dataclass(frozen=True)
class _Look:
    """What is compared of a frame: mean grey of each cell, and the colour histogram as shares."""

    cells: np.ndarray
    histogram: np.ndarray

    @classmethod
    def at(cls, rgb: np.ndarray) -> _Look:
        step = max(1, rgb.shape[0] // (4 * _ROWS)), max(1, rgb.shape[1] // (4 * _COLUMNS))
        few = rgb[:: step[0], :: step[1]]
        rows = np.linspace(0, few.shape[0], _ROWS + 1).astype(int)[:-1]
        columns = np.linspace(0, few.shape[1], _COLUMNS + 1).astype(int)[:-1]
        grey = few.mean(axis=2)
        sums = np.add.reduceat(np.add.reduceat(grey, np.unique(rows), axis=0), np.unique(columns), axis=1)
        ones = np.ones_like(grey)
        counts = np.add.reduceat(np.add.reduceat(ones, np.unique(rows), axis=0), np.unique(columns), axis=1)
        bins = (few >> 5).reshape(-1, 3) + np.arange(3, dtype=np.uint8) * _BINS
        return cls(sums / counts, np.bincount(bins.ravel(), minlength=3 * _BINS) / (few.size))

    def difference(self, other: _Look) -> float:
        """Mean absolute difference of the cells, in grey levels."""
        return float(np.abs(self.cells - other.cells).mean())

    def differs(self, other: _Look) -> bool:
        """Whether colours or layout are others."""
        if 0.5 * np.abs(self.histogram - other.histogram).sum() > _COLOURS:
            return True
        a, b = self.cells - self.cells.mean(), other.cells - other.cells.mean()
        scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
        return scale > 0 and float((a * b).sum()) / scale < _LAYOUT


class Detector:
    """Marks cuts. Ask `mark` once for a stream of frames."""

    def mark(self, frames: Iterable[Frame]) -> Iterator[Marked]:
        """Each frame, once the next one has been seen, with whether it begins a scene. The first one does not."""
        lately: deque[float] = deque(maxlen=_WINDOW)
        looks: deque[_Look] = deque(maxlen=3)  # of the frame that is held, and of the two before it
        held: Frame | None = None
        for frame in frames:
            look = _Look.at(frame.rgb)
            if held is not None:
                yield held, self._cut(looks, look, lately)
            held = frame
            looks.append(look)
        if held is not None:
            yield held, self._cut(looks, None, lately)

    @staticmethod
    def _cut(looks: deque[_Look], after: _Look | None, lately: deque[float]) -> bool:
        if len(looks) < 2:
            return False
        look, before = looks[-1], looks[-2]
        difference = look.difference(before)
        enough = max(_LEAST, _JUMP * median(lately)) if lately else _LEAST
        lately.append(difference)
        if difference < enough or not look.differs(before):
            return False
        # A flash is undone by the next frame, and its end is like what was before it.
        begins = after is None or after.difference(before) > _STAYS * difference
        ends = len(looks) == 3 and look.difference(looks[-3]) < _STAYS * difference
        return begins and not ends


class Listed:
    """Cuts at given places: frame numbers, or seconds since the first frame."""

    def __init__(self, places: Iterable[Position]) -> None:
        places = list(places)
        self.places = sorted(places, key=float)
        self._numbers = {place for place in places if isinstance(place, int)}
        self._times = sorted(place for place in places if isinstance(place, Fraction))

    def mark(self, frames: Iterable[Frame]) -> Iterator[Marked]:
        """Each frame with whether it begins a scene."""
        times = list(self._times)
        for frame in frames:
            late = bool(times) and frame.timing.time >= times[0]
            while times and frame.timing.time >= times[0]:
                times.pop(0)
            yield frame, frame.timing.index > 0 and (late or frame.timing.index in self._numbers)


def read_list(path: Path) -> Listed:
    """A file with one place a line, e.g. 120 or 1:02.5; what follows a # is a remark.

    Raises:
        InputError: it cannot be read.
        UsageError: a line is neither a time nor a frame number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--scene-cut {path} cannot be read: {error}", expected="auto, off or a text file") from error
    places = [line.partition("#")[0].strip() for line in lines]
    try:
        return Listed(parse_position(place, f"{path}:") for place in places if place)
    except UsageError as error:
        raise InputError(error.came, expected="one frame number or time a line", todo="correct the file") from error


def parse_scene_cut(text: str) -> Detector | Listed | None:
    """--scene-cut auto, off or a file's name."""
    if text == "off":
        return None
    return Detector() if text == "auto" else read_list(Path(text))
