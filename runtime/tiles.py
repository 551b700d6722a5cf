"""Tiles of a canvas: where they lie and how they are blended. Integers and numpy, no networks.

All tiles of a grid have one size, so that one set of graphs and buffers serves them all, and lie on the 128 grid of
the attention windows. Neighbours share at least the overlap that was asked for, rounded up to that grid; the ramp
between them has exactly the overlap's width and lies in the middle of what they share, so that the part of a tile
next to its cut edge, where the networks miss their surroundings, has no weight.

How far a pixel of a decoder sees in one call: 151 pixels in TCDecoder, 138 by the convolutions of the Wan VAE and the
whole picture by its attention; both see further through their memories. So tiles are not the whole picture exactly;
the weights of far pixels are small, and the seams are measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.schedule import GRID

DIT_OVERLAP = 256
DECODER_OVERLAP = 64


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tile sizes (height, width) and overlaps in output pixels of the DiT and of the decoder."""

    dit: tuple[int, int]
    decoder: tuple[int, int]
    dit_overlap: int = DIT_OVERLAP
    decoder_overlap: int = DECODER_OVERLAP


@dataclass(frozen=True)
class Tile:
    """A tile's place in pixels of the canvas."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray, per_cell: int = 1) -> np.ndarray:
        """The tile's part, a view, of an array [..., H/per_cell, W/per_cell]."""
        top, left = self.top // per_cell, self.left // per_cell
        return array[..., top : top + self.height // per_cell, left : left + self.width // per_cell]

    def pixels(self, frames: np.ndarray) -> np.ndarray:
        """The tile's part, a copy, of frames [n, H, W, 3]."""
        part = frames[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(part)


class Axis:
    """Tiles along one axis.

    Args:
        size: of the canvas, a multiple of 128.
        tile: a multiple of 128; at least the canvas means one tile.
        overlap: pixels that neighbours are blended over.

    Raises:
        UsageError: the tile is not on the grid, or leaves no room beside its overlaps.
    """

    def __init__(self, size: int, tile: int, overlap: int) -> None:
        if tile < GRID or tile % GRID:
            raise UsageError(f"a tile side of {tile}", expected=f"a multiple of {GRID}")
        if overlap < 1:
            raise UsageError(f"an overlap of {overlap}", expected="at least 1 pixel")
        self.size, self.tile, self.overlap = size, min(tile, size), overlap
        self.offsets = self._offsets()
        self.ramps = [  # first pixel of the ramp between a tile and the next
            (after + before + self.tile - overlap) // 2
            for before, after in zip(self.offsets, self.offsets[1:], strict=False)
        ]

    def _offsets(self) -> list[int]:
        room, tile = self.size // GRID, self.tile // GRID
        if room == tile:
            return [0]
        shared = -(-self.overlap // GRID)
        if tile <= shared:
            raise UsageError(
                f"a tile side of {self.tile} with an overlap of {self.overlap}",
                expected=f"a tile side of at least {(shared + 1) * GRID}",
            )
        steps = -(-(room - tile) // (tile - shared))
        return [(room - tile) * i // steps * GRID for i in range(steps + 1)]

    def weights(self, index: int, per_cell: int = 1) -> np.ndarray:
        """Weights [tile / per_cell] of a tile's cells; those of all tiles sum to 1 everywhere."""
        cells = np.arange(self.tile // per_cell)
        centres = self.offsets[index] + (cells + 0.5) * per_cell
        rise, fall = self._ramp(index, centres), self._ramp(index + 1, centres)
        return rise - fall

    def _ramp(self, border: int, at: np.ndarray) -> np.ndarray:
        """0 before and 1 behind the border in front of tile `border`. Each tile takes the difference of two."""
        if border == 0:
            return np.ones_like(at)
        if border == len(self.offsets):
            return np.zeros_like(at)
        return np.clip((at - self.ramps[border - 1]) / self.overlap, 0, 1)


@dataclass(frozen=True)
class Piece:
    """A rectangle of a tile in cells of it, with its weights; None where they are 1."""

    rows: slice
    columns: slice
    weights: np.ndarray | None  # float32 [rows, columns]


class Grid:
    """Tiles over a canvas (height, width), row by row."""

    def __init__(self, canvas: tuple[int, int], tile: tuple[int, int], overlap: int) -> None:
        self.rows, self.columns = (Axis(size, side, overlap) for size, side in zip(canvas, tile, strict=True))
        self.tile = (self.rows.tile, self.columns.tile)
        self._places = [(row, column) for row in range(len(self.rows.offsets)) for column in self._columns()]

    def _columns(self) -> range:
        return range(len(self.columns.offsets))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Tile]:
        for row, column in self._places:
            yield Tile(self.rows.offsets[row], self.columns.offsets[column], *self.tile)

    def pieces(self, index: int, per_cell: int = 1) -> list[Piece]:
        """A tile where it has weight, cut so that most of it needs only to be copied. The weights of all tiles sum to
        1 everywhere."""
        row, column = self._places[index]
        out = []
        for (top, along), (left, across) in itertools.product(
            _runs(self.rows.weights(row, per_cell)), _runs(self.columns.weights(column, per_cell))
        ):
            whole = (along == 1).all() and (across == 1).all()
            weights = None if whole else np.outer(along, across).astype(np.float32)
            out.append(Piece(slice(top, top + len(along)), slice(left, left + len(across)), weights))
        return out


def _runs(weights: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(first index, weights) of the stretches of 1 and of the ramps between them, without those of 0."""
    kinds = np.where(weights == 1, 2, weights > 0)
    borders = np.flatnonzero(np.diff(kinds)) + 1
    starts = [0, *borders.tolist()]
    return [(start, part) for start, part in zip(starts, np.split(weights, borders), strict=True) if part[0] > 0]
