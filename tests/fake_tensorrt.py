"""A TensorRT whose engines are ONNX Runtime sessions on the CPU: a "plan" is the path of a prepared graph.

Only what runtime/backends/tensorrt.py calls, as tensorrt_rtx 1.7 declares it.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections import Counter
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort

from flashvsr_trt.engines.key import EngineKey
from flashvsr_trt.engines.prepare import prepare
from flashvsr_trt.engines.profiles import profiles
from flashvsr_trt.engines.store import Engine, EngineSet
from flashvsr_trt.engines.trt import Flavour, Log

EVENTS: Counter[str] = Counter()
SCRATCH = 1 << 16
ONNX_TYPES = {"tensor(float16)": 10, "tensor(float)": 1, "tensor(uint8)": 2, "tensor(int64)": 7}


class _Base:
    def __init__(self, *arguments):
        pass


class Registry:
    def __init__(self):
        self.creator = None

    def get_creator(self, name, version, namespace):
        return self.creator

    def register_creator(self, creator, namespace):
        self.creator = creator
        return True


class Context:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.profile, self.memory = 0, 0

    def set_optimization_profile_async(self, index, stream):
        EVENTS["profile"] += 1
        self.profile, self.shapes = index, {}
        return True

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return len(least) == len(shape) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name, address):
        assert address
        self.addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self):
        return SCRATCH

    def set_device_memory(self, pointer, size):
        ctypes.memset(pointer, 0xFF, size)  # scratch is anybody's between runs
        self.memory = size

    def execute_async_v3(self, stream):
        module, session = self.engine.module, self.engine.session
        if module.fail == "execute":
            module.log.take("ERROR", module.said)
            return False
        EVENTS["run"] += 1
        assert stream == 7
        assert self.memory == SCRATCH
        feed = {value.name: self._input(value) for value in session.get_inputs()}
        for value, array in zip(session.get_outputs(), session.run(None, feed), strict=True):
            if (self.engine.name, array.dtype.kind) == (module.spoil[0], "f"):
                array = SPOILERS[module.spoil[1]](array)
            dense = np.ascontiguousarray(array)
            ctypes.memmove(self.addresses[value.name], dense.ctypes.data, dense.nbytes)
        return True

    def _input(self, value):
        dtype = {1: np.float32, 2: np.uint8, 7: np.int64, 10: np.float16}[ONNX_TYPES[value.type]]
        shape = self.shapes[value.name]
        array = np.empty(shape, dtype)
        ctypes.memmove(array.ctypes.data, self.addresses[value.name], array.nbytes)
        return array


SPOILERS = {
    "nan": lambda array: np.full_like(array, np.nan),
    "black": np.zeros_like,
    "noise": lambda array: array + np.random.default_rng(0).standard_normal(array.shape).astype(array.dtype),
}


class Engine_:
    streamable_weights_size = 0

    def __init__(self, module, name, session, ranges):
        self.module, self.name, self.session, self.ranges = module, name, session, ranges
        self.num_optimization_profiles = len(ranges)
        self.names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        if module.fail == "names":
            self.names[0] = "another"
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_location(self, name):
        return self.module.TensorLocation.HOST if name == "size" else self.module.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name, index):
        if name == "size":
            return [(2,), (2,), (2,)]
        chosen = self.ranges[index][name]
        return [chosen.min, chosen.opt, chosen.max]

    def create_runtime_config(self):
        self.module.config = Config()
        return self.module.config

    def create_execution_context(self, config):
        if self.module.fail == "context":
            self.module.log.take("ERROR", self.module.said)
            return None
        assert config.strategy == "user"
        return Context(self)


class Config:
    strategy = cuda_graph_strategy = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return Cache()

    def set_runtime_cache(self, cache):
        return True


class Cache:
    def deserialize(self, data):
        return data == b"cache"

    def serialize(self):
        return b"cache"


class Module:
    """Stands in for the module tensorrt_rtx."""

    __name__, __version__ = "tensorrt_rtx", "1.7.fake"
    IPluginV3, IPluginV3OneCore, IPluginV3OneBuild, IPluginV3OneRuntime, IPluginCreatorV3One, ILogger = (
        type(name, (_Base,), {}) for name in ("A", "B", "C", "D", "E", "F")
    )
    DataType = Enum("DataType", "HALF BF16 INT64 FLOAT")
    PluginFieldType = Enum("PluginFieldType", "INT64")
    TensorLocation = IntEnum("TensorLocation", "DEVICE HOST")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)

    def __init__(self):
        self.fail, self.said, self.spoil = "", "", ("", "")
        self.engine_host_code_allowed = False
        self.registry = Registry()
        self.sets = {}

    def get_plugin_registry(self):
        return self.registry

    def PluginField(self, *arguments):
        return arguments

    def PluginFieldCollection(self, fields):
        return fields

    def Runtime(self, logger):
        return self

    def deserialize_cuda_engine(self, data):
        if self.fail == "deserialize":
            self.log.take("ERROR", self.said)
            return None
        known = self.registry.creator is not None or self.engine_host_code_allowed
        assert known, "the plug-in must be known before a plan is loaded"
        path = Path(bytes(data).decode())
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return Engine_(self, path.stem, session, RANGES[path.stem])


RANGES: dict[str, tuple] = {}


def flavour() -> Flavour:
    module = Module()
    module.log = Log(module)
    return Flavour("tensorrt_rtx", module, module.log)


def engine_set(bundle, tier, targets=("sm90",)) -> EngineSet:
    """A set for the fake GPU, whose plans name the bundle's graphs as TensorRT would get them."""
    manifest = bundle.manifest
    folder = Path(tempfile.mkdtemp())
    for path in bundle.folder.glob("*.bin"):
        (folder / path.name).write_bytes(path.read_bytes())
    engines = {}
    for name, graph in manifest.graphs.items():
        model = folder / f"{name}.onnx"
        model.write_bytes(prepare(bundle.graph_path(name), manifest.precision).SerializeToString())
        (folder / f"{name}.plan").write_text(str(model))
        RANGES[name] = profiles(graph, tier)
        engines[name] = Engine(
            file=f"{name}.plan", sha256="", bytes=1, weights=1, activations=1, layers=1, plugins=0, seconds=0.0
        )
    key = EngineKey(
        bundle="", decoder="tc_decoder", plugin="", tier=tier.name, tier_values="", profiles={},
        flags={"weight_streaming_mib": 0}, flavour="tensorrt_rtx", version="1.7.fake", targets=targets,
    )  # fmt: skip
    return EngineSet(folder=folder, key=key, engines=engines, bundle="", source="")
