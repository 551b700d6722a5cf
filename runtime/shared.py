"""What the threads of a pipeline share: the first failure, the wish to stop, and waits that heed both."""

from __future__ import annotations

import queue
import threading
from typing import Any

_POLL_S = 0.2  # how long a blocked queue waits before it looks whether the other side has failed


class Stopped(Exception):
    """Another thread failed, or the user cancelled: leave quietly."""


class Shared:
    """What the three threads share: the first failure, and the wish to stop."""

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel, self._failed = cancel, threading.Event()
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self._failed.set()

    @property
    def failed(self) -> bool:
        return self._failed.is_set()

    @property
    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def put(self, target: queue.Queue[Any], item: Any, *, heed_cancel: bool = True) -> None:
        while True:
            self.check(heed_cancel)
            try:
                return target.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

    def get(self, source: queue.Queue[Any], *, heed_cancel: bool = True) -> Any:
        while True:
            self.check(heed_cancel)
            try:
                return source.get(timeout=_POLL_S)
            except queue.Empty:
                continue

    def wait(self, event: threading.Event) -> None:
        while not event.wait(_POLL_S):
            self.check(heed_cancel=False)

    def check(self, heed_cancel: bool) -> None:
        """Raises Stopped where nothing more is wanted."""
        if self.failed or (heed_cancel and self.cancelled):
            raise Stopped
