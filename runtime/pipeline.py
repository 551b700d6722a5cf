"""Decode, upscale and encode at the same time, on three threads with bounded queues between them.

    reader thread: decode, bicubic to the canvas   -> queue ->
    calling thread: networks                       -> queue ->
    writer thread: encode, mux

Nothing grows with the length of the video: the queues are bounded, the networks hold a fixed state.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashvsr_trt.configs.errors import Cancelled
from flashvsr_trt.configs.schedule import STEP
from flashvsr_trt.runtime.shared import Shared, Stopped
from flashvsr_trt.runtime.threads import READER
from flashvsr_trt.runtime.upscaler import Upscaler
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming

# Frames that are brought to the canvas's size at a time: a large one takes longer than a GPU needs for it.
RESIZERS = max(1, min(4, (os.cpu_count() or 1) // 2))
QUEUED_FRAMES = 2 * STEP  # a step's frames on each side: one being worked on, one ready
_READER_S = 3.0  # how long a stop waits for a reader that may be blocked on its input
_END = None
_CANCELLED = object()  # in place of an item, where a stop may take the time to keep the state

Write = Callable[[np.ndarray, FrameTiming], None]


@dataclass
class Progress:
    """What has happened so far; the same object is updated and handed to the callback.

    Frames that an earlier run has written (`resumed`) count in all three counts.
    """

    resumed: int = 0
    frames_in: int = 0
    frames_upscaled: int = 0
    frames_out: int = 0
    complete: bool = False
    started: float = field(default_factory=time.perf_counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Busy seconds by stage (decode, resize, upscale, encode) and waiting seconds of the calling thread
    (wait_input, wait_output). Stages overlap: their sum may exceed the elapsed time."""

    def __post_init__(self) -> None:
        self.frames_in = self.frames_upscaled = self.frames_out = self.resumed

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    @property
    def fps(self) -> float:
        return (self.frames_out - self.resumed) / self.elapsed if self.frames_out else 0.0


@dataclass
class Point:
    """A place where the work can be taken up again.

    Attributes:
        frames: written when it is reached; the next frame to read has this index.
        scene: index of the first frame of the stream that the networks are in.
        arrays: the networks' state; empty where the stream begins with the next frame.
    """

    frames: int
    scene: int
    arrays: dict[str, np.ndarray]
    written: threading.Event = field(default_factory=threading.Event)


def at_a_cut(every: int | None) -> int | None:
    """Frames after which a segment ends where a scene does: half, for there is no state to store there."""
    return None if every is None else -(-every // 2)


class Session:
    """What a run begins with, where its scenes begin, and what becomes of its state. This one keeps nothing.

    Attributes:
        start: index of the first frame that is upscaled; those before it are only shown to `scenes`.
        scene: index of the first frame of the stream that the upscaler is in.
        every: a point is kept at the first step that ends so many frames after the last, or at a cut that comes
            after `at_a_cut` of it; None: never.
    """

    start = 0
    scene = 0
    every: int | None = None

    def scenes(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        """The frames, each with whether the networks shall forget all before it; called on the reader's thread."""
        return ((frame, False) for frame in frames)

    def keep(self, point: Point) -> None:
        """Stores a point, on the writer's thread: all frames before it have been written."""
        raise NotImplementedError


def run(
    frames: Iterable[Frame],
    upscaler: Upscaler,
    write: Write,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cancel: threading.Event | None = None,
    session: Session | None = None,
) -> Progress:
    """Upscales a whole stream.

    Args:
        frames: source frames with their timing, all of the upscaler's size. A generator is closed at the end, on the
            thread that reads it.
        upscaler: a fresh one.
        write: takes output pixels and the timing of the source frame of the same index; called in order.
        on_progress: called on the calling thread after each frame that left the networks, and at the end.
        cancel: set by somebody else to stop within a step; a session that keeps points gets one more before.
        session: where to begin and what to keep; None begins at the beginning and keeps nothing.

    Raises:
        Cancelled: `cancel` was set.
        FlashVSRError: whatever a stage raised first.
    """
    cancel = cancel or threading.Event()
    session = session or Session()
    shared, progress = Shared(cancel), Progress(session.start)
    ready: queue.Queue[Any] = queue.Queue(QUEUED_FRAMES)
    done: queue.Queue[Any] = queue.Queue(QUEUED_FRAMES)
    # A daemon: a reader that waits for a silent pipe cannot be woken, and must not keep the process.
    reader = threading.Thread(
        target=_guarded, args=(shared, _read, frames, upscaler, ready, progress, session), name=READER, daemon=True
    )
    writer = threading.Thread(target=_guarded, args=(shared, _write, write, done, progress, session), name="writer")
    try:
        reader.start()
        writer.start()
        _Networks(shared, upscaler, ready, done, session).run(progress, on_progress)
    except Stopped:
        pass
    except BaseException as error:  # KeyboardInterrupt too: the threads must end before it leaves
        shared.fail(error)
    _join(shared, writer, reader)
    if shared.error is not None:
        failure, shared.error = shared.error, None
        try:
            raise failure
        finally:
            del failure  # its traceback leads here: a cycle would keep the networks and their memory
    if cancel.is_set() and not progress.complete:
        raise Cancelled(f"stopped after {progress.frames_out} frames")
    on_progress(progress)
    return progress


def _join(shared: Shared, writer: threading.Thread, reader: threading.Thread) -> None:
    if writer.ident is not None:
        writer.join()
    # Only a stop can leave a reader behind: the writer ends otherwise after the reader.
    if reader.ident is not None:
        reader.join(_READER_S if shared.failed or shared.cancelled else None)


def _guarded(shared: Shared, work: Callable[..., None], *args: Any) -> None:
    try:
        work(shared, *args)
    except Stopped:
        pass
    except BaseException as error:  # handed to the calling thread, which raises it
        shared.fail(error)


def _read(
    shared: Shared,
    frames: Iterable[Frame],
    upscaler: Upscaler,
    ready: queue.Queue[Any],
    progress: Progress,
    session: Session,
) -> None:
    source, pool = iter(frames), ThreadPoolExecutor(RESIZERS, thread_name_prefix="resize")
    try:
        began = time.perf_counter()
        for frame, begins_scene in session.scenes(source):
            progress.seconds["decode"] += time.perf_counter() - began
            if frame.timing.index >= session.start:
                progress.frames_in += 1
                # In its place in the queue before it is done: frames stay in order, and none waits for the next.
                shared.put(ready, (pool.submit(_timed, upscaler.prepare, frame.rgb), frame.timing, begins_scene))
            began = time.perf_counter()
        shared.put(ready, _END)
    finally:
        # On this thread, for nobody else may close what this thread may still be reading.
        if isinstance(source, Generator):
            source.close()
        pool.shutdown()


def _timed(prepare: Callable[[np.ndarray], np.ndarray], rgb: np.ndarray) -> tuple[np.ndarray, float]:
    began = time.perf_counter()
    return prepare(rgb), time.perf_counter() - began


class _Networks:
    """The calling thread: frames through the networks, scene by scene."""

    def __init__(
        self,
        shared: Shared,
        upscaler: Upscaler,
        ready: queue.Queue[Any],
        done: queue.Queue[Any],
        session: Session,
    ) -> None:
        self._shared, self._upscaler, self._ready, self._done, self._session = shared, upscaler, ready, done, session
        self._timings: deque[FrameTiming] = deque()
        self._scene, self._kept = session.scene, session.start
        self._keeps = keeps = session.every is not None
        # A step on tiles may take minutes; one that is to be kept has to be finished. Nothing here refers to the
        # upscaler: the device's memory shall go with its last owner, not with the next garbage collection.
        upscaler.on_work = lambda: shared.check(heed_cancel=not keeps)

    def run(self, progress: Progress, on_progress: Callable[[Progress], None]) -> None:
        self._progress, self._on_progress = progress, on_progress
        while True:
            item = self._next()
            if item is _CANCELLED:
                self._give(self._upscaler.settle())
                self._keep(at_least=1)
                return self._put(_END)
            if item is _END:
                self._give(self._upscaler.drain())
                self._progress.complete = True
                return self._put(_END)
            lq, timing, begins_scene = item
            if begins_scene:
                self._give(self._upscaler.drain())
                self._scene = timing.index
                self._keep(at_least=at_a_cut(self._session.every))
            self._timings.append(timing)
            self._give(self._upscaler.feed(lq))
            if self._due(self._session.every):
                self._give(self._upscaler.settle())
                self._keep(at_least=self._session.every)

    def _next(self) -> Any:
        began = time.perf_counter()
        try:
            item = self._shared.get(self._ready)
            if item is _END:
                return item
            resized, timing, begins_scene = item
            lq, seconds = resized.result()
            self._progress.seconds["resize"] += seconds
            return lq, timing, begins_scene
        except Stopped:
            if self._shared.failed or not self._keeps:
                raise
            return _CANCELLED
        finally:
            self._progress.seconds["wait_input"] += time.perf_counter() - began

    def _give(self, frames: Iterable[np.ndarray]) -> None:
        began = time.perf_counter()
        for pixels in frames:
            made = time.perf_counter()
            self._progress.seconds["upscale"] += made - began
            self._progress.frames_upscaled += 1
            self._put((pixels, self._timings.popleft()))
            self._on_progress(self._progress)
            began = time.perf_counter()
            self._progress.seconds["wait_output"] += began - made
        self._progress.seconds["upscale"] += time.perf_counter() - began

    def _put(self, item: Any) -> None:
        self._shared.put(self._done, item, heed_cancel=not self._keeps)

    def _due(self, at_least: int | None) -> bool:
        position = self._scene + self._upscaler.settled
        return at_least is not None and position - self._kept >= at_least

    def _keep(self, at_least: int | None) -> None:
        """Waits until the point is on the disk: the state's memory is written again by the next step."""
        if not self._due(at_least):
            return
        began = time.perf_counter()
        point = Point(self._scene + self._upscaler.settled, self._scene, self._upscaler.save_state())
        self._put(point)
        self._shared.wait(point.written)
        self._kept = point.frames
        self._progress.seconds["keep"] += time.perf_counter() - began


def _write(shared: Shared, write: Write, done: queue.Queue[Any], progress: Progress, session: Session) -> None:
    heed_cancel = session.every is None
    while (item := shared.get(done, heed_cancel=heed_cancel)) is not _END:
        if isinstance(item, Point):
            session.keep(item)
            item.written.set()
            continue
        began = time.perf_counter()
        write(*item)
        progress.seconds["encode"] += time.perf_counter() - began
        progress.frames_out += 1
