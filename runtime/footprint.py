"""Device memory of a run: what it is made of, and what ONNX Runtime or TensorRT engines take of each part.

Weights and scratch memory of engines are what TensorRT told when they were built; without engines they are estimated.
Those of ONNX Runtime are fitted to measurements. Buffers follow from the contract. Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import Tensor, evaluate_shape
from flashvsr_trt.configs.manifest import DTYPES, Manifest
from flashvsr_trt.configs.schedule import Canvas
from flashvsr_trt.configs.tiers import Tier
from flashvsr_trt.engines.key import DECODERS
from flashvsr_trt.engines.profiles import largest
from flashvsr_trt.runtime.backends.base import ITEM_BYTES
from flashvsr_trt.runtime.tiles import Tiling

if TYPE_CHECKING:
    from flashvsr_trt.engines.store import EngineSet

# Scratch bytes a pixel and frame of the real-size network in fp16, as its builds told: for where there are no engines.
SCRATCH = {
    "lq_proj_first": 53.0, "lq_proj": 376.0, "dit_first": 1288.0, "dit": 430.0, "tc_decoder": 5410.0,
    "vae_decoder_first": 1668.0, "vae_decoder": 6054.0, "post": 49.0,
}  # fmt: skip
# Bytes a pixel that the pool of ONNX Runtime's graphs grows to by one network of the real size in 16 bits, fused and
# with the project's kernels; fitted to runs on an H200, all within 10 % (plugins_trt/NOTES.md, sixth run).
POOL = {"dit": 660.0, "tc_decoder": 1400.0, "vae_decoder": 19400.0}
_REAL_WIDTH = {"dit": 1536, "tc_decoder": 128, "vae_decoder": 96}  # channels of their largest tensors


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


class EngineMemory:
    """Bytes that engines and their buffers take."""

    def __init__(self, work: Work, engines: EngineSet | None = None) -> None:
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


class PoolMemory(EngineMemory):
    """Bytes that ONNX Runtime's CUDA provider takes, of a fused bundle with the project's own kernels.

    All graphs of a phase work in one pool, which stays as large as the largest of them has made it; what it has is
    given back between phases.
    """

    def _weights(self, graph: str) -> int:
        if graph == "lq_proj_first":
            return 0  # given back before the decoder and the DiT of the later steps come
        network, files = graph.removesuffix("_first"), self._work.manifest.files
        # The FP8 ones lie in a file of their own.
        return sum(files[name].bytes for name in (f"{network}.bin", f"{network}8.bin") if name in files)

    def _scratch(self, graph: str, size: tuple[int, int], frames: int) -> int:
        sizes, network = self._work.manifest.sizes, graph.removesuffix("_first")
        if network not in POOL:
            return 0  # small beside the others: by AdaptColours, other colour fixes take more
        widths = {"dit": sizes.dim, "tc_decoder": sizes.tc_memory[-1][0]}
        width = widths[network] if network in widths else sizes.vae_caches[-1][0]
        items = ITEM_BYTES[DTYPES[self._work.manifest.precision]] / 2
        return int(POOL[network] * items * width / _REAL_WIDTH[network] * prod(size))
