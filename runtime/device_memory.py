"""The most memory of a GPU that was in use while something ran."""

from __future__ import annotations

import threading
from types import TracebackType

from flashvsr_trt.runtime.backends.base import Backend

_LOOK_S = 0.02


class DeviceMemory:
    """Looks 50 times a second at the device's memory. `peak`: bytes more than at the start; None without a GPU.

    `before`: bytes in use at the start of an earlier watch, to be compared with: a back end may keep what it got.

    All processes on the GPU count: measure on one that is otherwise idle.
    """

    def __init__(self, backend: Backend, before: int | None = None) -> None:
        self._backend, self._stop = backend, threading.Event()
        self._peak = self._used()
        self.before = self._peak if before is None else before
        self._thread = threading.Thread(target=self._watch, name="device memory", daemon=True)

    def __enter__(self) -> DeviceMemory:
        if self.before is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def peak(self) -> int | None:
        return None if self._peak is None or self.before is None else self._peak - self.before

    def _used(self) -> int | None:
        told = self._backend.device_memory()
        return None if told is None else told[1] - told[0]

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            used = self._used()
            if used is not None and self._peak is not None:
                self._peak = max(self._peak, used)
