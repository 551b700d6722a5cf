"""How a picture of some size is computed in the memory of a tier: order, tiles, and a budget of device memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import STEP_FRAMES
from flashvsr_trt.configs.errors import OutOfMemory, UsageError
from flashvsr_trt.configs.schedule import GRID
from flashvsr_trt.configs.tiers import MIB, USABLE
from flashvsr_trt.engines.profiles import PICTURE
from flashvsr_trt.runtime.footprint import EngineMemory, Phase, PoolMemory, Work
from flashvsr_trt.runtime.tiles import DECODER_OVERLAP, DIT_OVERLAP, Axis, Tiling

if TYPE_CHECKING:
    from flashvsr_trt.engines.store import EngineSet

_DECODER = "decoder"
_DENOISE, _DECODE, _POST = ("lq_proj", "dit"), (_DECODER,), ("post",)


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
    numbers = EngineMemory(work, engines) if engines or work.bounded else PoolMemory(work)
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
    return _best_tiled(work, numbers)


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


def _untiled(work: Work, numbers: EngineMemory) -> Iterator[Plan]:
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


def _tiled(work: Work, numbers: EngineMemory, tiling: Tiling) -> Plan:
    height, width = work.size
    dit, decoder = ((min(tile[0], height), min(tile[1], width)) for tile in (tiling.dit, tiling.decoder))
    phases = [
        numbers.phase(name, graphs, size, 1 if name == "post" else STEP_FRAMES)
        for name, graphs, size in (("denoise", _DENOISE, dit), ("decode", _DECODE, decoder), ("post", _POST, work.size))
    ]
    return _plan(work, numbers, tiling, phases, turns=True)


def _plan(work: Work, numbers: EngineMemory, tiling: Tiling | None, phases: list[Phase], *, turns: bool) -> Plan:
    counts = (1, 1)
    if tiling is not None:
        counts = (
            _tiles(work.size, tiling.dit, tiling.dit_overlap),
            _tiles(work.size, tiling.decoder, tiling.decoder_overlap),
        )
    engines = numbers.engines
    return Plan(work=work, tiling=tiling, turns=turns, tiles=counts, phases=tuple(phases), engines=engines)


def _best_tiled(work: Work, numbers: EngineMemory) -> Plan:
    """The tiles with the least pixels to compute in all, of those that fit; fewer tiles where that is equal."""
    pairs = itertools.product(_ordered(work, numbers, "dit"), _ordered(work, numbers, _DECODER))
    by_cost = sorted(pairs, key=lambda pair: [sum(costs) for costs in zip(pair[0][:2], pair[1][:2], strict=True)])
    smallest = 0
    for (*_, dit), (*_, decoder) in by_cost:
        made = _tiled(work, numbers, Tiling(dit=dit, decoder=decoder))
        if made.fits:
            return made
        smallest = min(smallest or made.peak, made.peak)
    raise _too_small(work, smallest)


def _ordered(work: Work, numbers: EngineMemory, network: str) -> list[tuple[int, int, tuple[int, int]]]:
    """(pixels to compute in all, tiles, size of one) of tiles that are worth a look: each computes more than those
    before it, and takes less memory."""
    overlap, graphs = (DIT_OVERLAP, _DENOISE) if network == "dit" else (DECODER_OVERLAP, _DECODE)
    found = []
    for size in _candidates(work.size, work.most(network), overlap):
        count = _tiles(work.size, size, overlap)
        found.append((count * prod(size), count, size))
    out, least = [], None
    for one in sorted(found):
        total = numbers.phase(network, graphs, one[2], STEP_FRAMES).total
        if least is None or total < least:
            out.append(one)
            least = total
    return out


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
