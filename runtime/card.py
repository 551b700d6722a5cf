"""The GPU that a run is fitted to: a tier with its engines, or a card whose memory alone bounds the shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flashvsr_trt.configs.errors import OutOfMemory
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import Canvas
from flashvsr_trt.configs.tiers import GIB, SIZES, Tier, load_tier
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.footprint import Work
from flashvsr_trt.runtime.planner import Plan, plan
from flashvsr_trt.runtime.upscaler import Options, settled

if TYPE_CHECKING:
    from flashvsr_trt.engines.store import EngineSet


@dataclass(frozen=True)
class Card:
    """What planning needs to know of a GPU.

    Attributes:
        tier: whose memory and tiles.
        engines: whose numbers are taken; None: they are estimated.
        bounded: whether engines bound the shapes; ONNX Runtime takes any.
    """

    tier: Tier
    engines: EngineSet | None = None
    bounded: bool = True

    @staticmethod
    def of(backend: Backend) -> Card | None:
        """The card that a back end works on; None where it works in host memory."""
        engines = getattr(backend, "engines", None)
        if engines is not None:
            return Card(backend.tier, engines)  # type: ignore[attr-defined]
        memory = backend.device_memory()
        return None if memory is None else Card.with_memory(min(memory[0], backend.planned_memory or memory[0]))

    @staticmethod
    def with_memory(free: int) -> Card:
        """A card with that many bytes to use, without engines. What they would take is taken for the estimate."""
        gib = max(1, int(free / GIB))
        tier = replace(load_tier(max(SIZES)), name=f"of {gib} GiB", memory_gib=gib, kv_slots=2**31)
        return Card(tier, bounded=False)

    def fit(
        self, manifest: Manifest, canvas: Canvas, options: Options, *, may_tile: bool
    ) -> tuple[Options, Plan | None]:
        """The options that fit this card, and their plan.

        Without engines memory is only estimated: what was asked for is tried as it is, without a plan where the
        estimate says that it does not fit.

        Raises:
            UsageError, OutOfMemory: see planner.plan.
        """
        if not self.bounded and (options.tiling is not None or not may_tile):
            try:
                made = self.plan(manifest, canvas, options, may_tile=False)
            except OutOfMemory:
                return options, None
            return options, None if made.turns and not options.phased and made.tiling is None else made
        made = self.plan(manifest, canvas, options, may_tile=may_tile)
        if made.tiling is not None:
            return replace(options, tiling=made.tiling), made
        turns = made.turns and options.variant != "tiny"
        return replace(options, phases=options.phases or turns), made

    def plan(self, manifest: Manifest, canvas: Canvas, options: Options, *, may_tile: bool = True) -> Plan:
        """How `options` are run on this card.

        Raises:
            UsageError, OutOfMemory: see planner.plan.
        """
        work = Work(
            manifest=manifest,
            canvas=canvas,
            tier=self.tier,
            variant=options.variant,
            kv_ratio=options.parameters.kv_ratio,
            colour_fix=settled(options, manifest).colour_fix,
            bits=options.bits,
            tiling=options.tiling,
            may_tile=may_tile,
            bounded=self.bounded,
        )
        return plan(work, self.engines)
