"""One output that may be stopped and gone on with: what is kept, when, and what a run begins with."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from math import ceil, prod
from typing import Any

import numpy as np

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import evaluate_shape
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import Canvas
from flashvsr_trt.runtime import pipeline, scenes
from flashvsr_trt.runtime.backends.base import ITEM_BYTES
from flashvsr_trt.runtime.identity import differences, refuse
from flashvsr_trt.runtime.pipeline import Point
from flashvsr_trt.runtime.tiles import Tiling
from flashvsr_trt.runtime.upscaler import Options
from flashvsr_trt.runtime.video.frames import Frame
from flashvsr_trt.runtime.video.segments import SegmentWriter
from flashvsr_trt.runtime.video.stills import ImageSegments
from flashvsr_trt.runtime.work import Kept, Work

SEGMENT_S = 10.0  # of video, for each GiB of state that is stored at its end
SceneCut = scenes.Detector | scenes.Listed | None
Segments = SegmentWriter | ImageSegments


def state_bytes(manifest: Manifest, canvas: Canvas, options: Options) -> int:
    """What is stored at the end of a segment: KV slabs and the memories of projector and decoder."""
    slabs = schedule.ring_slots(options.parameters.kv_ratio) - 1
    symbols = {"H": canvas.height, "W": canvas.width, "ring": slabs, "slabs": slabs}
    tensors = []
    for name, graph in manifest.graphs.items():
        before = {old for _, old in graph.state}
        tensors += [t for t in graph.inputs if t.name in before or (name == "dit" and "cache" in t.name)]
    return sum(prod(evaluate_shape(t.shape, symbols)) * ITEM_BYTES[manifest.dtype(t)] for t in tensors)


def segment_frames(asked: float | None, state: int, rate: Fraction) -> int:
    """Frames of a segment: seconds of video as asked for, else so many that storing the state costs little."""
    if asked is not None and not 0 < asked < float("inf"):
        raise UsageError(f"--segment {asked:g}", expected="seconds of video, above 0")
    seconds = SEGMENT_S * max(1.0, state / (1 << 30)) if asked is None else asked
    return max(1, ceil(Fraction(seconds).limit_denominator(1000) * rate))


def continued(work: Work, mode: str, settings: dict[str, Any]) -> Kept | None:
    """What there is to go on with.

    Args:
        work: the output's work folder.
        mode: "auto" goes on with what is there, "only" refuses to begin, "never" refuses to go on.
        settings: as asked for now.

    Raises:
        UsageError: what is there was made with other settings, or there is nothing and the mode is "only".
        InputError: what is there is damaged.
    """
    kept = None if mode == "never" else work.load()
    if kept is not None and (told := differences(kept.settings, settings)):
        raise refuse(work.path, kept.frames, told)
    if kept is None and mode == "only":
        raise UsageError(
            f"there is nothing to go on with: {work.path} does not exist",
            expected="the folder that a stopped run leaves beside its output",
            todo="drop --resume to begin",
        )
    return kept


def plan_of(options: Options) -> dict[str, Any]:
    """How the networks are run, where that does not decide the frames or memory forced it."""
    tiling = None if options.tiling is None else asdict(options.tiling)
    return {"variant": options.variant, "phases": options.phases, "tiling": tiling}


def as_kept(options: Options, kept: Kept) -> Options:
    """The options that go on with kept work.

    Tiles stay as they were. Variants with one decoder give the same frames, so another may be asked for, unless
    memory has forced one.
    """
    stored, tiling = kept.plan["tiling"], None
    if stored is not None:  # JSON has made lists of the tuples
        tiling = replace(Tiling(**stored), dit=tuple(stored["dit"]), decoder=tuple(stored["decoder"]))
    options = replace(options, tiling=tiling)
    if kept.changes:
        options = replace(options, variant=kept.plan["variant"], phases=kept.plan["phases"])
    return options


class Scenes(pipeline.Session):
    """A run that keeps nothing, with scene cuts."""

    def __init__(self, cut: SceneCut) -> None:
        self._cut = cut
        self.found: list[int] = []

    def scenes(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        if self._cut is None:
            yield from super().scenes(frames)
            return
        for frame, cut in self._cut.mark(frames):
            if cut and frame.timing.index >= self.start:
                self.found.append(frame.timing.index)
            yield frame, cut


class Recorded(Scenes):
    """A run whose work is kept after each segment.

    Args:
        work: entered.
        kept: what is on the disk; updated with each point.
        writer: of the segments after them.
        every: frames of a segment.
        cut: where scenes begin.
    """

    def __init__(self, work: Work, kept: Kept, writer: Segments, every: int, cut: SceneCut) -> None:
        super().__init__(cut)
        self._work, self._kept, self._writer = work, kept, writer
        self.every, self.start, self.scene = every, kept.next, kept.scene
        self._began, self._before = time.perf_counter(), kept.elapsed

    @property
    def hidden(self) -> int:
        """Frames that need not even be seen: the scene detector remembers only the last ones."""
        return max(0, self.start - scenes.MEMORY)

    def keep(self, point: Point) -> None:
        self._writer.close_segment()
        self._kept.scene = point.scene
        self._save(point.arrays)

    def complete(self) -> None:
        """All frames are written."""
        self._writer.close_segment()
        self._kept.finished = True
        self._save({})

    def _save(self, arrays: dict[str, np.ndarray]) -> None:
        self._kept.segments, self._kept.frames = list(self._writer.segments), self._writer.frames
        self._kept.timeline = self._writer.timeline
        self._kept.elapsed = self._before + time.perf_counter() - self._began
        self._work.save(self._kept, arrays)
