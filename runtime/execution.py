"""Does what was planned: upscales, keeps the work in segments, goes on with smaller plans, finishes.

from flashvsr_trt.runtime import Job, upscale_file
report = upscale_file(Job(source="in.mp4", output="out.mp4"))
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import OutOfMemory
from flashvsr_trt.runtime import pipeline, session
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.jobs import Job, Planned, open_job, plan
from flashvsr_trt.runtime.machine import peak_rss
from flashvsr_trt.runtime.progress import Meter, Status, look
from flashvsr_trt.runtime.session import Recorded, Scenes
from flashvsr_trt.runtime.shrink import smaller
from flashvsr_trt.runtime.upscaler import Options, Upscaler
from flashvsr_trt.runtime.video.frames import Frame, ReadStats
from flashvsr_trt.runtime.video.images import sync_file
from flashvsr_trt.runtime.video.output import publish
from flashvsr_trt.runtime.video.reader import Source
from flashvsr_trt.runtime.video.segments import SegmentWriter, join
from flashvsr_trt.runtime.video.writer import WriteResult, open_writer
from flashvsr_trt.runtime.work import Kept, Work


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done."""

    input: str
    output: str
    size: tuple[int, int]  # (width, height)
    bytes: int | None  # None: a pipe
    status: Status
    read: ReadStats
    peak_rss: int | None
    warnings: tuple[str, ...] = ()
    scene_cuts: tuple[int, ...] = ()  # first frames of new scenes, of those that this run has upscaled
    kept: Kept | None = None  # segments; None where nothing is kept
    settings: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        own = {"input": self.input, "output": self.output, "size": list(self.size), "bytes": self.bytes}
        state = self.status.as_dict()
        del state["left"], state["total"]
        more = {"source": asdict(self.read), "peak_rss": self.peak_rss, "warnings": self.warnings}
        return own | state | more | {"scene_cuts": self.scene_cuts, "resumed": self.status.resumed}


def upscale_file(
    job: Job,
    *,
    bundle: Path | str | None = None,
    backend: Backend | None = None,
    on_status: Callable[[Status], None] = lambda status: None,
    cancel: threading.Event | None = None,
) -> Report:
    """Upscales one input to one output.

    Args:
        job: what to do.
        bundle: a bundle folder; None takes the packaged one.
        backend: None takes the best one present.
        on_status: called after each frame.
        cancel: set it from elsewhere to stop within a step.

    Raises:
        FlashVSRError: see configs.errors. What is finished of a video is kept beside the output, and the same job goes
            on with it; nothing else stays.
    """
    opened, device = open_bundle(bundle), backend or open_backend()
    planned = plan(job, opened, device)
    return execute(planned, opened, device, on_status=on_status, cancel=cancel)


def execute(
    planned: Planned,
    bundle: Bundle,
    backend: Backend,
    *,
    on_status: Callable[[Status], None] = lambda status: None,
    cancel: threading.Event | None = None,
) -> Report:
    """Does what was planned, and closes the source.

    Raises:
        FlashVSRError: the first failure; finished segments are kept, and nothing else.
    """
    run = _Run(planned, bundle, backend, on_status, cancel)
    return run.kept() if planned.resumable else run.straight()


class _Run:
    """One job in progress."""

    def __init__(
        self,
        planned: Planned,
        bundle: Bundle,
        backend: Backend,
        on_status: Callable[[Status], None],
        cancel: threading.Event | None,
    ) -> None:
        self._planned, self._bundle, self._backend = planned, bundle, backend
        self._on_status, self._cancel = on_status, cancel
        self._meter = Meter(backend)

    def straight(self) -> Report:
        """Into a pipe or images: nothing is kept."""
        planned = self._planned
        with ExitStack() as stack:
            closing = stack.enter_context(ExitStack())
            closing.callback(planned.close)
            upscaler = self._upscaler(planned.options)
            writer = stack.enter_context(open_writer(planned.output))
            closing.pop_all()  # from here on the thread that reads the source closes it
            scenes = Scenes(planned.scene_cut)
            progress = self._pipeline(planned.source, upscaler, writer.write, scenes)
            began = time.perf_counter()
            result = writer.finish()  # encoders hold frames back until they are told that it was the last
            progress.seconds["encode"] += time.perf_counter() - began
        return self._report(result, progress, planned.source, scenes)

    def kept(self) -> Report:
        """In segments, going on with those that are there, with smaller and smaller plans where memory is short."""
        work = Work(self._planned.output.path)
        with ExitStack() as stack:
            stack.callback(self._planned.close)
            work.enter()
            kept: Kept | None = None
            try:
                kept = self._begin(work)
                return self._until_it_fits(work, kept)
            finally:
                work.leave(keep=kept is not None and bool(kept.segments))

    def _begin(self, work: Work) -> Kept:
        planned = self._planned
        # Read again: it may have changed before the folder was locked.
        kept = session.continued(work, "never" if planned.kept is None else "auto", planned.settings)
        if kept is not None and kept.size is not None and not work.part.exists():
            kept = None  # what it names has got its name and was overwritten on purpose
        work.clear(kept)
        if kept is None:
            kept = Kept(settings=planned.settings, plan=session.plan_of(planned.options))
        return kept

    def _until_it_fits(self, work: Work, kept: Kept) -> Report:
        options = self._planned.options
        may_tile = self._planned.job.auto_tile or options.tiling is not None
        source: Source | None = self._planned.source
        while True:
            try:
                return self._attempt(work, kept, options, source or open_job(self._planned.job))
            except (OutOfMemory, MemoryError) as error:
                next_plan = smaller(options, self._planned.canvas, tiles=may_tile)
                if next_plan is None:
                    if isinstance(error, OutOfMemory):
                        raise
                    raise OutOfMemory(f"out of host memory: {error}".rstrip(": "), todo="use a smaller size") from error
                before, (options, text) = options.tiling, next_plan
                told = f"{error.came if isinstance(error, OutOfMemory) else 'out of host memory'}: {text}"
            source = None
            gc.collect()  # the error's traceback has held the networks and their memory, in a circle
            LOG.warning("%s; going on at frame %d", told, kept.frames)
            kept.changes.append(f"from frame {kept.frames}: {text}")
            kept.plan = session.plan_of(options)
            if options.tiling != before:
                kept.scene = kept.frames  # the state of other tiles fits none of these: a new stream
                if kept.segments:
                    work.save(kept, {})
            work.clear(kept if kept.segments else None)

    def _attempt(self, work: Work, kept: Kept, options: Options, source: Source) -> Report:
        """From the last segment that is kept to the end."""
        planned = self._planned
        writer = SegmentWriter(planned.output, work.path, kept.segments, kept.timeline)
        recorded = Recorded(work, kept, writer, planned.segment, planned.scene_cut)
        with ExitStack() as stack:
            stack.callback(writer.abandon)
            closing = stack.enter_context(ExitStack())
            closing.callback(source.close)
            progress = pipeline.Progress(kept.frames)
            if not kept.finished:
                upscaler = self._upscaler(options)
                upscaler.load_state(work.arrays(kept))
                source.hidden = recorded.hidden
                closing.pop_all()  # from here on the thread that reads the source closes it
                progress = self._pipeline(source, upscaler, writer.write, recorded)
                began = time.perf_counter()
                recorded.complete()
                progress.seconds["encode"] += time.perf_counter() - began
        began = time.perf_counter()
        copied = join(planned.output, work.path, kept.segments, work.part)
        size = self._publish(work, kept)
        result = WriteResult(planned.output.path, kept.frames, size, copied.check())
        progress.seconds["join"] += time.perf_counter() - began
        return self._report(result, progress, source, recorded, kept)

    def _publish(self, work: Work, kept: Kept) -> int:
        """Gives the joined file its name; its bytes. The size is kept before: it tells of a run cut off here."""
        sync_file(work.part)
        kept.size = work.part.stat().st_size
        try:
            work.save(kept)
            size = publish(work.part, self._planned.output)
        except BaseException:
            kept.size = None
            raise
        work.finish()
        return size

    def _upscaler(self, options: Options) -> Upscaler:
        info = self._planned.info
        return Upscaler(self._bundle, self._backend, info.height, info.width, options)

    def _pipeline(self, source: Source, upscaler: Upscaler, write: pipeline.Write, scenes: Scenes) -> pipeline.Progress:
        total, meter = self._planned.frames_out, self._meter
        return pipeline.run(
            _frames(source),
            upscaler,
            write,
            on_progress=lambda progress: self._on_status(look(progress, total, meter)),
            cancel=self._cancel,
            session=scenes,
        )

    def _report(
        self, result: WriteResult, progress: pipeline.Progress, source: Source, scenes: Scenes, kept: Kept | None = None
    ) -> Report:
        planned = self._planned
        return Report(
            input=planned.job.source,
            output=result.path,
            size=planned.output.size,
            bytes=result.bytes,
            status=look(progress, planned.frames_out, self._meter),
            read=source.stats,
            peak_rss=peak_rss(),
            warnings=(*planned.output.warnings, *result.warnings),
            scene_cuts=tuple(scenes.found),
            kept=kept,
            settings=planned.settings,
            plan=session.plan_of(planned.options) if kept is None else kept.plan,
        )


def _frames(source: Source) -> Iterator[Frame]:
    with source:
        yield from source
