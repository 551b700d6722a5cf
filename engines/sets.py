"""From a bundle to an engine set: find the one that serves, or build it. What `engines build` and `run` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flashvsr_trt.configs.errors import BackendUnavailable, BundleError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.tiers import Tier
from flashvsr_trt.engines import store
from flashvsr_trt.engines.build import Plan, Report, Settings, StepModel, build_graph
from flashvsr_trt.engines.key import DECODERS, EngineKey, graph_names, key_of
from flashvsr_trt.engines.store import EngineSet, Stale
from flashvsr_trt.engines.targets import check_targets, exact_name, serves
from flashvsr_trt.engines.trt import Flavour
from flashvsr_trt.plugins_trt.spec import ABI


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which engine set is wanted."""

    bundle: Path
    manifest: Manifest
    tier: Tier
    variant: str
    flavour: Flavour
    targets: tuple[str, ...]
    plugin_library: Path | None = None  # the plug-in in C++, to be carried inside the plans

    @property
    def settings(self) -> Settings:
        return Settings(tier=self.tier, targets=self.targets, plugin_library=self.plugin_library)

    @property
    def decoder(self) -> str:
        return DECODERS[self.variant]

    def key(self) -> EngineKey:
        flags = self.settings.flags()
        return key_of(self.manifest, self.tier, self.decoder, self.flavour, self.targets, flags)


def check(wanted: Wanted) -> None:
    """Refuses, before any work, what cannot be built.

    Raises:
        UsageError: targets that cannot run the bundle's or the tier's types.
        BundleError: another version of the op, or no graphs for the variant.
    """
    check_targets(wanted.targets, precision=wanted.manifest.precision, weights=wanted.tier.weights)
    redo = "export the bundle again with this version of the program"
    if wanted.manifest.op_abi != ABI:
        raise BundleError(
            f"{wanted.bundle} was made for version {wanted.manifest.op_abi} of the attention op",
            expected=f"version {ABI}",
            todo=redo,
        )
    if wanted.decoder not in wanted.manifest.graphs:
        raise BundleError(
            f"{wanted.bundle} has no {wanted.decoder}",
            expected=f"a bundle for variant {wanted.variant}",
            todo="export it with the Wan VAE: flashvsr-trt export --vae FILE" if wanted.variant == "full" else redo,
        )


def ensure(
    wanted: Wanted, report: Report, *, on_wait: Callable[[], None] = lambda: None, rebuild: bool = False
) -> EngineSet:
    """The set that serves `wanted`, built if there is none; each reason why another does not serve is reported."""
    check(wanted)
    key = wanted.key()
    found = store.find(key, wanted.bundle.absolute())
    if isinstance(found, EngineSet) and not rebuild:
        return found
    if isinstance(found, Stale):
        for line in found.lines():
            report(f"does not serve: {line}")
    if wanted.manifest.precision == "fp32":
        report("the bundle is fp32: its attention runs in fp16, for the kernels have 16 bits; all else in fp32")
    manifest = wanted.manifest
    about = {
        "bundle": f"{manifest.model} {manifest.model_version} {manifest.precision}",
        "source": str(wanted.bundle.absolute()),
    }
    return store.create(key, lambda folder: _plans(wanted, folder, report), about, on_wait=on_wait, rebuild=rebuild)


def find(wanted: Wanted) -> EngineSet:
    """The set that serves `wanted`.

    Raises:
        BackendUnavailable: there is none; with each reason why another does not serve.
    """
    found = store.find(wanted.key(), wanted.bundle.absolute())
    if isinstance(found, EngineSet):
        return found
    reasons = "".join(f"\n    {line}" for line in found.lines())
    raise BackendUnavailable(
        f"no engines for this bundle, tier {wanted.tier.name}, {wanted.flavour.name} {wanted.flavour.version},"
        f" {', '.join(wanted.targets)} in {store.root()}{reasons}",
        todo=f"flashvsr-trt engines build --bundle {wanted.bundle} --tier {wanted.tier.name}",
    )


def find_for_gpu(wanted: Wanted, capability: int, name: str) -> EngineSet:
    """As `find`, of any set that is for a GPU of that compute capability, e.g. 89, and name, among others."""
    for found in store.all_sets():
        targets = found.key.targets
        if serves(targets, capability, name) and not found.diff(replace(wanted, targets=targets).key()):
            return found
    target = f"sm{capability}" if wanted.flavour.architectures else exact_name(capability, name)
    return find(replace(wanted, targets=(target,)))


def _plans(wanted: Wanted, folder: Path, report: Report) -> Iterator[Plan]:
    for name in graph_names(wanted.manifest, wanted.decoder):
        path = wanted.bundle / f"{name}.onnx"
        model = StepModel(path, wanted.manifest.graphs[name], wanted.manifest.precision)
        yield build_graph(wanted.flavour, model, wanted.settings, folder, report)
