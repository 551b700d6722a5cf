"""The schedule of a stream: canvas, frame counts, steps, top-k. Integers only, no tensors.

Reference behaviour: FlashVSR's streaming pipelines (paper 2510.12747). Differences, on purpose: the canvas is
padded instead of cropped, the tail is padded instead of dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashvsr_trt.configs.errors import UsageError

GRID = 128  # the canvas is a multiple of this: 16 pixels a token, 8 tokens a window
FIRST_INPUT = 25  # LQ frames that step 0 reads
FIRST_OUTPUT = 21
STEP = 8  # LQ frames that every other step reads, and frames it gives
LOOK_AHEAD = 4
REFERENCE_PIXELS = 768 * 1280  # the canvas at which sparse_ratio counts
DROPPED_FIRST = 3  # frames that the decoder's first latent gives too many


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What a run chooses. `sparse_ratio`, `kv_ratio` and `seed` are free at run time; `local_range` is an
    attribute of the attention nodes, so it is baked into a bundle at export."""

    sparse_ratio: float = 2.0
    kv_ratio: float = 3.0
    local_range: int = 11
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sparse_ratio", "kv_ratio", "local_range"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}", expected="a number above 0")
        if self.kv_ratio < 1:
            raise UsageError(f"kv_ratio is {self.kv_ratio}", expected="at least 1")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed is {self.seed}", expected="0 .. 2^64-1")


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The picture the networks see (`height` x `width`, multiples of 128) and how the source lies on it.

    The source resized to `resized` (height, width) is cropped by `offset` (crop) or extended to the right and
    bottom by repeating its edge (pad); the output is the canvas cut to `output`.
    """

    height: int
    width: int
    resized: tuple[int, int]
    offset: tuple[int, int]
    output: tuple[int, int]

    @property
    def windows(self) -> int:
        """Attention windows of one slab."""
        return (self.height // GRID) * (self.width // GRID)


def canvas(height: int, width: int, *, output: tuple[int, int], fit: str = "pad") -> Canvas:
    """Where a source of `height` x `width` lies when its result shall be `output` (height, width).

    `fit="pad"` keeps every pixel; `fit="crop"` is the reference's centre crop down to a multiple of 128.
    """
    out_h, out_w = output
    if min(height, width) < 1 or min(output) < 1:
        raise UsageError(f"{width}x{height} to {out_w}x{out_h}", expected="at least 1x1 on both sides")
    if fit == "pad":
        return Canvas(height=_up(out_h, GRID), width=_up(out_w, GRID), resized=output, offset=(0, 0), output=output)
    if fit != "crop":
        raise UsageError(f"fit={fit}", expected="pad or crop")
    cut = (out_h // GRID * GRID, out_w // GRID * GRID)
    if min(cut) < GRID:
        raise UsageError(f"fit=crop leaves nothing of {out_w}x{out_h}", expected="at least 128x128", todo="use fit=pad")
    offset = ((out_h - cut[0]) // 2, (out_w - cut[1]) // 2)
    return Canvas(height=cut[0], width=cut[1], resized=output, offset=offset, output=cut)


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """round(scale x size) of both sides, halves up, at least 1 pixel each."""
    if not scale > 0:
        raise UsageError(f"scale is {scale}", expected="a number above 0, e.g. 2, 3 or 4")
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _up(value: int, grid: int) -> int:
    return -(-value // grid) * grid


def padded_frames(frames: int) -> int:
    """LQ frames after the last one is repeated: the smallest 8n+1 that is at least frames+4, n >= 3."""
    if frames < 1:
        raise UsageError(f"{frames} frames", expected="at least 1 frame")
    return max(FIRST_INPUT, _up(frames + LOOK_AHEAD - 1, STEP) + 1)


def reference_frames(frames: int) -> int:
    """The reference's count, for parity: the largest 8n+1 <= frames+4; it needs 21 frames at least."""
    if frames < FIRST_OUTPUT:
        raise UsageError(f"{frames} frames", expected=f"at least {FIRST_OUTPUT} for the reference's frame count")
    return (frames + LOOK_AHEAD - 1) // STEP * STEP + 1


def steps(padded: int) -> int:
    """Steps of a stream of `padded` = 8n+1 LQ frames."""
    return (padded - 1) // STEP - 2


def step_input(step: int) -> tuple[int, int]:
    """LQ frames [begin, end) that a step reads."""
    if step == 0:
        return 0, FIRST_INPUT
    begin = FIRST_INPUT + STEP * (step - 1)
    return begin, begin + STEP


def step_output(step: int) -> tuple[int, int]:
    """Frames [begin, end) that a step gives; they are conditioned on the LQ frames of the same indices."""
    if step == 0:
        return 0, FIRST_OUTPUT
    begin = FIRST_OUTPUT + STEP * (step - 1)
    return begin, begin + STEP


def step_latents(step: int) -> tuple[int, int]:
    """Latent frames [begin, end) of a step; they index the noise and the rotary position."""
    return (0, 6) if step == 0 else (4 + 2 * step, 6 + 2 * step)


def topk(height: int, width: int, sparse_ratio: float) -> int:
    """Key blocks that a head keeps per query slab.

    In double and in this order: at ratios 1.5 and 2 the exact value is an integer, and the order of the
    operations decides its rounding on one canvas in 17.
    """
    return _share((height, width), (height, width), sparse_ratio)


def tile_topk(canvas: tuple[int, int], tile: tuple[int, int], sparse_ratio: float) -> int:
    """`topk` of a tile (height, width): the canvas's share of the blocks, and at least one block.

    By itself a tile would keep more, for `topk` counts against a fixed number of pixels.
    """
    return topk(*canvas, sparse_ratio) if tile == canvas else max(1, _share(canvas, tile, sparse_ratio))


def _share(canvas: tuple[int, int], tile: tuple[int, int], sparse_ratio: float) -> int:
    windows = (tile[0] // GRID) * (tile[1] // GRID)
    ratio = sparse_ratio * REFERENCE_PIXELS / (canvas[0] * canvas[1])
    return int(windows * windows * ratio) - 1


def cached_slabs(slabs: int, kv_ratio: float) -> int:
    """Slabs that stay after a step that attended to `slabs`: the oldest one goes, never more than one."""
    return slabs - 1 if slabs > int(kv_ratio) else slabs


def ring_slots(kv_ratio: float) -> int:
    """Slots of the KV ring: all that one step attends to, its own slabs included."""
    return max(3, max(2, int(kv_ratio)) + 1)
