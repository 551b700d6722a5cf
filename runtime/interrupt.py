"""Ctrl-C and SIGTERM: ask the work to stop, keep nothing half-written."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
_POLL_S = 0.2


def run_stoppable(
    work: Callable[[threading.Event], Result], *, on_stop: Callable[[], None], at_once: Callable[[], None]
) -> Result:
    """Runs `work(cancel)` on a second thread, so that a signal is heard even while a network runs.

    Args:
        work: sees to it that `cancel` ends it within a step.
        on_stop: called at the first signal, e.g. to tell the user that it was heard.
        at_once: called at the second one before the process ends with code 130; removes what is half-written.

    Returns:
        What `work` returned; raises what it raised.
    """
    cancel = threading.Event()
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append(work(cancel))
        except BaseException as error:  # raised again on the main thread
            outcome.append(_Raised(error))

    def stop(number: int, frame: FrameType | None) -> None:
        if cancel.is_set():
            at_once()
            os._exit(130)
        cancel.set()
        on_stop()

    before = _install(stop)
    thread = threading.Thread(target=target, name="work", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_S)  # with a limit: on Windows an endless join hears no signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    result = outcome[0]
    if isinstance(result, _Raised):
        raise result.error
    return result


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python lets only the main thread have handlers
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
