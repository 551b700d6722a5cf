"""Optimisation profiles: the shapes that the graphs of a tier take. Pure; all sizes come from contract and tier."""

from __future__ import annotations

from dataclasses import dataclass

from flashvsr_trt.configs.contract import FIRST_SLABS, STEP_FRAMES, Graph, Tensor, evaluate_shape
from flashvsr_trt.configs.schedule import GRID
from flashvsr_trt.configs.tiers import Tier

Shape = tuple[int, ...]
VALUES = "size"  # an input whose numbers decide shapes: [output height, output width]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Least, usual and largest shape of an input; of `size`, its numbers."""

    min: Shape
    opt: Shape
    max: Shape


def profile(graph: Graph, tier: Tier) -> dict[str, Range]:
    """Range of every input of a graph, by name."""
    least, usual, most = symbols(tier)
    return {
        tensor.name: Range(min=_shape(tensor, least), opt=_shape(tensor, usual), max=_shape(tensor, most))
        for tensor in graph.inputs
    }


def symbols(tier: Tier) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Values of the contract's symbols: least, usual, largest. The usual picture is the largest: tiles fill it."""
    height, width = tier.tile
    least = {"H": GRID, "W": GRID, "T": 1, "ring": FIRST_SLABS, "slabs": 1, "height": 1, "width": 1}
    most = {"H": height, "W": width, "T": STEP_FRAMES, "ring": tier.kv_slots, "slabs": tier.kv_slots - 1}
    most |= {"height": height, "width": width}
    return least, most, most


def _shape(tensor: Tensor, values: dict[str, int]) -> Shape:
    if tensor.name == VALUES:
        return values["height"], values["width"]
    return evaluate_shape(tensor.shape, values)
