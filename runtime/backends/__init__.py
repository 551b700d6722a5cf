"""What runs a step graph. A back end knows tensors, not the model."""

from __future__ import annotations

from flashvsr_trt.configs.errors import BackendUnavailable
from flashvsr_trt.runtime.backends.base import Backend

DEVICES = ("auto", "cpu")


def open_backend(device: str = "auto", *, threads: int | None = None) -> Backend:
    """Opens the back end for a device.

    Raises:
        BackendUnavailable: no back end of this installation drives that device.
    """
    if device not in DEVICES:
        raise BackendUnavailable(
            f"device {device!r} has no back end in this version", expected=" or ".join(DEVICES), todo="use --device cpu"
        )
    from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu  # lazily: --help needs no back end

    return OrtCpu(threads)
