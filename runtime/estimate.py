"""How much memory a run needs, from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import FIRST_LATENTS, STEP_FRAMES, Tensor, evaluate_shape
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import FIRST_INPUT, Canvas
from flashvsr_trt.runtime.backends.base import ITEM_BYTES
from flashvsr_trt.runtime.pipeline import QUEUED_FRAMES
from flashvsr_trt.runtime.upscaler import Options

# A step's own output, with the frames that are dropped from the first one.
_STEP_FRAMES = FIRST_LATENTS // 2 * STEP_FRAMES


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes. The networks' working memory comes on top: only the back end knows it."""

    weights: int
    state: int  # KV cache, memories of the decoder and the projector, inputs and outputs of the graphs
    frames: int  # in the queues and in the steps

    @property
    def total(self) -> int:
        return self.weights + self.state + self.frames


def memory(manifest: Manifest, canvas: Canvas, options: Options) -> Memory:
    """What one stream holds at its largest. Independent of the video's length."""
    symbols = {
        "H": canvas.height,
        "W": canvas.width,
        "T": STEP_FRAMES,
        "ring": schedule.ring_slots(options.parameters.kv_ratio),
        "slabs": schedule.ring_slots(options.parameters.kv_ratio),
        "height": canvas.output[0],
        "width": canvas.output[1],
    }
    state = sum(
        prod(evaluate_shape(tensor.shape, symbols)) * ITEM_BYTES[manifest.dtype(tensor)]
        for tensor in _held(manifest, f"post_{options.colour_fix}{options.bits}")
    )
    waiting = FIRST_INPUT + STEP_FRAMES + _STEP_FRAMES
    if options.variant == "tiny":
        waiting += STEP_FRAMES * options.segment_steps
    frames = (QUEUED_FRAMES + waiting) * canvas.height * canvas.width * 3
    frames += (QUEUED_FRAMES + _STEP_FRAMES) * prod(canvas.output) * 3 * (options.bits // 8)
    return Memory(weights=sum(file.bytes for file in manifest.files.values()), state=state, frames=frames)


def _held(manifest: Manifest, post: str) -> Iterator[Tensor]:
    """The tensors that have a buffer for the whole stream."""
    for name in ("lq_proj", "dit", "tc_decoder"):
        graph = manifest.graphs[name]
        state = {output for output, _ in graph.state}
        yield from graph.inputs
        yield from (tensor for tensor in graph.outputs if tensor.name in state or tensor.name in ("latents", "frames"))
    yield from manifest.graphs[post].outputs
