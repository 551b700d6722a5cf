"""Streams video through a bundle or an engine set. Imports neither torch nor onnx.

from flashvsr_trt.runtime import upscale
for frame in upscale(frames):   # uint8 [h, w, 3] in, uint8 [4h, 4w, 3] out, as many as came
    ...
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Job": "jobs",
    "Options": "upscaler",
    "Upscaler": "upscaler",
    "upscale": "upscaler",
    "upscale_file": "execution",
    "Parameters": None,
    "open_backend": "backends",
    "open_bundle": "bundle",
}
__all__ = ["Job", "Options", "Parameters", "Upscaler", "open_backend", "open_bundle", "upscale", "upscale_file"]


def __getattr__(name: str) -> Any:
    # Lazily: `flashvsr-trt --help` shall not load a back end.
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    module = _PUBLIC[name]
    path = f"flashvsr_trt.runtime.{module}" if module else "flashvsr_trt.configs.schedule"
    return getattr(import_module(path), name)
