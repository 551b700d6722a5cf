"""Fills a work folder with segments, with smaller and smaller plans where memory is short."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from flashvsr_trt.configs.errors import OutOfMemory
from flashvsr_trt.runtime import pipeline, session
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.jobs import Planned
from flashvsr_trt.runtime.progress import Meter, Status, look
from flashvsr_trt.runtime.session import Recorded, SceneCut, Scenes, Segments
from flashvsr_trt.runtime.shrink import smaller
from flashvsr_trt.runtime.upscaler import Upscaler
from flashvsr_trt.runtime.video.frames import Frame
from flashvsr_trt.runtime.video.segments import SegmentWriter
from flashvsr_trt.runtime.video.stills import ImageSegments
from flashvsr_trt.runtime.work import Kept, Work


@dataclass(kw_only=True)
class Watch:
    """Who is told how far a run is, and who may stop it.

    Attributes:
        backend: whose time is counted.
        total: frames that there will be; None: not known.
        on_status: called after each frame.
        cancel: set from elsewhere to stop within a step.
    """

    backend: Backend
    total: int | None
    on_status: Callable[[Status], None] = lambda status: None
    cancel: threading.Event | None = None
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = Meter(self.backend)

    def run(
        self, frames: Iterator[Frame], upscaler: Upscaler, write: pipeline.Write, scenes: Scenes
    ) -> pipeline.Progress:
        return pipeline.run(
            frames,
            upscaler,
            write,
            on_progress=lambda progress: self.on_status(self.look(progress)),
            cancel=self.cancel,
            session=scenes,
        )

    def look(self, progress: pipeline.Progress) -> Status:
        return look(progress, self.total, self.meter)


class Filling:
    """Writes segments of one video, of all of it or part by part.

    Attributes:
        options: with which the networks run; they change where memory is short, and stay so.
    """

    def __init__(self, planned: Planned, bundle: Bundle, backend: Backend, watch: Watch) -> None:
        self._planned, self._bundle, self._backend, self._watch = planned, bundle, backend, watch
        self.options = planned.options
        self._upscaler: Upscaler | None = None

    def begun(self, first: int = 0, timeline: list[int | None] | None = None) -> Kept:
        """What there is before the first frame."""
        return Kept(
            settings=self._planned.settings,
            plan=session.plan_of(self.options),
            first=first,
            scene=first,
            timeline=timeline,
        )

    def go_on(self, kept: Kept) -> None:
        """Takes the options that kept work was made with."""
        options = session.as_kept(self.options, kept)
        if options != self.options:
            self.options, self._upscaler = options, None

    def fill(
        self, work: Work, kept: Kept, cut: SceneCut, frames: Callable[[int], Iterator[Frame]]
    ) -> tuple[pipeline.Progress, Recorded]:
        """From the last segment that is kept to the end of the frames.

        Args:
            work: entered.
            kept: what is in it; updated with each segment.
            cut: finds scenes.
            frames: gives the frames from that one on, again at each call; a generator is closed on the thread that
                reads it.

        Raises:
            OutOfMemory: nothing smaller is left.
        """
        while True:
            try:
                return self._attempt(work, kept, cut, frames)
            except (OutOfMemory, MemoryError) as error:
                self._upscaler = None
                told = self._shrink(kept, error)
            gc.collect()  # the error's traceback has held the networks and their memory, in a circle
            LOG.warning("%s; going on at frame %d", told, kept.next)
            if kept.begun and kept.scene == kept.next:
                work.save(kept, {})
            work.clear(kept if kept.begun else None, parts=True)

    def _shrink(self, kept: Kept, error: OutOfMemory | MemoryError) -> str:
        """Takes the next smaller plan; what happened and what that is."""
        planned = self._planned
        may_tile = planned.job.auto_tile or self.options.tiling is not None
        next_plan = smaller(self.options, planned.canvas, tiles=may_tile)
        if next_plan is None:
            if isinstance(error, OutOfMemory):
                raise error
            raise OutOfMemory(f"out of host memory: {error}".rstrip(": "), todo="use a smaller size") from error
        before, (self.options, text) = self.options.tiling, next_plan
        kept.changes.append(f"from frame {kept.next}: {text}")
        kept.plan = session.plan_of(self.options)
        if self.options.tiling != before:
            kept.scene = kept.next  # the state of other tiles fits none of these: a new stream
        return f"{error.came if isinstance(error, OutOfMemory) else 'out of host memory'}: {text}"

    def _attempt(
        self, work: Work, kept: Kept, cut: SceneCut, frames: Callable[[int], Iterator[Frame]]
    ) -> tuple[pipeline.Progress, Recorded]:
        planned, info = self._planned, self._planned.info
        writer: Segments
        if planned.output.kind == "images":
            writer = ImageSegments(planned.output, work.path, work.joined, kept.segments)
        else:
            writer = SegmentWriter(planned.output, work.path, kept.segments, kept.timeline)
        recorded = Recorded(work, kept, writer, planned.segment, cut)
        try:
            if self._upscaler is None:
                self._upscaler = Upscaler(self._bundle, self._backend, info.height, info.width, self.options)
            self._upscaler.load_state(work.arrays(kept))
            progress = self._watch.run(frames(recorded.hidden), self._upscaler, writer.write, recorded)
            began = time.perf_counter()
            recorded.complete()
            progress.seconds["encode"] += time.perf_counter() - began
        finally:
            writer.abandon()
        return progress, recorded
