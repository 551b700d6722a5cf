"""Memory and the stream of one NVIDIA GPU through the CUDA driver: all that a back end needs beside its library."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from flashvsr_trt.plugins_trt.kernels.driver import Driver

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class Memory:
    """Device memory, given back when nobody refers to it any more."""

    def __init__(self, device: Device, size: int) -> None:
        self._device, self.bytes, self.pointer = device, size, 0
        pointer = ctypes.c_uint64()
        device.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        self.pointer = pointer.value

    def __del__(self) -> None:
        if self.pointer:
            self._device.release(self.pointer)


class Device:
    """The first visible GPU, in its primary context, with one stream. All work goes to the stream, in order.

    Args:
        index: of the GPU, as CUDA_VISIBLE_DEVICES leaves it.

    Raises:
        BackendUnavailable: no driver. FlashVSRError: no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = Driver()
        self.call = self._driver.call
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._device, self._context = device, context
        self.enter()
        self.call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self.stream = int(stream.value or 0)

    def enter(self) -> None:
        """Makes the context current on the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode()

    @property
    def capability(self) -> int:
        """E.g. 89."""
        return self._driver.compute_capability()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> Memory:
        """Memory of unknown content.

        Raises:
            OutOfMemory: there is not enough.
        """
        return Memory(self, size)

    def zero(self, pointer: int, size: int) -> None:
        self.call("cuMemsetD8Async", _address(pointer), 0, ctypes.c_size_t(size), _handle(self.stream))

    def upload(self, array: np.ndarray, pointer: int) -> None:
        """Copies a dense array; it may be changed as soon as this returns."""
        self._copy("cuMemcpyHtoDAsync_v2", _address(pointer), _handle(array.ctypes.data), array.nbytes)
        self.wait()

    def download(self, pointer: int, array: np.ndarray) -> None:
        """Fills a dense array, after all work enqueued so far."""
        self._copy("cuMemcpyDtoHAsync_v2", _handle(array.ctypes.data), _address(pointer), array.nbytes)
        self.wait()

    def wait(self) -> None:
        """Until the stream is idle. An error of any earlier work shows here."""
        self.call("cuStreamSynchronize", _handle(self.stream))

    def release(self, pointer: int) -> None:
        self.call("cuMemFree_v2", _address(pointer))  # waits for work that still uses it

    def _copy(self, function: str, target: Any, source: Any, size: int) -> None:
        if size:
            self.call(function, target, source, ctypes.c_size_t(size), _handle(self.stream))


def _address(pointer: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(pointer)


def _handle(pointer: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(pointer)
