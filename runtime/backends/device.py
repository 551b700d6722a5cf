"""Memory, streams and events of one NVIDIA GPU through the CUDA driver: what a back end needs beside its library."""

from __future__ import annotations

import ctypes

import numpy as np

from flashvsr_trt.plugins_trt.kernels.driver import Driver

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


class Event:
    """A point in a stream, by default the main one."""

    def __init__(self, device: Device, stream: int | None = None) -> None:
        self._device = device
        handle = ctypes.c_void_p()
        device.call("cuEventCreate", ctypes.byref(handle), 0)
        self.handle = handle
        device.call("cuEventRecord", handle, _handle(device.stream if stream is None else stream))

    def wait(self) -> None:
        """Until the stream has come here. An error of earlier work shows here."""
        self._device.call("cuEventSynchronize", self.handle)

    def seconds_since(self, earlier: Event) -> float:
        """Time on the device between two points that it has passed."""
        milliseconds = ctypes.c_float()
        self._device.call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier.handle, self.handle)
        return milliseconds.value / 1000

    def __del__(self) -> None:
        self._device.call("cuEventDestroy_v2", self.handle)


class Memory:
    """Device memory, given back when nobody refers to it any more.

    `used` is the end of the last work of the main stream on it, `copied` that of the last copy beside the main stream,
    where the main stream has not been told to wait for it.
    """

    def __init__(self, device: Device, size: int) -> None:
        self._device, self.bytes, self.pointer = device, size, 0
        self.used: Event | None = None
        self.copied: Event | None = None
        pointer = ctypes.c_uint64()
        device.call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        self.pointer = pointer.value

    def __del__(self) -> None:
        if self.pointer:
            self._device.release(self.pointer)


class Device:
    """The first visible GPU, in its primary context, with a main stream and two that copy beside it.

    Args:
        index: of the GPU, as CUDA_VISIBLE_DEVICES leaves it.

    Raises:
        BackendUnavailable: no driver. FlashVSRError: no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = Driver()
        self.call = self._driver.call
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._device, self._context = device, context
        self.enter()
        self.stream, self.uploads, self.downloads = (self._new_stream() for _ in range(3))

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

    def copy_in(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Enqueues a copy of a dense array to the device; pinned memory is read only when its turn has come."""
        self.call("cuMemcpyHtoDAsync_v2", _address(pointer), _handle(array.ctypes.data), _size(array), _handle(stream))

    def copy_out(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Enqueues a copy from the device that fills a dense array."""
        self.call("cuMemcpyDtoHAsync_v2", _handle(array.ctypes.data), _address(pointer), _size(array), _handle(stream))

    def after(self, event: Event, stream: int) -> None:
        """What is enqueued on the stream from now on starts when the event has come."""
        self.call("cuStreamWaitEvent", _handle(stream), event.handle, 0)

    def wait(self) -> None:
        """Until the main stream is idle. An error of any earlier work shows here."""
        self.call("cuStreamSynchronize", _handle(self.stream))

    def release(self, pointer: int) -> None:
        self.call("cuMemFree_v2", _address(pointer))  # waits for work that still uses it

    def _new_stream(self) -> int:
        stream = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return int(stream.value or 0)


def _address(pointer: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(pointer)


def _handle(pointer: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(pointer)


def _size(array: np.ndarray) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)
