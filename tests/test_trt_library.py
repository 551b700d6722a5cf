"""The TensorRT plug-in in C++: compiled where TensorRT's headers are, then used by tensorrt_rtx to build engines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashvsr_trt.plugins_trt.kernels import trt_library
from tests.test_ort_library import index

LACKING = trt_library.missing()
needs_compiler = pytest.mark.skipif(bool(LACKING), reason=f"not there: {', '.join(LACKING)}")
NO_DOWNLOAD = "-DFLASHVSR_TENSORRT_URL=file:///nowhere"

PROGRAM = """
import sys, tempfile
from pathlib import Path
import numpy as np
from flashvsr_trt.configs import manifest
from flashvsr_trt.configs.tiers import load_tier
from flashvsr_trt.engines import trt
from flashvsr_trt.engines.build import Settings, StepModel, build_graph
bundle, library = Path(sys.argv[1]), Path(sys.argv[2])
flavour = trt.load("tensorrt_rtx")
graph = manifest.load(bundle).graphs["dit"]
def build(library):
    settings = Settings(tier=load_tier(8), targets=("sm89",), plugin_library=library)
    model = StepModel(bundle / "dit.onnx", graph, "fp16")
    with tempfile.TemporaryDirectory() as folder:
        return build_graph(flavour, model, settings, Path(folder), lambda line: None)
plan = build(library)
creator = flavour.module.get_plugin_registry().get_creator("BlockSparseAttention", "1", "flashvsr")
assert [field.name for field in creator.field_names] == ["heads", "local_range"]
plain = build(None)  # the creator is there already: the Python one is not registered beside it
assert (plan.plugins, plan.activations) == (plain.plugins, plain.activations) == (1, plain.activations)
assert plan.bytes - plain.bytes >= library.stat().st_size  # the plan carries the library
def make(**values):
    field = flavour.module.PluginField
    kind = flavour.module.PluginFieldType.INT64
    fields = [field(name, np.array([value]), kind) for name, value in values.items()]
    phase = flavour.module.TensorRTPhase.BUILD
    return creator.create_plugin("node", flavour.module.PluginFieldCollection(fields), phase)
assert make(heads=2, local_range=11) is not None
assert make(heads=0, local_range=11) is None and make(heads=2) is None
print("activations", plan.activations)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    kernels = tmp_path_factory.mktemp("kernels")
    index(kernels)
    built = trt_library.build(kernels, NO_DOWNLOAD)
    if built is None:
        pytest.skip("TensorRT's headers are not there; set TENSORRT_INCLUDE_DIR")
    return built


def run(library: Path, bundle: Path, program: str = PROGRAM) -> str:
    command = [sys.executable, "-c", program, str(bundle), str(library)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
def test_builds_like_the_plug_in_in_python(library, seeded_bundle_fp16):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed; pip install 'flashvsr-trt[rtx]'")
    in_python = PROGRAM.split("plan = build(library)")[0] + 'print("activations", build(None).activations)'
    # Scratch memory holds the declared workspace, so equal figures mean equal workspaces.
    assert run(library, seeded_bundle_fp16) == run(library, seeded_bundle_fp16, in_python)


@needs_compiler
def test_library_exports_what_tensorrt_looks_up_and_needs_no_other(library):
    symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    defined = [line.split()[-1] for line in symbols.splitlines() if " T " in line]
    assert sorted(defined) == ["getCreators", "setLoggerFinder"]
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert not [word for word in ("nvinfer", "cuda", "stdc++") if word in needed]


@needs_compiler
def test_without_headers_it_is_left_out_with_the_reason(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("TENSORRT_INCLUDE_DIR", raising=False)
    index(tmp_path)
    if trt_library.build(tmp_path, NO_DOWNLOAD) is not None:
        pytest.skip("TensorRT's headers are installed here")
    assert "no NvInferRuntime.h (set TENSORRT_INCLUDE_DIR), and no download" in capfd.readouterr().err
    # A download that is not the pinned version stops the build.
    (tmp_path / "NvInferRuntime.h").write_text("#error another version\n")
    with pytest.raises(subprocess.CalledProcessError):
        trt_library.build(tmp_path, f"-DFLASHVSR_TENSORRT_URL=file://{tmp_path}")
    assert "e78c2d49516a66f726864904386534f63eacf0ad75a6dfdde7dfa70adf39f797" in capfd.readouterr().err


def test_what_it_needs_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert trt_library.build(tmp_path) is None
    assert "no cmake" in capsys.readouterr().err
