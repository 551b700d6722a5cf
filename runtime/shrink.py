"""What to do with less memory: the next smaller way to run the same networks."""

from __future__ import annotations

from dataclasses import replace

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.schedule import GRID, Canvas
from flashvsr_trt.runtime.tiles import DECODER_OVERLAP, DIT_OVERLAP, Grid, Tiling
from flashvsr_trt.runtime.upscaler import Options


def smaller(options: Options, canvas: Canvas, *, tiles: bool = True) -> tuple[Options, str] | None:
    """The next smaller plan and what it is, in words; None where there is none. Each call gives less: it ends.

    Args:
        options: the plan that does not fit.
        canvas: its canvas.
        tiles: whether tiles may be taken; they change the frames.
    """
    if options.variant == "long" and not options.phased:
        return replace(options, variant="tiny"), "one network in memory at a time (variant tiny, the same frames)"
    if not options.phased:
        return replace(options, phases=True), "one network in memory at a time (the same frames)"
    if not tiles:
        return None
    size = (canvas.height, canvas.width)
    before = None if options.tiling is None else options.tiling
    dit = _halved(size if before is None else before.dit, size, DIT_OVERLAP)
    decoder = _halved(size if before is None else before.decoder, size, DECODER_OVERLAP)
    if (dit, decoder) == ((size, size) if before is None else (before.dit, before.decoder)):
        return None
    tiling = Tiling(dit=dit, decoder=decoder)
    text = f"tiles of {dit[1]}x{dit[0]} pixels, {decoder[1]}x{decoder[0]} for the decoder: frames change from here on"
    return replace(options, tiling=tiling), text


def _halved(tile: tuple[int, int], canvas: tuple[int, int], overlap: int) -> tuple[int, int]:
    """About half of the tile along its longer side that can be cut; the tile itself where none can."""
    for axis in sorted((0, 1), key=lambda axis: -tile[axis]):
        side = -(-tile[axis] // 2 // GRID) * GRID
        least = (-(-overlap // GRID) + 1) * GRID
        side = max(side, least)
        if side >= tile[axis]:
            continue
        cut = (side, tile[1]) if axis == 0 else (tile[0], side)
        try:
            Grid(canvas, cut, overlap)
        except UsageError:
            continue
        return cut
    return tile
