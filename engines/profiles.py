"""Optimisation profiles: the shapes that the graphs of a tier take. Pure; all sizes come from contract and tier."""

from __future__ import annotations

from dataclasses import dataclass

from flashvsr_trt.configs.contract import FIRST_SLABS, SHAPING, STEP_FRAMES, Graph, Tensor, evaluate_shape
from flashvsr_trt.configs.schedule import GRID
from flashvsr_trt.configs.tiers import Tier

Shape = tuple[int, ...]
PICTURE = 4096  # largest side of a picture of several tiles


@dataclass(frozen=True, kw_only=True)
class Range:
    """Least, usual and largest shape of an input; of `size`, its numbers."""

    min: Shape
    opt: Shape
    max: Shape


Profile = dict[str, Range]


def profiles(graph: Graph, tier: Tier) -> tuple[Profile, ...]:
    """The ranges that a graph is built for, by input name; a call must lie within one of them.

    The colour fix has two: a step's frames of a picture that is one tile, and one frame of a picture of many tiles.
    """
    found = []
    for most in largest(graph, tier):
        least = {"H": GRID, "W": GRID, "T": 1, "ring": FIRST_SLABS, "slabs": 1, "height": 1, "width": 1}
        ranges = {
            tensor.name: Range(min=_shape(tensor, least), opt=_shape(tensor, most), max=_shape(tensor, most))
            for tensor in graph.inputs
        }
        found.append(ranges)
    return tuple(found)


def largest(graph: Graph, tier: Tier) -> tuple[dict[str, int], ...]:
    """Largest values of the contract's symbols, profile by profile. They are the usual ones too: tiles fill them."""
    if graph.name.startswith("post"):
        one_tile = tuple(min(sides) for sides in zip(tier.tile, tier.decoder_tile, strict=True))
        return _symbols(tier, one_tile, STEP_FRAMES), _symbols(tier, (PICTURE, PICTURE), 1)
    decodes = graph.name.startswith(("tc_decoder", "vae_decoder"))
    return (_symbols(tier, tier.decoder_tile if decodes else tier.tile, STEP_FRAMES),)


def _symbols(tier: Tier, size: tuple[int, ...], frames: int) -> dict[str, int]:
    height, width = size
    slabs = {"ring": tier.kv_slots, "slabs": tier.kv_slots - 1}
    return {"H": height, "W": width, "T": frames, "height": height, "width": width} | slabs


def _shape(tensor: Tensor, values: dict[str, int]) -> Shape:
    if tensor.name == SHAPING:
        return values["height"], values["width"]
    return evaluate_shape(tensor.shape, values)
