"""The custom-op library for ONNX Runtime and the C++ launcher inside it, without a GPU.

A fake CUDA driver (tests/fake_cuda) writes down every launch. The C++ launcher must make the same ones as the Python
one, which is tested against a reference on real GPUs (test_attention_gpu.py).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from flashvsr_trt.configs.errors import BackendUnavailable
from flashvsr_trt.plugins_trt.kernels import build as kernels_build
from flashvsr_trt.plugins_trt.kernels import catalogue, library
from flashvsr_trt.plugins_trt.kernels.driver import choose, pick

HERE = Path(__file__).parent
needs_compiler = pytest.mark.skipif(
    library.compiler() is None or library.cuda_headers() is None, reason="needs g++ and cuda.h"
)
needs_ort_headers = pytest.mark.skipif(
    bool(library.missing()), reason="needs onnxruntime_c_api.h (ORT_INCLUDE_DIR), g++ and cuda.h"
)
CASES = ("float16 1 3 6 11 12 11", "bfloat16 3 0 6 11 12 11", "bfloat16 1 2 1 1 1 4", "float16 1 5 2 3 2 1")
CASES += ("float16 1 3 6 11 12 11 scales", "bfloat16 3 0 2 3 2 11 scales")


def index(kernels, architectures=(80, 90)):
    """A folder as kernels.build writes it, whose cubins are texts that the fake driver reads."""
    entries = []
    for kernel in (*catalogue.KERNELS, *catalogue.CUDA_KERNELS):
        cuda = isinstance(kernel, catalogue.CudaKernel)
        for element in catalogue.ELEMENTS if kernel.typed else ("float32",):
            for architecture in sorted({*architectures} & {*getattr(kernel, "architectures", architectures)}):
                layout = " ".join(":".join(argument) for argument in kernel.arguments).encode()
                entry = kernels_build._entry(kernel, element, architecture, layout)
                entry |= {
                    "symbol": f"{kernel.name}_{element}",
                    "threads": kernel.threads if cuda else 32 * kernel.warps,
                    "shared_bytes": kernel.shared_bytes if cuda else 98304,
                    "persistent": cuda and kernel.persistent,
                    "replaces": list(kernel.replaces) if cuda else [],
                    "scratch_pointers": 0 if cuda else 2,
                }
                (kernels / entry["file"]).write_bytes(layout + b"\0")
                entry["sha256"] = hashlib.sha256(layout + b"\0").hexdigest()
                entries.append(entry)
    (kernels / kernels_build.INDEX).write_text(json.dumps({"schema": kernels_build.SCHEMA, "kernels": entries}))
    return entries


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    index(folder)
    return folder


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", HERE / "fake_cuda/libcuda.c"],
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def tracer(folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("tracer")
    sources = library.generate(folder, made)
    sources += [HERE / "fake_cuda/trace.cpp", library.SOURCES / "driver.cpp", library.SOURCES / "attention.cpp"]
    includes = [f"-I{place}" for place in (library.SOURCES, made, library.cuda_headers())]
    subprocess.run(
        [library.compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", *includes, "-o", made / "trace", *sources],
        check=True,
    )
    return made / "trace"


PYTHON_TRACE = """
import ctypes, sys
from pathlib import Path
ctypes.CDLL("libcuda.so.1").cuCtxSetCurrent(ctypes.c_void_p(1))
from flashvsr_trt.plugins_trt.attention_op import Problem, enqueue, workspace
from flashvsr_trt.plugins_trt.kernels.driver import Driver, load_kernels
kernels = load_kernels(Path(sys.argv[1]), sys.argv[2], Driver())
names = ("slabs", "cached_slabs", "rows", "columns", "heads", "local_range")
problem = Problem(**dict(zip(names, map(int, sys.argv[3:9]))))
tensors = ("q", "k", "v", "k_cache", "v_cache", "slabs", "topk", "out", *sys.argv[9:])
tensors = {n: 0x1000 * (i + 1) for i, n in enumerate(tensors)}
enqueue(kernels, problem, tensors, 0x100000, 7)
print(workspace(problem)["bytes"])
"""


def traced(command, driver, log):
    log.unlink(missing_ok=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver), "FAKE_CUDA_LOG": str(log)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), log.read_text().splitlines()


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_cpp_launches_what_python_launches(case, tracer, folder, fake_driver, tmp_path):
    arguments = case.split()
    log = tmp_path / "log"
    python = traced([sys.executable, "-c", PYTHON_TRACE, str(folder), *arguments], fake_driver, log)
    cpp = traced([str(tracer), *arguments], fake_driver, log)
    assert cpp == python
    assert len(cpp[1]) == 4  # means, scores, selection, attention


@needs_compiler
def test_no_driver_is_an_error_with_words(tracer, tmp_path):
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([str(tracer), *CASES[0].split()], env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        pytest.skip("this machine has a CUDA driver")
    assert "driver" in done.stderr


def test_choice_of_kernels(folder):
    entries = json.loads((folder / kernels_build.INDEX).read_text())["kernels"]
    hopper, ampere = (choose(entries, architecture, "float16") for architecture in (90, 80))
    fast = {"window_means", "group_scores", "select_windows", "block_sparse_attention"}
    fast |= {"norm_rotate", "norm_rows", "layer_norm", "norm_silu", "to_float8", "list_all", "fold_frames"}
    fast |= {
        "window_means8",
        "layer_norm8",
        "norm_rotate8",
        "turn_values8",
        "fold_pixels",
        "last_planes",
        "convolve_colours",
        "colour_statistics",
        "adapt_colours",
        "adapt_colours16",
    }
    assert set(hopper) == fast | {"convolve", "convolve8", "block_sparse_attention8"}
    assert set(ampere) == fast
    assert hopper["block_sparse_attention"]["implementation"] == "cuda"
    assert ampere["block_sparse_attention"]["implementation"] == "triton"
    assert set(choose(entries, 90, "float16", ("triton",))) == {kernel.name for kernel in catalogue.KERNELS}
    assert hopper["block_sparse_attention8"]["implementation"] == "cuda"
    assert pick(entries, 89) == 80
    with pytest.raises(BackendUnavailable, match=r"7\.5"):
        pick(entries, 75)


def test_every_cubin_is_embedded_once(folder, tmp_path):
    library.generate(folder, tmp_path)
    assembler = (tmp_path / "blobs.S").read_text()
    files = [line.split('"')[1] for line in assembler.splitlines() if ".incbin" in line]
    digests = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    assert len(digests) == len(set(digests))
    assert "window_scores" not in (tmp_path / "table.cpp").read_text()  # group_scores stands in for it


@needs_ort_headers
def test_library_in_sessions_without_cuda(folder, tmp_path, seeded_bundle_fp16):
    kernels = tmp_path / "kernels"
    shutil.copytree(folder, kernels)
    built = library.build(kernels)

    def options():
        made = ort.SessionOptions()
        made.log_severity_level = 4
        made.register_custom_ops_library(str(built))
        return made

    cpu = ["CPUExecutionProvider"]
    ort.InferenceSession(str(seeded_bundle_fp16 / "tc_decoder.onnx"), options(), providers=cpu)  # uses no op of it
    with pytest.raises(Exception, match="BlockSparseAttention"):
        ort.InferenceSession(str(seeded_bundle_fp16 / "dit.onnx"), options(), providers=cpu)
