"""What runs a step graph. A back end knows tensors, not the model."""

from __future__ import annotations

import logging

from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError
from flashvsr_trt.runtime.backends.base import Backend

DEVICES = ("auto", "cpu", "cuda")
LOG = logging.getLogger("flashvsr_trt.backends")


def check_device(device: str, known: tuple[str, ...]) -> None:
    """Raises BackendUnavailable for a device that is none of `known`."""
    if device not in known:
        raise BackendUnavailable(
            f"device {device!r} has no back end in this version", expected=" or ".join(known), todo="use --device cpu"
        )


def open_backend(device: str = "auto", *, threads: int | None = None) -> Backend:
    """Opens the back end for a device.

    Args:
        device: "cpu", "cuda" (ONNX Runtime on an NVIDIA GPU), or "auto": cuda if it is there, else cpu.
        threads: CPU threads inside one operator; None leaves it to the library.

    Raises:
        BackendUnavailable: no back end of this installation drives that device.
    """
    check_device(device, DEVICES)
    import onnxruntime as ort  # lazily, as all that follows: --help needs no back end

    if device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in ort.get_available_providers()):
        from flashvsr_trt.runtime.backends.onnxruntime_cuda import OrtCuda

        try:
            return OrtCuda()
        except FlashVSRError as error:
            if device == "cuda":
                raise
            LOG.warning("the GPU is not used: %s", error.came)
    from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu

    return OrtCpu(threads)
