"""Tiers: how networks are laid out in the memory of a graphics card of one size. One file a tier."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.schedule import GRID

SIZES = (8, 12, 16, 24, 48)  # GB of device memory
FP8 = (8, 12, 16)  # those that also come with FP8 weights: larger tiles; above, memory is not what is short
WEIGHTS = ("bundle", "fp8")
VARIANTS = ("tiny", "long")
USABLE = 0.92  # of the memory: the most that a plan may predict
MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One tier. The KV cache has the bundle's type: the attention kernels read no other.

    Attributes:
        name: e.g. "8gb".
        memory_gib: device memory of the card.
        tile: largest (height, width) that projector and DiT see at once, in output pixels; multiples of 128.
        decoder_tile: the same of the decoder.
        kv_slots: most slots of the KV ring, 1 more than the largest kv_ratio.
        variant: what the tier is laid out for. tiny: projector and DiT take turns in memory with the decoder.
        weights: "bundle" keeps their type; "fp8" stores those of the DiT's matrix products in 8 bits.
        weight_streaming_mib: device memory for the DiT's weights where they do not stay there as a whole; 0: they do.
        workspace_mib: limit of TensorRT's scratch memory for one graph.
        reserve_mib: what driver, context and compiled kernels take.
    """

    name: str
    memory_gib: int
    tile: tuple[int, int]
    decoder_tile: tuple[int, int]
    kv_slots: int
    variant: str
    weights: str
    weight_streaming_mib: int
    workspace_mib: int
    reserve_mib: int

    def __post_init__(self) -> None:
        checks = (
            (_on_grid(self.tile), "tile", f"multiples of {GRID}"),
            (_on_grid(self.decoder_tile), "decoder_tile", f"multiples of {GRID}"),
            (self.memory_gib > 0, "memory_gib", "above 0"),
            (self.kv_slots >= 3, "kv_slots", "at least 3, the slabs of step 0"),
            (self.variant in VARIANTS, "variant", " or ".join(VARIANTS)),
            (self.weights in WEIGHTS, "weights", " or ".join(WEIGHTS)),
            (self.weight_streaming_mib >= 0, "weight_streaming_mib", "0 or more"),
            (self.workspace_mib > 0, "workspace_mib", "above 0"),
            (self.reserve_mib >= 0, "reserve_mib", "0 or more"),
        )
        for good, name, expected in checks:
            if not good:
                raise UsageError(f"tier {self.name}: {name} is {getattr(self, name)}", expected=expected)

    @property
    def budget(self) -> int:
        """Bytes that a plan may predict."""
        return int(USABLE * self.memory_gib * GIB)

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def _on_grid(tile: tuple[int, int]) -> bool:
    return all(side > 0 and side % GRID == 0 for side in tile)


def load_tier(name: str | int) -> Tier:
    """The tier of that many GB, e.g. 8, "8gb" or "8-fp8" (with FP8 weights); or of a file, e.g. "mine.toml".

    Raises:
        UsageError: no such tier, or a file with a key missing, unknown, or out of range.
    """
    text = str(name)
    if text.endswith(".toml"):
        return read_tier(Path(text))
    stem = text.lower().replace("gb", "")
    known = [*map(str, SIZES), *(f"{size}-fp8" for size in FP8)]
    if stem not in known:
        raise UsageError(f"there is no tier {text!r}", expected=f"{', '.join(known)}, or a .toml file")
    size, dash, kind = stem.partition("-")
    return read_tier(Path(str(files("flashvsr_trt.configs").joinpath("tiers", f"{size}gb{dash}{kind}.toml"))))


def read_tier(path: Path) -> Tier:
    """As load_tier, of a file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"tier {path} cannot be read: {error}", expected="a TOML file") from error
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Tier) if field.name != "name"}
    for key in sorted(values.keys() ^ kinds.keys()):
        problem = "does not know the key" if key in values else "lacks the key"
        raise UsageError(f"tier {path} {problem} {key!r}", expected=", ".join(kinds))
    for key, kind in kinds.items():
        value = values[key]
        pair = key.endswith("tile")
        if pair:
            good = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
            values[key] = tuple(value) if good else value
        else:
            good = type(value).__name__ == kind
        if not good:
            expected = "[height, width]" if pair else f"a value of type {kind}"
            raise UsageError(f"tier {path}: {key} is {value!r}", expected=expected)
    return Tier(name=path.stem, **values)
