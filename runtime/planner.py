"""How a picture of some size is computed in the memory of a tier: order, tiles, and a budget of device memory.

Weights and scratch memory are what TensorRT told when the engines were built; without engines they are estimated.
Buffers follow from the contract. Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
_DENOISE, _DECODE, _POST = ("lq_proj", "dit"), ("decoder",), ("post",)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What shall be planned."""

    manifest: Manifest
    canvas: Canvas
    tier: Tier
    variant: str
    kv_ratio: float = 3.0
    colour_fix: str = "adain"
    bits: int = 8

    @property
    def decoder(self) -> str:
        return DECODERS[self.variant]

    @property
    def post(self) -> str:
        return f"post_{self.colour_fix}{self.bits}"

    @property
    def size(self) -> tuple[int, int]:
        return self.canvas.height, self.canvas.width


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
    """How the work is done. `tiling` None: the canvas is one tile."""

    work: Work
    tiling: Tiling | None
    tiles: tuple[int, int]  # of the DiT, of the decoder
    phases: tuple[Phase, ...]
    recorded: bool  # by a build; else estimated

    @property
    def peak(self) -> int:
        """Bytes, with what driver and context take."""
        return max(phase.total for phase in self.phases) + self.work.tier.reserve_mib * MIB

    @property
    def fits(self) -> bool:
        return self.peak <= self.work.tier.budget


def plan(work: Work, engines: EngineSet | None = None) -> Plan:
    """The plan with the least work that fits the tier's budget.

    Raises:
        UsageError: the picture is larger than any engine takes, or kv_ratio asks for more slots than the tier has.
        OutOfMemory: not even the smallest tiles fit.
    """
    _check(work)
    numbers = _Numbers(work, engines)
    whole = _untiled(work, numbers)
    if whole is not None and whole.fits:
        return whole
    dit = _best_tile(work, numbers, "dit")
    decoder = _best_tile(work, numbers, "decoder")
    phases = tuple(
        numbers.phase(name, graphs, size, 1 if name == "post" else STEP_FRAMES)
        for name, graphs, size in (
            ("denoise", _DENOISE, dit),
            ("decode", _DECODE, decoder),
            ("post", _POST, work.size),
        )
    )
    tiled = Plan(
        work=work,
        tiling=Tiling(dit=dit, decoder=decoder),
        tiles=(_tiles(work.size, dit, DIT_OVERLAP), _tiles(work.size, decoder, DECODER_OVERLAP)),
        phases=phases,
        recorded=engines is not None,
    )
    if not tiled.fits:
        raise _too_small(work, tiled.peak)
    return tiled


def _check(work: Work) -> None:
    if max(work.size) > PICTURE:
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


def _untiled(work: Work, numbers: _Numbers) -> Plan | None:
    """The whole canvas at once, if the engines take it."""
    for most in (work.tier.tile, work.tier.decoder_tile):
        if work.size[0] > most[0] or work.size[1] > most[1]:
            return None
    parts = [
        numbers.phase(name, graphs, work.size, STEP_FRAMES)
        for name, graphs in (("denoise", _DENOISE), ("decode", (*_DECODE, *_POST)))
    ]
    if work.variant == "tiny":  # weights take turns, buffers stay
        buffers = sum(part.buffers for part in parts)
        phases = [Phase(name=p.name, weights=p.weights, buffers=buffers, scratch=p.scratch) for p in parts]
    else:
        phases = [
            Phase(
                name="all",
                weights=sum(part.weights for part in parts),
                buffers=sum(part.buffers for part in parts),
                scratch=max(part.scratch for part in parts),  # one block for all: graphs run one after the other
            )
        ]
    return Plan(work=work, tiling=None, tiles=(1, 1), phases=tuple(phases), recorded=numbers.recorded)


def _best_tile(work: Work, numbers: _Numbers, network: str) -> tuple[int, int]:
    """The tile with the least pixels to compute in all, of those that fit; fewer tiles where that is equal."""
    of_dit = network == "dit"
    most = work.tier.tile if of_dit else work.tier.decoder_tile
    overlap = DIT_OVERLAP if of_dit else DECODER_OVERLAP
    graphs = _DENOISE if of_dit else _DECODE
    budget = work.tier.budget - work.tier.reserve_mib * MIB
    found = []
    smallest = 0
    for size in _candidates(work.size, most, overlap):
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
        self._work, self._engines = work, engines
        self.recorded = engines is not None
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
        if self._engines is not None:
            return self._engines.engines[graph].bytes  # the plan holds the weights and the code
        file = self._work.manifest.files.get(f"{graph.removesuffix('_first')}.bin")
        eighth = self._work.tier.weights == "fp8" and graph in ("dit", "dit_first")
        return file.bytes // (2 if eighth else 1) if file else 0

    def _scratch(self, graph: str, size: tuple[int, int], frames: int) -> int:
        work = self._work
        pixels = prod(size)
        if graph.startswith("post"):
            pixels *= frames
        if self._engines is None:
            per_pixel = SCRATCH["post" if graph.startswith("post") else graph]
            return int(per_pixel * pixels)
        most = largest(work.manifest.graphs[graph], work.tier)
        built = max(s["H"] * s["W"] * (s["T"] if graph.startswith("post") else 1) for s in most)
        return int(self._engines.engines[graph].activations * pixels / built)

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
