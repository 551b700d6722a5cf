"""One video on several devices: its parts are handed out in order, and what they give is joined in order."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import (
    BundleError,
    Cancelled,
    FlashVSRError,
    InputError,
    OutputExists,
    UsageError,
    WriteError,
)
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime import session
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.crew import Crew, Task
from flashvsr_trt.runtime.execution import Report, begin_work, finish_work
from flashvsr_trt.runtime.jobs import Planned
from flashvsr_trt.runtime.machine import peak_rss
from flashvsr_trt.runtime.parts import Part, find_parts
from flashvsr_trt.runtime.progress import Gathered, Status
from flashvsr_trt.runtime.session import Scenes
from flashvsr_trt.runtime.video.frames import Frame
from flashvsr_trt.runtime.video.timeline import EncoderClock
from flashvsr_trt.runtime.work import Kept, Work
from flashvsr_trt.runtime.worker import PartOfJob

# What is no fault of the device: no other one could do it.
_OF_ALL = (BundleError, Cancelled, InputError, OutputExists, UsageError, WriteError)
_SCAN_S = 3.0  # how long a stop waits for the look at the scenes


def check_split(planned: Planned) -> None:
    """Raises UsageError where several devices cannot share one video."""
    if not planned.resumable or planned.output.video is None:
        raise UsageError(
            f"{planned.output.path} is not made of segments, so several devices cannot share it",
            expected="a video file as output, and a file as input",
            todo="name one device with --device, or more inputs than devices",
        )
    if planned.scene_cut is None:
        raise UsageError(
            "several devices share one video at its scene cuts, and none are looked for",
            todo="drop --scene-cut off and --reference-count, or name one device with --device",
        )


class Split:
    """One video. See `crew.Tasks` for the methods that the crew calls.

    Args:
        planned: fully decided; see `check_split`.
        crew: who works.
        on_status: called after each frame of any device.
    """

    def __init__(self, planned: Planned, crew: Crew, on_status: Callable[[Status], None]) -> None:
        self._planned, self._crew, self._on_status = planned, crew, on_status
        self._work = Work(planned.output.path)
        self._scan = _Scan(planned)
        self._order: deque[Part] = deque()  # those that are not yet counted in
        self._again: deque[Part] = deque()  # those that a device could not do
        self._done: dict[int, Kept] = {}  # by first frame
        self._peak = 0

    def run(self, cancel: threading.Event, pause: Callable[[], None]) -> Report:
        """Upscales the video, going on with what is there.

        Raises:
            Cancelled: `cancel` was set; all that was finished is kept.
            FlashVSRError: no device could go on, or what none can help; likewise.
        """
        planned, work = self._planned, self._work
        kept: Kept | None = None
        work.enter()
        try:
            fresh = Kept(settings=planned.settings, plan=session.plan_of(planned.options))
            self._kept = kept = begin_work(work, planned, fresh, parts=True)
            self._gathered = Gathered(planned.frames_out, len(self._crew), kept.frames)
            if not kept.finished:
                self._fill(cancel, pause)
            began = time.perf_counter()
            result = finish_work(work, planned, kept)
            joined = time.perf_counter() - began
        finally:
            self._scan.stop()
            work.leave(keep=kept is not None and (kept.begun or any(part.begun for part in work.parts())))
        status = self._gathered.status
        return Report(
            input=planned.job.source,
            output=result.path,
            size=planned.output.size,
            bytes=result.bytes,
            status=replace(status, seconds={**status.seconds, "join": joined}),
            read=planned.source.stats,
            peak_rss=self._peak + (peak_rss() or 0),
            warnings=(*planned.output.warnings, *result.warnings),
            scene_cuts=tuple(self._scan.cuts),
            kept=kept,
            settings=planned.settings,
            plan=kept.plan,
        )

    def _fill(self, cancel: threading.Event, pause: Callable[[], None]) -> None:
        kept, before, began = self._kept, self._kept.elapsed, time.perf_counter()
        self._work.save(kept)  # it says with which settings the parts are made
        self._scan.start()
        self._crew.run(self, cancel, pause)
        kept.finished = True
        kept.elapsed = before + time.perf_counter() - began
        self._work.save(kept)

    @property
    def open(self) -> bool:
        return self._scan.open or bool(self._again)

    def next(self) -> Task | None:
        if self._again:
            return PartOfJob(self._planned, self._again.popleft())
        while (part := self._scan.next()) is not None:
            if part.end <= self._kept.next:
                continue
            if part.start < self._kept.next:
                part = self._rest(part)
            self._order.append(part)
            there = self._work.part(part.start).load()
            if there is None or there.next < part.end:
                return PartOfJob(self._planned, part)
            self._gathered.add_done(there.frames)
            self._count_in(part.start, there)
        return None

    def _rest(self, part: Part) -> Part:
        """The rest of a part whose beginning is counted in already: its state becomes that of a part of its own."""
        kept, first = self._kept, self._kept.next
        rest = Part(start=first, end=part.end, cuts=part.cuts, timeline=kept.timeline or part.timeline)
        folder = self._work.part(first)
        if kept.stream is not None and folder.load() is None:
            folder.path.mkdir(exist_ok=True)
            shutil.copyfile(self._work.path / kept.stream, folder.path / kept.stream)
            sync_file(folder.path / kept.stream)
            folder.save(
                Kept(
                    settings=kept.settings,
                    plan=kept.plan,
                    first=first,
                    scene=kept.scene,
                    stream=kept.stream,
                    timeline=kept.timeline,
                )
            )
        return rest

    def seen(self, task: Task, status: Status) -> None:
        self._on_status(self._gathered.update(_part(task).start, status))

    def done(self, task: Task, result: Any) -> None:
        part = _part(task)
        self._peak = max(self._peak, (result or 0) * len(self._crew))
        there = self._work.part(part.start).load()
        assert there is not None
        self._count_in(part.start, there)

    def failed(self, task: Task, error: FlashVSRError, *, alive: bool) -> bool:
        if isinstance(error, _OF_ALL):
            raise error
        part = _part(task)
        LOG.warning("%s; frames %d to %d are left to another device", error.came, part.start, part.end - 1)
        self._again.append(part)
        return False

    def _count_in(self, start: int, there: Kept) -> None:
        """Adds to what counts all parts that follow each other without a gap."""
        self._done[start] = there
        kept, before = self._kept, len(self._kept.segments)
        while self._order and self._order[0].start in self._done:
            part = self._order.popleft()
            there = self._done.pop(part.start)
            folder = self._work.part(part.start).path.name
            kept.segments += [replace(segment, name=str(Path(folder) / segment.name)) for segment in there.segments]
            kept.frames += there.frames
            kept.scene, kept.timeline = part.end, there.timeline
            kept.plan, kept.changes = there.plan, kept.changes + there.changes
        if len(kept.segments) > before:
            self._work.save(kept, {})  # a part ends where the networks forget everything


class _Scan:
    """Looks for the parts on a thread of its own, while they are worked on."""

    def __init__(self, planned: Planned) -> None:
        self._planned, self._scenes = planned, Scenes(planned.scene_cut)
        self._found: queue.Queue[Part] = queue.Queue()
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scan", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the look and closes the source."""
        self._stopped.set()
        if self._thread.ident is None:
            self._planned.close()
        else:
            self._thread.join(_SCAN_S)

    @property
    def cuts(self) -> list[int]:
        """First frames of the scenes that were found."""
        return self._scenes.found

    @property
    def open(self) -> bool:
        """Whether there may be more parts."""
        return not self._ended.is_set() or not self._found.empty()

    def next(self) -> Part | None:
        """The next part, if it is known by now; raises what reading the source has raised."""
        try:
            return self._found.get_nowait()
        except queue.Empty:
            if self._error is not None:
                raise self._error from None
            return None

    def _run(self) -> None:
        planned = self._planned
        assert planned.output.video is not None
        clock = EncoderClock(planned.output.video.encoder.time_base)
        try:
            with planned.source:
                for part in find_parts(self._scenes.scenes(self._frames()), planned.segment, clock):
                    self._found.put(part)
        except BaseException as error:  # raised by `next`
            self._error = error
        finally:
            self._ended.set()

    def _frames(self) -> Iterator[Frame]:
        for frame in self._planned.source:
            if self._stopped.is_set():
                return
            yield frame


def _part(task: Task) -> Part:
    assert isinstance(task, PartOfJob)
    return task.part
