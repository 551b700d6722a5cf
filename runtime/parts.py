"""Where one video can be cut into parts that several devices upscale, so that the joined parts are the whole.

The networks forget everything at a hard cut, so what follows one does not depend on what was before it. The file is
the same too where the parts begin at cuts at which a run on one device would end a segment, for a segment has an
encoder of its own. Which cuts those are follows from frame numbers alone, and is found here by counting along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flashvsr_trt.configs.schedule import FIRST_INPUT, FIRST_OUTPUT, STEP
from flashvsr_trt.runtime.pipeline import at_a_cut
from flashvsr_trt.runtime.scenes import Marked
from flashvsr_trt.runtime.video.timeline import EncoderClock


@dataclass(frozen=True, kw_only=True)
class Part:
    """Frames [start, end) of a source.

    Attributes:
        cuts: those of them that begin a scene, but for the first.
        timeline: state of the encoder's clock in front of it.
    """

    start: int
    end: int
    cuts: tuple[int, ...]
    timeline: list[Any]


def find_parts(frames: Iterable[Marked], every: int, clock: EncoderClock) -> Iterator[Part]:
    """The parts of a video in order, each as soon as its end is seen.

    Args:
        frames: all of the source, from the first, each with whether it begins a scene.
        every: frames of a segment.
        clock: of the encoder, fresh.
    """
    start = scene = kept = count = 0
    cuts: list[int] = []
    timeline = clock.state()
    for frame, begins in frames:
        index = frame.timing.index
        if begins and index - kept >= (at_a_cut(every) or 0):
            yield Part(start=start, end=index, cuts=tuple(cuts), timeline=timeline)
            start = kept = index
            cuts, timeline = [], clock.state()
        elif begins:
            cuts.append(index)
        if begins:
            scene = index
        clock.place(frame.timing)
        count = index + 1
        settled = scene + settled_after(count - scene)
        if settled - kept >= every:
            kept = settled
    if count > start:
        yield Part(start=start, end=count, cuts=tuple(cuts), timeline=timeline)


def settled_after(pushed: int) -> int:
    """Frames of a stream that its finished steps have given when so many have gone in."""
    return 0 if pushed < FIRST_INPUT else FIRST_OUTPUT + (pushed - FIRST_INPUT) // STEP * STEP
