"""Worker processes, one for each device: started, given tasks, listened to, stopped."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

from flashvsr_trt.configs.errors import BackendUnavailable, Cancelled, FlashVSRError, UsageError
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.identity import Described
from flashvsr_trt.runtime.machine import cores
from flashvsr_trt.runtime.progress import Status
from flashvsr_trt.runtime.worker import END, GO, STOP, Done, Failed, PartOfJob, Ready, Seen, Setup, WholeJob, main

START = "spawn"  # a forked process cannot use a GPU that its parent has touched
CPU = "cpu"
_POLL_S = 0.2
_END_S = 10.0  # for a process to end by itself
Open = Callable[..., Backend]  # (device, threads=...) -> back end
Task = WholeJob | PartOfJob


class Tasks(Protocol):
    """Where a crew gets its work from, and whom it tells what became of it."""

    def next(self) -> Task | None:
        """The next task; None where there is none at the moment."""

    @property
    def open(self) -> bool:
        """Whether there may be more."""

    def seen(self, task: Task, status: Status) -> None: ...
    def done(self, task: Task, result: Any) -> None: ...

    def failed(self, task: Task, error: FlashVSRError, *, alive: bool) -> bool:
        """Whether the worker is to be given more. `alive`: whether its process is. Raises to end everything."""


class Worker:
    """A process and what it does."""

    def __init__(self, setup: Setup, events: queue.Queue[tuple[Worker, Any]]) -> None:
        context: Any = multiprocessing.get_context(START)
        self.name = setup.name
        self.task: Task | None = None
        ours, theirs = context.Pipe()
        self._connection: Connection = ours
        self.process = context.Process(target=main, args=(theirs, setup), name=f"worker {setup.name}", daemon=True)
        with _deaf():
            self.process.start()
        theirs.close()
        threading.Thread(target=self._listen, args=(events,), name=f"listener {setup.name}", daemon=True).start()

    def _listen(self, events: queue.Queue[tuple[Worker, Any]]) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                return events.put((self, None))
            events.put((self, message))

    def send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError:
            return  # it has ended: the listener tells

    def death(self) -> FlashVSRError:
        """The error for a process that is gone."""
        self.process.join(_END_S)
        code = self.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = "it may have been stopped for its memory" if code == -9 else "--log-level debug tells more"
        return FlashVSRError(f"the process of device {self.name} has died ({how})", todo=f"{hint}; run it again")


class Crew:
    """Workers on the devices of `--devices`. A context manager: leaving it ends them.

    Args:
        devices: see `parse_devices`.
        open_backend: opens a device: (name, threads=...).
        device: the kind of back end for GPUs, as of --device.
        threads: CPU threads of all together; None: all cores.
        bundle: folder; None: the packaged one.

    Raises:
        BackendUnavailable: a device cannot be used.
    """

    def __init__(
        self, devices: list[str], open_backend: Open, *, device: str, threads: int | None, bundle: str | None
    ) -> None:
        self._events: queue.Queue[tuple[Worker, Any]] = queue.Queue()
        each = threads if len(devices) == 1 else max(1, (threads or cores()) // len(devices))
        names = [f"{name}#{devices[:place].count(name)}" if devices.count(name) > 1 else name
                 for place, name in enumerate(devices)]  # fmt: skip
        setups = [
            Setup(
                name=name,
                open=partial(open_backend, CPU if what == CPU else device, threads=each),
                gpu=None if what == CPU else _visible(what),
                bundle=bundle,
                sharing=len(devices),
            )
            for what, name in zip(devices, names, strict=True)
        ]
        self._workers = [Worker(setup, self._events) for setup in setups]
        try:
            self._described = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def _wait_until_ready(self) -> dict[str, Described]:
        ready: dict[str, Described] = {}
        while len(ready) < len(self._workers):
            worker, message = self._events.get()
            if isinstance(message, logging.LogRecord):
                _say(worker, message)
            elif isinstance(message, Ready):
                ready[worker.name] = message.device
            else:
                raise message.error() if isinstance(message, Failed) else worker.death()
        return ready

    def __len__(self) -> int:
        return len(self._workers)

    def describe(self) -> str:
        return "; ".join(
            f"{worker.name}: {self._described[worker.name].identity['back end']}" for worker in self._workers
        )

    def described(self, *, splits: bool) -> Described:
        """All workers as one device. `splits`: they will work on one video together."""
        each = [self._described[worker.name] for worker in self._workers]
        keys = sorted({key for one in each for key in one.identity})
        identity = {key: " and ".join(sorted({one.identity.get(key, "none") for one in each})) for key in keys}
        cards = [one.card for one in each if one.card is not None]
        smallest = min(cards, key=lambda card: card.tier.budget, default=None)  # what fits there fits all
        return Described(name=each[0].name, identity=identity, card=smallest, sharing=len(each), splits=splits)

    def run(self, tasks: Tasks, cancel: threading.Event, pause: Callable[[], None]) -> None:
        """Hands out tasks until there are none.

        Args:
            tasks: where they come from.
            cancel: set by somebody else to stop within a step.
            pause: called after each frame; returns when work may go on.

        Raises:
            Cancelled: `cancel` was set; all workers have kept their work.
            FlashVSRError: what `tasks` raises, or no worker is left.
        """
        try:
            while not cancel.is_set():
                if not self._workers:
                    raise BackendUnavailable("all devices of --devices have failed", todo="run the same command again")
                for worker in self._workers:
                    if worker.task is None and (task := tasks.next()) is not None:
                        worker.task = task
                        worker.send(task)
                if not self._busy and not tasks.open:
                    return
                self._hear(tasks, pause)
            raise Cancelled("stopped")
        finally:
            self._settle(tasks)

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _hear(self, tasks: Tasks, pause: Callable[[], None]) -> None:
        try:
            worker, message = self._events.get(timeout=_POLL_S)
        except queue.Empty:
            return
        if isinstance(message, logging.LogRecord):
            _say(worker, message)
        elif isinstance(message, Seen):
            if worker.task is not None:
                tasks.seen(worker.task, message.status)
            pause()
            worker.send(GO)
        else:
            self._ended(worker, message, tasks)

    def _ended(self, worker: Worker, message: Done | Failed | None, tasks: Tasks) -> None:
        """A worker has ended its task, or itself (None)."""
        if worker not in self._workers:
            return  # it was told to end
        task, worker.task = worker.task, None
        if isinstance(message, Done):
            tasks.done(task, message.result)  # type: ignore[arg-type]
            return
        error = worker.death() if message is None else message.error()
        goes_on = task is None or tasks.failed(task, error, alive=message is not None)
        if message is None or not goes_on:
            self._workers.remove(worker)
            worker.send(END)
        if not self._workers:
            raise error

    def _settle(self, tasks: Tasks) -> None:
        """Stops those that still work, and waits until they have kept it."""
        for worker in self._busy:
            worker.send(STOP)
        while self._busy:
            worker, message = self._events.get()
            if isinstance(message, logging.LogRecord):
                _say(worker, message)
            elif isinstance(message, Seen):
                worker.send(GO)
            elif message is None and worker in self._workers:
                self._workers.remove(worker)
            elif isinstance(message, Done):
                tasks.done(worker.task, message.result)  # type: ignore[arg-type]
                worker.task = None
            elif isinstance(message, Failed):
                worker.task = None

    def kill(self) -> None:
        """Ends all processes at once."""
        for worker in self._workers:
            worker.process.kill()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.send(END)
        for worker in self._workers:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C from their first moment on, not only when Python is up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread have handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say(worker: Worker, record: logging.LogRecord) -> None:
    record.msg = f"[{worker.name}] {record.msg}"
    console.LOG.handle(record)


def parse_devices(text: str) -> list[str]:
    """`--devices`: GPU numbers and "cpu", one worker process for each.

    Raises:
        UsageError: it names anything else, or nothing.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(name == CPU or (name.isascii() and name.isdigit()) for name in names):
        raise UsageError(f"--devices {text!r}", expected="GPU numbers or cpu, separated by commas, e.g. 0,1 or cpu,cpu")
    return names


def _visible(number: str) -> str:
    """The GPU as CUDA_VISIBLE_DEVICES names it: it may have been set before, and numbers count in it then."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return number
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if int(number) >= len(names):
        raise UsageError(
            f"--devices names GPU {number}, and CUDA_VISIBLE_DEVICES shows {len(names)}",
            expected=f"numbers below {len(names)}" if names else "cpu",
        )
    return names[int(number)]
