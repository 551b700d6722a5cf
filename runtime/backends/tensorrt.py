"""TensorRT, both flavours: plans of an engine set in place of a bundle's ONNX graphs.

What was run and what was not: building plans, this module's choices (which plan, which profile, which GPU) and the
device layer it stands on are tested; deserialising and running a plan needs a GPU that the plan was built for, which
was not at hand when this was written. So it is kept to what can be read in one sitting.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.cache import cache_root
from flashvsr_trt.configs.contract import Graph
from flashvsr_trt.configs.errors import BackendUnavailable, BundleError
from flashvsr_trt.configs.tiers import FP8, GIB, MIB, SIZES, Tier, load_tier
from flashvsr_trt.engines import trt
from flashvsr_trt.engines.sets import Wanted, find_for_gpu
from flashvsr_trt.engines.store import EngineSet
from flashvsr_trt.engines.targets import serves
from flashvsr_trt.engines.trt import Flavour
from flashvsr_trt.plugins_trt import python_plugin
from flashvsr_trt.plugins_trt.locations import kernels_folder
from flashvsr_trt.runtime.backends.base import NOTHING, Buffer, StepGraph
from flashvsr_trt.runtime.backends.cuda import CudaBackend
from flashvsr_trt.runtime.backends.device import Device, Memory
from flashvsr_trt.runtime.bundle import Bundle

LOG = logging.getLogger("flashvsr_trt.tensorrt")


class TensorRt(CudaBackend):
    """Runs an engine set. All graphs share one stream and one block of scratch memory.

    Args:
        engines: a set from `engines.sets`.
        flavour: the TensorRT it was built with.
        tier: the set's.
        cuda_graphs: replay each graph as a whole, where the flavour offers it (tensorrt_rtx).

    Raises:
        BackendUnavailable: no driver, no GPU that the set is for, or no kernels for it.
    """

    name = "tensorrt"

    def __init__(self, engines: EngineSet, flavour: Flavour, tier: Tier, *, cuda_graphs: bool = False) -> None:
        super().__init__()
        self.engines, self.flavour, self.tier, self.cuda_graphs = engines, flavour, tier, cuda_graphs
        check_gpu(engines, self.device.capability, self.device.name)
        self.runtime = flavour.module.Runtime(flavour.log.logger)
        if engines.embedded:
            self.runtime.engine_host_code_allowed = True  # the plans bring the plug-in along
        else:
            python_plugin.register(flavour.module, kernels_folder())
        self._scratch: Memory | None = None

    def load(self, path: Path, graph: Graph, symbols: Mapping[str, int] = NOTHING) -> StepGraph:
        self.device.enter()
        started = time.perf_counter()
        try:
            return _TrtGraph(self, graph)
        finally:
            self.load_seconds += time.perf_counter() - started

    def scratch(self, size: int) -> Memory:
        """At least `size` bytes, the same for all graphs: they run one after the other."""
        if self._scratch is None or self._scratch.bytes < size:
            self.device.wait()
            self._scratch = None  # given back first, so that the two need not be there at once
            self._scratch = self.device.allocate(size)
        return self._scratch

    def drop_scratch(self) -> None:
        """Networks that take turns in memory need not leave each other the larger block."""
        self._scratch = None

    def describe(self) -> str:
        engines = self.engines
        name = f"{self.flavour.name} {self.flavour.version}, {self.device.name}"
        return f"{name}, tier {engines.key.tier}, engines {engines.digest[:12]}"


def open_tensorrt(
    bundle: Bundle,
    *,
    variant: str = "long",
    tier: str | int | None = None,
    flavour: str | None = None,
    cuda_graphs: bool = False,
) -> TensorRt:
    """The back end on the engine set of that bundle for the GPU of this machine.

    Args:
        bundle: what will be run.
        variant: decides the decoder that the set holds.
        tier: None takes the largest one that fits the GPU's memory and has engines.
        flavour: None takes the one that has engines.
        cuda_graphs: see TensorRt.

    Raises:
        BackendUnavailable: no TensorRT, driver or GPU, or no valid engines; with each reason.
    """
    flavours = [trt.load(name) for name in ((flavour,) if flavour else trt.installed())]
    device = Device()
    tiers = [load_tier(tier)] if tier is not None else tiers_of(device.memory()[1])
    refusals = []
    for chosen, size in product(flavours, tiers):
        wanted = Wanted(
            bundle=bundle.folder,
            manifest=bundle.manifest,
            tier=size,
            variant=variant,
            flavour=chosen,
            targets=(),
        )
        try:
            found = find_for_gpu(wanted, device.capability, device.name)
        except BackendUnavailable as error:
            refusals.append(error)
            continue
        return TensorRt(found, chosen, size, cuda_graphs=cuda_graphs)
    raise refusals[0]


def tiers_of(memory: int) -> list[Tier]:
    """The tiers that fit a GPU of that many bytes, the largest first; the smallest one where none does."""
    fitting = [size for size in SIZES if size <= round(memory / GIB)] or SIZES[
        :1
    ]  # a card of 24 GB tells a little less
    names = [name for size in reversed(fitting) for name in (str(size), f"{size}-fp8" if size in FP8 else "") if name]
    return [load_tier(name) for name in names]


def check_gpu(engines: EngineSet, capability: int, name: str) -> None:
    """Raises BackendUnavailable where the set is not for a GPU of that compute capability, e.g. 89."""
    targets = engines.key.targets
    if not serves(targets, capability, name):
        raise BackendUnavailable(
            f"the engines are for {', '.join(targets)}; this GPU is sm{capability} ({name})",
            expected=f"engines built with --target sm{capability}",
            todo=f"flashvsr-trt engines build --tier {engines.key.tier} --target sm{capability}, if the flavour has it",
        )


def pick_profile(ranges: list[dict[str, tuple[Any, Any]]], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The first profile whose (least, largest) shapes hold all `shapes`.

    Raises:
        BackendUnavailable: none does.
    """
    for index, profile in enumerate(ranges):
        if all(_within(shape, *profile[name]) for name, shape in shapes.items()):
            return index
    odd = next(name for name, shape in shapes.items() if not _within(shape, *ranges[0][name]))
    raise BackendUnavailable(
        f"{odd} is {list(shapes[odd])}",
        expected=f"from {list(ranges[0][odd][0])} to {list(ranges[0][odd][1])}, which the engines were built for",
        todo="take a larger tier, or let `flashvsr-trt plan` choose tiles",
    )


def _within(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))


class _TrtGraph(StepGraph):
    def __init__(self, backend: TensorRt, graph: Graph) -> None:
        self._backend, self._graph = backend, graph
        module, path = backend.flavour.module, backend.engines.path(graph.name)
        with backend.flavour.log.listening(lambda severity, message: None):
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
                self._engine = backend.runtime.deserialize_cuda_engine(plan)  # not copied: it may have gigabytes
            if self._engine is None:
                raise backend.flavour.failure(f"{path} does not load", todo="flashvsr-trt engines build --rebuild")
            self._check_names(path)
            self._stream_weights()
            self._context = self._make_context(module)
        if self._context is None:
            raise backend.flavour.failure(f"{path} gives no execution context")
        self._on_host = {t.name for t in graph.inputs if self._located(t.name) == module.TensorLocation.HOST}
        self._profiles = [
            {t.name: self._range(t.name, index) for t in graph.inputs if t.name not in self._on_host}
            for index in range(self._engine.num_optimization_profiles)
        ]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._profile = 0

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        backend, context = self._backend, self._context
        bound = [*inputs.values(), *outputs.values()]
        started = backend.begin(bound)
        with backend.flavour.log.listening(lambda severity, message: None):
            self._set_shapes({name: buffer.shape for name, buffer in inputs.items()})
            for name, buffer in (*inputs.items(), *outputs.items()):
                pointer = backend.mirrored(buffer).ctypes.data if name in self._on_host else buffer.pointer
                if not context.set_tensor_address(name, pointer):
                    raise backend.flavour.failure(f"{self._graph.name}: {name} cannot lie at {pointer:#x}")
            size = context.update_device_memory_size_for_shapes()
            context.set_device_memory(backend.scratch(size).pointer, size)
            done = context.execute_async_v3(backend.device.stream)
        if not done:
            raise backend.flavour.failure(f"{self._graph.name} failed on {backend.device.name}")
        backend.end(self._graph.name, started, bound)

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        profile = pick_profile(self._profiles, {n: s for n, s in shapes.items() if n not in self._on_host})
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, self._backend.device.stream):
                raise self._backend.flavour.failure(f"{self._graph.name}: profile {profile} cannot be taken")
            self._profile, self._shapes = profile, {}
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape and not self._context.set_input_shape(name, shape):
                raise self._backend.flavour.failure(f"{self._graph.name}: {name} cannot be {list(shape)}")
        self._shapes = shapes

    def _check_names(self, path: Path) -> None:
        offered = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        wanted = {tensor.name for tensor in self._graph.inputs + self._graph.outputs}
        if offered != wanted:
            odd = ", ".join(sorted(offered ^ wanted)[:5])
            raise BundleError(f"{path}: its tensors differ from the manifest's ({odd})", todo="build the engines again")

    def _located(self, name: str) -> Any:
        return self._engine.get_tensor_location(name)

    def _range(self, name: str, profile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        least, _, most = self._engine.get_tensor_profile_shape(name, profile)
        return tuple(least), tuple(most)

    def _stream_weights(self) -> None:
        budget = self._backend.engines.key.flags["weight_streaming_mib"] * MIB
        if budget and self._engine.streamable_weights_size:
            self._engine.weight_streaming_budget_v2 = min(budget, self._engine.streamable_weights_size)

    def _make_context(self, module: Any) -> Any:
        own_scratch = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context(own_scratch)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(own_scratch)
        if self._backend.cuda_graphs and hasattr(module, "CudaGraphStrategy"):
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = _RuntimeCache(config, self._backend.engines, self._graph.name)
        return self._engine.create_execution_context(config)

    def __del__(self) -> None:
        # The context's memory is in use until the stream has passed its last run; its cache is complete then.
        self._backend.device.enter()
        self._backend.device.wait()
        self._context = None
        self._backend.drop_scratch()
        cache = getattr(self, "_cache", None)
        if cache is not None:
            cache.save()


class _RuntimeCache:
    """What tensorrt_rtx compiles for this GPU when a graph first runs, kept on disk."""

    def __init__(self, config: Any, engines: EngineSet, graph: str) -> None:
        self._path = cache_root() / "runtime" / f"{engines.folder.name}.{graph}.bin"
        self._cache = config.create_runtime_cache() if hasattr(config, "create_runtime_cache") else None
        if self._cache is not None:
            if self._path.is_file() and not self._cache.deserialize(self._path.read_bytes()):
                LOG.warning("%s is of no use to this TensorRT and will be replaced", self._path)
            config.set_runtime_cache(self._cache)

    def save(self) -> None:
        if self._cache is None:
            return
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(bytes(self._cache.serialize()))
            os.replace(part, self._path)
        except OSError as error:  # the next start compiles again
            LOG.warning("%s cannot be written: %s", self._path, error)
