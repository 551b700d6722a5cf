"""The two decoders as streams of their own, on the whole canvas or on a tile of it, and the colour fix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np

from flashvsr_trt.configs.contract import LATENT_FRAMES, STEP_FRAMES, STEP_LATENTS
from flashvsr_trt.configs.schedule import DROPPED_FIRST
from flashvsr_trt.runtime.backends.base import Backend, Buffer
from flashvsr_trt.runtime.bound import BoundGraph, HostState
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.settings import Settings


class Decoder(ABC):
    """One stream's decoder. Call `decode` for step 0, 1, 2 ...

    Args:
        bundle: what to run.
        backend: where to run it.
        size: (height, width) of what it sees: the canvas or a tile.
    """

    def __init__(self, bundle: Bundle, backend: Backend, size: tuple[int, int]) -> None:
        self._bundle, self._backend = bundle, backend
        self._symbols = {"H": size[0], "W": size[1]}
        self._graph = self._bind(self.name)
        first = f"{self.name}_first"  # where the first call of a stream has a graph of its own
        self._first = self._bind(first) if first in bundle.manifest.graphs else None
        self._graph.allocate(["frames"])
        self._graph.allocate_state()

    name: str  # of its graph

    @abstractmethod
    def decode(self, step: int, latents: Buffer, lq: np.ndarray) -> Iterator[tuple[Buffer, Buffer]]:
        """The frames of one step, some at a time.

        Args:
            step: its index; steps come in order.
            latents: [6 (step 0) or 2, 16, H/8, W/8].
            lq: uint8 [21 (step 0) or 8, H, W, 3], the LQ frames of the step's own output.

        Yields:
            Frames [n, 3, H, W] and their LQ frames uint8 [n, H, W, 3]; the memory is written again by the next.
        """

    def reset(self) -> None:
        """Forgets the stream: the next step is step 0."""
        self._graph.zero_state()

    def save_state(self, host: HostState) -> None:
        """Copies all that the next step needs to host memory."""
        self._graph.save_state(host)

    def load_state(self, host: HostState) -> None:
        """Goes on with the stream that `save_state` left."""
        self._graph.load_state(host)

    def release_first(self) -> None:
        """Gives back what only step 0 uses."""
        if self._first is not None:
            self._first.release()

    def release(self) -> None:
        """Gives the weights back until they are needed again."""
        self.release_first()
        self._graph.release()

    def _bind(self, name: str) -> BoundGraph:
        return BoundGraph(self._bundle, self._backend, self._bundle.manifest.graphs[name], self._symbols)


class TcDecoder(Decoder):
    """TCDecoder: two latents and their LQ frames to eight frames."""

    name = "tc_decoder"

    def __init__(self, bundle: Bundle, backend: Backend, size: tuple[int, int]) -> None:
        super().__init__(bundle, backend, size)
        self._graph.allocate(["lq"])

    def decode(self, step: int, latents: Buffer, lq: np.ndarray) -> Iterator[tuple[Buffer, Buffer]]:
        dropped = DROPPED_FIRST if step == 0 else 0
        if dropped:
            lq = np.concatenate((np.repeat(lq[:1], dropped, axis=0), lq))
        for call in range(latents.shape[0] // STEP_LATENTS):
            self._graph.upload("lq", lq[STEP_FRAMES * call :][:STEP_FRAMES])
            self._graph.run(latents=latents.slots(STEP_LATENTS * call, STEP_LATENTS))
            begin = dropped if call == 0 else 0
            kept = (begin, STEP_FRAMES - begin)
            yield self._graph.buffers["frames"].slots(*kept), self._graph.buffers["lq"].slots(*kept)


class VaeDecoder(Decoder):
    """The Wan VAE's decoder: one latent to four frames, the first of a stream to one."""

    name = "vae_decoder"

    def __init__(self, bundle: Bundle, backend: Backend, size: tuple[int, int]) -> None:
        super().__init__(bundle, backend, size)
        self._lq = backend.allocate((LATENT_FRAMES, *size, 3), "uint8")

    def decode(self, step: int, latents: Buffer, lq: np.ndarray) -> Iterator[tuple[Buffer, Buffer]]:
        done = 0
        for index in range(latents.shape[0]):
            first = self._first if step == 0 and index == 0 else None
            count = LATENT_FRAMES if first is None else 1
            frames, condition = self._graph.buffers["frames"].slots(0, count), self._lq.slots(0, count)
            self._backend.upload(lq[done : done + count], condition)
            if first is None:
                self._graph.run(latents=latents.slots(index, 1))
            else:
                caches = {after: self._graph.buffers[before] for after, before in self._graph.state}
                first.run(latents=latents.slots(index, 1), frames=frames, **caches)
            done += count
            yield frames, condition


DECODERS: dict[str, type[Decoder]] = {decoder.name: decoder for decoder in (TcDecoder, VaeDecoder)}


class Post:
    """Colour fix, cut to the output's size and integer pixels, `most` frames at a time at most."""

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings, most: int = STEP_FRAMES) -> None:
        canvas = settings.canvas
        self._backend = backend
        self._graph = BoundGraph(
            bundle,
            backend,
            bundle.manifest.graphs[f"post_{settings.colour_fix}{settings.bits}"],
            {
                "H": canvas.height,
                "W": canvas.width,
                "T": most,
                "height": canvas.output[0],
                "width": canvas.output[1],
            },
        )
        self._graph.allocate(["size", "pixels"])
        self._graph.upload("size", np.asarray(canvas.output))

    def run(self, frames: Buffer, lq: Buffer) -> np.ndarray:
        """Frames [n, 3, H, W] and their LQ frames to uint8 or uint16 [n, output height, output width, 3]."""
        return self.run_later(frames, lq)()

    def run_later(self, frames: Buffer, lq: Buffer) -> Callable[[], np.ndarray]:
        """As `run`; what is returned waits for the pixels and gives them."""
        pixels = self._graph.buffers["pixels"].slots(0, frames.shape[0])
        self._graph.run(frames=frames, lq=lq, pixels=pixels)
        return self._backend.download_later(pixels)
