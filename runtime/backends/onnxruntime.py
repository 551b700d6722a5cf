"""ONNX Runtime on the CPU: the embedded default, runs every bundle in float32 and float16."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from flashvsr_trt.configs.contract import Graph
from flashvsr_trt.configs.errors import BackendUnavailable, BundleError, FlashVSRError, OutOfMemory
from flashvsr_trt.runtime.backends.base import NOTHING, NUMPY_TYPES, Backend, Buffer, StepGraph

# Codes of onnx.TensorProto; the runtime does not import onnx.
ONNX_TYPES = {"float32": 1, "uint8": 2, "uint16": 4, "int64": 7, "float16": 10, "bfloat16": 16, "float8e4m3fn": 17}
FATAL_ONLY = 4  # ONNX Runtime also raises what it logs; printing both tells the user twice
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "out of memory", "ALLOC_FAILED")


class OrtCpu(Backend):
    """ONNX Runtime's CPU execution provider on host memory.

    Args:
        threads: threads inside one operator; None leaves it to ONNX Runtime (one per physical core).
    """

    name = "onnxruntime-cpu"

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        self._threads = threads

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        try:
            array = np.zeros(shape, NUMPY_TYPES[dtype])
        except MemoryError as error:
            raise OutOfMemory(f"no host memory for a tensor {shape} of {dtype}", todo="use a smaller scale") from error
        return Buffer(array.ctypes.data, shape, dtype, array)

    def upload(self, array: np.ndarray, buffer: Buffer) -> None:
        host(buffer)[...] = array

    def download(self, buffer: Buffer, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return host(buffer).copy()
        out[...] = host(buffer)
        return out

    def zero(self, buffer: Buffer) -> None:
        host(buffer)[...] = 0

    def load(self, path: Path, graph: Graph, symbols: Mapping[str, int] = NOTHING) -> StepGraph:
        session = self.open(path)
        check_names(session, path, graph)
        return OrtGraph(self, session, path, graph)

    def open(self, path: Path, model: bytes | None = None) -> ort.InferenceSession:
        """A session of the graph at `path`, or of `model` in its place, which has its weights in that folder."""
        options = ort.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        started = time.perf_counter()
        try:
            return ort.InferenceSession(model or str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base class of their own
            raise load_error(path, error) from error
        finally:
            self.load_seconds += time.perf_counter() - started

    def describe(self) -> str:
        threads = f"{self._threads} threads" if self._threads else "threads by default"
        return f"ONNX Runtime {ort.__version__}, CPU, {threads}"


def host(buffer: Buffer) -> np.ndarray:
    """The buffer as a numpy array that shares its memory."""
    owner: np.ndarray = buffer.owner
    begin = (buffer.pointer - owner.ctypes.data) // owner.itemsize
    count = int(np.prod(buffer.shape, dtype=np.int64))
    return owner.reshape(-1)[begin : begin + count].reshape(buffer.shape)


class OrtGraph(StepGraph):
    def __init__(self, backend: OrtCpu, session: ort.InferenceSession, path: Path, graph: Graph) -> None:
        self._backend, self._session, self._path, self._name = backend, session, path, graph.name
        self.binding = session.io_binding()

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        binding = self.binding
        for name, buffer in inputs.items():
            binding.bind_input(name, "cpu", 0, ONNX_TYPES[buffer.dtype], buffer.shape, buffer.pointer)
        for name, buffer in outputs.items():
            binding.bind_output(name, "cpu", 0, ONNX_TYPES[buffer.dtype], buffer.shape, buffer.pointer)
        started = time.perf_counter()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # as in load
            raise run_error(self._path, error) from error
        finally:
            self._backend.seconds[self._name] += time.perf_counter() - started


def check_names(session: ort.InferenceSession, path: Path, graph: Graph) -> None:
    """Raises BundleError where the graph's tensors are not those of the manifest."""
    for kind, offered, wanted in (
        ("input", {t.name for t in session.get_inputs()}, {t.name for t in graph.inputs}),
        ("output", {t.name for t in session.get_outputs()}, {t.name for t in graph.outputs}),
    ):
        if offered != wanted:
            odd = ", ".join(sorted(offered ^ wanted)[:5])
            raise BundleError(
                f"{path}: the {kind}s differ from the manifest's ({odd})",
                expected="graph and manifest of one export",
                todo="export the bundle again",
            )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def load_error(path: Path, error: Exception) -> FlashVSRError:
    """What ONNX Runtime raised for a graph that it was to load, as an error of this project."""
    text = _last_line(error)
    if any(mark in text for mark in _OUT_OF_MEMORY):
        return OutOfMemory(f"{path}: {text}", todo="free memory or use a smaller bundle")
    if "NOT_IMPLEMENTED" in text:
        return BackendUnavailable(
            f"{path}: {text}",
            expected="a bundle that this device has kernels for: on a CPU fp32 or fp16",
            todo="export with --precision fp32, or use a GPU back end",
        )
    return BundleError(f"{path} does not load: {text}", expected="a step graph of this bundle", todo="export it again")


def run_error(path: Path, error: Exception) -> FlashVSRError:
    """What ONNX Runtime raised for a graph that it was to run, as an error of this project."""
    text = _last_line(error)
    if any(mark in text for mark in _OUT_OF_MEMORY):
        return OutOfMemory(f"{path}: {text}", todo="use a smaller scale or variant tiny")
    return FlashVSRError(f"{path} failed: {text}")
