"""What back ends on an NVIDIA GPU share: device buffers, one stream, asynchronous copies, times of graphs.

Nothing waits for the GPU but `download`: the host enqueues uploads, graphs and downloads on one stream, in order.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flashvsr_trt.runtime.backends.base import ITEM_BYTES, NUMPY_TYPES, Backend, Buffer
from flashvsr_trt.runtime.backends.device import Device
from flashvsr_trt.runtime.backends.pinned import Event, HostPool, is_pinned


@dataclass(frozen=True)
class _Passage:
    """A graph or a copy on the stream; `source` keeps the memory that is read."""

    name: str
    started: Event
    ended: Event
    bytes: int | None = None  # of a copy
    source: np.ndarray | None = None


class CudaBackend(Backend):
    """Memory and stream; what runs graphs comes on top.

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
        # What the stream has yet to pass, in order.
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
        if not is_pinned(array):
            staged = self.pool.array(array.shape, array.dtype)
            staged[...] = array
            array = staged
        self.device.enter()
        started = self.mark()
        self.device.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(buffer.pointer),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(self.device.stream),
        )
        self._flying.append(_Passage("upload", started, self.mark(), bytes=array.nbytes, source=array))

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
        self.device.enter()
        self.device.zero(buffer.pointer, buffer.bytes)

    def mark(self) -> Event:
        """This point of the stream."""
        event = Event(self.device)
        event.record()
        return event

    def timed(self, graph: str, started: Event) -> None:
        """Notes that a graph was enqueued between `started` and now."""
        self._flying.append(_Passage(graph, started, self.mark()))

    def _copied(self, buffer: Buffer, host: np.ndarray) -> Callable[[], np.ndarray]:
        self.device.enter()
        started = self.mark()
        self.device.call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host.ctypes.data),
            ctypes.c_uint64(buffer.pointer),
            ctypes.c_size_t(buffer.bytes),
            ctypes.c_void_p(self.device.stream),
        )
        done = self.mark()
        self._flying.append(_Passage("download", started, done, bytes=buffer.bytes))
        before = self._passed + len(self._flying)

        def finish() -> np.ndarray:
            self.device.enter()
            done.wait()
            self._collect(before)
            return host

        return finish

    def _collect(self, before: int) -> None:
        """The stream has passed everything up to number `before`."""
        while self._passed < before:
            item = self._flying.popleft()
            self._passed += 1
            seconds = item.ended.seconds_since(item.started)
            if item.bytes is None:
                self.seconds[item.name] += seconds
            else:
                before_s, before_bytes = self.transfers.get(item.name, (0.0, 0))
                self.transfers[item.name] = (before_s + seconds, before_bytes + item.bytes)
