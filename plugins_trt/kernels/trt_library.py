"""Compiles the TensorRT plug-in library in C++, with the kernels inside: for programs without Python.

    python -m flashvsr_trt.plugins_trt.kernels.trt_library KERNELS   # the folder that kernels.build wrote

Needs CMake, a C++ compiler, cuda.h and cuda_runtime_api.h (as kernels.library), and TensorRT's headers: of
TENSORRT_INCLUDE_DIR, of the system, or downloaded (plugins_trt/CMakeLists.txt). They are in no wheel; where something
is missing it is named, and the library left out: the plug-in in Python serves the same plans.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from flashvsr_trt.plugins_trt.kernels.driver import INDEX
from flashvsr_trt.plugins_trt.kernels.library import SOURCES, compiler, cuda_headers, generate

LIBRARY = "libflashvsr_trt.so"
_PROJECT = SOURCES.parent.parent  # the folder of CMakeLists.txt


def missing() -> list[str]:
    """What the library needs and is not there; for TensorRT's headers CMake looks."""
    needed = {
        "cmake": shutil.which("cmake"),
        "C++ compiler (g++, or CXX)": compiler(),
        "cuda.h (set CUDA_INCLUDE_DIR)": cuda_headers(),
    }
    return [name for name, found in needed.items() if found is None]


def build(kernels: Path, *options: str) -> Path | None:
    """Compiles the library into the folder of the kernels; None, with a printed reason, where it cannot be.

    Args:
        kernels: folder of the index and the compiled kernels.
        options: of CMake, e.g. -DTENSORRT_INCLUDE_DIR=...

    Raises:
        subprocess.CalledProcessError: CMake's or the compiler's own message is on stderr.
    """
    lacking = missing()
    if lacking:
        _left_out(f"no {' and no '.join(lacking)}")
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(kernels, folder)
        given = [f"-DFLASHVSR_GENERATED={folder}", f"-DCUDA_INCLUDE_DIR={cuda_headers()}", "-DCMAKE_BUILD_TYPE=Release"]
        target = folder / "build"
        configure = ["cmake", "-S", str(_PROJECT), "-B", str(target), *given, *options]
        said = subprocess.run(configure, check=True, stdout=subprocess.PIPE, text=True).stdout
        skipped = [line for line in said.splitlines() if "flashvsr: skipped: " in line]
        if skipped:
            _left_out(skipped[0].partition("skipped: ")[2])
            return None
        subprocess.run(["cmake", "--build", str(target)], check=True, stdout=subprocess.DEVNULL)
        shutil.move(target / LIBRARY, kernels / LIBRARY)
    return kernels / LIBRARY


def _left_out(reason: str) -> None:
    print(f"{LIBRARY} left out: {reason}. The plug-in in Python serves.", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path, help=f"folder with {INDEX}")
    built = build(parser.parse_args().kernels)
    if built:
        print(f"{built} {built.stat().st_size} B")


if __name__ == "__main__":
    main()
