"""A bundle of random weights in the cache, made when it is first asked for: the network's real size to measure on."""

from __future__ import annotations

import hashlib
import time
from importlib.resources import files
from pathlib import Path

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.cache import cache_root
from flashvsr_trt.configs.errors import BundleError, UsageError
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.commands import calibrate
from flashvsr_trt.runtime.speed import moving_picture

SIZES = ("real", "small")
_SIDE = 32  # of the frames that calibrate, a quarter of the canvas's
_PACKAGES = ("configs", "plugins_trt", "export")  # whose code decides what an export writes


def random_bundle(size: str, precision: str, *, fused: bool = False) -> Path:
    """The folder of the bundle of that network size and precision, seed 0; exported if this code has not yet.

    `fused`: with the ops that ONNX Runtime on CUDA has kernels for.

    Raises:
        UsageError: there is none, and torch, which an export needs, is not installed.
    """
    folder = cache_root() / "bundles" / f"random-{size}-{precision}{'-fused' if fused else ''}-{_identity(precision)}"
    try:
        manifests.load(folder)
        return folder
    except BundleError:
        pass
    try:
        from flashvsr_trt.export.bundle import Options, export_bundle
        from flashvsr_trt.export.seeded import CONFIGS, random_weights
    except ModuleNotFoundError as error:
        raise UsageError(
            f"random weights need an export, and {error.name} is not installed",
            todo="pip install 'flashvsr-trt[export]', or give --bundle",
        ) from error
    began = time.monotonic()
    if precision == "fp8":
        _calibrate(random_bundle(size, "fp16", fused=True), folder)
        return folder
    console.say("bundle", f"random weights, {size} size, {precision}, to {folder}")
    about = f"random weights, seed 0, {size} size: the picture content means nothing"
    options = Options(precision=precision, fused=fused, model="seeded", about=about, meaningful=False, check=False)
    export_bundle(random_weights(CONFIGS[size], 0), folder, options, overwrite=True)
    console.say("bundle", f"made in {time.monotonic() - began:.0f} s; kept for the next time")
    return folder


def _calibrate(source: Path, folder: Path) -> None:
    """The FP8 bundle of one of fp16, by a few frames of a generated picture on the smallest canvas."""
    frames = [moving_picture(index, _SIDE, _SIDE) for index in range(calibrate.FRAMES)]
    about = f"FP8, calibrated on {calibrate.FRAMES} generated frames"
    calibrate.write(source, folder, calibrate.largest_inputs(source, frames), about=about, overwrite=True)


def _identity(precision: str) -> str:
    digest = hashlib.sha256()
    if precision == "fp8":
        for module in (calibrate.__file__, __file__):
            digest.update(Path(module).read_bytes())
    for package in _PACKAGES:
        root = Path(str(files(f"flashvsr_trt.{package}").joinpath("__init__.py"))).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
