"""How much host memory a run needs, known before it: weights, buffers, frames, working memory, encoder, program.

The working memory is that of ONNX Runtime on a CPU, fitted to measurements; what a GPU needs, runtime.planner tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import FIRST_LATENTS, LATENT_CHANNELS, STEP_FRAMES, STEP_LATENTS, evaluate_shape
from flashvsr_trt.configs.manifest import DTYPES, Manifest
from flashvsr_trt.configs.schedule import FIRST_INPUT, FIRST_OUTPUT, GRID, STEP, Canvas
from flashvsr_trt.runtime.backends.base import ITEM_BYTES
from flashvsr_trt.runtime.pipeline import QUEUED_FRAMES
from flashvsr_trt.runtime.tiles import Grid, Tiling
from flashvsr_trt.runtime.upscaler import VARIANTS, Options, settled

HOST_BACKENDS = ("onnxruntime-cpu",)  # whose memory this page is about
CELLS = 8 * 8  # pixels of a latent cell
TOKEN = 16 * 16  # pixels of a token
POST_FRAME = {"adain": 33, "wavelet": 256, "none": 24}  # working bytes a pixel and frame
ARENA = 1.7  # what ONNX Runtime's arena takes, by what a graph's tensors need: it grows by doubling
PROGRAM = 130 << 20  # Python and the libraries
GPU_PROGRAM = 1230 << 20  # with those of CUDA, by runs on an H200
PINNED = 1.08  # what page-locked memory takes, by what is in it: it comes in sizes
# Bytes for each pixel of the output that an encoder holds to look ahead; measured, unknown ones as libx264.
ENCODER = {"libx264": 300, "libx264rgb": 500, "libx265": 600, "libsvtav1": 580, "ffv1": 100, "prores_ks": 60}
USABLE = 0.85  # of the free host memory: the rest is for the decoder of the source and everybody else


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the largest moment of a run; independent of the video's length."""

    weights: int
    state: int  # KV cache, memories of the decoder and the projector, inputs and outputs of the graphs
    frames: int  # in the queues and in the steps
    working: int  # inside the networks, on a CPU
    encoder: int = 0
    program: int = PROGRAM

    @property
    def total(self) -> int:
        return self.weights + self.state + self.frames + self.working + self.encoder + self.program


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Bytes of one network or of several that are in memory together."""

    weights: int
    state: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.state + self.working


def memory(
    manifest: Manifest, canvas: Canvas, options: Options, encoder: str | None = None, *, on_gpu: bool = False
) -> Memory:
    """What one stream holds of the host's memory at its largest.

    Args:
        encoder: FFmpeg's name of it; None: nothing is encoded, or one picture at a time.
        on_gpu: the networks run in other memory.
    """
    options = settled(options, manifest)
    of = _beside_gpu if on_gpu else _untiled if options.tiling is None else _tiled
    networks = of(manifest, canvas, options)
    if encoder is None:
        return networks
    return replace(networks, encoder=ENCODER.get(encoder, ENCODER["libx264"]) * prod(canvas.output))


def choose_tiling(
    manifest: Manifest, canvas: Canvas, options: Options, free: int, encoder: str | None = None
) -> Tiling | None:
    """The largest tiles with which a run fits into `free` bytes of host memory; None where it fits as a whole.

    Where nothing fits it is the tiles that need least, which are not the smallest: overlaps are kept twice. The
    caller compares their `memory` with what there is.
    """

    def total(tiling: Tiling | None) -> int:
        return memory(manifest, canvas, replace(options, tiling=tiling), encoder).total

    budget = int(free * USABLE)
    if total(None) <= budget:
        return None
    sides = [side * GRID for side in range(16, 2, -1)]
    needed = {tiling: total(tiling) for tiling in (Tiling(dit=(s, s), decoder=(s, s)) for s in sides)}
    tilings = list(needed)
    return next((tiling for tiling in tilings if needed[tiling] <= budget), min(tilings, key=needed.__getitem__))


def _untiled(manifest: Manifest, canvas: Canvas, options: Options) -> Memory:
    size = (canvas.height, canvas.width)
    denoise, decode = _denoise(manifest, size, options), _decode(manifest, size, options)
    post = _post(canvas, options, STEP_FRAMES)
    return Memory(
        # The DiT of step 0 holds its weights a second time, before the decoder's are loaded.
        weights=max(denoise.weights, decode.weights) if options.phased else denoise.weights + decode.weights,
        state=denoise.state + decode.state,
        frames=_frames(canvas, options),
        working=(
            max(denoise.working, decode.working + post) if options.phased else denoise.working + decode.working + post
        ),
    )


def _tiled(manifest: Manifest, canvas: Canvas, options: Options) -> Memory:
    assert options.tiling is not None
    dit_grid, decoder_grid = _grids(canvas, options.tiling)
    denoise, decode = _denoise(manifest, dit_grid.tile, options), _decode(manifest, decoder_grid.tile, options)
    decoded = _decoded(manifest, canvas, options)
    post = _post(canvas, options, 1) + (3 * _float_bytes(manifest) + 3) * canvas.height * canvas.width
    phases = (denoise.total, decode.total + decoded, post + decoded)
    largest = (denoise, decode, _Part(weights=0, state=0, working=post))[phases.index(max(phases))]
    kept = _waiting_tiles(manifest, options, dit_grid, decoder_grid) + _blended(canvas, options)
    return Memory(
        weights=largest.weights,
        state=largest.state + kept + (decoded if largest is not denoise else 0),
        frames=_frames(canvas, options),
        working=largest.working,
    )


def _beside_gpu(manifest: Manifest, canvas: Canvas, options: Options) -> Memory:
    """Frames, and of tiles what waits for its turn and what is blended."""
    state = 0
    if options.tiling is not None:
        state = _waiting_tiles(manifest, options, *_grids(canvas, options.tiling))
        state += _blended(canvas, options) + _decoded(manifest, canvas, options)
    frames = _frames(canvas, options)
    return Memory(weights=0, state=int(PINNED * state), frames=int(PINNED * frames), working=0, program=GPU_PROGRAM)


def _waiting_tiles(manifest: Manifest, options: Options, of_dit: Grid, of_decoder: Grid) -> int:
    """State of all tiles."""
    slots = schedule.ring_slots(options.parameters.kv_ratio) - 1  # the one that a step writes to is not kept
    dit, decoder = (_bytes(manifest, grid.tile, slots) for grid in (of_dit, of_decoder))
    of_one = sum(dit[name, True] for name in _DENOISE)
    return len(of_dit) * of_one + len(of_decoder) * decoder[VARIANTS[options.variant], True]


def _grids(canvas: Canvas, tiling: Tiling) -> tuple[Grid, Grid]:
    """Of the DiT and of the decoder."""
    size = (canvas.height, canvas.width)
    return Grid(size, tiling.dit, tiling.dit_overlap), Grid(size, tiling.decoder, tiling.decoder_overlap)


def _float_bytes(manifest: Manifest) -> int:
    return ITEM_BYTES[DTYPES[manifest.precision]]


def _blended(canvas: Canvas, options: Options) -> int:
    """Latents of a segment's whole pictures."""
    frames = max(FIRST_LATENTS, STEP_LATENTS * options.segment_steps)
    return 4 * LATENT_CHANNELS * frames * canvas.height * canvas.width // CELLS


def _decoded(manifest: Manifest, canvas: Canvas, options: Options) -> int:
    """Frames of a segment's whole pictures."""
    return 3 * _float_bytes(manifest) * max(FIRST_OUTPUT, STEP * options.segment_steps) * canvas.height * canvas.width


_DENOISE = ("lq_proj", "dit")


def _denoise(manifest: Manifest, size: tuple[int, int], options: Options) -> _Part:
    sizes, pixels = manifest.sizes, prod(size)
    hidden = 4 * (4 * sizes.lq_hidden[0] + 2 * sizes.lq_hidden[1]) * 4
    projector = 500 * pixels + hidden * pixels // TOKEN
    # Counted in tensors [tokens of the step, dim]: 15 in step 0, later 25, for the cached slabs are gathered.
    dit = 4 * sizes.dim * 25 * STEP_LATENTS * pixels // TOKEN
    first = 4 * sizes.dim * 15 * FIRST_LATENTS * pixels // TOKEN
    return _Part(
        # ONNX Runtime widens float8 to float32 on a CPU.
        weights=_weights(manifest, ("lq_proj.bin", "dit.bin", *["lq_proj8.bin", "dit8.bin"] * 4)),
        state=_carried(manifest, size, options, _DENOISE) + _border(manifest, size, _DENOISE),
        working=int(ARENA * (projector + max(dit, first))),
    )


def _decode(manifest: Manifest, size: tuple[int, int], options: Options) -> _Part:
    name, sizes = VARIANTS[options.variant], manifest.sizes
    if name == "tc_decoder":
        channels, most = sizes.tc_memory[-1][0], 3.6 * STEP_FRAMES
    else:
        channels, most = sizes.vae_caches[-1][0], 30.0 * 4
    return _Part(
        weights=_weights(manifest, (f"{name}.bin",)),
        # What a graph reads and what it writes: both at the same time.
        state=2 * _carried(manifest, size, options, (name,)) + _border(manifest, size, (name,)),
        working=int(ARENA * 4 * most * channels) * prod(size),
    )


def _post(canvas: Canvas, options: Options, frames: int) -> int:
    return int(ARENA * POST_FRAME[options.colour_fix]) * frames * canvas.height * canvas.width


def _weights(manifest: Manifest, names: tuple[str, ...]) -> int:
    return sum(manifest.files[name].bytes for name in names if name in manifest.files)


def _carried(manifest: Manifest, size: tuple[int, int], options: Options, names: Iterable[str]) -> int:
    """State of a stream between two steps; the KV ring with all its slots."""
    slots = schedule.ring_slots(options.parameters.kv_ratio)
    return sum(_bytes(manifest, size, slots)[name, True] for name in names)


def _border(manifest: Manifest, size: tuple[int, int], names: Iterable[str]) -> int:
    """Inputs and outputs of the graphs that are no state."""
    slots = schedule.ring_slots(Options().parameters.kv_ratio)
    return sum(_bytes(manifest, size, slots)[name, False] for name in names)


def _bytes(manifest: Manifest, size: tuple[int, int], ring: int) -> dict[tuple[str, bool], int]:
    """Bytes by (graph, whether they are carried from step to step); what is given as an output is not counted."""
    symbols = {"H": size[0], "W": size[1], "ring": ring, "slabs": ring}
    out: dict[tuple[str, bool], int] = {}
    for name, graph in manifest.graphs.items():
        if name.startswith("post_"):
            continue
        state = {after for after, _ in graph.state}
        before = {before for _, before in graph.state}
        for tensor in (*graph.inputs, *graph.outputs):
            if tensor.name in state or "_new." in tensor.name:
                continue
            carried = tensor.name in before or "_cache." in tensor.name
            count = prod(evaluate_shape(tensor.shape, symbols)) * ITEM_BYTES[manifest.dtype(tensor)]
            out[name, carried] = out.get((name, carried), 0) + count
        out.setdefault((name, True), 0)
    return out


def _frames(canvas: Canvas, options: Options) -> int:
    steps = options.segment_steps if options.phased or options.tiling is not None else 1
    waiting = FIRST_INPUT + 2 * STEP * steps  # LQ frames that wait for their steps, and once more as the steps' input
    lq = (QUEUED_FRAMES + waiting) * canvas.height * canvas.width * 3
    return lq + (QUEUED_FRAMES + FIRST_OUTPUT) * prod(canvas.output) * 3 * (options.bits // 8)
