"""How far a run is, shown as it suits the reader: a bar on a terminal, a line every 10 s, or JSON lines."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol

from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.pipeline import Progress

LINE_S = 10.0  # between two lines where there is no terminal
_JSON_S = 0.5  # between two JSON lines
_REDRAWS = 4  # of the bar, a second
STAGES = ("decode", "resize", "load", "networks", "runtime", "encode", "keep", "join")


@dataclass(frozen=True, kw_only=True)
class Status:
    """One look at a run.

    Attributes:
        frames, total: frames written, and how many there will be (None: not known).
        read, upscaled: frames read, and frames that left the networks.
        resumed: frames that earlier runs have done; they count in all of these.
        elapsed: seconds since the start.
        seconds: busy seconds by stage. decode and resize are the reader thread's, encode is the writer's; load (of
            graphs), networks (inside graphs) and runtime (what this program does beside them) are the calling
            thread's, which stands still for keep (of the state) and join (of the segments). Threads overlap, so the
            stages may add up to more than `elapsed`.
        processes: whose seconds these are, all together.
    """

    frames: int
    total: int | None
    read: int
    upscaled: int
    elapsed: float
    seconds: Mapping[str, float]
    resumed: int = 0
    processes: int = 1

    @property
    def fps(self) -> float:
        return (self.frames - self.resumed) / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left; None before the first frame, and where the length is not known."""
        if self.frames <= self.resumed or self.total is None:
            return None
        return max(0, self.total - self.frames) / self.fps

    def share(self, stage: str) -> float:
        return self.seconds[stage] / self.elapsed / self.processes if self.elapsed > 0 else 0.0

    def shares(self) -> str:
        """decode 2 %, resize 3 % ...: busy share of the elapsed time."""
        shown = [stage for stage in STAGES if self.seconds[stage] or stage not in ("keep", "join")]
        return ", ".join(f"{stage} {100 * self.share(stage):.0f} %" for stage in shown)

    def as_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "total": self.total,
            "read": self.read,
            "fps": round(self.fps, 3),
            "elapsed": round(self.elapsed, 3),
            "left": None if self.left is None else round(self.left, 1),
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
        }


class Meter:
    """What a back end has spent since this was made."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._before, self._load = backend, dict(backend.seconds), backend.load_seconds

    @property
    def graphs(self) -> dict[str, float]:
        """Seconds by graph."""
        return {name: value - self._before.get(name, 0.0) for name, value in dict(self._backend.seconds).items()}

    @property
    def load(self) -> float:
        """Seconds spent loading graphs."""
        return self._backend.load_seconds - self._load


def look(progress: Progress, total: int | None, meter: Meter) -> Status:
    """The state of a pipeline whose back end is watched by `meter`."""
    networks, load = sum(meter.graphs.values()), meter.load
    seconds = {stage: progress.seconds[stage] for stage in ("decode", "resize", "encode", "keep", "join")}
    seconds |= {"load": load, "networks": networks}
    seconds["runtime"] = max(0.0, progress.seconds["upscale"] - networks - load)
    if total is not None:
        total = max(total, progress.frames_out)  # containers' own counts may be wrong
    return Status(
        frames=progress.frames_out,
        total=total,
        read=progress.frames_in,
        upscaled=progress.frames_upscaled,
        elapsed=progress.elapsed,
        seconds=seconds,
        resumed=progress.resumed,
    )


class Gathered:
    """Several runs at the same time, or parts of one, seen as one.

    Args:
        total: frames of all of them; None: not known.
        processes: that work on them.
        done: frames that earlier runs have done and that no status counts.
    """

    def __init__(self, total: int | None, processes: int, done: int = 0) -> None:
        self._total, self._processes, self._done = total, processes, done
        self._began = time.perf_counter()
        self._last: dict[object, Status] = {}

    def update(self, key: object, status: Status) -> Status:
        """Takes the last look at one of them; all together."""
        self._last[key] = status
        return self.status

    def add_done(self, frames: int) -> None:
        """More frames that earlier runs have done."""
        self._done += frames

    @property
    def status(self) -> Status:
        each = self._last.values()
        frames = self._done + sum(status.frames for status in each)
        return Status(
            frames=frames,
            total=None if self._total is None else max(self._total, frames),
            read=self._done + sum(status.read for status in each),
            upscaled=self._done + sum(status.upscaled for status in each),
            elapsed=time.perf_counter() - self._began,
            seconds={stage: sum(status.seconds[stage] for status in each) for stage in STAGES},
            resumed=self._done + sum(status.resumed for status in each),
            processes=self._processes,
        )


def clock(seconds: float) -> str:
    """3.4 s, 17 s, 12:34, 1:02:03."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Display(Protocol):
    """Shows one run at a time: `begin`, `update` ..., `end`."""

    def begin(self, name: str, total: int | None) -> None: ...
    def update(self, status: Status) -> None: ...
    def end(self) -> None: ...


class Nothing:
    """For --quiet."""

    def begin(self, name: str, total: int | None) -> None:
        """Shows nothing."""

    def update(self, status: Status) -> None:
        """Shows nothing."""

    def end(self) -> None:
        """Shows nothing."""


class _Shown:
    """A run on display: the last status, with the time going on between two frames."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self._began = name, time.perf_counter()
        self._last = Status(frames=0, total=total, read=0, upscaled=0, elapsed=0.0, seconds=dict.fromkeys(STAGES, 0.0))

    def update(self, status: Status) -> None:
        self._last = status
        self._began = time.perf_counter() - status.elapsed

    @property
    def now(self) -> Status:
        return replace(self._last, elapsed=time.perf_counter() - self._began)


class Bar:
    """Two lines on a terminal: the bar with frames, fps and time left, and the shares of the stages."""

    def __init__(self) -> None:
        self._rich: Any = None
        self._shown: _Shown | None = None

    def begin(self, name: str, total: int | None) -> None:
        self._shown = _Shown(shortened(name), total)
        self._rich = _rich_progress(self._shown)
        self._rich.add_task(self._shown.name, total=total)
        self._rich.start()

    def update(self, status: Status) -> None:
        assert self._shown is not None
        self._shown.update(status)
        self._rich.update(self._rich.task_ids[0], completed=status.frames, total=status.total)

    def end(self) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None


def _rich_progress(shown: _Shown) -> Any:
    from rich.console import Console  # here, for it takes longer to import than --help may last
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Counts(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(_counts(shown.now))

    class TwoLines(Progress):
        def get_renderables(self) -> Any:
            yield self.make_tasks_table(self.tasks)
            yield Text(f"  {_below(shown.now)}", style="dim", no_wrap=True, overflow="ellipsis")

    return TwoLines(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        Counts(),
        console=Console(file=sys.stderr),
        refresh_per_second=_REDRAWS,
        transient=True,
    )


def _below(status: Status) -> str:
    if status.frames == status.total:
        return "the encoder gives its last frames, then the file gets its name"
    return status.shares() if status.frames else "the first frames leave when 25 are in"


class Lines:
    """A line every 10 s, also while a long step gives no frame: a log shall tell slow from stuck."""

    def __init__(self, interval: float = LINE_S) -> None:
        self._interval = interval
        self._thread: threading.Thread | None = None

    def begin(self, name: str, total: int | None) -> None:
        self._shown, self._ended = _Shown(name, total), threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._thread.start()

    def update(self, status: Status) -> None:
        self._shown.update(status)

    def end(self) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None

    def _tick(self) -> None:
        while not self._ended.wait(self._interval):
            now = self._shown.now
            # The stages' shares come with the first frame; until then there is only the time to tell.
            shares = f", {now.shares()}" if any(now.seconds.values()) else ""
            LOG.info("%s: %s%s", self._shown.name, _counts(now), shares)


class JsonLines:
    """Events as JSON, one object a line, on stdout; at most two progress lines a second for each input."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._last: dict[str, float] = {}

    def event(self, kind: str, **fields: Any) -> None:
        """Writes {"event": kind, ...}."""
        print(json.dumps({"event": kind, **fields}, default=str), file=self._stream, flush=True)

    def progress(self, name: str, status: Status) -> None:
        """Writes how far an input is, unless that was written just now."""
        now = time.monotonic()
        if now - self._last.get(name, -_JSON_S) >= _JSON_S:
            self._last[name] = now
            self.event("progress", input=name, **status.as_dict())


def choose_display(*, quiet: bool) -> Display:
    """What suits: nothing if quiet, a bar on a terminal, else lines."""
    if quiet:
        return Nothing()
    return Bar() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()


def shortened(name: str, width: int = 24) -> str:
    """The name with its middle left out where it is too long for a line."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _counts(status: Status) -> str:
    if status.frames <= status.resumed:
        return f"no frame yet, {clock(status.elapsed)} gone"
    total = "" if status.total is None else f"/{status.total}"
    left = "" if status.left is None else f", {clock(status.left)} left"
    rate = f"{status.fps:.1f}" if status.fps >= 1 else f"{status.fps:.2g}"
    return f"{status.frames}{total} frames, {rate} fps, {clock(status.elapsed)} gone{left}"
