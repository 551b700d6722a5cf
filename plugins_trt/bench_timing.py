"""Times launches on this GPU by CUDA events. Needs torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

WARM = 5  # launches that are not counted
QUEUE_CYCLES = 60_000_000  # some 30 ms: longer than Python needs for all launches


def median_ms(calls: Sequence[Callable[[], object]], repeats: int) -> float:
    """The median of `repeats` launches, in milliseconds, each of `calls` in its turn.

    They gather behind a wait on the device, so that no gap between them is the CPU's.
    """
    import torch

    events = []
    torch.cuda._sleep(QUEUE_CYCLES)
    for repeat in range(WARM + repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        calls[repeat % len(calls)]()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events[WARM:])
