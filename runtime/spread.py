"""Several inputs on several devices, one on each at a time."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashvsr_trt.configs.errors import Cancelled, FlashVSRError
from flashvsr_trt.runtime.crew import Crew, Task
from flashvsr_trt.runtime.jobs import Job, Planned
from flashvsr_trt.runtime.progress import Gathered, Status
from flashvsr_trt.runtime.worker import WholeJob

if TYPE_CHECKING:
    from flashvsr_trt.runtime.batch import Batch, Item


class Spread:
    """Inputs of a batch. See `crew.Tasks` for the methods that the crew calls."""

    def __init__(self, batch: Batch, items: list[Item], crew: Crew) -> None:
        self._batch, self._crew = batch, crew
        self._waiting = deque(items)
        self._working: dict[str, tuple[Item, Planned]] = {}  # by source
        self._gathered = Gathered(None, len(crew))

    def run(self, cancel: threading.Event) -> None:
        """Does them all; one failure does not stop the rest."""
        batch, count = self._batch, len(self._waiting)
        batch.display.begin(f"{count} inputs", None)
        try:
            self._crew.run(self, cancel, batch.pause)
        except Cancelled:
            raise
        except FlashVSRError as error:  # no device is left
            for item in (*self._waiting, *(item for item, _ in self._working.values())):
                batch.failed(item, error)
        finally:
            batch.display.end()

    @property
    def open(self) -> bool:
        return bool(self._waiting)

    def next(self) -> Task | None:
        while self._waiting:
            item = self._waiting.popleft()
            try:
                planned = self._batch.begin(item)
            except Exception as error:  # as a batch on one device
                self._batch.failed(item, error)
                continue
            if planned is not None:
                planned.close()
                self._working[item.job.source] = (item, planned)
                return WholeJob(item.job)
        return None

    def seen(self, task: Task, status: Status) -> None:
        item, _ = self._working[_job(task).source]
        self._batch.show(Path(item.job.source).name, status)
        self._batch.display.update(self._gathered.update(item.job.source, status))

    def done(self, task: Task, result: Any) -> None:
        item, planned = self._working.pop(_job(task).source)
        self._batch.finished(item, result, planned.output.warnings)

    def failed(self, task: Task, error: FlashVSRError, *, alive: bool) -> bool:
        item, _ = self._working.pop(_job(task).source)
        self._batch.failed(item, error)
        return alive


def _job(task: Task) -> Job:
    assert isinstance(task, WholeJob)
    return task.job
