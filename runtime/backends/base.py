"""The interface of a back end: allocate buffers, load a step graph, run it on bound buffers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from flashvsr_trt.configs.contract import Graph

NOTHING: Mapping[str, int] = MappingProxyType({})
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8e4m3fn": 1, "uint8": 1, "uint16": 2, "int64": 8}


@dataclass(frozen=True)
class Buffer:
    """Memory of a back end, dense and row-major. `owner` keeps it alive; views share it."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    owner: Any

    @property
    def bytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    def slots(self, begin: int, count: int) -> Buffer:
        """Entries [begin, begin + count) of the first axis, sharing this buffer's memory."""
        if not 0 <= begin <= begin + count <= self.shape[0]:
            raise IndexError(f"slots [{begin}, {begin + count}) of a buffer with {self.shape[0]}")
        row = prod(self.shape[1:]) * ITEM_BYTES[self.dtype]
        return Buffer(self.pointer + begin * row, (count, *self.shape[1:]), self.dtype, self.owner)


class StepGraph(ABC):
    """A loaded graph."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Runs once. Outputs are written into the buffers given; no input may overlap an output, except for
        KV slots that the call's `slabs` do not list.

        Raises:
            OutOfMemory: the back end could not get working memory.
            FlashVSRError: anything else the back end reports, with its own words.
        """


class Backend(ABC):
    """One device of one library.

    `seconds` counts the time spent inside its graphs, by graph name; `load_seconds` the time spent loading them;
    `transfers` seconds and bytes of copies between host and device ("upload", "download"), empty where there are none.
    """

    name: str
    asynchronous = False  # whether work goes on while the host does something else, until `download` waits for it

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.load_seconds = 0.0
        self.transfers: dict[str, tuple[float, int]] = {}
        self.planned_memory: int | None = None  # the most that runs are planned for; None: all that is free

    def device_memory(self) -> tuple[int, int] | None:
        """(free, total) bytes of a device's own memory; None where the host's is used."""
        return None

    def plan_within(self, size: int) -> None:
        """Runs are planned for so many bytes of a device's memory, though there may be more."""
        self.planned_memory = size

    @abstractmethod
    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """A buffer of zeros."""

    @abstractmethod
    def upload(self, array: np.ndarray, buffer: Buffer) -> None:
        """Copies a host array of the same shape and item size into the buffer."""

    @abstractmethod
    def download(self, buffer: Buffer, out: np.ndarray | None = None) -> np.ndarray:
        """A host copy, in `out` where one is given. bfloat16 arrives as uint16 bits, for numpy has no such type."""

    def download_later(self, buffer: Buffer) -> Callable[[], np.ndarray]:
        """As `download` of what is in the buffer now; what is returned waits for it and gives the copy."""
        array = self.download(buffer)
        return lambda: array

    def host_array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Host memory that copies to and from the device are fastest with; a GPU's back end pins it."""
        return np.zeros(shape, NUMPY_TYPES[dtype])

    @abstractmethod
    def zero(self, buffer: Buffer) -> None:
        """Fills the buffer with zeros."""

    @abstractmethod
    def load(self, path: Path, graph: Graph, symbols: Mapping[str, int] = NOTHING) -> StepGraph:
        """Loads one step graph file.

        Args:
            path: the file.
            graph: what the manifest says of it.
            symbols: of its shapes, as far as they are known; every run will have the contract.LASTING ones among them.

        Raises:
            BundleError: the file is damaged or does not offer the tensors that the manifest names.
            BackendUnavailable: this device cannot run it.
        """

    def trim(self) -> None:
        """Gives the device what graphs that are gone have computed in. For when a network is given back."""
        return

    @abstractmethod
    def describe(self) -> str:
        """Library, version and device, for people."""


NUMPY_TYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8e4m3fn": np.uint8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "int64": np.int64,
}
