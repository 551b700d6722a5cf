"""The step graphs of a bundle on one canvas: buffers, state, and the calls of one step in order.

Owns every device buffer of a stream. Nothing here grows with the length of the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import (
    FIRST_LATENTS,
    FIRST_SLABS,
    STEP_FRAMES,
    STEP_LATENTS,
    Graph,
    evaluate_shape,
    kv_name,
)
from flashvsr_trt.configs.schedule import DROPPED_FIRST, Canvas, Parameters
from flashvsr_trt.runtime import rope
from flashvsr_trt.runtime.backends.base import Backend, Buffer, StepGraph
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.noise import noise
from flashvsr_trt.runtime.ring import KvRing

NoiseSource = Callable[[range, int, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the networks of one stream are run with."""

    canvas: Canvas
    parameters: Parameters
    colour_fix: str = "adain"
    bits: int = 8
    noise: NoiseSource | None = None  # (latent frames, rows, columns) -> float16; None: the seeded generator


class BoundGraph:
    """A step graph, loaded on first use, with its own buffers; state is swapped after each run."""

    def __init__(self, bundle: Bundle, backend: Backend, graph: Graph, symbols: Mapping[str, int]) -> None:
        self._bundle, self._backend, self._graph, self._symbols = bundle, backend, graph, dict(symbols)
        self._loaded: StepGraph | None = None
        self.buffers: dict[str, Buffer] = {}

    def allocate(self, names: Iterable[str]) -> None:
        """Gives the named tensors buffers of this graph's own, zeroed."""
        for name in names:
            tensor = self._graph.tensor(name)
            shape = evaluate_shape(tensor.shape, self._symbols)
            self.buffers[name] = self._backend.allocate(shape, self._bundle.manifest.dtype(tensor))

    def allocate_state(self) -> None:
        self.allocate(name for pair in self._graph.state for name in pair)

    def zero_state(self) -> None:
        for _, before in self._graph.state:
            self._backend.zero(self.buffers[before])

    def upload(self, name: str, array: np.ndarray) -> None:
        self._backend.upload(array, self.buffers[name])

    def run(self, **bound: Buffer) -> None:
        """Runs with the buffers named here in place of, or beside, the graph's own."""
        if self._loaded is None:
            self._loaded = self._backend.load(self._bundle.graph_path(self._graph.name), self._graph)
        buffers = self.buffers | bound
        self._loaded.run(
            {tensor.name: buffers[tensor.name] for tensor in self._graph.inputs},
            {tensor.name: buffers[tensor.name] for tensor in self._graph.outputs},
        )
        for after, before in self._graph.state:
            self.buffers[after], self.buffers[before] = self.buffers[before], self.buffers[after]

    def release(self) -> None:
        """Gives the weights back; the buffers and the state stay."""
        self._loaded = None


class Networks:
    """One stream's networks. Call `denoise`, then `decode`, for step 0, 1, 2 ...

    Args:
        bundle: what to run.
        backend: where to run it.
        settings: canvas, parameters, colour fix and output depth.
    """

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings) -> None:
        self._bundle, self._backend, self._settings = bundle, backend, settings
        self._sizes = bundle.manifest.sizes
        canvas = settings.canvas
        self._ring = KvRing(settings.parameters.kv_ratio)
        self._symbols = {
            "H": canvas.height,
            "W": canvas.width,
            "T": STEP_FRAMES,
            "ring": self._ring.slots,
            "height": canvas.output[0],
            "width": canvas.output[1],
        }
        self._projector_first = self._bind("lq_proj_first") if bundle.manifest.causal else None
        self._projector = self._bind("lq_proj")
        self._dit_first, self._dit = self._bind("dit_first"), self._bind("dit")
        self._decoder = self._bind("tc_decoder")
        self._post = self._bind(f"post_{settings.colour_fix}{settings.bits}")
        self._allocate()

    def reset(self) -> None:
        """Forgets the stream: the next step is step 0."""
        self._ring.reset()
        self._decoder.zero_state()

    def denoise(self, step: int, lq: np.ndarray) -> Buffer:
        """LQ projector and DiT of one step.

        Args:
            step: its index; steps come in order.
            lq: uint8 [25 (step 0) or 8, H, W, 3].

        Returns:
            Latents [6 or 2, 16, H/8, W/8]; the memory is written again by the next call.
        """
        latents = range(*schedule.step_latents(step))
        self._project(step, lq)
        dit = self._dit_first if step == 0 else self._dit
        self._upload_positions(dit, latents)
        slots = self._ring.begin(FIRST_SLABS if step == 0 else 1)
        bound = {
            "lq_tokens": self._tokens.slots(0, len(latents)),
            "latents": self._latents.slots(0, len(latents)),
            **self._new_slabs(slots),
        }
        if step > 0:
            bound |= self._cached_slabs()
        dit.run(**bound)
        self._ring.commit(slots)
        if step == 0:  # used once a stream; its weights are the DiT's, held a second time
            dit.release()
        return bound["latents"]

    def decode(self, step: int, latents: Buffer, lq: np.ndarray) -> np.ndarray:
        """Decoder and colour fix of one step.

        Args:
            step: its index.
            latents: what `denoise` gave for it.
            lq: uint8 [21 (step 0) or 8, H, W, 3], the LQ frames of the step's own output.

        Returns:
            uint8 or uint16 [21 or 8, output height, output width, 3], the caller's own.
        """
        if step == 0:
            lq = np.concatenate((np.repeat(lq[:1], DROPPED_FIRST, axis=0), lq))
        pixels = [
            self._decode_slab(latents.slots(STEP_LATENTS * i, STEP_LATENTS), lq[STEP_FRAMES * i :][:STEP_FRAMES])
            for i in range(latents.shape[0] // STEP_LATENTS)
        ]
        return np.concatenate(pixels)[DROPPED_FIRST:] if step == 0 else pixels[0]

    def release_denoise(self) -> None:
        """Gives the projector's and the DiT's weights back until they are needed again."""
        for graph in (self._projector_first, self._projector, self._dit_first, self._dit):
            if graph is not None:
                graph.release()

    def release_decode(self) -> None:
        """Gives the decoder's weights back until they are needed again."""
        self._decoder.release()

    def keep(self, latents: Buffer) -> np.ndarray:
        """A host copy of latents, for decoding later."""
        return self._backend.download(latents)

    def restore(self, latents: np.ndarray) -> Buffer:
        """Latents that `keep` gave, on the device again."""
        buffer = self._latents.slots(0, latents.shape[0])
        self._backend.upload(latents, buffer)
        return buffer

    def _bind(self, name: str) -> BoundGraph:
        return BoundGraph(self._bundle, self._backend, self._bundle.manifest.graphs[name], self._symbols)

    def _allocate(self) -> None:
        rows, columns = self._settings.canvas.height // 16, self._settings.canvas.width // 16
        float_type = self._latent_type()
        topk = schedule.topk(
            self._settings.canvas.height, self._settings.canvas.width, self._settings.parameters.sparse_ratio
        )
        self._tokens = self._backend.allocate((FIRST_LATENTS, rows, columns, self._sizes.dim), float_type)
        self._latents = self._backend.allocate((FIRST_LATENTS, 16, rows * 2, columns * 2), float_type)
        self._projector.allocate(["lq"])
        self._projector.allocate_state()
        if self._projector_first is not None:
            self._projector_first.allocate(["lq"])
        for dit in (self._dit_first, self._dit):
            dit.allocate(["noise", "rope_frames", "rope_rows", "rope_columns", "topk"])
            dit.upload("rope_rows", rope.row_table(rows))
            dit.upload("rope_columns", rope.column_table(columns))
            dit.upload("topk", np.asarray(topk))
        self._dit.allocate(kv_name(kind, layer, new=False) for layer in range(self._sizes.layers) for kind in "kv")
        self._slabs = self._backend.allocate((self._ring.slots,), "int64")
        self._decoder.allocate(["lq", "frames"])
        self._decoder.allocate_state()
        self._post.allocate(["size", "pixels"])
        self._post.upload("size", np.asarray(self._settings.canvas.output))

    def _latent_type(self) -> str:
        graph = self._bundle.manifest.graphs["dit"]
        return self._bundle.manifest.dtype(graph.tensor("latents"))

    def _project(self, step: int, lq: np.ndarray) -> None:
        if step == 0:
            if self._projector_first is not None:
                self._projector_first.upload("lq", lq[:1])
                self._projector_first.run(
                    **{f"{name}_new": self._projector.buffers[name] for name in ("lq_cache1", "lq_cache2")}
                )
                self._projector_first.release()
            lq = lq[1:]
        for i in range(lq.shape[0] // STEP_FRAMES):
            self._projector.upload("lq", lq[STEP_FRAMES * i :][:STEP_FRAMES])
            self._projector.run(lq_tokens=self._tokens.slots(STEP_LATENTS * i, STEP_LATENTS))

    def _upload_positions(self, dit: BoundGraph, latents: range) -> None:
        rows, columns = self._latents.shape[2:]
        source = self._settings.noise or partial(noise, self._settings.parameters.seed)
        dit.upload("noise", source(latents, rows, columns))
        dit.upload("rope_frames", rope.frame_table(latents))

    def _new_slabs(self, slots: range) -> dict[str, Buffer]:
        return {
            kv_name(kind, layer, new=True): self._dit.buffers[kv_name(kind, layer, new=False)].slots(
                slots.start, len(slots)
            )
            for layer in range(self._sizes.layers)
            for kind in "kv"
        }

    def _cached_slabs(self) -> dict[str, Buffer]:
        slabs = self._slabs.slots(0, len(self._ring.valid))
        self._backend.upload(np.asarray(self._ring.valid), slabs)
        return {"slabs": slabs}

    def _decode_slab(self, latents: Buffer, lq: np.ndarray) -> np.ndarray:
        self._decoder.upload("lq", lq)
        self._decoder.run(latents=latents)
        self._post.run(frames=self._decoder.buffers["frames"], lq=self._decoder.buffers["lq"])
        return self._backend.download(self._post.buffers["pixels"])
