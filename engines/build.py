"""A step graph to a TensorRT plan: parse, profile, build. One graph at a time, through the API."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.contract import Graph
from flashvsr_trt.configs.errors import BundleError, FlashVSRError
from flashvsr_trt.configs.manifest import sha256_of
from flashvsr_trt.configs.tiers import MIB, Tier
from flashvsr_trt.engines.profiles import Profile, profiles
from flashvsr_trt.engines.trt import Flavour
from flashvsr_trt.plugins_trt import python_plugin
from flashvsr_trt.plugins_trt.spec import DOMAIN, OPS

Report = Callable[[str], None]
TOLD_S = 10.0  # phases shorter than this are not reported
_SIZES = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")
_PLUGIN = re.compile(r"Successfully created plugin: (\w+)")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the graphs of a set are built; all of it is part of the set's key."""

    tier: Tier
    targets: tuple[str, ...]
    plugin_library: Path | None = None  # the plug-in in C++, to be carried inside the plans

    def flags(self) -> dict[str, Any]:
        return {
            "weight_streaming_mib": self.tier.weight_streaming_mib,
            "workspace_mib": self.tier.workspace_mib,
            "profiling": "detailed",
            "plugin_library": sha256_of(self.plugin_library) if self.plugin_library else "",
        }


@dataclass(frozen=True)
class StepModel:
    """One step graph of a bundle."""

    path: Path
    graph: Graph
    precision: str


@dataclass(kw_only=True)
class Plan:
    """A built graph and its numbers. Bytes of memory are those that TensorRT told, at the largest shapes."""

    graph: str
    file: str  # its name in the folder that was given
    sha256: str
    bytes: int
    seconds: float
    weights: int
    activations: int
    layers: int
    plugins: int


class _Watch:
    """Picks the numbers out of what TensorRT logs."""

    def __init__(self) -> None:
        self.numbers = {"Activation": 0, "Weights": 0}
        self.plugins = 0

    def __call__(self, severity: str, message: str) -> None:
        for kind, count in _SIZES.findall(message):
            self.numbers[kind] = max(self.numbers[kind], int(count))
        self.plugins += len(_PLUGIN.findall(message))


def build_graph(flavour: Flavour, model: StepModel, settings: Settings, folder: Path, report: Report) -> Plan:
    """Builds one graph; the plan is written into `folder` as it is made.

    Args:
        flavour: which TensorRT.
        model: what.
        settings: how, and for which GPUs.
        folder: where the plan goes, as <graph>.plan.
        report: gets a line as work goes on.

    Raises:
        BundleError: TensorRT cannot parse it.
        OutOfMemory, FlashVSRError: it cannot be built; with TensorRT's last error.
        OSError: the plan cannot be written.
    """
    from flashvsr_trt.engines.prepare import prepare  # needs the package onnx, which running does not

    _register(flavour, settings.plugin_library)
    graph = model.graph
    started = time.monotonic()
    watch = _Watch()
    with flavour.log.listening(watch):
        builder = flavour.module.Builder(flavour.log.logger)
        onnx = prepare(model.path, model.precision, weights=settings.tier.weights)
        network = _parse(flavour, builder, onnx, model.path)
        _check_plugins(model.path, _plugin_nodes(onnx), watch.plugins)
        report(f"{graph.name}: {network.num_layers} layers parsed in {time.monotonic() - started:.1f} s, building")
        config = _config(flavour, builder, settings)
        monitor = _monitor(flavour.module, graph.name, report)
        config.progress_monitor = monitor
        for ranges in profiles(graph, settings.tier):
            config.add_optimization_profile(_profile(builder, network, ranges))
        writer = _writer(flavour.module, folder / f"{graph.name}.plan")
        if not writer.fill(builder, network, config):
            raise flavour.failure(
                f"{graph.name} cannot be built for {', '.join(settings.targets)}", todo=_advice(settings)
            )
    seconds = time.monotonic() - started
    report(f"{graph.name}: plan of {writer.bytes / MIB:.1f} MiB in {seconds:.1f} s, {watch.plugins} plug-in layers")
    return Plan(
        graph=graph.name,
        file=f"{graph.name}.plan",
        sha256=writer.digest.hexdigest(),
        bytes=writer.bytes,
        seconds=seconds,
        weights=watch.numbers["Weights"],
        activations=watch.numbers["Activation"],
        layers=network.num_layers,
        plugins=watch.plugins,
    )


def _register(flavour: Flavour, library: Path | None) -> None:
    """Makes the op known: by the library in C++ where one is named, else by the plug-in in Python."""
    if library is None:
        return python_plugin.register(flavour.module)
    registry = flavour.module.get_plugin_registry()
    if python_plugin.find(flavour.module) is None and (
        registry.load_library(str(library)) is None or python_plugin.find(flavour.module) is None
    ):
        raise flavour.failure(f"{library} cannot be loaded as a plug-in library", todo="make kernels")


def _advice(settings: Settings) -> str:
    return "build for fewer targets, or a smaller tier" if len(settings.targets) > 1 else "take a smaller tier"


def _parse(flavour: Flavour, builder: Any, onnx: Any, path: Path) -> Any:
    trt = flavour.module
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind where not named
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, flavour.log.logger)
    # With the path, the parser finds the weight files beside it.
    if not parser.parse(onnx.SerializeToString(), str(path)):
        said = [parser.get_error(i) for i in range(parser.num_errors)]
        where = (
            f"node {said[0].node_name()} ({said[0].node_operator()}): {said[0].desc()}" if said else flavour.log.last()
        )
        raise BundleError(
            f"{flavour.name} {flavour.version} cannot take {path}: {' '.join(where.split())}",
            todo="export the bundle again with this version of the program",
        )
    return network


def _plugin_nodes(onnx: Any) -> int:
    names = {op.name for op in OPS}
    return sum(node.domain == DOMAIN and node.op_type in names for node in onnx.graph.node)


def _check_plugins(path: Path, wanted: int, found: int) -> None:
    """Without the plug-in the parser takes the function body without a word, and that is slow and large."""
    if found != wanted:
        raise FlashVSRError(
            f"{path}: TensorRT took {found} of {wanted} nodes of the domain {DOMAIN} as plug-ins",
            expected="all of them",
            todo="export the bundle again: a node must carry plugin_namespace and plugin_version",
        )


def _config(flavour: Flavour, builder: Any, settings: Settings) -> Any:
    trt = flavour.module
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.tier.workspace_mib * MIB)
    if settings.plugin_library:
        config.plugins_to_serialize = [str(settings.plugin_library)]
    if settings.tier.weight_streaming_mib:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if flavour.architectures:
        config.num_compute_capabilities = len(settings.targets)
        for index, target in enumerate(settings.targets):
            config.set_compute_capability(flavour.architectures[target], index)
    return config


def _profile(builder: Any, network: Any, ranges: Profile) -> Any:
    chosen = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        r = ranges[tensor.name]
        place = chosen.set_shape_input if tensor.is_shape_tensor else chosen.set_shape
        place(tensor.name, r.min, r.opt, r.max)
    return chosen


def _writer(trt: Any, path: Path) -> Any:
    base = getattr(trt, "IStreamWriter", object)

    class Writer(base):  # type: ignore[misc, valid-type]
        """The plan to a file, piece by piece: in one piece it would be in memory once more."""

        def __init__(self) -> None:
            base.__init__(self)
            self.digest, self.bytes = hashlib.sha256(), 0
            self.error: OSError | None = None

        def fill(self, builder: Any, network: Any, config: Any) -> bool:
            with open(path, "wb") as self.file:
                if hasattr(builder, "build_serialized_network_to_stream"):
                    done = builder.build_serialized_network_to_stream(network, config, self)
                else:
                    data = builder.build_serialized_network(network, config)
                    done = data is not None and self.write(memoryview(data)) > 0
                if self.error is not None:  # TensorRT takes a failed write for a finished plan
                    raise self.error
                self.file.flush()
                os.fsync(self.file.fileno())
            return bool(done) and self.bytes > 0

        def write(self, data: Any) -> int:
            if self.error is None:
                try:
                    self.file.write(data)
                except OSError as error:
                    self.error = error
                    return 0
                self.digest.update(data)
                self.bytes += len(data)
            return len(data)

    return Writer()


def _monitor(trt: Any, name: str, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):
        """A line for each phase that took a while: a large graph takes minutes. TensorRT calls it from any thread."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.began: dict[str, float] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.began[phase] = time.monotonic()

        def step_complete(self, phase: str, step: int) -> bool:
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            seconds = time.monotonic() - self.began.get(phase, time.monotonic())
            if seconds >= TOLD_S:
                report(f"{name}: {phase[:1].lower()}{phase[1:]} took {seconds:.0f} s")

    return Monitor()
