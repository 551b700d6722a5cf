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
    "LinearGelu8": "768x8960x1536, epilogue 36, plus 0, scales 16, 32, fast",
    "LinearAdd8": "768x1536x8960, epilogue 4, plus 1, scales 16, fast",
}
# Kernel and grid of each launch: warps of 8 rows, tiles of 14 x 30 pixels, 32 and 64 shares of a picture.
LAUNCHES = {
    "NormRotate": ["norm_rotate 96x3x1"],
    "NormRotate8": ["norm_rotate8 96x2x1", "turn_values8 6x12x1"],
    "BlockSparseAttention8": [
        "window_means8 24x12x1",
        "group_scores 2x12x1",
        "select_windows 12x1x1",
        "block_sparse_attention8 72x1x1",
    ],
    "Convolve": ["convolve 24x1x1"],
    "Convolve of part tiles": ["convolve 36x1x1"],
    "ConvolveAdd": ["convolve 24x1x1"],
    "ConvolvePast": ["convolve 24x1x1"],
    "ConvolveUp": ["convolve 96x1x1"],
    "ConvolveUpRelu": ["convolve 40x1x1"],
    "ConvolveInner8": ["convolve8 24x1x1"],
    "LayerNorm": ["layer_norm 96x1x1"],
    "LayerNorm8": ["layer_norm8 96x1x1"],
    "ToFloat8": ["to_float8 288x1x1"],
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


# Frames by a session in the pool, and by one that is not; then what the pool has: in use, given back, and no more.
POOL = """
import sys
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper
from flashvsr_trt.runtime.backends.ort_memory import Pool
folder = sys.argv[1]
size = 256
weight = helper.make_tensor("w", TensorProto.FLOAT, [size, size], np.linspace(-1, 1, size * size))
nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in ("xa", "ab", "by")]
border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "xy"]
graph = helper.make_graph(nodes, "chain", border[:1], border[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
x = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
pool, results = Pool(f"{folder}/nodes.so", 0), []
held = pool._library.flashvsr_pool_bytes
for shared in "10":
    options = ort.SessionOptions()
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", shared)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    results.append(session.run(None, {"x": x})[0].copy())
    print(held(0) // 2**20, end=" ")
del session
pool.check()
pool._library.flashvsr_pool_trim(0)
print(held(0), np.array_equal(*results))
for index in (0, 1):
    try:
        Pool(f"{folder}/nodes.so", index)
    except RuntimeError as error:
        print(error)
pool.close()
pool = Pool(f"{folder}/nodes.so", 0)  # again
pool.close()
"""
# A device and a host without memory: ONNX Runtime ends the run with an error, and the next one works.
NOTHING = (
    POOL[: POOL.index("for shared in")]
    + """
import os
options = ort.SessionOptions()
options.enable_mem_pattern = False
options.add_session_config_entry("session.use_env_allocators", "1")
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
for left in ("0", str(2**30)):
    os.environ["FAKE_CUDA_MEMORY"] = left
    os.environ["FAKE_CUDA_NO_HOST"] = "1"
    try:
        print(session.run(None, {"x": x})[0].shape)
    except Exception as error:
        print("out of memory" in str(error))
"""
)


# On which GPU is not known before a context is current: an op that only some have is offered by all or by none.
TWO_GPUS = """
import ctypes, os, sys
import onnxruntime as ort
from test_fused_gpu import CASES, draw, model
folder = sys.argv[1]
os.environ["FAKE_CUDA_DEVICES"] = sys.argv[2]
os.environ["FAKE_CUDA_FULL"] = "1"  # a context of that one cannot be had
os.environ["FAKE_CUDA_LOG"] = log = f"{folder}/two"
op, shapes, attributes = CASES["Convolve"]
for context in (None, 1, 2, None):
    ctypes.CDLL("libcuda.so.1").cuCtxSetCurrent(ctypes.c_void_p(context))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(f"{folder}/nodes.so")
    open(log, "w").close()
    cpu = {"providers": ["CPUExecutionProvider"]}
    session = ort.InferenceSession(model(op, shapes, "float16", attributes), options, **cpu)
    session.run(None, draw(op, shapes, 0))
    print(len(open(log).readlines()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where nodes.so is, and the stand-ins it loads."""
    folder = tmp_path_factory.mktemp("nodes")
    kernels, sources = folder / "kernels", folder / "csrc" / library.SOURCES.name
    kernels.mkdir()
    index(kernels)
    shutil.copytree(library.SOURCES.parent, sources.parent)  # they include each other
    for name, of_gpu, of_cpu in (
        ("ort_library.cpp", '"CUDAExecutionProvider"', '"CPUExecutionProvider"'),
        ("ort_pool.cpp", '"Cuda"', '"Cpu"'),
    ):
        text = (sources / name).read_text()
        assert of_gpu in text
        (sources / name).write_text(text.replace(of_gpu, of_cpu))
    parts = [sources / name for name in library.LIBRARY_SOURCES] + library.generate(kernels, folder)
    includes = [f"-I{place}" for place in (sources, folder, library.ort_headers(), library.cuda_headers())]
    # Linked as it is shipped: what it throws passes through another C++ runtime.
    options = ["-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", *library.OWN_RUNTIME, "-o", folder / "nodes.so"]
    subprocess.run([library.compiler(), *options, *includes, *parts, "-ldl"], check=True)
    for source, target in (("libcuda.c", "libcuda.so.1"), ("libcublasLt.c", "libcublasLt.so.13")):
        compile_c = ["gcc", "-shared", "-fPIC", "-w", "-o", folder / target, HERE / "fake_cuda" / source]
        subprocess.run(compile_c, check=True)
    return folder


def run(folder, program, *arguments):
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", program, str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def results(folder):
    """Of each case and type: shapes by the library, shapes by the function body, launches."""
    return json.loads(run(folder, RUN, *LAUNCHES, *PRODUCTS))


def test_sessions_work_in_the_pool(folder):
    """On the CPU's memory, which the pool takes for a GPU's here."""
    first, second, third = run(folder, POOL).splitlines()
    shared, alone, left, same = first.split()
    assert int(shared) == int(alone) > 0  # the second session took none of it
    assert (left, same) == ("0", "True")
    assert second == "somebody else's sessions have the pool of that GPU"
    assert third == "cuDeviceGet failed: fake failure (101)"


def test_sessions_outlive_a_lack_of_memory(folder):
    assert run(folder, NOTHING) == "True\n(256, 256)\n"


def test_ops_are_those_of_the_gpu(folder):
    assert run(folder, TWO_GPUS, "90,80").split() == ["0", "1", "0", "0"]
    assert run(folder, TWO_GPUS, "90,90").split() == ["1", "1", "1", "1"]


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
    (product,) = lines
    short = {"float16": "f16", "bfloat16": "bf16"}[element]
    factor = "e4m3" if "8" in case else short
    result = "e4m3" if case == "LinearGelu8" else short
    assert product == f"matmul {factor} weight, {factor} x, {short} residual, {result} out, {PRODUCTS[case]}"


def test_a_gelu_that_cublaslt_does_not_round(folder, monkeypatch):
    monkeypatch.setenv("FAKE_CUBLASLT_NO_E4M3", "1")
    for name, (shapes, expected, lines) in json.loads(run(folder, RUN, "LinearGelu8")).items():
        assert shapes == expected
        product, rounding = lines[-2:]  # behind those of another test
        short = {"float16": "f16", "bfloat16": "bf16"}[name.split()[1]]
        told = PRODUCTS["LinearGelu8"].replace(", 32", "")
        assert product == f"matmul e4m3 weight, e4m3 x, {short} residual, {short} out, {told}"
        assert rounding.startswith(f"to_float8_{name.split()[1]} 1680x1x1")
