"""One or many inputs, one after the other: what exists, what fails, what is skipped."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from flashvsr_trt.configs.errors import BatchFailed, Cancelled, InputError, OutputExists, UsageError
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.execution import Report, execute
from flashvsr_trt.runtime.failures import explain, report
from flashvsr_trt.runtime.jobs import AlreadyDone, Job, Planned, plan
from flashvsr_trt.runtime.progress import Display, JsonLines, Status, clock
from flashvsr_trt.runtime.talk import plan_event, say_plan, say_report
from flashvsr_trt.runtime.video.images import IMAGE_SUFFIXES, natural_key
from flashvsr_trt.runtime.video.options import CONTAINERS
from flashvsr_trt.runtime.video.plan import STDOUT
from flashvsr_trt.runtime.work import Work

# What a folder is searched for; a file named by itself may be anything that FFmpeg reads.
VIDEO_SUFFIXES = frozenset({*CONTAINERS, ".wmv", ".mxf", ".ogv", ".vob", ".asf", ".gif", ".dv"})
_OWN = "_flashvsr_"


@dataclass(frozen=True)
class Inputs:
    """What to upscale. `many` where a folder of videos or more than one input was named, even if one is left."""

    sources: list[str]
    many: bool


def gather(names: list[str]) -> Inputs:
    """The inputs that the arguments stand for; a folder of videos stands for all of them.

    Raises:
        InputError: a folder with both images and videos.
        UsageError: an input twice, or stdin among others.
    """
    sources: list[str] = []
    for name in names:
        sources += _videos_of(Path(name)) or [name]
    if len(set(sources)) < len(sources):
        twice = next(name for name in sources if sources.count(name) > 1)
        raise UsageError(f"{twice} is named twice", todo="name each input once")
    if "-" in sources and len(sources) > 1:
        raise UsageError("stdin cannot be one input among others", todo="give - alone")
    return Inputs(sources, len(names) > 1 or sources != names)


def _videos_of(folder: Path) -> list[str]:
    """The videos of a folder without images; empty for anything else."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if videos and images:
        raise InputError(
            f"{folder} holds {len(images)} images and {len(videos)} videos",
            expected="a folder of images (one video), or a folder of videos",
            todo=f"name the videos themselves, e.g. {folder}/*{videos[0].suffix}",
        )
    fresh = [path for path in videos if _OWN not in path.name]
    if len(fresh) < len(videos):
        LOG.info("%s: %d outputs of earlier runs (*%s*) are no inputs", folder, len(videos) - len(fresh), _OWN)
    if videos and not fresh:
        raise InputError(f"{folder} holds only outputs of earlier runs", todo="name one of them to upscale it again")
    return [str(path) for path in sorted(fresh, key=lambda path: natural_key(path.name))]


@dataclass
class Item:
    """One input of a batch and what became of it."""

    job: Job
    state: str = "waiting"  # waiting, done, skipped, failed
    note: str = ""
    output: str = ""
    error: BaseException | None = None


@dataclass(kw_only=True)
class Batch:
    """Runs jobs.

    Attributes:
        skip: an input whose output exists is left out.
        dry_run: say what would be done and stop.
        pause: called after each frame; returns when work may go on.
        temporary: what is half-written at the moment and can be of no use.
        work: the work folder of the moment, or of the last input.
        reports: what was done, for each input that is done.
    """

    bundle: Bundle
    backend: Backend
    display: Display
    events: JsonLines | None = None
    skip: bool = False
    dry_run: bool = False
    pause: Callable[[], None] = lambda: None
    temporary: Path | None = None
    work: Work | None = None
    reports: list[Report] = field(default_factory=list)

    def run(self, jobs: list[Job], inputs: Inputs, output: str | None, cancel: threading.Event) -> None:
        """Runs them all.

        Args:
            jobs: one an input, without an output.
            inputs: as gathered.
            output: what -o says.
            cancel: stops within a step.

        Raises:
            BatchFailed: some of several failed.
            FlashVSRError: the only one failed, or none can be begun.
        """
        with _output_folder(jobs[0], inputs, output, keep=not self.dry_run) as into:
            items = [Item(replace(job, output=output, into_folder=into)) for job in jobs]
            if not inputs.many:
                self._one(items[0], cancel)
                return
            self._survey(items)
            for item in items:
                if item.state == "waiting":
                    self._guarded(item, cancel)
        self._sum_up(items)

    def _one(self, item: Item, cancel: threading.Event) -> None:
        try:
            planned = plan(item.job, self.bundle, self.backend)
        except AlreadyDone as earlier:
            item.state, item.note = "done", earlier.came
            LOG.info("%s", earlier.came)
            return
        except OutputExists as error:
            if not self.skip:
                raise
            self._skipped(item, error)
            return
        item.output = planned.output.path
        say_plan(planned)
        if self.events:
            self.events.event("plan", **plan_event(planned))
        if self.dry_run:
            planned.close()
            item.state = "done"
            return
        done = self._execute(planned, cancel)
        self._finished(item, done, planned.output.warnings)

    def _execute(self, planned: Planned, cancel: threading.Event) -> Report:
        path = planned.output.path
        self.work = Work(path) if planned.resumable else None
        self.temporary = None if path == STDOUT or planned.resumable else planned.output.temporary
        self.display.begin(Path(planned.info.path).name, planned.frames_out)
        try:
            return execute(planned, self.bundle, self.backend, on_status=self._status, cancel=cancel)
        finally:
            self.display.end()
            self.temporary = None

    def _status(self, status: Status) -> None:
        self.display.update(status)
        self.pause()

    def _finished(self, item: Item, done: Report, said: tuple[str, ...]) -> None:
        item.state, item.note = "done", clock(done.status.elapsed)
        self.reports.append(done)
        say_report(done, said)
        if self.events:
            self.events.event("done", **done.as_dict())

    def _skipped(self, item: Item, error: OutputExists) -> None:
        item.state, item.note = "skipped", error.came
        LOG.info("skipped %s: %s", item.job.source, error.came)
        if self.events:
            self.events.event("skipped", input=item.job.source, reason=error.came)

    def _guarded(self, item: Item, cancel: threading.Event) -> None:
        try:
            self._one(item, cancel)
        except (Cancelled, KeyboardInterrupt):
            raise
        except Exception as error:  # one failure does not stop the rest
            self._failed(item, error)

    def _failed(self, item: Item, error: Exception) -> None:
        item.state, item.note, item.error = "failed", explain(error).came, error
        report(error)
        if self.events:
            known = explain(error)
            self.events.event(
                "failed", input=item.job.source, came=known.came, expected=known.expected, todo=known.todo
            )

    def _survey(self, items: list[Item]) -> None:
        """Plans everything once: what cannot work is known before the first frame.

        Raises:
            OutputExists: outputs exist, and neither -y nor -n says what to do.
            UsageError: two inputs have one output, or the flags fit no input.
        """
        existing = []
        for item in items:
            try:
                planned = plan(item.job, self.bundle, self.backend)
            except AlreadyDone as earlier:
                item.state, item.note = "done", earlier.came
            except OutputExists as error:
                existing.append(error.came)
                if self.skip:
                    self._skipped(item, error)
            except Exception as error:  # told as this input's failure, below
                item.error = error
            else:
                planned.close()
                item.output = planned.output.path
        _check_collisions(items)
        if existing and not self.skip:
            more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
            raise OutputExists(
                "; ".join(existing[:3]) + more, todo="-n skips inputs whose output exists, -y overwrites it"
            )
        broken = [item.error for item in items if item.error is not None]
        if len(broken) == len(items) and all(isinstance(error, UsageError) for error in broken):
            raise broken[0]  # not the inputs' fault
        for item in items:
            if isinstance(item.error, Exception):
                self._failed(item, item.error)

    def _sum_up(self, items: list[Item]) -> None:
        counts = {state: sum(item.state == state for item in items) for state in ("done", "skipped", "failed")}
        LOG.info("%d inputs: %s", len(items), ", ".join(f"{count} {state}" for state, count in counts.items()))
        width = max(len(item.job.source) for item in items)
        for item in items:
            LOG.info("  %-8s %-*s  %s", item.state, width, item.job.source, item.note)
        if self.events:
            self.events.event("summary", **counts)
        if counts["failed"]:
            names = [item.job.source for item in items if item.state == "failed"]
            raise BatchFailed(
                f"{len(names)} of {len(items)} inputs failed: {', '.join(names[:5])}{' ...' if names[5:] else ''}",
                todo="run them again with -n once the causes above are gone: what is done is skipped",
            )


def _check_collisions(items: list[Item]) -> None:
    seen: dict[str, str] = {}
    for item in items:
        if not item.output:
            continue
        place = os.path.abspath(item.output)
        if place in seen:
            raise UsageError(
                f"{seen[place]} and {item.job.source} would both be written to {item.output}",
                todo="upscale them into folders of their own",
            )
        seen[place] = item.job.source


@contextmanager
def _output_folder(job: Job, inputs: Inputs, output: str | None, *, keep: bool) -> Iterator[bool]:
    """Whether -o is the folder that default names go to; makes it, and takes it away again if nothing came of it."""
    if output is None or output == STDOUT:
        if inputs.many and output == STDOUT:
            raise UsageError("several inputs cannot share stdout", todo="give -o a folder")
        yield False
        return
    frames = job.video.png or (Path(job.source).is_dir() and not Path(output).suffix)
    into = inputs.many or ((output.endswith(("/", os.sep)) or Path(output).is_dir()) and not frames)
    made: list[Path] = []
    if into:
        made = _make_folder(Path(output))
    try:
        yield into
    finally:
        for folder in made:
            if not keep or not any(folder.iterdir()):
                folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Makes it with its parents; what was made, the deepest first."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, several outputs need a folder", todo="name a folder with -o")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}", todo="choose another") from error
    return missing
