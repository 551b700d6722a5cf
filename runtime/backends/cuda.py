"""What back ends on an NVIDIA GPU share: device buffers, streams, asynchronous copies, times of graphs.

Nothing waits for the GPU but `download`. The host enqueues graphs and small copies on the main stream, in order. Large
copies run beside it, each after the last graph that has the buffer bound; the next one waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime.backends.base import ITEM_BYTES, NUMPY_TYPES, Backend, Buffer
from flashvsr_trt.runtime.backends.device import Device, Event, Memory
from flashvsr_trt.runtime.backends.pinned import HostPool, is_pinned

_MIRRORED = 64  # bytes; what decides shapes is read on the host
_ASIDE = 1 << 20  # bytes from which on a copy takes longer than it takes to order it among streams


@dataclass(frozen=True)
class _Passage:
    """A graph or a copy on its stream; `source` keeps the memory that is read."""

    name: str
    started: Event
    ended: Event
    bytes: int | None = None  # of a copy
    source: np.ndarray | None = None


class CudaBackend(Backend):
    """Memory and streams; what runs graphs comes on top.

    Args:
        index: of the GPU, as CUDA_VISIBLE_DEVICES leaves it.

    Raises:
        BackendUnavailable: no driver.
    """

    asynchronous = True

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.device = Device(index)
        self.pool = HostPool(self.device)
        self.mirror: dict[int, np.ndarray] = {}  # device address -> small uploads
        # What was enqueued and may not be done, in order.
        self._flying: deque[_Passage] = deque()
        self._passed = 0  # how many were taken off

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        self.device.enter()
        memory = self.device.allocate(int(np.prod(shape, dtype=np.int64)) * ITEM_BYTES[dtype])
        buffer = Buffer(memory.pointer, shape, dtype, memory)
        self.zero(buffer)
        return buffer

    def upload(self, array: np.ndarray, buffer: Buffer) -> None:
        """As in Backend. An array of `host_array` is read later: do not write to it before the next download."""
        if array.nbytes != buffer.bytes:
            raise ValueError(f"{array.nbytes} bytes for a buffer of {buffer.bytes}")
        if array.nbytes <= _MIRRORED:
            self.mirror[buffer.pointer] = np.array(array, order="C")
        if not is_pinned(array):
            staged = self.pool.array(array.shape, array.dtype)
            staged[...] = array
            array = staged
        started, ended = self._copy(
            buffer, array.nbytes, self.device.uploads, partial(self.device.copy_in, array, buffer.pointer)
        )
        self._flying.append(_Passage("upload", started, ended, bytes=array.nbytes, source=array))

    def mirrored(self, buffer: Buffer) -> np.ndarray:
        """The host's copy of what was uploaded last into a small buffer."""
        array = self.mirror.get(buffer.pointer)
        if array is None or array.nbytes != buffer.bytes:
            raise FlashVSRError("a tensor that decides shapes was never uploaded")
        return array

    def download(self, buffer: Buffer, out: np.ndarray | None = None) -> np.ndarray:
        if out is None or is_pinned(out):
            return self._copied(buffer, self.host_array(buffer.shape, buffer.dtype) if out is None else out)()
        out[...] = self.download(buffer)
        return out

    def download_later(self, buffer: Buffer) -> Callable[[], np.ndarray]:
        return self._copied(buffer, self.host_array(buffer.shape, buffer.dtype))

    def host_array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return self.pool.array(shape, NUMPY_TYPES[dtype])

    def device_memory(self) -> tuple[int, int]:
        self.device.enter()
        return self.device.memory()

    def zero(self, buffer: Buffer) -> None:
        self.begin([buffer])
        self.device.zero(buffer.pointer, buffer.bytes)
        _memory(buffer).used = Event(self.device)

    def begin(self, buffers: Iterable[Buffer]) -> Event:
        """Before work on these buffers is enqueued on the main stream: it starts when their copies are done."""
        self.device.enter()
        for memory in map(_memory, buffers):
            if memory.copied is not None:
                self.device.after(memory.copied, self.device.stream)
                memory.copied = None
        return Event(self.device)

    def end(self, graph: str, started: Event, buffers: Iterable[Buffer]) -> None:
        """After a graph on these buffers was enqueued since `started`."""
        ended = Event(self.device)
        for buffer in buffers:
            _memory(buffer).used = ended
        self._flying.append(_Passage(graph, started, ended))

    def _copy(self, buffer: Buffer, size: int, aside: int, enqueue: Callable[[int], None]) -> tuple[Event, Event]:
        """Enqueues a copy to or from the buffer: beside the main stream, on `aside`, if it is large; its two ends."""
        memory = _memory(buffer)
        if size < _ASIDE:
            started = self.begin([buffer])
            enqueue(self.device.stream)
            memory.used = ended = Event(self.device)
            return started, ended
        self.device.enter()
        for earlier in (memory.used, memory.copied):
            if earlier is not None:
                self.device.after(earlier, aside)
        started = Event(self.device, aside)
        enqueue(aside)
        memory.copied = ended = Event(self.device, aside)
        return started, ended

    def _copied(self, buffer: Buffer, host: np.ndarray) -> Callable[[], np.ndarray]:
        copy = partial(self.device.copy_out, buffer.pointer, host)
        started, done = self._copy(buffer, buffer.bytes, self.device.downloads, copy)
        self._flying.append(_Passage("download", started, done, bytes=buffer.bytes))
        before = self._passed + len(self._flying)

        def finish() -> np.ndarray:
            self.device.enter()
            done.wait()
            self._collect(before)
            return host

        return finish

    def _collect(self, before: int) -> None:
        """Everything up to number `before` is done, or nearly so."""
        while self._passed < before:
            item = self._flying.popleft()
            self._passed += 1
            item.ended.wait()  # a copy that no graph has read yet may still run on its own stream
            seconds = item.ended.seconds_since(item.started)
            if item.bytes is None:
                self.seconds[item.name] += seconds
            else:
                before_s, before_bytes = self.transfers.get(item.name, (0.0, 0))
                self.transfers[item.name] = (before_s + seconds, before_bytes + item.bytes)


def _memory(buffer: Buffer) -> Memory:
    return cast(Memory, buffer.owner)
