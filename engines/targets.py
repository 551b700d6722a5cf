"""Which GPUs an engine set is for, and what they cannot run."""

from __future__ import annotations

import ctypes
import re

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.engines.trt import Flavour
from flashvsr_trt.plugins_trt.kernels.catalogue import ARCHITECTURES
from flashvsr_trt.plugins_trt.kernels.driver import Driver

GENERATIONS = {  # what a user calls them
    "sm75": "RTX 20", "sm80": "A100", "sm86": "RTX 30", "sm89": "RTX 40", "sm90": "H100, H200", "sm100": "B200",
    "sm120": "RTX 50", "sm121": "DGX Spark",
}  # fmt: skip
DEFAULT = ("sm86", "sm89", "sm120")
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
FP8 = ("sm89", "sm90", "sm100", "sm120", "sm121")


def exact_name(capability: int, name: str) -> str:
    """The target of a plan that serves one model of GPU only: sm90-nvidia-h200."""
    return f"sm{capability}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}"


def serves(targets: tuple[str, ...], capability: int, name: str) -> bool:
    """Whether plans for these targets run on a GPU of that compute capability, e.g. 89, and name."""
    return bool({f"sm{capability}", exact_name(capability, name)} & set(targets))


def this_gpu() -> str:
    """The exact name of the first GPU that CUDA shows.

    Raises:
        BackendUnavailable: there is no driver. FlashVSRError: there is no GPU.
    """
    driver = Driver()
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.call("cuDeviceGet", ctypes.byref(device), 0)
    driver.call("cuDeviceGetName", name, len(name), device)
    capability = ctypes.c_int(), ctypes.c_int()
    for value, which in zip(capability, _CAPABILITY, strict=True):
        driver.call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
    major, minor = (value.value for value in capability)
    return exact_name(10 * major + minor, name.value.decode())


def parse_targets(text: str | None, flavour: Flavour, *, weights: str = "bundle") -> tuple[str, ...]:
    """The targets of `--target sm86,sm89`; None gives all current RTX generations that have `weights`, or this GPU.

    Raises:
        UsageError: one that this flavour does not build for.
    """
    offered = flavour.architectures
    if not offered:
        if text is not None:
            raise UsageError(
                f"{flavour.name} {flavour.version} was asked to build for {text}",
                expected="the GPU of this machine: only tensorrt_rtx builds for others",
                todo="leave --target out, or install the flavour tensorrt_rtx",
            )
        return (this_gpu(),)
    if text is None:
        return tuple(target for target in DEFAULT if weights != "fp8" or target in FP8)
    named = [part.strip().lower().replace("_", "") for part in text.split(",") if part.strip()]
    unknown = [target for target in named if target not in offered]
    if unknown or not named:
        what = f" ({GENERATIONS[unknown[0]]})" if unknown and unknown[0] in GENERATIONS else ""
        raise UsageError(
            f"{flavour.name} {flavour.version} does not build for {unknown[0] if unknown else repr(text)}{what}",
            expected="of " + ", ".join(f"{name} ({GENERATIONS.get(name, '?')})" for name in offered),
            todo="data-centre GPUs run the flavour tensorrt, or ONNX Runtime with CUDA",
        )
    return tuple(sorted(set(named), key=lambda target: int(target[2:])))


def check_targets(targets: tuple[str, ...], *, precision: str, weights: str) -> None:
    """Refuses what a target cannot run.

    Args:
        targets: of parse_targets.
        precision: the bundle's.
        weights: the tier's, bundle or fp8.

    Raises:
        UsageError: with the reason.
    """
    if precision == "fp8":
        raise UsageError(
            "the bundle is one of FP8, which ONNX Runtime on CUDA takes",
            expected="a bundle of fp16 or bf16",
            todo="give the bundle that it was made of; a tier such as 8-fp8 stores its weights in FP8",
        )
    for target in targets:
        generation = target.partition("-")[0]
        number = int(generation[2:])
        name = f"{generation} ({GENERATIONS.get(generation, '?')})"
        if precision == "bf16" and number < 80:
            raise UsageError(f"{name} has no bfloat16", expected="sm80 or later", todo="use a bundle in fp16")
        if weights == "fp8" and generation not in FP8:
            raise UsageError(
                f"{name} has no FP8 (E4M3)", expected=" or ".join(FP8), todo='use a tier with weights = "bundle"'
            )
        if not any(built // 10 == number // 10 and built <= number for built in ARCHITECTURES):
            raise UsageError(
                f"there are no attention kernels for {name}", expected=", ".join(f"sm{a}" for a in ARCHITECTURES)
            )
