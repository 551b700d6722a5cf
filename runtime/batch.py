"""One or many inputs, one after the other or on several devices: what exists, what fails, what is skipped."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from flashvsr_trt.configs.errors import BatchFailed, Cancelled, FlashVSRError, OutputExists, UsageError
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.crew import Crew
from flashvsr_trt.runtime.execution import Report, execute
from flashvsr_trt.runtime.failures import explain, report
from flashvsr_trt.runtime.identity import Described
from flashvsr_trt.runtime.inputs import Inputs, output_folder
from flashvsr_trt.runtime.jobs import AlreadyDone, Job, Planned, plan
from flashvsr_trt.runtime.progress import Display, JsonLines, Status, clock
from flashvsr_trt.runtime.split import Split, check_split
from flashvsr_trt.runtime.spread import Spread
from flashvsr_trt.runtime.talk import plan_event, say_plan, say_report
from flashvsr_trt.runtime.video.plan import STDOUT
from flashvsr_trt.runtime.work import Work


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
        device: where to run them. A crew shares the inputs, or each input where there are fewer than devices.
        skip: an input whose output exists is left out.
        dry_run: say what would be done and stop.
        pause: called after each frame; returns when work may go on.
        temporaries: what is half-written at the moment and can be of no use.
        works: the work folders of all that was begun.
        reports: what was done, for each input that is done.
    """

    bundle: Bundle
    device: Backend | Crew
    display: Display
    events: JsonLines | None = None
    skip: bool = False
    dry_run: bool = False
    pause: Callable[[], None] = lambda: None
    temporaries: list[Path] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
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
        self._described = self._describe(len(jobs))
        with output_folder(jobs[0], inputs, output, keep=not self.dry_run) as into:
            items = [Item(replace(job, output=output, into_folder=into)) for job in jobs]
            if not inputs.many:
                self._one(items[0], cancel)
                return
            self._survey(items)
            waiting = [item for item in items if item.state == "waiting"]
            if isinstance(self.device, Crew) and not self._described.splits and not self.dry_run:
                Spread(self, waiting, self.device).run(cancel)
            else:
                for item in waiting:
                    self._guarded(item, cancel)
        self._sum_up(items)

    def _describe(self, jobs: int) -> Described:
        if isinstance(self.device, Crew):
            return self.device.described(splits=jobs < max(2, len(self.device)))
        return Described.of(self.device)

    def _plan(self, item: Item) -> Planned:
        planned = plan(item.job, self.bundle, self._described)
        try:
            if self._described.splits:
                check_split(planned)
        except FlashVSRError:
            planned.close()
            raise
        return planned

    def _one(self, item: Item, cancel: threading.Event) -> None:
        planned = self.begin(item)
        if planned is not None:
            self.finished(item, self._execute(planned, cancel), planned.output.warnings)

    def begin(self, item: Item) -> Planned | None:
        """Plans an input and tells the plan; None where nothing is to be done."""
        try:
            planned = self._plan(item)
        except AlreadyDone as earlier:
            item.state, item.note = "done", earlier.came
            LOG.info("%s", earlier.came)
            return None
        except OutputExists as error:
            if not self.skip:
                raise
            self._skipped(item, error)
            return None
        item.output = planned.output.path
        say_plan(planned)
        if self.events:
            self.events.event("plan", **plan_event(planned))
        if self.dry_run:
            planned.close()
            item.state = "done"
            return None
        if planned.resumable:
            self.works.append(Work(item.output))
        elif item.output != STDOUT:
            self.temporaries.append(planned.output.temporary)
        return planned

    def _execute(self, planned: Planned, cancel: threading.Event) -> Report:
        name = Path(planned.info.path).name

        def show(status: Status) -> None:
            self.show(name, status)
            self.display.update(status)

        def show_and_pause(status: Status) -> None:
            show(status)
            self.pause()

        self.display.begin(name, planned.frames_out)
        try:
            if isinstance(self.device, Crew):
                return Split(planned, self.device, show).run(cancel, self.pause)
            return execute(planned, self.bundle, self.device, on_status=show_and_pause, cancel=cancel)
        finally:
            self.display.end()
            self.temporaries.clear()

    def show(self, name: str, status: Status) -> None:
        """Tells a machine how far an input is."""
        if self.events:
            self.events.progress(name, status)

    def finished(self, item: Item, done: Report, said: tuple[str, ...]) -> None:
        """An input is done; `said`: warnings that were told already."""
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
            self.failed(item, error)

    def failed(self, item: Item, error: Exception) -> None:
        """An input has failed; the others go on."""
        item.state, item.note, item.error = "failed", explain(error).came, error
        report(error)
        if self.events:
            known = explain(error)
            self.events.event(
                "failed", input=item.job.source, came=known.came, expected=known.expected, todo=known.todo
            )

    def clear_up(self) -> None:
        """Removes what is half-written and of no use, where the process ends without asking the work."""
        if isinstance(self.device, Crew):
            self.device.kill()
        for temporary in self.temporaries:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)
        for work in self.works:
            if not frames_kept(work):
                shutil.rmtree(work.path, ignore_errors=True)

    def _survey(self, items: list[Item]) -> None:
        """Plans everything once: what cannot work is known before the first frame.

        Raises:
            OutputExists: outputs exist, and neither -y nor -n says what to do.
            UsageError: two inputs have one output, or the flags fit no input.
        """
        existing = []
        for item in items:
            try:
                planned = self._plan(item)
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
                self.failed(item, item.error)

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


def frames_kept(work: Work) -> int:
    """Frames that a stopped run has left, as far as can be told."""
    try:
        return work.frames()
    except FlashVSRError:
        return 0
