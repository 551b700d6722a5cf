"""ONNX Runtime on an NVIDIA GPU, on the buffers and the stream of `backends.cuda`.

Only uint8 frames, noise and a few numbers cross the bus.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnxruntime as ort

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import SHAPING, Graph, lasting_dims
from flashvsr_trt.configs.errors import BackendUnavailable
from flashvsr_trt.plugins_trt.locations import ort_library
from flashvsr_trt.plugins_trt.spec import ABI
from flashvsr_trt.runtime.backends.base import NOTHING, Buffer, StepGraph
from flashvsr_trt.runtime.backends.cuda import CudaBackend
from flashvsr_trt.runtime.backends.onnxruntime import (
    FATAL_ONLY,
    ONNX_TYPES,
    check_names,
    load_error,
    run_error,
)
from flashvsr_trt.runtime.backends.ort_memory import PROVIDER, Pool, share_memory

LOG = logging.getLogger("flashvsr_trt.cuda")
PLACE = "cuda"
_OPTIONS = {
    "prefer_nhwc": "1",  # 128 channels at full size: 2.5 ms instead of 4.4 on an H200
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "1",
    "use_tf32": "0",  # a float32 bundle computes in float32
    "arena_extend_strategy": "kSameAsRequested",  # the other doubles the memory that a large step asks for
}
# Who has the shared memory of a GPU: only one. What one stream has freed another could write over before it is read.
_HOLDERS: dict[int, weakref.ref[OrtCuda]] = {}


class OrtCuda(CudaBackend):
    """ONNX Runtime's CUDA execution provider.

    Args:
        index: of the GPU, as CUDA_VISIBLE_DEVICES leaves it.
        library: the project's custom-op library; None takes the one that `make kernels` compiled, if it is there.

    Raises:
        BackendUnavailable: this ONNX Runtime has no CUDA provider, or there is no driver or GPU.
    """

    name = "onnxruntime-cuda"

    def __init__(self, index: int = 0, *, library: Path | None = None) -> None:
        if PROVIDER not in ort.get_available_providers():
            raise BackendUnavailable(
                f"ONNX Runtime {ort.__version__} as installed has no CUDA provider",
                expected="the package onnxruntime-gpu in place of onnxruntime",
                todo="pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]', or use --device cpu",
            )
        super().__init__(index)
        self.index = index
        with contextlib.redirect_stdout(io.StringIO()):  # what it does not find may still be on the loader's path
            ort.preload_dlls()
        self.library = usable_library(library or ort_library(), self.device.capability)
        holder = _HOLDERS.get(index)
        self.shares = holder is None or holder() is None
        self.shared: Pool | None = None
        if self.shares:
            self.device.enter()
            self.shared = share_memory(index, self.library)
            _HOLDERS[index] = weakref.ref(self)
        else:
            LOG.info(
                "another back end of this process has the memory of GPU %d: each graph of this one has its own", index
            )

    def load(self, path: Path, graph: Graph, symbols: Mapping[str, int] = NOTHING) -> StepGraph:
        self.device.enter()
        options = self._session_options(path)
        # With sizes known, no shape is computed at run time: each such number would be waited for by the host.
        for dim, size in lasting_dims(graph, symbols).items():
            options.add_free_dimension_override_by_name(dim, size)
        started = time.perf_counter()
        try:
            with self.memory_checked():
                session = ort.InferenceSession(str(path), options, providers=[self._provider()])
        except Exception as error:  # ONNX Runtime's exceptions have no common base class of their own
            raise load_error(path, error) from error
        finally:
            self.load_seconds += time.perf_counter() - started
        if session.get_providers()[0] != PROVIDER:  # it falls back to the CPU by itself, and says so only in its log
            raise BackendUnavailable(
                "ONNX Runtime's CUDA provider does not start",
                expected="the CUDA and cuDNN libraries that this onnxruntime-gpu was built for",
                todo="pip install 'onnxruntime-gpu[cuda,cudnn]', or use --device cpu",
            )
        check_names(session, path, graph)
        return _CudaGraph(self, session, path, graph)

    def describe(self) -> str:
        own = "own kernels" if self.library else "without own kernels: slow attention"
        return f"ONNX Runtime {ort.__version__}, CUDA, {self.device.name}, {own}"

    @contextlib.contextmanager
    def memory_checked(self) -> Iterator[None]:
        """RuntimeError if the GPU ran out of memory in between, as `Pool.check`: before what else came of it."""
        try:
            yield
        finally:
            if self.shared is not None:
                self.shared.check()

    def trim(self) -> None:
        if self.shared is not None:
            self.device.enter()
            self.device.wait()
            self.shared.trim()

    def __del__(self) -> None:
        shared: Pool | None = getattr(self, "shared", None)  # not there where __init__ has failed
        if shared is not None:
            self.device.enter()
            self.device.wait()
            shared.close()

    def _require_float8(self, bundle: Path) -> None:
        """By its function bodies a bundle of FP8 would be slower and larger than the one it was made of."""
        if self.library is None or not runs_float8(self.library, self.device.capability):
            raise BackendUnavailable(
                f"{bundle} is of FP8, which {self.device.name} has no kernels for here",
                expected="a GPU from RTX 40 or H100 on, cuBLASLt, and this version's own kernels",
                todo="make kernels, or run the fp16 bundle that it was made of",
            )

    def _provider(self) -> tuple[str, dict[str, str]]:
        return PROVIDER, {"device_id": str(self.index), "user_compute_stream": str(self.device.stream), **_OPTIONS}

    def _session_options(self, path: Path) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.enable_mem_pattern = False  # one block for all of a graph's tensors would not be shared
        options.add_session_config_entry("session.use_env_allocators", str(int(self.shares)))
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        bundled = (path.parent / manifests.FILE_NAME).is_file()  # the product that measures the GPU is not
        precision = manifests.load(path.parent).precision if bundled else "fp32"
        if precision == "fp8":
            self._require_float8(path.parent)
        if self.library is not None and precision != "fp32":
            options.register_custom_ops_library(str(self.library))
        return options


def usable_library(path: Path, capability: int) -> Path | None:
    """`path`, if that custom-op library serves this op domain on a GPU of that compute capability, e.g. 90.

    Where it does not, a warning says so and what it costs.
    """
    cost = "attention runs by its function body, many times slower"
    if not path.is_file():
        LOG.warning("%s is not there, so %s: make kernels", path, cost)
        return None
    try:
        library = ctypes.CDLL(str(path))
        abi, serves = library.flashvsr_op_abi(), library.flashvsr_can_serve(capability)
    except (OSError, AttributeError) as error:
        LOG.warning("%s does not load (%s), so %s: make kernels", path, error, cost)
        return None
    if abi != ABI:
        LOG.warning("%s is for version %d of the op, this is %d, so %s: make kernels", path, abi, ABI, cost)
        return None
    if not serves:
        LOG.warning("%s has no kernel for a GPU of compute capability %d, so %s", path, capability, cost)
        return None
    return path


def _run_options() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def runs_float8(library: Path, capability: int) -> bool:
    """Whether that custom-op library has the ops of FP8 bundles for such a GPU, e.g. 90; older ones lack some."""
    try:
        return bool(ctypes.CDLL(str(library)).flashvsr_runs_float8_2(capability))
    except (OSError, AttributeError):
        return False


class _CudaGraph(StepGraph):
    def __init__(self, backend: OrtCuda, session: ort.InferenceSession, path: Path, graph: Graph) -> None:
        self._backend, self._session, self._path, self._name = backend, session, path, graph.name
        self._binding, self._options = session.io_binding(), _run_options()

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        backend, binding = self._backend, self._binding
        for name, buffer in inputs.items():
            if name == SHAPING:  # bound from the device, it would be copied back, and the host wait for all before it
                binding.bind_cpu_input(name, backend.mirrored(buffer))
                continue
            binding.bind_input(name, PLACE, backend.index, ONNX_TYPES[buffer.dtype], buffer.shape, buffer.pointer)
        for name, buffer in outputs.items():
            binding.bind_output(name, PLACE, backend.index, ONNX_TYPES[buffer.dtype], buffer.shape, buffer.pointer)
        bound = [*inputs.values(), *outputs.values()]
        started = backend.begin(bound)
        try:
            with backend.memory_checked():
                self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # as in load
            raise run_error(self._path, error) from error
        finally:
            backend.end(self._name, started, bound)

    def __del__(self) -> None:
        # The session's memory is in use until the stream has passed its last run.
        self._backend.device.enter()
        self._backend.device.wait()
