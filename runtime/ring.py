"""Which slots of the KV ring are valid, and which one the next slab goes to."""

from __future__ import annotations

from flashvsr_trt.configs import schedule


class KvRing:
    """Slot numbers only; the memory belongs to the caller.

    The order of slabs does not matter to attention, so a dropped slab's slot is simply written again: no copies.
    """

    def __init__(self, kv_ratio: float) -> None:
        self._kv_ratio = kv_ratio
        self.slots = schedule.ring_slots(kv_ratio)
        self.valid: list[int] = []  # oldest first

    def begin(self, slabs: int) -> range:
        """Adjacent free slots for the slabs of the step that starts now."""
        free = [slot for slot in range(self.slots) if slot not in self.valid]
        for begin in free:
            if all(slot in free for slot in range(begin, begin + slabs)):
                return range(begin, begin + slabs)
        raise RuntimeError(f"no {slabs} adjacent free slots: {self.valid} of {self.slots} in use")

    def commit(self, written: range) -> None:
        """The step is done: its slabs are valid, the oldest one may go."""
        self.valid += written
        del self.valid[: len(self.valid) - schedule.cached_slabs(len(self.valid), self._kv_ratio)]

    def reset(self, slabs: int = 0) -> None:
        """Forgets the stream, or takes up another one whose slabs lie in the first slots, oldest first."""
        self.valid = list(range(slabs))
