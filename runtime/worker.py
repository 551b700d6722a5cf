"""A process that works for another one: whole jobs, or parts of one video. `crew` is its other side.

What it is told: a task, GO (an answer to each Seen: work pauses until it comes), STOP, END. It tells Ready once, then
Seen after each frame, and for each task Done or Failed; and what it logs. It ends at once when who started it is gone.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from flashvsr_trt.configs import errors
from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError, InputError
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import open_bundle
from flashvsr_trt.runtime.estimate import HOST_BACKENDS
from flashvsr_trt.runtime.execution import execute
from flashvsr_trt.runtime.failures import explain
from flashvsr_trt.runtime.filling import Filling, Watch
from flashvsr_trt.runtime.identity import Described
from flashvsr_trt.runtime.jobs import Job, Planned, open_job, plan
from flashvsr_trt.runtime.machine import peak_rss
from flashvsr_trt.runtime.parts import Part
from flashvsr_trt.runtime.progress import Status
from flashvsr_trt.runtime.scenes import Listed
from flashvsr_trt.runtime.video.frames import Frame
from flashvsr_trt.runtime.video.reader import Source
from flashvsr_trt.runtime.work import Work

GO, STOP, END = "go", "stop", "end"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is.

    Attributes:
        name: of its device, for people.
        open: opens the back end.
        gpu: the only GPU that it sees, as CUDA_VISIBLE_DEVICES names it; None: no GPU is meant.
        bundle: folder; None: the packaged one.
        sharing: workers that share the host's memory.
    """

    name: str
    open: Callable[[], Backend]
    gpu: str | None
    bundle: str | None
    sharing: int


@dataclass(frozen=True)
class WholeJob:
    """Upscale a whole input. The result is its Report."""

    job: Job


@dataclass(frozen=True)
class PartOfJob:
    """Upscale a part of a video into a folder of its own. The result is the largest resident size in bytes."""

    planned: Planned
    part: Part


@dataclass(frozen=True)
class Ready:
    device: Described


@dataclass(frozen=True)
class Seen:
    status: Status


@dataclass(frozen=True)
class Done:
    result: Any


@dataclass(frozen=True)
class Failed:
    """An error in parts, for exceptions with keywords do not travel."""

    kind: str
    came: str
    expected: str
    todo: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        known = explain(error)
        kind = next(base.__name__ for base in type(known).__mro__ if hasattr(errors, base.__name__))
        return cls(kind, known.came, known.expected, known.todo)

    def error(self) -> FlashVSRError:
        made: FlashVSRError = getattr(errors, self.kind)(self.came, expected=self.expected, todo=self.todo)
        return made


def main(connection: Connection, setup: Setup) -> None:
    """The process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all: who started us decides
        signal.signal(number, signal.SIG_IGN)
    if setup.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = setup.gpu
    _Worker(connection, setup).run()


class _Worker:
    def __init__(self, connection: Connection, setup: Setup) -> None:
        self._connection, self._setup = connection, setup
        self._sending = threading.Lock()
        self._tasks: queue.Queue[Any] = queue.Queue()
        self._go, self._cancel = threading.Semaphore(0), threading.Event()
        self._parts: _Parts | None = None

    def run(self) -> None:
        console.LOG.handlers = [_Telling(self._tell)]
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            backend = self._opened()
            self._tell(Ready(Described.of(backend, sharing=self._setup.sharing)))
        except BaseException as error:  # told to who started us, as all that follow
            self._tell(Failed.of(error))
            return
        while (task := self._tasks.get()) is not END:
            try:
                result = self._whole(task, backend) if isinstance(task, WholeJob) else self._part(task, backend)
                self._tell(Done(result))
            except BaseException as error:
                self._tell(Failed.of(error))

    def _opened(self) -> Backend:
        self._bundle = open_bundle(self._setup.bundle)
        backend = self._setup.open()
        if self._setup.gpu is not None and backend.name in HOST_BACKENDS:
            raise BackendUnavailable(
                f"--devices names GPU {self._setup.gpu}, and no back end can use it",
                todo="`flashvsr-trt doctor` says why; --devices cpu uses the processor",
            )
        return backend

    def _listen(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(errors.Cancelled.exit_code)  # nobody is left to work for; what is closed is on the disk
            if message in (GO, STOP):
                if message == STOP:
                    self._cancel.set()
                self._go.release()
                continue
            if message != END:
                self._cancel.clear()
            self._tasks.put(END if message == END else message)

    def _tell(self, message: object) -> None:
        with self._sending:
            self._connection.send(message)

    def _seen(self, status: Status) -> None:
        self._tell(Seen(status))
        self._go.acquire()

    def _whole(self, task: WholeJob, backend: Backend) -> object:
        planned = plan(task.job, self._bundle, Described.of(backend, sharing=self._setup.sharing))
        return execute(planned, self._bundle, backend, on_status=self._seen, cancel=self._cancel)

    def _part(self, task: PartOfJob, backend: Backend) -> int | None:
        if self._parts is None or self._parts.output != task.planned.output.path:
            watch = Watch(backend=backend, total=None, cancel=self._cancel)
            filling = Filling(task.planned, self._bundle, backend, watch)
            self._parts = _Parts(task.planned, filling, watch)
        self._parts.fill(task.part, self._seen)
        return peak_rss()


class _Parts:
    """Parts of one video, one after the other: the networks stay, and the source is read on where it can be."""

    def __init__(self, planned: Planned, filling: Filling, watch: Watch) -> None:
        self._planned, self._filling, self._watch = planned, filling, watch
        self.output = planned.output.path
        self._source: Source | None = None
        self._at = 0

    def fill(self, part: Part, seen: Callable[[Status], None]) -> None:
        """Upscales a part, or what is left of it.

        Raises:
            InputError: the source has other frames than before.
        """
        work = Work(self.output, part.start)
        work.enter()
        kept = work.load()
        try:
            if kept is None:
                kept = self._filling.begun(part.start, part.timeline)
            self._filling.go_on(kept)
            work.clear(kept if kept.begun else None)
            self._watch.on_status = lambda status: seen(_since(status, part.start))
            self._filling.fill(work, kept, Listed(part.cuts), lambda begin: self._frames(begin, part.end))
            if kept.next != part.end:
                raise InputError(
                    f"{self._planned.job.source} ends at frame {kept.next}; it had more before",
                    todo="wait until it is complete, then run the same command with --restart",
                )
        finally:
            work.leave(keep=kept is not None and kept.begun)

    def _frames(self, begin: int, end: int) -> Iterator[Frame]:
        if self._source is None or begin < self._at:
            self._source, self._at = open_job(self._planned.job), 0
            self._iterator = iter(self._source)
        self._source.hidden = begin
        while self._at < end and (frame := next(self._iterator, None)) is not None:
            self._at = frame.timing.index + 1
            yield frame


def _since(status: Status, start: int) -> Status:
    """Counted from the part's first frame."""
    return replace(
        status,
        frames=status.frames - start,
        read=status.read - start,
        upscaled=status.upscaled - start,
        resumed=status.resumed - start,
    )


class _Telling(logging.Handler):
    """Hands what is logged to who started us."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(logging.LogRecord(record.name, record.levelno, "", 0, record.getMessage(), None, None))
