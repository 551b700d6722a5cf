"""CUDA kernels compiled by a C++ compiler to run on the host (tests/fake_cuda/grid.hpp), and numbers for them."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flashvsr_trt.plugins_trt.kernels import build, library

HERE = Path(__file__).parent
HAS_CUDA_TYPES = library.cuda_headers() is not None and (library.cuda_headers() / "cuda_fp16.h").is_file()
NEEDS = pytest.mark.skipif(library.compiler() is None or not HAS_CUDA_TYPES, reason="needs g++ and cuda_fp16.h")
# Half of the last place of each type, and what a root and a product in float32 add to it.
TOLERANCES = {"float16": 6e-4, "bfloat16": 5e-3}


def compiled(source: str, folder: Path, *more: Path) -> ctypes.CDLL:
    target = folder / f"{source}.so"
    includes = [f"-I{place}" for place in (*more, build.SOURCES, HERE / "fake_cuda", library.cuda_headers())]
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-w"]
    subprocess.run(
        [library.compiler(), *options, *includes, "-o", target, HERE / f"fake_cuda/{source}.cpp"], check=True
    )
    return ctypes.CDLL(str(target))


def stored(x: np.ndarray, element: str) -> np.ndarray:
    """As the type's bits; bfloat16 cut off, which for inputs is as good as rounded."""
    if element == "float16":
        return x.astype(np.float16)
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def wide(x: np.ndarray, element: str) -> np.ndarray:
    if element == "float16":
        return x.astype(np.float64)
    return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def pointers(*arrays: np.ndarray) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(array.ctypes.data) for array in arrays]


def normalised(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * gain
