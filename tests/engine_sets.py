"""Engine sets for tests: wanted ones for tensorrt_rtx, and made-up ones whose plans are a few bytes."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.tiers import load_tier
from flashvsr_trt.engines import sets, targets, trt
from flashvsr_trt.engines.build import Plan, StepModel, build_graph
from flashvsr_trt.engines.key import EngineKey

try:
    import tensorrt_rtx
except (ImportError, OSError) as error:
    tensorrt_rtx = None
    MISSING = f"tensorrt_rtx is not installed ({error}); pip install 'flashvsr-trt[rtx]'"
else:
    MISSING = ""
needs_rtx = pytest.mark.skipif(tensorrt_rtx is None, reason=MISSING)


def wanted_of(bundle: Path, tier: int | str = 8, variant: str = "tiny", target: str | None = None) -> sets.Wanted:
    flavour = trt.load("tensorrt_rtx")
    chosen = load_tier(tier)
    return sets.Wanted(
        bundle=bundle,
        manifest=manifests.load(bundle),
        tier=chosen,
        variant=variant,
        flavour=flavour,
        targets=targets.parse_targets(target, flavour, weights=chosen.weights),
    )


def build(wanted: sets.Wanted, name: str) -> Plan:
    model = StepModel(wanted.bundle / f"{name}.onnx", wanted.manifest.graphs[name], wanted.manifest.precision)
    with tempfile.TemporaryDirectory() as folder:
        plan = build_graph(wanted.flavour, model, wanted.settings, Path(folder), lambda line: None)
        data = (Path(folder) / plan.file).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (plan.bytes, plan.sha256)
    return plan


def flavour_without_targets() -> trt.Flavour:
    class Module:
        __name__, __version__ = "tensorrt", "10.13"

        class IBuilderConfig:
            pass

        class ILogger:
            pass

    return trt.Flavour("tensorrt", Module, trt.Log(Module))


def fake(graph: str, data: bytes = b"plan", folder: Path | None = None):
    """What builds a plan of those bytes; with a folder, the plan."""
    if folder is None:
        return lambda part: [fake(graph, data, part)]
    (folder / f"{graph}.plan").write_bytes(data)
    return Plan(
        graph=graph,
        file=f"{graph}.plan",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        seconds=1.0,
        weights=2,
        activations=3,
        layers=4,
        plugins=0,
    )


def key(**changes) -> EngineKey:
    values = {
        "bundle": "b" * 64,
        "decoder": "tc_decoder",
        "plugin": "p" * 64,
        "tier": "8gb",
        "tier_values": "t" * 64,
        "profiles": {"dit": [{"noise": [[1], [2], [3]]}]},
        "flags": {"workspace_mib": 1},
        "flavour": "tensorrt_rtx",
        "version": "1.7",
        "targets": ("sm86", "sm89"),
    }
    return EngineKey(**{**values, **changes})
