"""Where compiled kernels lie: `make kernels` puts them there, and a wheel brings them along."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def kernels_folder() -> Path:
    """The folder of cubins and kernels.json; it need not exist."""
    return Path(str(files("flashvsr_trt.plugins_trt").joinpath("spec.py"))).parent / "lib" / "kernels"


def ort_library() -> Path:
    """The custom-op library for ONNX Runtime; it need not exist."""
    return kernels_folder() / "libflashvsr_ort.so"
