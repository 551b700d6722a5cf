"""Ctrl-C, SIGTERM and keys: ask the work to stop at the next step, or to pause."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TypeVar

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

Result = TypeVar("Result")
_POLL_S = 0.2


def run_stoppable(
    work: Callable[[threading.Event], Result], *, on_stop: Callable[[], None], at_once: Callable[[], None]
) -> Result:
    """Runs `work(cancel)` on a second thread, so that a signal is heard even while a network runs.

    Args:
        work: sees to it that `cancel` ends it within a step.
        on_stop: called at the first signal, e.g. to tell the user that it was heard.
        at_once: called at the second one before the process ends with code 130; tidies up.

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


class Keys:
    """On a terminal: `q` stops like Ctrl-C, space pauses and goes on. Elsewhere it does nothing.

    Args:
        say: tells the user what was heard.

    Attributes:
        stop: called for `q`.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.stop: Callable[[], None] = lambda: None
        self._say = say
        self._going = threading.Event()
        self._going.set()
        self._ended = threading.Event()
        self._restore: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if termios is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return self
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        self._restore = lambda: termios.tcsetattr(number, termios.TCSADRAIN, before)
        tty.setcbreak(number)  # Ctrl-C stays a signal
        threading.Thread(target=self._listen, args=(number,), name="keys", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._going.set()
        self.restore()

    def restore(self) -> None:
        """Gives the terminal back as it was."""
        if self._restore is not None:
            self._restore()
            self._restore = None

    def wait_while_paused(self, cancel: threading.Event) -> None:
        """Returns at once unless space was pressed; then when it is pressed again, or `cancel` is set."""
        while not self._going.wait(_POLL_S) and not cancel.is_set():
            continue

    def _listen(self, number: int) -> None:
        while not self._ended.is_set():
            if not select.select([number], [], [], _POLL_S)[0]:
                continue
            key = os.read(number, 1)
            if not key:
                return
            self.pressed(key)

    def pressed(self, key: bytes) -> None:
        """What a key does."""
        if key in (b"q", b"Q"):
            self._say("stopping after this step; Ctrl-C twice stops at once")
            self.stop()
        elif key == b" " and self._going.is_set():
            self._going.clear()
            self._say("paused after this frame; space goes on, q stops")
        elif key == b" ":
            self._going.set()
            self._say("going on")
