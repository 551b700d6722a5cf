"""A whole clip on a GPU against the same network in float32 on the CPU.

python -m pytest tests/test_clip_gpu.py -s    # prints the figures

The bundles are exported first, or elsewhere, where the GPU's machine cannot:

python tests/test_clip_gpu.py FOLDER
FLASHVSR_TRT_CLIP_BUNDLES=FOLDER python -m pytest tests/test_clip_gpu.py -s
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

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


def moving() -> np.ndarray:
    return np.stack(list(moving_frames(FRAMES, 48, 80)))


def export(folder: Path) -> None:
    """The small random network as FOLDER/fp32, not fused, and as FOLDER/fp16 and FOLDER/fp8."""
    for precision in ("fp32", "fp16"):
        options = bundles.Options(precision=precision, fused=precision == "fp16", meaningful=False, check=False)
        bundles.export_bundle(random_weights(CONFIGS["small"], 0), folder / precision, options)
    to_float8(folder / "fp16", folder / "fp8", largest_inputs(folder / "fp16", moving()[:37]), about="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    given = os.environ.get("FLASHVSR_TRT_CLIP_BUNDLES")
    if given:
        return Path(given)
    made = tmp_path_factory.mktemp("bundles")
    export(made)
    return made


@pytest.fixture(scope="module")
def reference(folder):
    return frames_of(folder / "fp32", "cpu")


def frames_of(bundle: Path, device: str) -> np.ndarray:
    return np.stack(list(upscale(moving(), bundle=bundle, backend=open_backend(device)))).astype(np.float64)


@pytest.mark.parametrize("precision", LEAST)
def test_clip(folder, reference, precision):
    error = ((frames_of(folder / precision, "cuda") - reference) ** 2).mean(axis=(1, 2, 3))
    whole, worst = (10 * np.log10(255**2 / value) for value in (error.mean(), error.max()))
    print(f"{precision} on the GPU against fp32 on the CPU: {whole:.1f} dB, worst frame {worst:.1f} dB")
    assert worst > LEAST[precision]


if __name__ == "__main__":
    export(Path(sys.argv[1]))
