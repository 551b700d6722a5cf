"""In which order the networks of a stream run: decode at once, in two phases, or in two phases on tiles.

All give the frames of the same steps in the same order; they differ in what is in memory at the same time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from flashvsr_trt.runtime.backends.base import Buffer
from flashvsr_trt.runtime.bound import HostState
from flashvsr_trt.runtime.networks import Networks
from flashvsr_trt.runtime.tiled import TiledNetworks

Condition = Callable[[int], np.ndarray]  # a step's index to the LQ frames of its own output; asked for once, in order


class Order(ABC):
    """Takes steps until it is `full`, then gives their frames."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets the stream and whatever was taken."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether `run` is due."""

    @abstractmethod
    def take(self, step: int, lq: np.ndarray) -> None:
        """The next step and the LQ frames it reads, uint8 [25 (step 0) or 8, H, W, 3]."""

    @abstractmethod
    def run(self, condition: Condition) -> Iterator[np.ndarray]:
        """The frames of all steps taken, one at a time, and ready for more steps; none without a step."""

    def ready(self, condition: Condition) -> Iterator[np.ndarray]:
        """As `run`, but frames that the device still works on may stay behind until the next call."""
        return self.run(condition)

    @abstractmethod
    def save_state(self) -> dict[str, np.ndarray]:
        """A host copy of all that the next step needs, by name; every step taken has been run."""

    @abstractmethod
    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on with the stream that `save_state` left."""


def _saved(networks: Networks) -> dict[str, np.ndarray]:
    host, arrays = HostState(), dict[str, np.ndarray]()
    networks.save_state(host)
    host.put_into(arrays)
    return arrays


class Interleaved(Order):
    """Every step is decoded at once: the least delay."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self.reset()

    def reset(self) -> None:
        self._networks.reset()
        self._taken: tuple[int, Buffer] | None = None

    @property
    def full(self) -> bool:
        return self._taken is not None

    def take(self, step: int, lq: np.ndarray) -> None:
        self._taken = (step, self._networks.denoise(step, lq))

    def run(self, condition: Condition) -> Iterator[np.ndarray]:
        if self._taken is not None:
            (step, latents), self._taken = self._taken, None
            yield from self._networks.decode(step, latents, condition(step))

    def save_state(self) -> dict[str, np.ndarray]:
        return _saved(self._networks)

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.reset()
        self._networks.load_state(HostState.out_of(arrays))


class Overlapped(Interleaved):
    """The same where the device works by itself: the frames of a step are waited for when the next step has been
    enqueued, so that the device never idles; they leave 8 frames later."""

    def reset(self) -> None:
        super().reset()
        self._late: Callable[[], np.ndarray] | None = None  # gives the frames of the last step enqueued

    def run(self, condition: Condition) -> Iterator[np.ndarray]:
        yield from self.ready(condition)
        yield from self._waited()

    def ready(self, condition: Condition) -> Iterator[np.ndarray]:
        if self._taken is None:
            return
        (step, latents), self._taken = self._taken, None
        enqueued = self._networks.decode_later(step, latents, condition(step))
        yield from self._waited()
        self._late = enqueued

    def _waited(self) -> Iterator[np.ndarray]:
        if self._late is not None:
            late, self._late = self._late, None
            yield from late()


class Phased(Order):
    """`steps` DiT steps, then their decoding: one of the two networks is in memory at a time."""

    def __init__(self, networks: Networks, steps: int) -> None:
        self._networks, self._steps = networks, steps
        self.reset()

    def reset(self) -> None:
        self._networks.reset()
        self._taken: list[tuple[int, np.ndarray]] = []

    @property
    def full(self) -> bool:
        return len(self._taken) == self._steps

    def take(self, step: int, lq: np.ndarray) -> None:
        self._taken.append((step, self._networks.keep(self._networks.denoise(step, lq))))

    def run(self, condition: Condition) -> Iterator[np.ndarray]:
        if not self._taken:
            return
        self._networks.release_denoise()
        for step, latents in self._taken:
            yield from self._networks.decode(step, self._networks.restore(latents), condition(step))
        self._taken.clear()
        self._networks.release_decode()

    def save_state(self) -> dict[str, np.ndarray]:
        return _saved(self._networks)

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.reset()
        self._networks.load_state(HostState.out_of(arrays))


class Tiled(Order):
    """Phases of `steps` steps, each tile by tile."""

    def __init__(self, networks: TiledNetworks, steps: int) -> None:
        self._networks, self._steps = networks, steps
        self.reset()

    def reset(self) -> None:
        self._networks.reset()
        self._taken: list[tuple[int, np.ndarray]] = []

    @property
    def full(self) -> bool:
        # Step 0 is a segment to itself: its graph holds the DiT's weights a second time.
        return bool(self._taken) and (self._taken[0][0] == 0 or len(self._taken) == self._steps)

    def take(self, step: int, lq: np.ndarray) -> None:
        self._taken.append((step, lq))

    def run(self, condition: Condition) -> Iterator[np.ndarray]:
        if not self._taken:
            return
        taken, self._taken = self._taken, []
        latents = self._networks.denoise(taken)
        indices = [step for step, _ in taken]
        taken.clear()
        decoded = list(zip(indices, latents, strict=True))
        yield from self._networks.decode(decoded, [condition(step) for step in indices])

    def save_state(self) -> dict[str, np.ndarray]:
        return self._networks.save_state()

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.reset()
        self._networks.load_state(arrays)
