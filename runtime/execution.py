"""Does what was planned: upscales, keeps the work in segments, goes on with smaller plans, finishes.

from flashvsr_trt.runtime import Job, upscale_file
report = upscale_file(Job(source="in.mp4", output="out.mp4"))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import WriteError
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime import pipeline, session
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.filling import Filling, Watch
from flashvsr_trt.runtime.identity import Described
from flashvsr_trt.runtime.jobs import Job, Planned, open_job, plan
from flashvsr_trt.runtime.machine import peak_rss
from flashvsr_trt.runtime.progress import Status
from flashvsr_trt.runtime.session import Scenes
from flashvsr_trt.runtime.upscaler import Upscaler
from flashvsr_trt.runtime.video.frames import Frame, ReadStats
from flashvsr_trt.runtime.video.output import Copied, publish
from flashvsr_trt.runtime.video.reader import Source
from flashvsr_trt.runtime.video.segments import join
from flashvsr_trt.runtime.video.stills import folder_bytes, publish_folder
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
    planned = plan(job, opened, Described.of(device))
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
    watch = Watch(backend=backend, total=planned.frames_out, on_status=on_status, cancel=cancel)
    return (_in_segments if planned.resumable else _straight)(planned, bundle, backend, watch)


def _straight(planned: Planned, bundle: Bundle, backend: Backend, watch: Watch) -> Report:
    """Into a pipe or images: nothing is kept."""
    info = planned.info
    with ExitStack() as stack:
        closing = stack.enter_context(ExitStack())
        closing.callback(planned.close)
        upscaler = Upscaler(bundle, backend, info.height, info.width, planned.options)
        writer = stack.enter_context(open_writer(planned.output))
        closing.pop_all()  # from here on the thread that reads the source closes it
        scenes = Scenes(planned.scene_cut)
        progress = watch.run(_frames(planned.source), upscaler, writer.write, scenes)
        began = time.perf_counter()
        result = writer.finish()  # encoders hold frames back until they are told that it was the last
        progress.seconds["encode"] += time.perf_counter() - began
    return _report(planned, result, watch.look(progress), planned.source, scenes)


def _in_segments(planned: Planned, bundle: Bundle, backend: Backend, watch: Watch) -> Report:
    """Going on with the segments that are there, with smaller and smaller plans where memory is short."""
    work = Work(planned.output.path)
    source, opened = planned.source, False

    def frames(begin: int) -> Iterator[Frame]:
        nonlocal source, opened
        if opened:
            source = open_job(planned.job)
        opened, source.hidden = True, begin
        return _frames(source)

    with ExitStack() as stack:
        stack.callback(lambda: None if opened else source.close())  # else the thread that reads it does
        work.enter()
        kept: Kept | None = None
        try:
            filling = Filling(planned, bundle, backend, watch)
            kept = begin_work(work, planned, filling.begun())
            progress, scenes = pipeline.Progress(kept.frames), Scenes(None)
            if not kept.finished:
                progress, scenes = filling.fill(work, kept, planned.scene_cut, frames)
            began = time.perf_counter()
            result = finish_work(work, planned, kept)
            progress.seconds["join"] += time.perf_counter() - began
        finally:
            work.leave(keep=kept is not None and kept.begun)
    return _report(planned, result, watch.look(progress), source, scenes, kept)


def begin_work(work: Work, planned: Planned, fresh: Kept, *, parts: bool = False) -> Kept:
    """What there is to go on with in a folder that was entered, else `fresh`; removes all other files from it.

    Args:
        work: entered.
        planned: the job; it has looked before the folder was entered, and the folder may have changed since.
        fresh: what there is before the first frame.
        parts: keep the parts of a run on several devices.
    """
    kept = session.continued(work, "never" if planned.kept is None else "auto", planned.settings)
    if kept is not None and kept.size is not None and not work.joined.exists():
        kept = None  # what it names has got its name and was overwritten on purpose
    work.clear(kept, parts=parts and kept is not None)
    return fresh if kept is None else kept


def finish_work(work: Work, planned: Planned, kept: Kept) -> WriteResult:
    """Joins the segments and gives the output its name. Its size is kept before: it tells of a run cut off here."""
    output, images = planned.output, planned.output.kind == "images"
    copied = Copied(output.path) if images else join(output, work.path, kept.segments, work.joined)
    if not images:
        sync_file(work.joined)
    kept.size = size = folder_bytes(work.joined) if images else work.joined.stat().st_size
    try:
        work.save(kept)
        (publish_folder if images else publish)(work.joined, output)
    except BaseException as error:
        kept.size = None
        if isinstance(error, OSError):
            what = f"all is done, but {output.path} could not be given its name: {error.strerror or error}"
            raise WriteError(what, todo="remove what is in the way, then run the same command again") from error
        raise
    work.finish()
    return WriteResult(output.path, kept.frames, size, copied.check())


def _report(
    planned: Planned, result: WriteResult, status: Status, source: Source, scenes: Scenes, kept: Kept | None = None
) -> Report:
    return Report(
        input=planned.job.source,
        output=result.path,
        size=planned.output.size,
        bytes=result.bytes,
        status=status,
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
