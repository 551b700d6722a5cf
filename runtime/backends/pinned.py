"""Page-locked host memory: what copies that run beside the host need."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from typing import Any

import numpy as np

from flashvsr_trt.runtime.backends.device import Device

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_SMALLEST = 4096


class HostPool:
    """Page-locked memory, used again when the arrays made of it are gone. May be shared by threads.

    Allocating such memory takes milliseconds, so it is kept, in sizes of powers of two and three quarters of them.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._lock = device, threading.Lock()
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of unknown content whose memory comes back to the pool by itself."""
        size = _size_class(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        with self._lock:
            pointer = self._free[size].pop() if self._free[size] else 0
        return np.asarray(_Lease(self, pointer or self._allocate(size), size, shape, np.dtype(dtype)))

    def _allocate(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self._device.enter()
        self._device.call("cuMemHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), _PORTABLE)
        return int(pointer.value or 0)

    def give_back(self, pointer: int, size: int) -> None:
        with self._lock:
            self._free[size].append(pointer)

    def __del__(self) -> None:
        for pointers in self._free.values():
            for pointer in pointers:
                self._device.call("cuMemFreeHost", ctypes.c_void_p(pointer))


class _Lease:
    """The owner of an array's memory, seen by numpy through the array interface."""

    def __init__(self, pool: HostPool, pointer: int, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._pool, self._pointer, self._size = pool, pointer, size
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (pointer, False),
            "version": 3,
        }

    def __del__(self) -> None:
        self._pool.give_back(self._pointer, self._size)


def is_pinned(array: np.ndarray) -> bool:
    """Whether the array is dense memory of a pool."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, _Lease) and array.flags.c_contiguous


def _size_class(size: int) -> int:
    power = 1 << max(size - 1, _SMALLEST - 1).bit_length()
    return power * 3 // 4 if size <= power * 3 // 4 else power
