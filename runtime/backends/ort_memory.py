"""What ONNX Runtime's graphs on a GPU compute with: one memory for all of them, which run in turn on one stream."""

from __future__ import annotations

import ctypes
import functools
import logging
from pathlib import Path

import onnxruntime as ort

LOG = logging.getLogger("flashvsr_trt.cuda")
PROVIDER = "CUDAExecutionProvider"
_AS_REQUESTED = 1  # how an arena grows: otherwise it doubles the memory that a large step asks for


class Pool:
    """The custom-op library's memory (plugins_trt/csrc/attention/pool.hpp), as sessions get it that take the
    environment's allocators.

    What is free in it merges, which ONNX Runtime's own arena does not do with what it has asked for by and by.

    Raises:
        RuntimeError: the GPU maps no memory, or ONNX Runtime takes no allocator; the message says which.
        AttributeError: the library is older than this.
    """

    def __init__(self, library: Path, index: int) -> None:
        ort.SessionOptions().register_custom_ops_library(str(library))  # so it knows this ONNX Runtime
        self._library, self._index = ctypes.CDLL(str(library)), index
        self._library.flashvsr_share_pool.restype = ctypes.c_char_p
        self._library.flashvsr_pool_shortage.restype = ctypes.c_size_t
        failed = self._library.flashvsr_share_pool(index)
        if failed:
            raise RuntimeError(failed.decode())

    def check(self) -> None:
        """RuntimeError if the GPU lacked memory since the last call: what ran has its results, but slowly."""
        lacked = self._library.flashvsr_pool_shortage(self._index)
        if lacked:
            raise RuntimeError(f"out of memory: {lacked} bytes more than the GPU has free")

    def trim(self) -> None:
        """Gives the GPU what is free behind what is used. The stream must have been waited for."""
        self._library.flashvsr_pool_trim(self._index)

    def close(self) -> None:
        """No later session gets it. The stream must have been waited for."""
        self._library.flashvsr_unshare_pool(self._index)
        self.trim()


def share_memory(index: int, library: Path | None) -> Pool | None:
    """Gives all sessions of the process that take the environment's allocators one memory on that GPU: the library's
    pool, or without it, which is None here, an arena of ONNX Runtime's."""
    if library is not None:
        try:
            return Pool(library, index)
        except (AttributeError, RuntimeError) as error:
            LOG.warning("%s shares no memory (%s), so ONNX Runtime's arena takes more: make kernels", library, error)
    _share_arena(index)
    return None


@functools.cache  # ONNX Runtime's Python takes none back
def _share_arena(index: int) -> None:
    place = ort.OrtMemoryInfo("Cuda", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, index, ort.OrtMemType.DEFAULT)
    arena = ort.OrtArenaCfg({"max_mem": 0, "arena_extend_strategy": _AS_REQUESTED, "initial_chunk_size_bytes": -1})
    ort.create_and_register_allocator_v2(PROVIDER, place, {"device_id": str(index)}, arena)
