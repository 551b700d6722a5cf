"""The networks on tiles of the canvas, a segment of steps at a time.

    denoise: for each DiT tile:     state in, all steps of the segment, state out; latents blended on the host
    decode:  for each decoder tile: state in, all steps of the segment, state out; frames blended on the host
    post:    colour fix of whole frames, whose statistics are the picture's, one frame at a time

A tile's state moves once a segment, not once a step, and between segments it is all that is kept: no frames, no
files. Each phase has the device for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from flashvsr_trt.configs.contract import LATENT_CHANNELS
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bound import HostState
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.decoders import DECODERS, Post
from flashvsr_trt.runtime.denoiser import Denoiser
from flashvsr_trt.runtime.floats import from_float32, to_float32
from flashvsr_trt.runtime.settings import Settings
from flashvsr_trt.runtime.tiles import Grid, Piece, Tiling

CELL = 8  # pixels of a latent cell's side


class TiledNetworks:
    """One stream's networks on tiles. Call `denoise`, then `decode`, for segment after segment of steps.

    Args:
        bundle: what to run.
        backend: where to run it.
        settings: of the whole canvas.
        tiling: sizes and overlaps.
        on_work: called before each piece of work; may raise to stop.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, settings: Settings, tiling: Tiling, on_work: Callable[[], None]
    ) -> None:
        self._bundle, self._backend, self._settings, self._on_work = bundle, backend, settings, on_work
        self._size = (settings.canvas.height, settings.canvas.width)
        self._dit_grid = Grid(self._size, tiling.dit, tiling.dit_overlap)
        self._decoder_grid = Grid(self._size, tiling.decoder, tiling.decoder_overlap)
        manifest = bundle.manifest
        self._type = manifest.dtype(manifest.graphs["dit"].tensor("latents"))
        # float16 is what a 16-bit decoder gives; a frame is rounded anew only where tiles overlap.
        self._blend_type = np.float32 if self._type == "float32" else np.float16
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next step is step 0."""
        self._dit_states = [HostState() for _ in range(len(self._dit_grid))]
        self._decoder_states = [HostState() for _ in range(len(self._decoder_grid))]

    def denoise(self, steps: Sequence[tuple[int, np.ndarray]]) -> list[np.ndarray]:
        """Projector and DiT of a segment.

        Args:
            steps: (index, uint8 [25 (step 0) or 8, H, W, 3]); step 0 has a segment to itself.

        Returns:
            Latents float32 [6 or 2, 16, H/8, W/8] of each step.
        """
        out: list[np.ndarray] = []
        self._backend.trim()
        denoiser = Denoiser(self._bundle, self._backend, self._settings, self._dit_grid.tile)
        for index, tile in enumerate(self._dit_grid):
            state, pieces = self._dit_states[index], self._dit_grid.pieces(index, CELL)
            if steps[0][0] == 0:
                denoiser.reset((tile.top, tile.left))
            else:
                denoiser.load_state(state, (tile.top, tile.left))
            for place, (step, lq) in enumerate(steps):
                self._on_work()
                latents = self._backend.download(denoiser.denoise(step, tile.pixels(lq)))
                if place == len(out):
                    height, width = self._size
                    shape = (len(latents), LATENT_CHANNELS, height // CELL, width // CELL)
                    out.append(np.zeros(shape, np.float32))
                self._blend(latents, tile.of(out[place], CELL), pieces)
            denoiser.save_state(state)
        return out

    def decode(self, steps: Sequence[tuple[int, np.ndarray]], conditions: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Decoder and colour fix of a segment.

        Args:
            steps: (index, the latents that `denoise` gave).
            conditions: uint8 [21 (step 0) or 8, H, W, 3] of each step, the LQ frames of its own output.

        Yields:
            uint8 or uint16 frames [output height, output width, 3], the caller's own.
        """
        frames: list[np.ndarray] = [np.zeros((len(lq), 3, *self._size), self._blend_type) for lq in conditions]
        self._backend.trim()
        self._decode(steps, conditions, frames)
        self._backend.trim()
        post = Post(self._bundle, self._backend, self._settings, most=1)
        frame_buffer = self._backend.allocate((1, 3, *self._size), self._type)
        lq_buffer = self._backend.allocate((1, *self._size, 3), "uint8")
        for place, lq in enumerate(conditions):
            for index in range(len(lq)):
                self._on_work()
                self._backend.upload(from_float32(frames[place][index : index + 1], self._type), frame_buffer)
                self._backend.upload(lq[index : index + 1], lq_buffer)
                yield post.run(frame_buffer, lq_buffer)[0]
            frames[place] = np.zeros(0)  # its memory is wanted for what comes next

    def _decode(
        self, steps: Sequence[tuple[int, np.ndarray]], conditions: Sequence[np.ndarray], frames: list[np.ndarray]
    ) -> None:
        """Adds the decoded, weighted tiles to `frames`."""
        height, width = self._decoder_grid.tile
        decoder = DECODERS[self._settings.decoder](self._bundle, self._backend, (height, width))
        most = max(len(latents) for _, latents in steps)
        buffer = self._backend.allocate((most, LATENT_CHANNELS, height // CELL, width // CELL), self._type)
        for index, tile in enumerate(self._decoder_grid):
            pieces = self._decoder_grid.pieces(index)
            if steps[0][0] == 0:
                decoder.reset()
            else:
                decoder.load_state(self._decoder_states[index])
            for place, (step, latents) in enumerate(steps):
                part = buffer.slots(0, len(latents))
                self._backend.upload(from_float32(tile.of(latents, CELL), self._type), part)
                done = 0
                self._on_work()
                for decoded, _ in decoder.decode(step, part, tile.pixels(conditions[place])):
                    new = self._backend.download(decoded)
                    self._blend(new, tile.of(frames[place])[done : done + len(new)], pieces)
                    done += len(new)
                    self._on_work()
            decoder.save_state(self._decoder_states[index])

    def _blend(self, new: np.ndarray, into: np.ndarray, pieces: Sequence[Piece]) -> None:
        """Adds a tile [..., rows, columns], as it was downloaded, with its weights; `into` is its part of the whole."""
        for piece in pieces:
            at = (..., piece.rows, piece.columns)
            part = to_float32(new[at], self._type) if self._type == "bfloat16" else new[at]
            if piece.weights is None:
                into[at] = part
            else:
                into[at] += (piece.weights * part).astype(into.dtype, copy=False)

    def save_state(self) -> dict[str, np.ndarray]:
        """All that the next segment needs, by name."""
        arrays: dict[str, np.ndarray] = {}
        for prefix, state in self._named_states():
            state.put_into(arrays, prefix)
        return arrays

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on with the stream that `save_state` left."""
        for prefix, state in self._named_states():
            loaded = HostState.out_of(arrays, prefix)
            state.arrays, state.slabs = loaded.arrays, loaded.slabs

    def _named_states(self) -> Iterator[tuple[str, HostState]]:
        for kind, states in (("dit", self._dit_states), ("decoder", self._decoder_states)):
            for index, state in enumerate(states):
                yield f"{kind}{index}/", state

    @property
    def host_bytes(self) -> int:
        """Host memory that the tiles' states hold."""
        return sum(state.bytes for state in (*self._dit_states, *self._decoder_states))
