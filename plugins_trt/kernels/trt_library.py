"""Compiles the TensorRT plug-in library in C++, with the kernels inside: for programs without Python.

    python -m flashvsr_trt.plugins_trt.kernels.trt_library KERNELS   # the folder that kernels.build wrote

Needs g++, cuda.h and cuda_runtime_api.h (as kernels.library), and TensorRT's headers (TENSORRT_INCLUDE_DIR, the folder
of NvInferRuntime.h: include/ of the repository NVIDIA/TensorRT, 10.13 or later). They are in no wheel; where something
is missing it is named, and the library left out: the plug-in in Python serves the same plans.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from flashvsr_trt.plugins_trt.kernels.driver import INDEX
from flashvsr_trt.plugins_trt.kernels.library import SOURCES, compiler, cuda_headers, generate

LIBRARY = "libflashvsr_trt.so"
_HEADER = "NvInferRuntime.h"
_PLACES = ("/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu", "/usr/local/tensorrt/include")


def tensorrt_headers() -> Path | None:
    """Folder of NvInferRuntime.h."""
    named = os.environ.get("TENSORRT_INCLUDE_DIR")
    return next((Path(place) for place in ([named] if named else _PLACES) if (Path(place) / _HEADER).is_file()), None)


def missing() -> list[str]:
    """What the library cannot be compiled without and is not there."""
    needed = {
        "g++ (or CXX)": compiler(),
        f"{_HEADER} (set TENSORRT_INCLUDE_DIR)": tensorrt_headers(),
        "cuda.h (set CUDA_INCLUDE_DIR)": cuda_headers(),
    }
    return [name for name, found in needed.items() if found is None]


def build(kernels: Path) -> Path | None:
    """Compiles the library into the folder of the kernels; None, with a printed reason, where it cannot be.

    Raises:
        subprocess.CalledProcessError: the compiler's own message is on stderr.
    """
    lacking = missing()
    if lacking:
        print(f"{LIBRARY} left out: no {' and no '.join(lacking)}. The plug-in in Python serves.", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generated = generate(kernels, folder)
        sources = [SOURCES / file for file in ("driver.cpp", "attention.cpp", "trt_plugin.cpp")]
        # NVIDIA's headers as system headers: their warnings are not ours.
        includes = [f"-I{place}" for place in (SOURCES, folder)]
        includes += [part for place in (tensorrt_headers(), cuda_headers()) for part in ("-isystem", str(place))]
        options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
        # A plan may carry the library to another machine: the C++ runtime library goes inside.
        options += ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"]
        target = folder / LIBRARY
        command = [str(compiler()), *options, *includes, "-o", str(target), *map(str, sources + generated), "-ldl"]
        subprocess.run(command, check=True)
        shutil.move(target, kernels / LIBRARY)
    return kernels / LIBRARY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path, help=f"folder with {INDEX}")
    built = build(parser.parse_args().kernels)
    if built:
        print(f"{built} {built.stat().st_size} B")


if __name__ == "__main__":
    main()
