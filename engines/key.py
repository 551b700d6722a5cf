"""What makes a plan valid. Two keys that differ say in what."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.tiers import Tier
from flashvsr_trt.engines.profiles import profiles
from flashvsr_trt.engines.trt import Flavour

DECODERS = {"tiny": "tc_decoder", "long": "tc_decoder", "full": "vae_decoder"}
SETTINGS = 1  # raised when engines.build or engines.prepare build the same graph differently
_SOURCES = ("*.py", "*.cu", "*.cuh", "*.cpp", "*.hpp", "*.h")


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that makes the plans of a set valid."""

    bundle: str  # digest of its manifest, weight files included
    decoder: str
    plugin: str  # digest of the plug-in's and the kernels' sources
    tier: str  # its name
    tier_values: str  # digest of its values
    profiles: dict[str, Any]  # graph -> profile -> input -> [least, usual, largest]
    flags: dict[str, Any]
    flavour: str
    version: str
    targets: tuple[str, ...]

    def diff(self, other: EngineKey) -> list[str]:
        """Why plans built with `self` do not serve `other`; empty if they do."""
        return [
            _reason(field.name, getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def parse(data: dict[str, Any]) -> EngineKey:
        """The key that `as_dict` gave, after a way through JSON. KeyError or TypeError where it did not."""
        return EngineKey(**{**data, "targets": tuple(data["targets"])})


_NOT_PLUGIN = ("bench", "locations", "ort_library", "library")
_NAMED = 3  # differences that a reason lists
_WORDS = {
    "bundle": "the bundle has changed",
    "decoder": "the decoder",
    "plugin": "the plug-in or its kernels have changed",
    "tier": "the tier",
    "tier_values": "the tier's values have changed",
    "profiles": "the shapes",
    "flags": "the build flags",
    "flavour": "the TensorRT flavour",
    "version": "the TensorRT version",
    "targets": "the target",
}


def _reason(name: str, built: Any, wanted: Any) -> str:
    words = _WORDS[name]
    if isinstance(built, dict):
        odd = sorted(key for key in built.keys() | wanted.keys() if built.get(key) != wanted.get(key))
        rest = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
        return f"{words} differ: {', '.join(odd[:_NAMED])}{rest}"
    if words.endswith("changed"):
        return f"{words}: {built[:12]} then, {wanted[:12]} now"
    if isinstance(built, tuple):
        built, wanted = ",".join(built), ",".join(wanted)
    return f"{words} is {wanted}, the engines were built for {built}"


def graph_names(manifest: Manifest, decoder: str) -> tuple[str, ...]:
    """The graphs that a set holds: all but those of the other decoder."""
    others = {name for name in DECODERS.values() if name != decoder}
    return tuple(name for name in manifest.graphs if name.removesuffix("_first") not in others)


def key_of(
    manifest: Manifest, tier: Tier, decoder: str, flavour: Flavour, targets: tuple[str, ...], flags: dict[str, Any]
) -> EngineKey:
    """The key of the set that serves this bundle, tier and target here and now."""
    shapes = {
        name: [
            {tensor: [list(r.min), list(r.opt), list(r.max)] for tensor, r in ranges.items()}
            for ranges in profiles(manifest.graphs[name], tier)
        ]
        for name in graph_names(manifest, decoder)
    }
    return EngineKey(
        bundle=manifest.digest(),
        decoder=decoder,
        plugin=plugin_digest(),
        tier=tier.name,
        tier_values=tier.digest(),
        profiles=shapes,
        flags=flags | {"settings": SETTINGS},
        flavour=flavour.name,
        version=flavour.version,
        targets=targets,
    )


@functools.cache
def plugin_digest() -> str:
    """SHA-256 over the sources of the op: specification, plug-in, kernels."""
    folder = Path(str(files("flashvsr_trt.plugins_trt").joinpath("spec.py"))).parent
    digest = hashlib.sha256()
    paths = {path for pattern in _SOURCES for path in folder.rglob(pattern) if not path.name.startswith(_NOT_PLUGIN)}
    for path in sorted(paths):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
