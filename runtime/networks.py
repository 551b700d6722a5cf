"""All networks of one stream on the whole canvas. Owns every device buffer; nothing grows with the video's length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flashvsr_trt.runtime.backends.base import Backend, Buffer
from flashvsr_trt.runtime.bound import HostState
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.decoders import DECODERS, Post
from flashvsr_trt.runtime.denoiser import Denoiser
from flashvsr_trt.runtime.settings import Settings


class Networks:
    """One stream's networks. Call `denoise`, then `decode`, for step 0, 1, 2 ...

    Args:
        bundle: what to run.
        backend: where to run it.
        settings: canvas, parameters, decoder, colour fix and output depth.
    """

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings) -> None:
        size = (settings.canvas.height, settings.canvas.width)
        self._backend = backend
        self._denoiser = Denoiser(bundle, backend, settings, size)
        self._decoder = DECODERS[settings.decoder](bundle, backend, size)
        self._post = Post(bundle, backend, settings)

    def reset(self) -> None:
        """Forgets the stream: the next step is step 0."""
        self._denoiser.reset()
        self._decoder.reset()

    def save_state(self, host: HostState) -> None:
        """Copies all that the next step needs to host memory; every denoised step has been decoded."""
        self._denoiser.save_state(host)
        self._decoder.save_state(host)

    def load_state(self, host: HostState) -> None:
        """Goes on with the stream that `save_state` left."""
        self._denoiser.load_state(host, (0, 0))
        self._decoder.load_state(host)

    def denoise(self, step: int, lq: np.ndarray) -> Buffer:
        """LQ projector and DiT of one step.

        Args:
            step: its index; steps come in order.
            lq: uint8 [25 (step 0) or 8, H, W, 3].

        Returns:
            Latents [6 or 2, 16, H/8, W/8]; the memory is written again by the next call.
        """
        latents = self._denoiser.denoise(step, lq)
        if step == 0:
            self._denoiser.release_first()
        return latents

    def decode(self, step: int, latents: Buffer, lq: np.ndarray) -> np.ndarray:
        """Decoder and colour fix of one step.

        Args:
            step: its index.
            latents: what `denoise` gave for it.
            lq: uint8 [21 (step 0) or 8, H, W, 3], the LQ frames of the step's own output.

        Returns:
            uint8 or uint16 [21 or 8, output height, output width, 3], the caller's own.
        """
        pixels = [self._post.run(frames, of) for frames, of in self._decoder.decode(step, latents, lq)]
        if step == 0:
            self._decoder.release_first()
        return np.concatenate(pixels) if len(pixels) > 1 else pixels[0]

    def decode_later(self, step: int, latents: Buffer, lq: np.ndarray) -> Callable[[], np.ndarray]:
        """As `decode`; what is returned waits for the pixels and gives them. `lq` is not to change before."""
        waits = [self._post.run_later(frames, of) for frames, of in self._decoder.decode(step, latents, lq)]
        if step == 0:
            self._decoder.release_first()

        def finish() -> np.ndarray:
            pixels = [wait() for wait in waits]
            return np.concatenate(pixels) if len(pixels) > 1 else pixels[0]

        return finish

    def release_denoise(self) -> None:
        """Gives the projector's and the DiT's weights back until they are needed again."""
        self._denoiser.release()
        self._backend.trim()

    def release_decode(self) -> None:
        """Gives the decoder's weights back until they are needed again."""
        self._decoder.release()
        self._backend.trim()

    def keep(self, latents: Buffer) -> np.ndarray:
        """A host copy of latents, for decoding later."""
        return self._backend.download(latents)

    def restore(self, latents: np.ndarray) -> Buffer:
        """Latents that `keep` gave, on the device again."""
        return self._denoiser.restore(latents)
