"""A whole clip on a GPU against the same network in float32 on the CPU.

python -m pytest tests/test_clip_gpu.py -s    # prints the figures
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from cpp_programs import moving_frames

bundles = pytest.importorskip("flashvsr_trt.export.bundle")

from flashvsr_trt.export.float8 import to_float8  # noqa: E402 (needs what the line above looks for)
from flashvsr_trt.export.seeded import CONFIGS, random_weights  # noqa: E402
from flashvsr_trt.runtime import open_backend, upscale  # noqa: E402
from flashvsr_trt.runtime.commands.calibrate import largest_inputs  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs onnxruntime-gpu and a GPU"
    ),
]
FRAMES = 85
LEAST = {"fp16": 45.0, "fp8": 38.0}  # dB


@pytest.fixture(scope="module")
def clip():
    return np.stack(list(moving_frames(FRAMES, 48, 80)))


@pytest.fixture(scope="module")
def reference(clip, tmp_path_factory):
    return frames_of(exported(tmp_path_factory, "fp32", fused=False), clip, "cpu")


def exported(tmp_path_factory, precision: str, *, fused: bool):
    folder = tmp_path_factory.mktemp(precision) / "bundle"
    options = bundles.Options(precision=precision, fused=fused, meaningful=False, check=False)
    bundles.export_bundle(random_weights(CONFIGS["small"], 0), folder, options)
    return folder


def frames_of(bundle, clip, device: str) -> np.ndarray:
    return np.stack(list(upscale(clip, bundle=bundle, backend=open_backend(device)))).astype(np.float64)


@pytest.mark.parametrize("precision", LEAST)
def test_clip(clip, reference, tmp_path_factory, precision):
    bundle = exported(tmp_path_factory, "fp16", fused=True)
    if precision == "fp8":
        eighth = bundle.with_name("fp8")
        to_float8(bundle, eighth, largest_inputs(bundle, clip[:37]), about="")
        bundle = eighth
    error = ((frames_of(bundle, clip, "cuda") - reference) ** 2).mean(axis=(1, 2, 3))
    whole, worst = (10 * np.log10(255**2 / value) for value in (error.mean(), error.max()))
    print(f"{precision} on the GPU against fp32 on the CPU: {whole:.1f} dB, worst frame {worst:.1f} dB")
    assert worst > LEAST[precision]
