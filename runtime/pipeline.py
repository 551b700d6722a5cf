"""Decode, upscale and encode at the same time, on three threads with bounded queues between them.

    reader thread: decode, bicubic to the canvas   -> queue ->
    calling thread: networks                       -> queue ->
    writer thread: encode, mux

Nothing grows with the length of the video: the queues are bounded, the networks hold a fixed state.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashvsr_trt.configs.errors import Cancelled
from flashvsr_trt.configs.schedule import STEP
from flashvsr_trt.runtime.threads import READER
from flashvsr_trt.runtime.upscaler import Upscaler
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming

QUEUED_FRAMES = 2 * STEP  # a step's frames on each side: one being worked on, one ready
_POLL_S = 0.2  # how long a blocked queue waits before it looks whether the other side has failed
_READER_S = 3.0  # how long a stop waits for a reader that may be blocked on its input
_END = None

Write = Callable[[np.ndarray, FrameTiming], None]


@dataclass(kw_only=True)
class Progress:
    """What has happened so far; the same object is updated and handed to the callback."""

    frames_in: int = 0
    frames_upscaled: int = 0
    frames_out: int = 0
    started: float = field(default_factory=time.perf_counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Busy seconds by stage (decode, resize, upscale, encode) and waiting seconds of the calling thread
    (wait_input, wait_output). Stages overlap: their sum may exceed the elapsed time."""

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def fps(self) -> float:
        return self.frames_out / self.elapsed if self.frames_out else 0.0


class _Shared:
    """What the three threads share: the first failure, and the wish to stop."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel, self._failed = cancel, threading.Event()
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self._failed.set()

    @property
    def stopped(self) -> bool:
        return self._failed.is_set() or self._cancel.is_set()

    def put(self, target: queue.Queue[Any], item: Any) -> None:
        while True:
            self._check()
            try:
                return target.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

    def get(self, source: queue.Queue[Any]) -> Any:
        while True:
            self._check()
            try:
                return source.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def _check(self) -> None:
        if self.stopped:
            raise _Stopped


class _Stopped(Exception):
    """Another thread failed, or the user cancelled: leave quietly."""


def run(
    frames: Iterable[Frame],
    upscaler: Upscaler,
    write: Write,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cancel: threading.Event | None = None,
) -> Progress:
    """Upscales a whole stream.

    Args:
        frames: source frames with their timing, all of the upscaler's size. A generator is closed at the end, on the
            thread that reads it.
        upscaler: a fresh one.
        write: takes output pixels and the timing of the source frame of the same index; called in order.
        on_progress: called on the calling thread after each frame that left the networks, and at the end.
        cancel: set by somebody else to stop within a step.

    Raises:
        Cancelled: `cancel` was set.
        FlashVSRError: whatever a stage raised first.
    """
    cancel = cancel or threading.Event()
    shared, progress = _Shared(cancel), Progress()
    ready: queue.Queue[Any] = queue.Queue(QUEUED_FRAMES)
    done: queue.Queue[Any] = queue.Queue(QUEUED_FRAMES)
    # A daemon: a reader that waits for a silent pipe cannot be woken, and must not keep the process.
    reader = threading.Thread(
        target=_guarded, args=(shared, _read, frames, upscaler, ready, progress), name=READER, daemon=True
    )
    writer = threading.Thread(target=_guarded, args=(shared, _write, write, done, progress), name="writer")
    try:
        reader.start()
        writer.start()
        _upscale(shared, upscaler, ready, done, progress, on_progress)
    except _Stopped:
        pass
    except BaseException as error:  # KeyboardInterrupt too: the threads must end before it leaves
        shared.fail(error)
    _join(shared, writer, reader)
    if shared.error is not None:
        raise shared.error
    if cancel.is_set():
        raise Cancelled(f"stopped after {progress.frames_out} frames")
    on_progress(progress)
    return progress


def _join(shared: _Shared, writer: threading.Thread, reader: threading.Thread) -> None:
    if writer.ident is not None:
        writer.join()
    # Only a stop can leave a reader behind: the writer ends otherwise after the reader.
    if reader.ident is not None:
        reader.join(_READER_S if shared.stopped else None)


def _guarded(shared: _Shared, work: Callable[..., None], *args: Any) -> None:
    try:
        work(shared, *args)
    except _Stopped:
        pass
    except BaseException as error:  # handed to the calling thread, which raises it
        shared.fail(error)


def _read(
    shared: _Shared, frames: Iterable[Frame], upscaler: Upscaler, ready: queue.Queue[Any], progress: Progress
) -> None:
    source = iter(frames)
    try:
        began = time.perf_counter()
        for frame in source:
            decoded = time.perf_counter()
            lq = upscaler.prepare(frame.rgb)
            resized = time.perf_counter()
            progress.seconds["decode"] += decoded - began
            progress.seconds["resize"] += resized - decoded
            progress.frames_in += 1
            shared.put(ready, (lq, frame.timing))
            began = time.perf_counter()
        shared.put(ready, _END)
    finally:
        # On this thread, for nobody else may close what this thread may still be reading.
        if isinstance(source, Generator):
            source.close()


def _upscale(
    shared: _Shared,
    upscaler: Upscaler,
    ready: queue.Queue[Any],
    done: queue.Queue[Any],
    progress: Progress,
    on_progress: Callable[[Progress], None],
) -> None:
    timings: deque[FrameTiming] = deque()
    while True:
        began = time.perf_counter()
        item = shared.get(ready)
        now = time.perf_counter()
        progress.seconds["wait_input"] += now - began
        if item is not _END:
            lq, timing = item
            timings.append(timing)
        for pixels in upscaler.drain() if item is _END else upscaler.feed(lq):
            made = time.perf_counter()
            progress.seconds["upscale"] += made - now
            progress.frames_upscaled += 1
            shared.put(done, (pixels, timings.popleft()))
            on_progress(progress)
            now = time.perf_counter()
            progress.seconds["wait_output"] += now - made
        progress.seconds["upscale"] += time.perf_counter() - now
        if item is _END:
            return shared.put(done, _END)


def _write(shared: _Shared, write: Write, done: queue.Queue[Any], progress: Progress) -> None:
    while (item := shared.get(done)) is not _END:
        began = time.perf_counter()
        write(*item)
        progress.seconds["encode"] += time.perf_counter() - began
        progress.frames_out += 1
