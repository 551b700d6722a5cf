"""Loads ahead-of-time compiled kernels and launches them through the CUDA driver: no compiler, no torch, no triton."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError, OutOfMemory

INDEX = "kernels.json"
_DEFAULT_SHARED = 48 * 1024  # more must be asked for
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_ERROR_OUT_OF_MEMORY = 2
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
IMPLEMENTATIONS = ("triton", "cuda")  # the later is preferred where both fit
# Tensor maps of kernels.catalogue: numbers of CUtensorMapDataType and its companions
_MAP_TYPES = {"uint8": 0, "float16": 6, "bfloat16": 9}
_MAP_SWIZZLE_128B, _MAP_PROMOTION_256B = 3, 3
_MAP_ROW_BYTES, _MAP_ROWS = 128, 128  # of a box
_MAP_ALL_ROWS = 2**31 - 1
MAP_KINDS = ("tile", "tile8", "turned8")
_INTEGERS = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


class Driver:
    """The CUDA driver library, every call checked."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise BackendUnavailable(
                f"the CUDA driver library does not load: {error}",
                expected="libcuda.so.1 of an NVIDIA driver",
                todo="install the driver, or run with --device cpu",
            ) from error
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a driver function.

        Raises:
            OutOfMemory: it had no device memory.
            FlashVSRError: any other status, with the driver's own text.
        """
        status = getattr(self._cuda, name)(*arguments)
        if status == 0:
            return
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorString(status, ctypes.byref(text))
        kind = OutOfMemory if status == _ERROR_OUT_OF_MEMORY else FlashVSRError
        raise kind(f"{name} failed: {text.value.decode() if text.value else 'unknown error'} ({status})")

    def compute_capability(self) -> int:
        """Of the device of the current context, e.g. 90."""
        return 10 * self._attribute(_COMPUTE_MAJOR) + self._attribute(_COMPUTE_MINOR)

    def multiprocessors(self) -> int:
        """Of the device of the current context."""
        return self._attribute(_MULTIPROCESSORS)

    def _attribute(self, which: int) -> int:
        device, value = ctypes.c_int(), ctypes.c_int()
        self.call("cuCtxGetDevice", ctypes.byref(device))
        self.call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def tile_map(self, pointer: int, kind: str, dim: int, element: str) -> ctypes.Array[ctypes.c_uint64]:
        """Tensor map of a kind of kernels.catalogue: [tokens, dim] numbers of `element` or bytes, or [windows * dim,
        128] bytes.

        It is told no end of the rows: the ring's length is not known here, and every row read is a listed one.
        """
        item, element = (2, element) if kind == "tile" else (1, "uint8")
        columns = _MAP_ROW_BYTES if kind == "turned8" else dim
        return self.tensor_map(pointer, element, (columns, _MAP_ALL_ROWS), (_MAP_ROW_BYTES // item, _MAP_ROWS))

    def tensor_map(
        self, pointer: int, element: str, sizes: tuple[int, ...], box: tuple[int, ...]
    ) -> ctypes.Array[ctypes.c_uint64]:
        """Tensor map (128 bytes, by value) of a dense tensor, innermost dimension first, whose boxes are copied in the
        128-byte swizzle; what lies outside is zeros."""
        rank, item = len(sizes), 1 if element == "uint8" else 2
        strides = [item * math.prod(sizes[: axis + 1]) for axis in range(rank - 1)]
        storage = (ctypes.c_uint64 * 24)()
        aligned = ctypes.addressof(storage) + 63 & ~63
        self.call(
            "cuTensorMapEncodeTiled",
            ctypes.c_void_p(aligned),
            _MAP_TYPES[element],
            rank,
            ctypes.c_void_p(pointer),
            (ctypes.c_uint64 * rank)(*sizes),
            (ctypes.c_uint64 * (rank - 1))(*strides),
            (ctypes.c_uint32 * rank)(*box),
            (ctypes.c_uint32 * rank)(*[1] * rank),
            0,  # not interleaved
            _MAP_SWIZZLE_128B,
            _MAP_PROMOTION_256B,
            0,  # zeros outside
        )
        return (ctypes.c_uint64 * 16).from_buffer_copy(ctypes.string_at(aligned, 128))


def pick(entries: list[dict[str, Any]], capability: int) -> int:
    """The architecture to take for a device: the same major version, the highest minor that is not above.

    Raises:
        BackendUnavailable: none fits.
    """
    offered = sorted({entry["architecture"] for entry in entries})
    fitting = [arch for arch in offered if arch // 10 == capability // 10 and arch <= capability]
    if not fitting:
        raise BackendUnavailable(
            f"no kernel fits a GPU of compute capability {capability // 10}.{capability % 10}",
            expected="one of " + ", ".join(f"sm_{arch}" for arch in offered),
            todo="build the kernels for this GPU with `make kernels ARCH=...`, or run without the plug-in",
        )
    return fitting[-1]


@dataclass
class Kernel:
    """One loaded kernel."""

    driver: Driver
    entry: dict[str, Any]
    function: ctypes.c_void_p

    def launch(self, grid: tuple[int, int, int], stream: int, **arguments: Any) -> None:
        """Enqueues the kernel. Pointers are device addresses, a "map" is Driver.tensor_map's; nothing is allocated."""
        if self.entry["persistent"]:
            grid = (min(math.prod(grid), self.driver.multiprocessors()), 1, 1)
        values = [self._value(kind, arguments[name], arguments) for name, kind in self.entry["arguments"]]
        values += [ctypes.c_uint64(0)] * self.entry["scratch_pointers"]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values))
        self.driver.call(
            "cuLaunchKernel",
            self.function,
            *grid,
            self.entry["threads"],
            1,
            1,
            self.entry["shared_bytes"],
            ctypes.c_void_p(stream),
            pointers,
            None,
        )

    def _value(self, kind: str, value: Any, arguments: Mapping[str, Any]) -> Any:
        if kind == "map":
            return value
        if kind in MAP_KINDS:
            return self.driver.tile_map(value, kind, arguments["dim"], self.entry["element"])
        return (ctypes.c_uint64 if kind.startswith("*") else _INTEGERS[kind])(value)


def load_kernels(
    folder: Path, element: str, driver: Driver, implementations: tuple[str, ...] = IMPLEMENTATIONS
) -> dict[str, Kernel]:
    """The kernels for the current context's device, by name, for tensors of `element` (float16, bfloat16).

    Where several implementations of a kernel fit, the last in `implementations` is taken.

    Raises:
        BackendUnavailable: the kernels are not built, or none fits the device.
        FlashVSRError: a file differs from its checksum.
    """
    try:
        entries = json.loads((folder / INDEX).read_text())["kernels"]
    except FileNotFoundError:
        raise BackendUnavailable(
            f"{folder} holds no {INDEX}", expected="compiled kernels", todo="make kernels"
        ) from None
    chosen = choose(entries, pick(entries, driver.compute_capability()), element, implementations)
    return {name: _load(folder, entry, driver) for name, entry in chosen.items()}


def choose(
    entries: list[dict[str, Any]], architecture: int, element: str, implementations: tuple[str, ...] = IMPLEMENTATIONS
) -> dict[str, dict[str, Any]]:
    """The entries of the index to take for an architecture and a type, by kernel."""
    fitting = [e for e in entries if e["architecture"] == architecture and e["element"] in (element, "float32")]
    chosen = {
        e["kernel"]: e for implementation in implementations for e in fitting if e["implementation"] == implementation
    }
    replaced = {name for entry in chosen.values() for name in entry["replaces"]}
    return {name: entry for name, entry in chosen.items() if name not in replaced}


def _load(folder: Path, entry: dict[str, Any], driver: Driver) -> Kernel:
    cubin = (folder / entry["file"]).read_bytes()
    if hashlib.sha256(cubin).hexdigest() != entry["sha256"]:
        raise FlashVSRError(
            f"{folder / entry['file']} differs from its checksum", expected=entry["sha256"], todo="make kernels"
        )
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.call("cuModuleLoadData", ctypes.byref(module), cubin)
    driver.call("cuModuleGetFunction", ctypes.byref(function), module, entry["symbol"].encode())
    if entry["shared_bytes"] > _DEFAULT_SHARED:
        driver.call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED, entry["shared_bytes"])
    return Kernel(driver, entry, function)
