"""Kernels compiled ahead of time for one architecture, without a GPU."""

import hashlib
import json
import shutil

import pytest

from flashvsr_trt.plugins_trt.kernels import build as module
from flashvsr_trt.plugins_trt.kernels.build import build, find_nvcc
from flashvsr_trt.plugins_trt.kernels.catalogue import CUDA_KERNELS, ELEMENTS, KERNELS


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("kernels")
    return folder, json.loads(build(folder, (89,)).read_text())


def test_index_and_files(built):
    folder, index = built
    assert index["schema"] == module.SCHEMA
    expected = {
        (k.name, element)
        for k in KERNELS
        if 89 in k.architectures
        for element in (ELEMENTS if k.typed else ("float32",))
    }
    entries = index["kernels"]
    assert {(e["kernel"], e["element"]) for e in entries if e["implementation"] == "triton"} == expected
    for entry in entries:
        cubin = (folder / entry["file"]).read_bytes()
        assert cubin.startswith(b"\x7fELF")
        assert hashlib.sha256(cubin).hexdigest() == entry["sha256"]
        assert entry["symbol"].encode() + b"\0" in cubin
        assert entry["shared_bytes"] <= 99 * 1024  # what a block may have on these GPUs


def test_cuda_kernels_where_there_is_a_compiler(built):
    _, index = built
    found = {e["kernel"] for e in index["kernels"] if e["implementation"] == "cuda"}
    expected = {kernel.name for kernel in CUDA_KERNELS if 89 in kernel.architectures}
    assert found == (expected if find_nvcc() else set())


def test_without_nvcc_says_what_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "find_nvcc", lambda: None)
    monkeypatch.setattr(module, "_triton_kernels", lambda out, architectures: [])
    index = json.loads(build(tmp_path, (90,)).read_text())
    assert index["kernels"] == []
    assert "block_sparse_attention" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_shared_memory_is_checked_by_the_source():
    import dataclasses
    import subprocess

    for name in ("block_sparse_attention", "block_sparse_attention8", "convolve", "convolve8"):
        hopper = next(kernel for kernel in CUDA_KERNELS if kernel.name == name)
        with pytest.raises(subprocess.CalledProcessError):
            module.compile_cuda(dataclasses.replace(hopper, shared_bytes=1024), 90, find_nvcc())
