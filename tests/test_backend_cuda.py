"""The CUDA back end without a GPU: a fake driver whose device memory is host memory, and ONNX Runtime's CPU kernels.

What this cannot show is that the CUDA provider itself accepts what it is given; everything around it runs here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest
from pool_library import pool_library

from flashvsr_trt.configs.errors import BackendUnavailable
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.backends.onnxruntime_cuda import OrtCuda, runs_float8, usable_library

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")

PROGRAM = """
import ctypes, sys
import numpy as np
from flashvsr_trt.runtime.backends import cuda as copies
from flashvsr_trt.runtime.backends import onnxruntime_cuda as module
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
from flashvsr_trt.runtime.backends.pinned import is_pinned
from flashvsr_trt.runtime.bundle import open_bundle
from flashvsr_trt.runtime.upscaler import Options, upscale


class Calls(list):
    def __getattr__(self, name):
        return lambda *arguments: self.append((name, arguments))


class OnStream:
    'A session whose runs are work of the main stream, done when it comes to them.'

    def __init__(self, session, device):
        self.session, self.device, self.kept = session, device, []

    def io_binding(self):
        return Calls()

    def run_with_iobinding(self, calls, options):
        bound = list(calls)
        calls.clear()
        # From the device its bytes would be copied back, and the host wait for all that was enqueued before.
        assert all((name == "bind_cpu_input") == (of == "size") for name, (of, *_) in bound), bound

        def run():
            binding = self.session.io_binding()
            for name, arguments in bound:
                getattr(binding, name)(*arguments)
            self.session.run_with_iobinding(binding, options)

        self.kept.append(ctypes.CFUNCTYPE(None)(run))
        self.device.call("fake_call", ctypes.c_void_p(self.device.stream), self.kept[-1])

    def __getattr__(self, name):
        return getattr(self.session, name)


def made(self, backend, session, path, graph, make=module._CudaGraph.__init__):
    make(self, backend, OnStream(session, backend.device), path, graph)


module.PROVIDER, module.PLACE = "CPUExecutionProvider", "cpu"
module.OrtCuda._provider = lambda self: module.PROVIDER
share, module.share_memory = module.share_memory, lambda index, library: None
# With sizes known ONNX Runtime puts other sums together: bytes are compared without.
known, module.lasting_dims = module.lasting_dims, lambda graph, symbols: {{}}
module._CudaGraph.__init__ = made
{body}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Python with the fake driver; gives what it prints."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).parent / "fake_cuda/libcuda.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", folder / "libcuda.so.1", source], check=True)

    def run(body, *arguments, **environment):
        environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "OMP_NUM_THREADS": "1"} | environment
        command = [sys.executable, "-c", PROGRAM.format(body=body), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.mark.parametrize("order", ["late", "early"])
@pytest.mark.parametrize("aside", [1, 1 << 30])
def test_same_frames_as_the_cpu(run, seeded_bundle, aside, order):
    """Copies of so many bytes run beside the main stream; the driver does them as late, or as early, as it may."""
    body = """
copies._ASIDE = int(sys.argv[2])
frames = np.random.default_rng(0).integers(0, 256, (38, 32, 48, 3), dtype=np.uint8)
bundle = sys.argv[1]
cuda = module.OrtCuda()
ours = list(upscale(iter(frames), bundle=bundle, backend=cuda))
cpu = OrtCpu(1)
theirs = list(upscale(iter(frames), bundle=bundle, backend=cpu))
assert len(ours) == len(theirs) == 38
for index, (a, b) in enumerate(zip(ours, theirs)):
    assert np.array_equal(a, b), index
assert set(cuda.seconds) == set(cpu.seconds), (cuda.seconds, cpu.seconds)
assert all(value > 0 for value in cuda.seconds.values())
print("same")
"""
    out, err = run(body, seeded_bundle, aside, FAKE_CUDA_ORDER=order)
    assert out == "same\n"
    assert "libflashvsr_ort.so" in err or "without" not in err


SHARING = """
module.share_memory, module.usable_library = share, lambda *_: module.Path(sys.argv[2])
from flashvsr_trt.configs.errors import OutOfMemory
from flashvsr_trt.runtime import Options
from flashvsr_trt.runtime.tiles import Tiling
options = eval(sys.argv[3]) if sys.argv[3:] else Options()
frames = np.zeros((22, 32, 48, 3), np.uint8)
try:
    print(len(list(upscale(frames, bundle=sys.argv[1], backend=module.OrtCuda(), options=options))))
except OutOfMemory as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("options", "trims"),
    [  # 22 frames are two steps, in tiles two segments; three phases each: denoise, decode, colour fix
        ("Options()", 0),
        ("Options(variant='tiny')", 2),
        ("Options(tiling=Tiling(dit=(128, 256), decoder=(128, 256)))", 6),
    ],
)
def test_the_librarys_pool_is_shared_and_trimmed(run, seeded_bundle, tmp_path, options, trims):
    out, _ = run(SHARING, seeded_bundle, pool_library(tmp_path), options)
    between = "pool=trimmed 0\n" * trims
    assert out == f"pool=shared 0\n{between}pool=no longer shared 0\npool=trimmed 0\n22\n"


@pytest.mark.parametrize("lacks", [1, 2, 9])
def test_a_pool_that_lacks_memory_is_out_of_memory(run, seeded_bundle, tmp_path, lacks):
    """At a load, at the run behind it, and later."""
    out, _ = run(SHARING, seeded_bundle, pool_library(tmp_path, lacks=lacks))
    assert "out of memory: 5 bytes more than the GPU has free" in out
    assert "pool=trimmed 0" in out


def test_without_a_pool_there_is_an_arena(run, seeded_bundle, tmp_path):
    arena = """
import onnxruntime
onnxruntime.create_and_register_allocator_v2 = lambda name, place, options, arena: print(name, options)
onnxruntime.OrtArenaCfg = dict
"""
    out, err = run(arena + SHARING, seeded_bundle, pool_library(tmp_path, refusal="no mapping"))
    assert out == "pool=shared 0\nCUDAExecutionProvider {'device_id': '0'}\n22\n"
    assert "pool.so shares no memory (no mapping)" in err


def test_fp8_without_kernels_is_refused(run, seeded_bundle_fp16, tmp_path):
    """Its function bodies would run, slower and larger than the fp16 bundle."""
    bundle = shutil.copytree(seeded_bundle_fp16, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"precision": "fp8"}))
    body = """
module.usable_library = lambda *_: None
try:
    list(upscale(np.zeros((22, 32, 48, 3), np.uint8), bundle=sys.argv[1], backend=module.OrtCuda()))
except module.BackendUnavailable as error:
    print(error)
"""
    out, _ = run(body, bundle)
    assert "is of FP8, which Fake GPU has no kernels for" in out
    assert "run the fp16 bundle" in out


def test_graphs_know_the_canvas(run, seeded_bundle_fp16, tmp_path):
    """Nothing computes a shape: what is left of it would be waited for by the host at each step."""
    body = """
import onnx
from pathlib import Path
module.lasting_dims, module.usable_library = known, lambda *_: None
bundle = Path(sys.argv[1])
make = module.OrtCuda._session_options
def options(self, path):
    made = make(self, path)
    made.optimized_model_filepath = sys.argv[2] + "/" + path.name
    return made
module.OrtCuda._session_options = options
frames = np.random.default_rng(0).integers(0, 256, (29, 32, 48, 3), dtype=np.uint8)
ours, theirs = (np.stack(list(upscale(frames, bundle=bundle, backend=b))) for b in (module.OrtCuda(), OrtCpu(1)))
assert np.abs(ours.astype(int) - theirs).mean() < 0.1  # rounding of 16 bits at other places
for name in ("lq_proj_first", "lq_proj", "dit_first", "tc_decoder"):
    graph = onnx.load(f"{sys.argv[2]}/{name}.onnx", load_external_data=False).graph
    inputs = [d.dim_param for value in graph.input for d in value.type.tensor_type.shape.dim if d.dim_param]
    shapes = [node.op_type for node in graph.node if node.op_type == "Shape"]
    print(name, inputs, shapes)
dit = onnx.load(sys.argv[2] + "/dit.onnx", load_external_data=False).graph
print({d.dim_param for value in dit.input for d in value.type.tensor_type.shape.dim if d.dim_param})
"""
    out, _ = run(body, seeded_bundle_fp16, tmp_path)
    *graphs, dit = out.splitlines()
    assert graphs == [f"{name} [] []" for name in ("lq_proj_first", "lq_proj", "dit_first", "tc_decoder")]
    assert dit == "{'slabs'}"


@pytest.mark.parametrize(("stream", "order"), [("==", "late"), ("!=", "early")])
def test_the_order_matters(run, seeded_bundle, stream, order):
    """Without the waits of the main stream, or of the others, other frames come out."""
    body = f"""
copies._ASIDE = 1
after = copies.Device.after
copies.Device.after = lambda self, event, stream: None if stream {stream} self.stream else after(self, event, stream)
frames = np.random.default_rng(0).integers(0, 256, (38, 32, 48, 3), dtype=np.uint8)
try:
    ours = list(upscale(iter(frames), bundle=sys.argv[1], backend=module.OrtCuda()))
except Exception as error:
    ours = []
theirs = list(upscale(iter(frames), bundle=sys.argv[1], backend=OrtCpu(1)))
print(len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs)))
"""
    out, _ = run(body, seeded_bundle, FAKE_CUDA_ORDER=order)
    assert out == "False\n"


def test_copies(run):
    body = """
cuda = module.OrtCuda()
rng = np.random.default_rng(1)
buffer = cuda.allocate((5, 7), "float32")
assert not cuda.download(buffer).any()
whole = rng.random((5, 14), dtype=np.float32)
cuda.upload(whole[:, ::2], buffer)                      # not dense
assert np.array_equal(cuda.download(buffer), whole[:, ::2])
out = np.empty((5, 7), np.float32)
assert cuda.download(buffer, out) is out and np.array_equal(out, whole[:, ::2])
pinned = cuda.host_array((5, 7), "float32")
assert is_pinned(pinned) and is_pinned(pinned[1:]) and not is_pinned(pinned[:, 1:])
pinned[...] = 3
cuda.upload(pinned, buffer)
first, second = cuda.download_later(buffer), cuda.download_later(buffer.slots(1, 2))
assert (second() == 3).all() and second().shape == (2, 7) and (first() == 3).all()
address = pinned.ctypes.data
del pinned
cuda.download(buffer)                                   # lets go of the upload's source
again = [cuda.host_array((5, 7), "float32") for _ in range(9)]
assert address in [array.ctypes.data for array in again]
try:
    cuda.upload(np.zeros(3, np.float32), buffer)
except ValueError:
    print("refused")
"""
    out, _ = run(body)
    assert out == "refused\n"


def test_one_back_end_has_the_shared_memory(run):
    """Two streams would write over what the other has freed and not read yet."""
    body = """
def entry(cuda):
    options = cuda._session_options(module.Path("x/dit.onnx"))
    return options.get_session_config_entry("session.use_env_allocators")

first = module.OrtCuda()
second = module.OrtCuda()
print(entry(first), entry(second))
del first
print(entry(module.OrtCuda()))
"""
    out, _ = run(body)
    assert out == "1 0\n1\n"


def test_no_memory(run):
    body = """
from flashvsr_trt.configs.errors import OutOfMemory
try:
    module.OrtCuda().allocate((1 << 41,), "uint8")
except OutOfMemory as error:
    print(error)
"""
    out, _ = run(body)
    assert "out of memory" in out


def test_a_provider_that_does_not_start_is_an_error(run, seeded_bundle):
    body = """
from flashvsr_trt.configs.errors import BackendUnavailable
module.PROVIDER, available = "CUDAExecutionProvider", module.ort.get_available_providers()
module.ort.get_available_providers = lambda: ["CUDAExecutionProvider", *available]
module.OrtCuda._provider = lambda self: "CPUExecutionProvider"  # what ONNX Runtime falls back to
bundle = open_bundle(sys.argv[1])
try:
    module.OrtCuda().load(bundle.graph_path("tc_decoder"), bundle.manifest.graphs["tc_decoder"])
except BackendUnavailable as error:
    print(error.came)
"""
    out, _ = run(body, seeded_bundle)
    assert "does not start" in out


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime-gpu is installed")
def test_without_the_provider():
    with pytest.raises(BackendUnavailable, match="onnxruntime-gpu"):
        OrtCuda()
    with pytest.raises(BackendUnavailable, match="onnxruntime-gpu"):
        open_backend("cuda")
    assert open_backend("auto").name == "onnxruntime-cpu"


def test_a_library_that_cannot_serve_is_named(tmp_path, caplog):
    assert usable_library(tmp_path / "absent.so", 90) is None
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    assert usable_library(broken, 90) is None
    source = tmp_path / "old.c"
    source.write_text("int flashvsr_op_abi(void) { return 0; } int flashvsr_can_serve(int c) { return 1; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=True)
    assert usable_library(tmp_path / "old.so", 90) is None
    source.write_text("int flashvsr_op_abi(void) { return 1; } int flashvsr_can_serve(int c) { return c == 90; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "new.so", source], check=True)
    assert usable_library(tmp_path / "new.so", 75) is None
    assert usable_library(tmp_path / "new.so", 90) == tmp_path / "new.so"
    assert not runs_float8(tmp_path / "new.so", 90)
    source.write_text("int flashvsr_runs_float8(int c) { return 1; }")  # of before ConvolveInner8
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "fewer.so", source], check=True)
    assert not runs_float8(tmp_path / "fewer.so", 90)
    source.write_text("int flashvsr_runs_float8_2(int c) { return c >= 89; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "eighths.so", source], check=True)
    assert [runs_float8(tmp_path / "eighths.so", capability) for capability in (86, 90)] == [False, True]
    reasons = [record.getMessage() for record in caplog.records]
    assert [any(part in reason for reason in reasons) for part in ("not there", "load", "version 0", "capability 75")]
    assert len(reasons) == 4
