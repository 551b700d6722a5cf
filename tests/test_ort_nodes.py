"""The nodes of the custom-op library in ONNX Runtime on a CPU with a fake driver: types, shapes and launches.

The library is compiled with the CPU as its provider; the fake driver and cuBLASLt (tests/fake_cuda) write the launches
down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from test_ort_library import HERE, index, needs_ort_headers

from flashvsr_trt.plugins_trt.kernels import library

pytestmark = needs_ort_headers
pytest.importorskip("flashvsr_trt.export.onnx_ops")
# cuBLASLt's numbers: 4 adds a bias, 36 is GELU of that.
PRODUCTS = {
    "Linear": "768x8960x1536, epilogue 4, plus 0",
    "Linear of few rows": "7x8960x1536, epilogue 4, plus 0",
    "LinearGelu": "768x8960x1536, epilogue 36, plus 0",
    "LinearAdd": "768x1536x8960, epilogue 4, plus 1",
    "Linear8": "768x8960x1536, epilogue 4, plus 0, scales 16, fast",
    "LinearGelu8": "768x8960x1536, epilogue 36, plus 0, scales 16, fast",
    "LinearAdd8": "768x1536x8960, epilogue 4, plus 1, scales 16, fast",
}
# Kernel and grid of each launch: warps of 8 rows, tiles of 14 x 30 pixels, 32 and 64 shares of a picture.
LAUNCHES = {
    "NormRotate": ["norm_rotate 96x3x1"],
    "LayerNorm": ["layer_norm 96x1x1"],
    "PromptAttention": ["norm_rows 96x1x1", "list_all 72x1x1", "block_sparse_attention 72x1x1"],
    "ConvolveColours": ["convolve_colours 9x2x1"],
    "LastPlanes": ["last_planes 3x3x1"],
    "FoldFrames": ["fold_frames 96x1x1"],
    "FoldPixels": ["fold_pixels 180x1x1"],
    "NormSilu": ["norm_silu 9x1x1"],
    "AdaptColours": ["colour_statistics 32x9x1", "adapt_colours 64x3x1"],
    "AdaptColours16": ["colour_statistics 32x9x1", "adapt_colours16 64x3x1"],
}
RUN = """
import json, os, sys
import onnxruntime as ort
from test_fused_gpu import CASES, draw, model
folder, *cases = sys.argv[1:]
options = ort.SessionOptions()
options.log_severity_level = 3
options.register_custom_ops_library(f"{folder}/nodes.so")
cpu = {"providers": ["CPUExecutionProvider"]}
results = {}
for case in cases:
    op, shapes, attributes = CASES[case]
    feed = draw(op, shapes, 0)
    expected = ort.InferenceSession(model(op, shapes, "float32", attributes), **cpu).run(None, feed)
    for element in ("float16", "bfloat16"):
        os.environ["FAKE_CUDA_LOG"] = log = f"{folder}/{case}.{element}"
        made = ort.InferenceSession(model(op, shapes, element, attributes), options, **cpu).run(None, feed)
        lines = open(log).read().splitlines()
        results[f"{case} {element}"] = [x.shape for x in made], [x.shape for x in expected], lines
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of each case and type: shapes by the library, shapes by the function body, launches."""
    folder = tmp_path_factory.mktemp("nodes")
    kernels, sources = folder / "kernels", folder / "sources"
    kernels.mkdir()
    index(kernels)
    shutil.copytree(library.SOURCES, sources)
    entry = sources / "ort_library.cpp"
    entry.write_text(entry.read_text().replace('"CUDAExecutionProvider"', '"CPUExecutionProvider"'))
    parts = [sources / name for name in library.LIBRARY_SOURCES] + library.generate(kernels, folder)
    includes = [f"-I{place}" for place in (sources, folder, library.ort_headers(), library.cuda_headers())]
    options = ["-std=c++17", "-fPIC", "-shared", "-o", folder / "nodes.so"]
    subprocess.run([library.compiler(), *options, *includes, *parts, "-ldl"], check=True)
    for source, target in (("libcuda.c", "libcuda.so.1"), ("libcublasLt.c", "libcublasLt.so.13")):
        compile_c = ["gcc", "-shared", "-fPIC", "-w", "-o", folder / target, HERE / "fake_cuda" / source]
        subprocess.run(compile_c, check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", RUN, str(folder), *LAUNCHES, *PRODUCTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", LAUNCHES)
def test_node(results, case, element):
    shapes, expected, lines = results[f"{case} {element}"]
    assert shapes == expected
    launches = [re.match(r"(\w+)_(b?float\d+) (\S+)", line) for line in lines]
    assert [f"{launch[1]} {launch[3]}" for launch in launches] == LAUNCHES[case]
    assert {launch[2] for launch in launches} <= {element, "float32"}


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", PRODUCTS)
def test_product(results, case, element):
    shapes, expected, lines = results[f"{case} {element}"]
    assert shapes == expected
    *launches, product = lines
    eighth = "8" in case
    short = {"float16": "f16", "bfloat16": "bf16"}[element]
    factor = "e4m3" if eighth else short
    assert product == f"matmul {factor} weight, {factor} x, {short} out, {PRODUCTS[case]}"
    threads = {"Linear8": 288, "LinearGelu8": 288, "LinearAdd8": 1680}  # blocks of 256 x 16 numbers
    assert [line.split(" ")[:2] for line in launches] == (
        [[f"to_float8_{element}", f"{threads[case]}x1x1"]] if eighth else []
    )
