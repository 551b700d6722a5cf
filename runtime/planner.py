"""How a picture of some size is computed in the memory of a tier: order, tiles, and a budget of device memory.

Weights and scratch memory are what TensorRT told when the
engines were built; without engines they are estimated. Buffers follow from the contract. Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import STEP_FRAMES, Tensor, evaluate_shape
from flashvsr_trt.configs.errors import OutOfMemory, UsageError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import GRID, Canvas
from flashvsr_trt.configs.tiers import MIB, USABLE, Tier
from flashvsr_trt.engines.key import DECODERS
from flashvsr_trt.engines.profiles import PICTURE, largest
from flashvsr_trt.runtime.backends.base import ITEM_BYTES
from flashvsr_trt.runtime.tiles import DECODER_OVERLAP, DIT_OVERLAP, Axis, Tiling

if TYPE_CHECKING:
    from flashvsr_trt.engines.store import EngineSet

# Scratch bytes a pixel and frame of the real-size network in fp16, as its builds told: for where there are no engines.
SCRATCH = {
    "lq_proj_first": 53.0, "lq_proj": 376.0, "dit_first": 1288.0, "dit": 430.0, "tc_decoder": 5410.0,
    "vae_decoder_first": 1668.0, "vae_decoder": 6054.0, "post": 49.0,
}  # fmt: skip
_DECODER = "decoder"
_DENOISE, _DECODE, _POST = ("lq_proj", "dit"), (_DECODER,), ("post",)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What shall be planned.

    Attributes:
        variant: tiny always lets the networks take turns in memory; long and full only where they do not fit together.
        tiling: tiles that were asked for; None leaves them to the plan.
        may_tile: whether the plan may cut the picture; tiles change the frames.
        bounded: whether engines bound the shapes: those of a tier take no larger tile and no larger picture.
    """

    manifest: Manifest
    canvas: Canvas
    tier: Tier
    variant: str
    kv_ratio: float = 3.0
    colour_fix: str = "adain"
    bits: int = 8
    tiling: Tiling | None = None
    may_tile: bool = True
    bounded: bool = True

    @property
    def decoder(self) -> str:
        return DECODERS[self.variant]

    @property
    def post(self) -> str:
        return f"post_{self.colour_fix}{self.bits}"

    @property
    def size(self) -> tuple[int, int]:
        return self.canvas.height, self.canvas.width

    def most(self, network: str) -> tuple[int, int]:
        """Largest (height, width) that the "dit" or the "decoder" takes at once."""
        if not self.bounded:
            return self.size
        return self.tier.tile if network == "dit" else self.tier.decoder_tile


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is in device memory at the same time, in bytes."""

    name: str
    weights: int
    buffers: int
    scratch: int

    @property
    def total(self) -> int:
        return self.weights + self.buffers + self.scratch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the work is done. `tiling` None: the canvas is one tile. `turns`: the networks take turns in memory."""

    work: Work
    tiling: Tiling | None
    turns: bool
    tiles: tuple[int, int]  # of the DiT, of the decoder
    phases: tuple[Phase, ...]
    engines: EngineSet | None  # whose build has told the numbers; None: they are estimated

    @property
    def peak(self) -> int:
        """Bytes, with what driver and context take."""
        return max(phase.total for phase in self.phases) + self.work.tier.reserve_mib * MIB

    @property
    def fits(self) -> bool:
        return self.peak <= self.work.tier.budget


def plan(work: Work, engines: EngineSet | None = None) -> Plan:
    """The plan with the least work that fits the tier's budget: whole, with the networks taking turns, or in tiles.

    Raises:
        UsageError: the picture or the tiles are larger than engines take, or kv_ratio asks for more slots than the
            tier has.
        OutOfMemory: not even the smallest tiles fit, or tiles are not allowed.
    """
    _check(work)
    numbers = _Numbers(work, engines)
    if work.tiling is not None:
        made = _tiled(work, numbers, work.tiling)
        if not made.fits:
            raise _too_small(work, made.peak)
        return made
    wholes = list(_untiled(work, numbers))
    for whole in wholes:
        if whole.fits:
            return whole
    if not work.may_tile:
        if wholes:
            raise _too_small(work, wholes[-1].peak)
        height, width = work.most("dit")
        raise UsageError(
            f"{work.canvas.width}x{work.canvas.height} in tier {work.tier.name} without tiles",
            expected=f"at most {width}x{height}: its engines take no more at once",
            todo="drop --tile off, or take a larger tier",
        )
    best = Tiling(dit=_best_tile(work, numbers, "dit"), decoder=_best_tile(work, numbers, _DECODER))
    made = _tiled(work, numbers, best)
    if not made.fits:
        raise _too_small(work, made.peak)
    return made


def _check(work: Work) -> None:
    if work.bounded and max(work.size) > PICTURE:
        raise UsageError(
            f"the picture is {work.canvas.width}x{work.canvas.height}",
            expected=f"at most {PICTURE} a side: engines are built for no more",
            todo="use a smaller scale",
        )
    if schedule.ring_slots(work.kv_ratio) > work.tier.kv_slots:
        raise UsageError(
            f"kv_ratio {work.kv_ratio:g} needs {schedule.ring_slots(work.kv_ratio)} slots in the KV ring",
            expected=f"at most {work.tier.kv_slots} in tier {work.tier.name}",
        )
    if work.tiling is not None:
        for network, tile in (("dit", work.tiling.dit), (_DECODER, work.tiling.decoder)):
            most = work.most(network)
            if any(min(side, whole) > limit for side, whole, limit in zip(tile, work.size, most, strict=True)):
                raise UsageError(
                    f"tiles of {tile[1]}x{tile[0]} for the {network}",
                    expected=f"at most {most[1]}x{most[0]} in tier {work.tier.name}: its engines take no more",
                    todo="take smaller tiles, a larger tier, or --tile auto",
                )


def _untiled(work: Work, numbers: _Numbers) -> Iterator[Plan]:
    """The whole canvas at once, if the engines take it: all networks in memory together, then in turns."""
    for most in (work.most("dit"), work.most(_DECODER)):
        if work.size[0] > most[0] or work.size[1] > most[1]:
            return
    parts = [
        numbers.phase(name, graphs, work.size, STEP_FRAMES)
        for name, graphs in (("denoise", _DENOISE), ("decode", (*_DECODE, *_POST)))
    ]
    buffers = sum(part.buffers for part in parts)  # they stay in both cases
    together = Phase(
        name="all",
        weights=sum(part.weights for part in parts),
        buffers=buffers,
        scratch=max(part.scratch for part in parts),  # one block for all: graphs run one after the other
    )
    if work.variant != "tiny":
        yield _plan(work, numbers, None, [together], turns=False)
    yield _plan(work, numbers, None, [replace(part, buffers=buffers) for part in parts], turns=True)


def _tiled(work: Work, numbers: _Numbers, tiling: Tiling) -> Plan:
    height, width = work.size
    dit, decoder = ((min(tile[0], height), min(tile[1], width)) for tile in (tiling.dit, tiling.decoder))
    phases = [
        numbers.phase(name, graphs, size, 1 if name == "post" else STEP_FRAMES)
        for name, graphs, size in (("denoise", _DENOISE, dit), ("decode", _DECODE, decoder), ("post", _POST, work.size))
    ]
    return _plan(work, numbers, tiling, phases, turns=True)


def _plan(work: Work, numbers: _Numbers, tiling: Tiling | None, phases: list[Phase], *, turns: bool) -> Plan:
    counts = (1, 1)
    if tiling is not None:
        counts = (
            _tiles(work.size, tiling.dit, tiling.dit_overlap),
            _tiles(work.size, tiling.decoder, tiling.decoder_overlap),
        )
    engines = numbers.engines
    return Plan(work=work, tiling=tiling, turns=turns, tiles=counts, phases=tuple(phases), engines=engines)


def _best_tile(work: Work, numbers: _Numbers, network: str) -> tuple[int, int]:
    """The tile with the least pixels to compute in all, of those that fit; fewer tiles where that is equal."""
    of_dit = network == "dit"
    overlap = DIT_OVERLAP if of_dit else DECODER_OVERLAP
    graphs = _DENOISE if of_dit else _DECODE
    budget = work.tier.budget - work.tier.reserve_mib * MIB
    found = []
    smallest = 0
    for size in _candidates(work.size, work.most(network), overlap):
        total = numbers.phase(network, graphs, size, STEP_FRAMES).total
        smallest = min(smallest or total, total)
        if total <= budget:
            count = _tiles(work.size, size, overlap)
            found.append((count * prod(size), count, size))
    if not found:
        raise _too_small(work, smallest + work.tier.reserve_mib * MIB)
    return min(found)[2]


def _candidates(size: tuple[int, int], most: tuple[int, int], overlap: int) -> Iterator[tuple[int, int]]:
    least = (-(-overlap // GRID) + 1) * GRID  # a tile must have room beside its overlap, see tiles.Axis
    for height in range(GRID, min(most[0], size[0]) + 1, GRID):
        for width in range(GRID, min(most[1], size[1]) + 1, GRID):
            if all(side >= least or side == whole for side, whole in zip((height, width), size, strict=True)):
                yield height, width


def _tiles(size: tuple[int, int], tile: tuple[int, int], overlap: int) -> int:
    return prod(len(Axis(side, part, overlap).offsets) for side, part in zip(size, tile, strict=True))


def _too_small(work: Work, needed: int) -> OutOfMemory:
    tier = work.tier
    return OutOfMemory(
        f"{work.canvas.width}x{work.canvas.height} needs at least {needed / 2**30:.1f} GiB in tier {tier.name}",
        expected=f"at most {tier.budget / 2**30:.1f} GiB, {USABLE:.0%} of {tier.memory_gib}",
        todo="use a larger tier, a smaller --kv-ratio or a smaller scale",
    )


class _Numbers:
    """Bytes that graphs and their buffers take."""

    def __init__(self, work: Work, engines: EngineSet | None) -> None:
        self._work, self.engines = work, engines
        self._names = {"decoder": work.decoder, "post": work.post}

    def phase(self, name: str, graphs: Iterable[str], size: tuple[int, int], frames: int) -> Phase:
        """What these graphs take at that (height, width) and that many frames a call."""
        chosen = [self._names.get(graph, graph) for graph in graphs]
        first = [f"{graph}_first" for graph in chosen if f"{graph}_first" in self._work.manifest.graphs]
        # Step 0 has graphs of its own; they are given back before the others of the same network are loaded.
        weights = sum(
            max(self._weights(graph), self._weights(f"{graph}_first") if f"{graph}_first" in first else 0)
            for graph in chosen
        )
        if "lq_proj_first" in first:
            weights += self._weights("lq_proj_first")  # it stays until step 0 is done
        return Phase(
            name=name,
            weights=weights,
            buffers=self._buffers([*chosen, *first], size, frames),
            scratch=max(self._scratch(graph, size, frames) for graph in (*chosen, *first)),
        )

    def _weights(self, graph: str) -> int:
        if self.engines is not None:
            return self.engines.engines[graph].bytes  # the plan holds the weights and the code
        file = self._work.manifest.files.get(f"{graph.removesuffix('_first')}.bin")
        eighth = self._work.tier.weights == "fp8" and graph in ("dit", "dit_first")
        return file.bytes // (2 if eighth else 1) if file else 0

    def _scratch(self, graph: str, size: tuple[int, int], frames: int) -> int:
        work = self._work
        pixels = prod(size)
        if graph.startswith("post"):
            pixels *= frames
        if self.engines is None:
            per_pixel = SCRATCH["post" if graph.startswith("post") else graph]
            return int(per_pixel * pixels)
        most = largest(work.manifest.graphs[graph], work.tier)
        built = max(s["H"] * s["W"] * (s["T"] if graph.startswith("post") else 1) for s in most)
        return int(self.engines.engines[graph].activations * pixels / built)

    def _buffers(self, graphs: Iterable[str], size: tuple[int, int], frames: int) -> int:
        """Of all inputs and outputs, but for those that lie inside others: new slabs in the ring, tokens, latents."""
        work = self._work
        slots = schedule.ring_slots(work.kv_ratio)
        values = {"H": size[0], "W": size[1], "T": frames, "ring": slots, "slabs": slots}
        values |= dict(zip(("height", "width"), work.canvas.output, strict=True))
        tensors: dict[str, int] = {}
        for graph in graphs:
            for tensor in work.manifest.graphs[graph].inputs + work.manifest.graphs[graph].outputs:
                if not tensor.name.startswith(("k_new", "v_new")):
                    shared = tensor.name in ("lq_tokens", "latents", "frames", "pixels")
                    name = tensor.name if shared else f"{graph}/{tensor.name}"
                    tensors[name] = max(tensors.get(name, 0), self._bytes(tensor, values))
        return sum(tensors.values())

    def _bytes(self, tensor: Tensor, values: Mapping[str, int]) -> int:
        return prod(evaluate_shape(tensor.shape, dict(values))) * ITEM_BYTES[self._work.manifest.dtype(tensor)]
