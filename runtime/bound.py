"""A step graph with its buffers and its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from flashvsr_trt.configs.contract import Graph, evaluate_shape
from flashvsr_trt.runtime.backends.base import Backend, Buffer, StepGraph
from flashvsr_trt.runtime.bundle import Bundle


@dataclass
class HostState:
    """The state of one stream in host memory, while another stream has the device. Its arrays are used again."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    slabs: int = 0  # valid KV slabs, oldest first, in the arrays of the KV cache

    def keep(self, backend: Backend, name: str, buffer: Buffer) -> None:
        if name not in self.arrays:
            self.arrays[name] = backend.host_array(buffer.shape, buffer.dtype)
        backend.download(buffer, self.arrays[name])

    def put_into(self, arrays: dict[str, np.ndarray], prefix: str = "") -> None:
        """Adds everything to a dictionary of arrays, under names that begin with `prefix`."""
        arrays |= {prefix + name: array for name, array in self.arrays.items()}
        arrays[f"{prefix}slabs"] = np.asarray(self.slabs)

    @classmethod
    def out_of(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> HostState:
        """What `put_into` added under that prefix."""
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        return cls(slabs=int(own.pop("slabs")), arrays=own)

    @property
    def bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


class BoundGraph:
    """A step graph, loaded on first use, with its own buffers; state is swapped after each run."""

    def __init__(self, bundle: Bundle, backend: Backend, graph: Graph, symbols: Mapping[str, int]) -> None:
        self._bundle, self._backend, self._graph, self._symbols = bundle, backend, graph, dict(symbols)
        self._loaded: StepGraph | None = None
        self.buffers: dict[str, Buffer] = {}

    def allocate(self, names: Iterable[str]) -> None:
        """Gives the named tensors buffers of this graph's own, zeroed."""
        for name in names:
            tensor = self._graph.tensor(name)
            shape = evaluate_shape(tensor.shape, self._symbols)
            self.buffers[name] = self._backend.allocate(shape, self._bundle.manifest.dtype(tensor))

    @property
    def state(self) -> tuple[tuple[str, str], ...]:
        """(output, the input that it feeds) of each state tensor."""
        return self._graph.state

    def allocate_state(self) -> None:
        self.allocate(name for pair in self._graph.state for name in pair)

    def zero_state(self) -> None:
        for _, before in self._graph.state:
            self._backend.zero(self.buffers[before])

    def save_state(self, host: HostState) -> None:
        """Copies what the next run would read."""
        for _, before in self._graph.state:
            host.keep(self._backend, before, self.buffers[before])

    def load_state(self, host: HostState) -> None:
        for _, before in self._graph.state:
            self._backend.upload(host.arrays[before], self.buffers[before])

    def upload(self, name: str, array: np.ndarray) -> None:
        self._backend.upload(array, self.buffers[name])

    def run(self, **bound: Buffer) -> None:
        """Runs with the buffers named here in place of, or beside, the graph's own."""
        if self._loaded is None:
            self._loaded = self._backend.load(self._bundle.graph_path(self._graph.name), self._graph, self._symbols)
        buffers = self.buffers | bound
        self._loaded.run(
            {tensor.name: buffers[tensor.name] for tensor in self._graph.inputs},
            {tensor.name: buffers[tensor.name] for tensor in self._graph.outputs},
        )
        for after, before in self._graph.state:
            self.buffers[after], self.buffers[before] = self.buffers[before], self.buffers[after]

    def release(self) -> None:
        """Gives the weights back; the buffers and the state stay."""
        self._loaded = None
