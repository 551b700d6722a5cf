"""Time stamps that a muxer accepts: strictly increasing, whatever the source says."""

from __future__ import annotations

from fractions import Fraction

from flashvsr_trt.runtime.video.frames import FrameTiming


class Timeline:
    """Passes time stamps through and repairs those that are missing, repeated or run backwards.

    A step backwards of more than `restart` ticks is a clock that began again (joined recordings): everything
    after it is moved to continue where the old clock stopped. A smaller step or a repeated stamp is a single
    bad value: it is moved to one tick after its predecessor. Gaps forwards are kept.
    """

    def __init__(self, restart: int) -> None:
        self._restart = max(1, restart)
        self._last: int | None = None
        self._next = 0
        self._offset = 0
        self.repaired = 0

    def place(self, stamp: int | None, duration: int) -> int:
        """The stamp to use, in the same units as `stamp` and `duration`."""
        placed = self._next if stamp is None else stamp + self._offset
        if stamp is None:
            self.repaired += 1
        elif self._last is not None and placed <= self._last:
            self.repaired += 1
            restarted = self._last - placed > self._restart
            if restarted:
                self._offset += self._next - placed
            placed = self._next if restarted else self._last + 1
        self._last, self._next = placed, placed + max(1, duration)
        return placed

    def state(self) -> list[int | None]:
        """For `restore`: all that the next stamps depend on."""
        return [self._last, self._next, self._offset]

    def restore(self, state: list[int | None]) -> None:
        """Goes on where the Timeline whose `state` this is left off."""
        self._last, self._next, self._offset = state[0], state[1] or 0, state[2] or 0


class EncoderClock:
    """Times of source frames in the encoder's units of `base` seconds."""

    def __init__(self, base: Fraction) -> None:
        self.base = base
        self._timeline = Timeline(restart=round(1 / base))

    def place(self, timing: FrameTiming) -> tuple[int, int]:
        """The frame's time stamp and duration."""
        duration = max(1, round(timing.duration * timing.time_base / self.base))
        return self._timeline.place(round(timing.pts * timing.time_base / self.base), duration), duration

    def state(self) -> list[int | None]:
        """For `restore`: all that the next stamps depend on."""
        return self._timeline.state()

    def restore(self, state: list[int | None]) -> None:
        """Goes on where the clock whose `state` this is left off."""
        self._timeline.restore(state)
