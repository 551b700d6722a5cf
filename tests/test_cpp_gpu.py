"""libflashvsr on a GPU, without one: stand-ins for the CUDA driver, ONNX Runtime's CUDA provider and TensorRT.

The stand-ins compute with the real ONNX Runtime on the CPU, so frames can be compared byte for byte. What they cannot
show is that the real provider and the real TensorRT accept what they are given; the last tests do, where they are.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import onnxruntime
import pytest
from cpp_programs import SOURCES, call, moving_frames, need, write_engine_set
from pool_library import pool_library
from test_cpp_border import VALGRIND

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import lasting_dims
from flashvsr_trt.runtime.backends.onnxruntime_cuda import _OPTIONS, OrtCuda
from flashvsr_trt.runtime.backends.ort_memory import _share_arena

pytest_plugins = ("cpp_fixtures",)


def stand_ins(build: Path, log: Path) -> dict[str, object]:
    """Environment that puts them in place of the real libraries."""
    folder = build / "tests" / "stand_ins"
    real = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    return {
        "LD_LIBRARY_PATH": folder,
        "FLASHVSR_ORT_LIBRARY": folder / "libstand_in_onnxruntime.so",
        "FLASHVSR_TENSORRT_LIBRARY": folder / "libstand_in_tensorrt.so",
        "STAND_IN_ORT": real,
        "STAND_IN_LOG": log,
    }


@pytest.fixture
def variables(build, tmp_path):
    return stand_ins(build, tmp_path / "log")


@pytest.fixture
def tensorrt(variables):
    if not Path(variables["FLASHVSR_TENSORRT_LIBRARY"]).is_file():
        pytest.skip("there are no headers of TensorRT; set TENSORRT_INCLUDE_DIR")
    return variables


FRAMES = b"".join(frame.tobytes() for frame in moving_frames(27, 16, 24))
Y4M = b"YUV4MPEG2 W24 H16 F25:1 C444\n" + b"".join(
    b"FRAME\n" + FRAMES[i : i + 1152] for i in range(0, len(FRAMES), 1152)
)


def y4m(build: Path, folder: Path, *flags: object, check: bool = True, **variables: object):
    done = call(build / "flashvsr_y4m", folder, "--threads", 1, *flags, data=Y4M, check=check, **variables)
    return done if not check else done.stdout


# ONNX Runtime CUDA


def test_device_memory_streams_and_allocators(build, seeded_bundle, variables):
    """The same frames whichever way they come and go; see tests/cpp/device.c."""
    done = call(build / "tests" / "device", seeded_bundle, "", **variables)
    assert done.stdout.count(b"format") == 3


@pytest.mark.parametrize("variant", ["long", "tiny", "full"])
def test_cuda_gives_the_cpus_bytes(build, full_bundle, variables, variant):
    expected = y4m(build, full_bundle, "--variant", variant)
    assert y4m(build, full_bundle, "--variant", variant, "--device", "cuda", **variables) == expected


def test_provider_gets_the_python_runtimes_options(build, seeded_bundle, variables, monkeypatch):
    python = object.__new__(OrtCuda)  # needs no GPU for this
    python.library, python.shares = None, True
    session = python._session_options(seeded_bundle / "dit.onnx")
    arena: dict[str, object] = {}
    monkeypatch.setattr(
        onnxruntime, "OrtArenaCfg", lambda all: arena.update({f"arena's {k}": v for k, v in all.items()})
    )
    monkeypatch.setattr(onnxruntime, "create_and_register_allocator_v2", lambda name, *_: arena.update(arena=name))
    _share_arena.__wrapped__(0)
    entries = ("session.use_env_allocators", "session.use_device_allocator_for_initializers")
    expected = _OPTIONS | arena | {name: session.get_session_config_entry(name) for name in entries}
    expected |= {"device_id": 0, "user_compute_stream": "the driver's", "disable_synchronize_execution_providers": 1}
    expected["enable_mem_pattern"] = int(session.enable_mem_pattern)
    graphs = manifests.load(seeded_bundle).graphs
    symbols = {"H": 128, "W": 128, "ring": 4}  # of 24x16 pixels, enlarged by 4, and 3 slabs kept
    for name in ("lq_proj_first", "lq_proj", "dit_first", "dit", "tc_decoder", "post_adain8"):
        expected |= lasting_dims(graphs[name], symbols)
    expected["bytes on the host"] = 16  # the output's size: nothing else may make the host wait for the GPU
    given_back = ("arena", "given back")

    y4m(build, seeded_bundle, "--device", "cuda", **variables)
    seen = [line.partition("=")[::2] for line in Path(variables["STAND_IN_LOG"]).read_text().splitlines()]
    assert set(seen) == {(name, str(value)) for name, value in expected.items()} | {given_back}
    assert seen[-1] == given_back


@pytest.mark.parametrize("bundle", ["seeded_bundle_fp16", "seeded_bundle"])
def test_the_librarys_pool_is_shared_and_given_back(build, bundle, variables, tmp_path, request):
    """Also with a bundle of float32, which the library has no kernels for."""
    library = pool_library(tmp_path)
    y4m(build, request.getfixturevalue(bundle), "--device", "cuda", "--op-library", library, **variables)
    lines = Path(variables["STAND_IN_LOG"]).read_text().splitlines()
    assert [line for line in lines if line.startswith(("pool=", "arena=", "arena's"))] == [
        "pool=shared 0", "pool=no longer shared 0", "pool=trimmed 0"
    ]  # fmt: skip
    assert "session.use_env_allocators=1" in lines
    assert lines[-1] == "pool=trimmed 0"


def test_the_pool_is_trimmed_where_networks_take_turns(build, seeded_bundle_fp16, variables, tmp_path):
    flags = ("--device", "cuda", "--variant", "tiny", "--op-library", pool_library(tmp_path))
    y4m(build, seeded_bundle_fp16, *flags, **variables)
    lines = Path(variables["STAND_IN_LOG"]).read_text().splitlines()
    asked = [line for line in lines if line.startswith("pool=")]
    assert asked[0] == "pool=shared 0"
    assert asked[-2:] == ["pool=no longer shared 0", "pool=trimmed 0"]
    assert set(asked[1:-2]) == {"pool=trimmed 0"}  # once or twice: the end does not wait for the decoder's turn to


@pytest.mark.parametrize("lacks", [1, 2, 9])
def test_a_pool_that_lacks_memory_is_out_of_memory(build, seeded_bundle_fp16, variables, tmp_path, lacks):
    """At a load, at the run behind it, and later."""
    flags = ("--device", "cuda", "--op-library", pool_library(tmp_path, lacks=lacks))
    done = y4m(build, seeded_bundle_fp16, *flags, check=False, **variables)
    assert done.returncode != 0
    assert b"out of memory: 5 bytes more than the GPU has free" in done.stderr
    assert Path(variables["STAND_IN_LOG"]).read_text().splitlines()[-1] == "pool=trimmed 0"


def test_without_a_pool_there_is_an_arena(build, seeded_bundle_fp16, variables, tmp_path):
    flags = ("--device", "cuda", "--op-library", pool_library(tmp_path, refusal="no mapping"))
    y4m(build, seeded_bundle_fp16, *flags, **variables)
    log = Path(variables["STAND_IN_LOG"]).read_text()
    assert "pool=shared 0\n" in log
    assert "arena=CUDAExecutionProvider\n" in log
    assert "pool=trimmed" not in log


def test_without_a_library_a_float32_bundle_has_an_arena(build, seeded_bundle, variables):
    y4m(build, seeded_bundle, "--device", "cuda", "--op-library", "/nowhere.so", **variables)
    assert "arena=CUDAExecutionProvider\n" in Path(variables["STAND_IN_LOG"]).read_text()


def test_one_stream_at_a_time_has_the_arena(build, seeded_bundle, variables):
    """Runs of two CUDA streams would write over each other's memory; tests/cpp/device.c opens two at the end."""
    call(build / "tests" / "device", seeded_bundle, "", **variables)
    log = Path(variables["STAND_IN_LOG"]).read_text()
    assert [line == "arena=given back" for line in log.splitlines() if line.startswith("arena=")] == [False, True] * 10
    shared, own = log.count("session.use_env_allocators=1"), log.count("use_device_allocator_for_initializers=1")
    assert 0 < shared < own


def test_one_stream_at_a_time_has_the_pool(build, seeded_bundle_fp16, variables, tmp_path):
    call(build / "tests" / "device", seeded_bundle_fp16, pool_library(tmp_path), **variables)
    log = Path(variables["STAND_IN_LOG"]).read_text()
    asked = [line for line in log.splitlines() if line.startswith("pool=")]
    turns = [line for line in asked if line != "pool=trimmed 0"]
    assert turns == ["pool=shared 0", "pool=no longer shared 0"] * (len(turns) // 2)
    assert len(turns) > 2
    assert {asked[i + 1] for i, line in enumerate(asked) if line == turns[1]} == {"pool=trimmed 0"}
    shared, own = log.count("session.use_env_allocators=1"), log.count("use_device_allocator_for_initializers=1")
    assert 0 < shared < own


@pytest.mark.parametrize(
    ("abi", "serves", "taken", "said"), [(1, 90, True, ""), (1, 75, False, ""), (2, 90, False, "version 2 of the op")]
)
def test_op_library(build, seeded_bundle_fp16, variables, tmp_path, abi, serves, taken, said):
    source, library = tmp_path / "ops.c", tmp_path / "ops.so"
    source.write_text(
        f"int flashvsr_op_abi(void) {{ return {abi}; }} int flashvsr_can_serve(int c) {{ return c == {serves}; }}"
    )
    call(need("cc"), "-shared", "-fPIC", "-o", library, source)
    flags = ("--device", "cuda", "--op-library", library)
    done = y4m(build, seeded_bundle_fp16, *flags, check=False, **variables)
    log = Path(variables["STAND_IN_LOG"])
    assert (log.is_file() and f"ops={library}" in log.read_text()) == taken
    assert done.returncode == (1 if said else 0)
    assert said in done.stderr.decode()


def test_a_gpu_that_is_not_there_is_told(build, seeded_bundle, variables):
    without_driver = variables | {"LD_LIBRARY_PATH": ""}
    cases = (
        ({"FLASHVSR_ORT_LIBRARY": variables["STAND_IN_ORT"]}, b"no CUDA provider"),
        ({"STAND_IN_FAILS": "provider"}, b"CUDA provider does not start"),
    )
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        for changed, said in cases:
            done = y4m(build, seeded_bundle, "--device", "cuda", check=False, **variables | changed)
            assert done.stderr.startswith(b"FLASHVSR_ERROR_BACKEND")
            assert said in done.stderr
        done = y4m(build, seeded_bundle, "--device", "cuda", check=False, **without_driver)
        assert done.stderr.startswith(b"FLASHVSR_ERROR_BACKEND: the CUDA driver cannot be loaded")


# TensorRT


def test_engines_give_the_cpus_bytes(build, seeded_bundle, tensorrt, tmp_path):
    engines = write_engine_set(tmp_path / "set", seeded_bundle)
    for variant in ("long", "tiny"):
        expected = y4m(build, seeded_bundle, "--variant", variant)
        assert y4m(build, engines, "--variant", variant, "--device", "cuda", **tensorrt) == expected


@pytest.mark.parametrize(
    ("failing", "status", "said"),
    [
        ("version", "BACKEND", "TensorRT is 10.1.0.0; expected: 11"),
        ("deserialize", "BACKEND", "does not load: magic tag does not match"),
        ("names", "BUNDLE", "differ from the manifest's"),
        ("context", "BACKEND", "gives no execution context, and TensorRT does not say why"),
        ("execute", "MEMORY", "failed: Error Code 2: out of memory"),
    ],
)
def test_what_tensorrt_refuses_is_told(build, seeded_bundle, tensorrt, tmp_path, failing, status, said):
    engines = write_engine_set(tmp_path / "set", seeded_bundle)
    done = y4m(build, engines, "--device", "cuda", check=False, **tensorrt, STAND_IN_FAILS=failing)
    assert done.stderr.startswith(f"FLASHVSR_ERROR_{status}".encode())
    assert said in done.stderr.decode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bundle": "0" * 64}, "is not the bundle that the engines were built from"),
        ({"targets": ("sm89", "sm120")}, "the engines are for sm89, sm120; this GPU is sm90 (Fake GPU)"),
        ({"version": "11.0.0.1"}, "the engines are for tensorrt 11.0.0.1, and 11.1.0.0 was loaded"),
        ({"flavour": "tensorflow"}, "expected: tensorrt_rtx or tensorrt"),
        ({"flavour": "tensorrt_rtx"}, "TensorRT-RTX is 11.1.0.0"),
        ({"largest": 8}, "take engines of a larger tier"),
        ({"targets": ("sm90-fake-gpu",)}, ""),
    ],
)
def test_sets_that_do_not_fit_are_refused(build, seeded_bundle, tensorrt, tmp_path, changes, said):
    engines = write_engine_set(tmp_path / "set", seeded_bundle, **changes)
    done = y4m(build, engines, "--device", "cuda", check=False, **tensorrt)
    assert done.returncode == (1 if said else 0)
    assert said in done.stderr.decode()


def test_damaged_sets_are_refused(build, seeded_bundle, tensorrt, tmp_path):
    engines = write_engine_set(tmp_path / "set", seeded_bundle)
    done = y4m(build, engines, "--device", "cuda", "--variant", "full", check=False, **tensorrt)
    assert b"vae_decoder" in done.stderr
    done = y4m(build, engines, check=False, **tensorrt)
    assert b"is an engine set; expected: device FLASHVSR_DEVICE_CUDA" in done.stderr
    file = engines / "engines.json"
    good = json.loads(file.read_text())
    for changed, said in (
        ({"refused": "black frames"}, "verify has refused it: black frames"),
        ({"schema": 2}, "schema version 2"),
        ({"engines": {"dit": {"file": "../dit.plan", "bytes": 1}}}, "lies outside"),
        ({"source": str(tmp_path)}, "holds no manifest.json"),
    ):
        file.write_text(json.dumps(good | changed))
        done = y4m(build, engines, "--device", "cuda", check=False, **tensorrt)
        assert done.stderr.startswith(b"FLASHVSR_ERROR_BUNDLE")
        assert said in done.stderr.decode()
    file.write_text(json.dumps(good))
    (engines / "dit.plan").write_text("")
    done = y4m(build, engines, "--device", "cuda", check=False, **tensorrt)
    assert b"dit.plan has 0 bytes" in done.stderr


# Memory: everything of this library but ONNX Runtime's and TensorRT's own work


def test_device_under_sanitizers(sanitized, seeded_bundle, tensorrt, tmp_path):
    engines = write_engine_set(tmp_path / "set", seeded_bundle)
    hollow = stand_ins(sanitized, tmp_path / "log") | {"STAND_IN_HOLLOW": 1}
    call(sanitized / "tests" / "device", engines, "", **hollow)


def test_device_under_valgrind(build, seeded_bundle, tensorrt, tmp_path):
    engines = write_engine_set(tmp_path / "set", seeded_bundle)
    suppressions = f"--suppressions={SOURCES / 'valgrind.supp'}"
    device = build / "tests" / "device"
    call(need("valgrind"), *VALGRIND, suppressions, device, engines, "", **tensorrt, STAND_IN_HOLLOW=1)


# The real ones


def test_tensorrt_rtx_is_loaded_and_asked(build, seeded_bundle, tensorrt, tmp_path):
    """Without a GPU the real library gets as far as a plan: its runtime is made, and says why it stops."""
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    if found is None or found.origin is None:
        pytest.skip("tensorrt_rtx is not installed; pip install 'flashvsr-trt[rtx]'")
    library = Path(found.origin).parent / "libtensorrt_rtx.so.1"
    module = pytest.importorskip("tensorrt_rtx")
    engines = write_engine_set(tmp_path / "set", seeded_bundle, flavour="tensorrt_rtx", version=module.__version__)
    real = tensorrt | {"FLASHVSR_TENSORRT_LIBRARY": library}
    done = y4m(build, engines, "--device", "cuda", check=False, **real)
    assert done.stderr.startswith(b"FLASHVSR_ERROR_BACKEND")
    assert b".plan does not load: " in done.stderr
    assert b"CUDA" in done.stderr


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu"
)
def test_device_on_a_real_gpu(build, seeded_bundle_fp16):
    call(build / "tests" / "device", seeded_bundle_fp16, "")
