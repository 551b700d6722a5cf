"""LQ projector and DiT: LQ frames to latents, step by step, on the whole canvas or on a tile of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import (
    FIRST_LATENTS,
    FIRST_SLABS,
    LATENT_CHANNELS,
    STEP_FRAMES,
    STEP_LATENTS,
    kv_name,
)
from flashvsr_trt.runtime import rope
from flashvsr_trt.runtime.ahead import Ahead
from flashvsr_trt.runtime.backends.base import Backend, Buffer
from flashvsr_trt.runtime.bound import BoundGraph, HostState
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.noise import noise
from flashvsr_trt.runtime.ring import KvRing
from flashvsr_trt.runtime.settings import Settings


class Denoiser:
    """One stream's projector and DiT. Call `denoise` for step 0, 1, 2 ...

    Args:
        bundle: what to run.
        backend: where to run it.
        settings: of the whole canvas.
        size: (height, width) of what these networks see: the canvas or a tile.
    """

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings, size: tuple[int, int]) -> None:
        self._bundle, self._backend, self._settings, self._size = bundle, backend, settings, size
        self._layers = bundle.manifest.sizes.layers
        self._ring = KvRing(settings.parameters.kv_ratio)
        self._origin = (0, 0)
        self._ahead = Ahead()  # the next step's noise, while the device works on this one
        self._symbols = {"H": size[0], "W": size[1], "ring": self._ring.slots}
        self._projector_first = self._bind("lq_proj_first") if bundle.manifest.causal else None
        self._projector = self._bind("lq_proj")
        self._first, self._later = self._bind("dit_first"), self._bind("dit")
        self._allocate()

    def reset(self, origin: tuple[int, int] = (0, 0)) -> None:
        """Forgets the stream: the next step is step 0, of the tile whose top left pixel is `origin`."""
        self._origin = origin
        self._ring.reset()

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
        dit = self._first if step == 0 else self._later
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
        if self._backend.asynchronous and self._settings.noise is None:
            self._ahead.start(noise, *self._of_noise(range(*schedule.step_latents(step + 1))))
        return bound["latents"]

    def save_state(self, host: HostState) -> None:
        """Copies all that the next step needs to host memory."""
        self._projector.save_state(host)
        host.slabs = len(self._ring.valid)
        for place, slot in enumerate(self._ring.valid):
            for name, ring in self._rings():
                host.keep(self._backend, f"{name}.{place}", ring.slots(slot, 1))

    def load_state(self, host: HostState, origin: tuple[int, int]) -> None:
        """Goes on with the stream that `save_state` left, of the tile at `origin`."""
        self._origin = origin
        self._projector.load_state(host)
        self._ring.reset(host.slabs)
        for slot in range(host.slabs):
            for name, ring in self._rings():
                self._backend.upload(host.arrays[f"{name}.{slot}"], ring.slots(slot, 1))

    def release_first(self) -> None:
        """Gives back what only step 0 uses: the DiT's weights, held a second time."""
        self._first.release()
        if self._projector_first is not None:
            self._projector_first.release()

    def release(self) -> None:
        """Gives all weights back until they are needed again."""
        self.release_first()
        self._projector.release()
        self._later.release()

    def restore(self, latents: np.ndarray) -> Buffer:
        """Latents that were downloaded, on the device again; the memory is that of `denoise`."""
        buffer = self._latents.slots(0, latents.shape[0])
        self._backend.upload(latents, buffer)
        return buffer

    def _bind(self, name: str) -> BoundGraph:
        return BoundGraph(self._bundle, self._backend, self._bundle.manifest.graphs[name], self._symbols)

    def _allocate(self) -> None:
        rows, columns = self._size[0] // 16, self._size[1] // 16
        manifest, canvas = self._bundle.manifest, self._settings.canvas
        float_type = manifest.dtype(manifest.graphs["dit"].tensor("latents"))
        topk = schedule.tile_topk((canvas.height, canvas.width), self._size, self._settings.parameters.sparse_ratio)
        self._tokens = self._backend.allocate((FIRST_LATENTS, rows, columns, manifest.sizes.dim), float_type)
        self._latents = self._backend.allocate((FIRST_LATENTS, LATENT_CHANNELS, rows * 2, columns * 2), float_type)
        self._projector.allocate(["lq"])
        self._projector.allocate_state()
        if self._projector_first is not None:
            self._projector_first.allocate(["lq"])
        for dit in (self._first, self._later):
            dit.allocate(["noise", "rope_frames", "rope_rows", "rope_columns", "topk"])
            # Attention depends on differences of positions alone, so a tile may count from its own corner.
            dit.upload("rope_rows", rope.row_table(rows))
            dit.upload("rope_columns", rope.column_table(columns))
            dit.upload("topk", np.asarray(topk))
        self._later.allocate(kv_name(kind, layer, new=False) for layer in range(self._layers) for kind in "kv")
        self._slabs = self._backend.allocate((self._ring.slots,), "int64")

    def _project(self, step: int, lq: np.ndarray) -> None:
        if step == 0:
            if self._projector_first is not None:
                self._projector_first.upload("lq", lq[:1])
                self._projector_first.run(
                    **{f"{name}_new": self._projector.buffers[name] for name in ("lq_cache1", "lq_cache2")}
                )
            lq = lq[1:]
        for i in range(lq.shape[0] // STEP_FRAMES):
            self._projector.upload("lq", lq[STEP_FRAMES * i :][:STEP_FRAMES])
            self._projector.run(lq_tokens=self._tokens.slots(STEP_LATENTS * i, STEP_LATENTS))

    def _upload_positions(self, dit: BoundGraph, latents: range) -> None:
        dit.upload("noise", self._noise(latents))
        dit.upload("rope_frames", rope.frame_table(latents))

    def _noise(self, latents: range) -> np.ndarray:
        if self._settings.noise is None:
            return self._ahead.get(noise, *self._of_noise(latents))
        _, _, rows, columns, (top, left) = self._of_noise(latents)
        whole = self._settings.noise(latents, self._settings.canvas.height // 8, self._settings.canvas.width // 8)
        return whole[:, :, top : top + rows, left : left + columns]

    def _of_noise(self, latents: range) -> tuple[int, range, int, int, tuple[int, int]]:
        """Arguments of the generator: seed, latent frames, size and origin."""
        rows, columns = self._latents.shape[2:]
        origin = self._origin[0] // 8, self._origin[1] // 8
        return self._settings.parameters.seed, latents, rows, columns, origin

    def _rings(self) -> Iterator[tuple[str, Buffer]]:
        for layer in range(self._layers):
            for kind in "kv":
                name = kv_name(kind, layer, new=False)
                yield name, self._later.buffers[name]

    def _new_slabs(self, slots: range) -> dict[str, Buffer]:
        return {
            kv_name(kind, layer, new=True): self._later.buffers[kv_name(kind, layer, new=False)].slots(
                slots.start, len(slots)
            )
            for layer in range(self._layers)
            for kind in "kv"
        }

    def _cached_slabs(self) -> dict[str, Buffer]:
        slabs = self._slabs.slots(0, len(self._ring.valid))
        self._backend.upload(np.asarray(self._ring.valid), slabs)
        return {"slabs": slabs}
