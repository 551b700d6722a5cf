"""Results computed on other threads before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def in_order(items: Iterable[Item], work: Callable[[Item], Result], workers: int) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) in the order of the items; so many are worked on at a time, and no more are taken ahead."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="in order") as pool:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) == workers:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()
