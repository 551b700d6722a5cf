"""Frames that a bundle must give: made once by ONNX Runtime on the CPU, stored, compared with what engines give."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from flashvsr_trt.configs.cache import cache_root
from flashvsr_trt.configs.contract import COLOUR_FIXES
from flashvsr_trt.configs.errors import FlashVSRError, UsageError, WriteError
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime.agreement import PEAK, mean_square, psnr
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.upscaler import VARIANTS, Options, upscale

FRAMES, HEIGHT, WIDTH = 37, 30, 60  # three steps, on a canvas of 128x256
_REDO = "build the engines again; if that does not help, report it with `flashvsr-trt doctor`"


def clip() -> np.ndarray:
    """uint8 [37, 30, 60, 3]: soft shapes that drift, fine grain over them."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = random.uniform(0.05, 0.4, (3, 2))  # [colour, axis], radians a pixel
    time = np.arange(FRAMES)[:, None, None, None]
    phase = rows[..., None] * waves[:, 0] + columns[..., None] * waves[:, 1]  # [height, width, 3]
    picture = 128 + 90 * np.sin(phase + 0.3 * time) + 12 * random.standard_normal((FRAMES, HEIGHT, WIDTH, 3))
    return picture.clip(0, PEAK).astype(np.uint8)


def stored(bundle: Bundle, variant: str) -> np.ndarray:
    """What the bundle makes of `clip`, uint8 [37, 120, 240, 3]; from the cache, where it is kept.

    Raises:
        UsageError: ONNX Runtime has no bfloat16 on the CPU.
        WriteError: the cache cannot be written.
    """
    manifest = bundle.manifest
    path = cache_root() / "frames" / f"{manifest.digest()[:16]}-{VARIANTS[variant]}.npy"
    if path.is_file():
        return np.asarray(np.load(path))
    if manifest.precision == "bf16":
        raise UsageError(
            f"{bundle.folder} is bf16, and no CPU here computes the frames that its engines must give",
            expected="the same weights in fp32 or fp16",
            todo="export them once more with --precision fp32 and name that bundle with --reference",
        )
    frames = np.stack(_upscaled(bundle, variant, OrtCpu()))
    part = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, frames)
        os.replace(part, path)
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written: {error}", todo="name another folder in FLASHVSR_TRT_CACHE"
        ) from error
    return frames


def check_frames(bundle: Bundle, variant: str, backend: Backend, expected: np.ndarray, *, min_psnr: float) -> float:
    """Runs the whole stream on a back end; the PSNR in dB of its worst frame.

    Raises:
        FlashVSRError: a frame is missing, of one colour where it should not be, or differs too much.
    """
    seen = _upscaled(bundle, variant, backend)
    if len(seen) != len(expected):
        raise FlashVSRError(f"{len(seen)} frames came", expected=f"{len(expected)} frames", todo=_REDO)
    worst = math.inf
    for index, (frame, right) in enumerate(zip(seen, expected, strict=True)):
        if not frame.std(axis=(0, 1)).any() and right.std(axis=(0, 1)).any():
            raise FlashVSRError(f"frame {index} is of one colour, {frame[0, 0].tolist()}", todo=_REDO)
        agrees = psnr(mean_square(frame, right))
        if agrees < min_psnr:
            raise FlashVSRError(
                f"frame {index} agrees to {agrees:.1f} dB", expected=f"at least {min_psnr:g} dB", todo=_REDO
            )
        worst = min(worst, agrees)
    return worst


def _upscaled(bundle: Bundle, variant: str, backend: Backend) -> list[np.ndarray]:
    parameters = Parameters(local_range=bundle.manifest.local_range)
    # By name: the reference may be another export of the same weights, which would choose another.
    options = Options(variant=variant, parameters=parameters, colour_fix=COLOUR_FIXES[0])
    return list(upscale(clip(), bundle=Path(bundle.folder), backend=backend, options=options))
