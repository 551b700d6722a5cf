"""A result computed on another thread before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Ahead:
    """Holds one result; the thread starts with the first `start`."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._started: tuple[tuple[Any, ...], Future[Any]] | None = None

    def start(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Begins to compute function(*arguments)."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._started = ((function, *arguments), self._pool.submit(function, *arguments))

    def get(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments), computed now unless exactly that was started last."""
        started, self._started = self._started, None
        if started is not None and started[0] == (function, *arguments):
            return started[1].result()
        return function(*arguments)
