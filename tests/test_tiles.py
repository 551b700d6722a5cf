"""Tiles: their geometry, and that a stream on tiles is the stream on the whole canvas."""

import threading
from fractions import Fraction

import numpy as np
import pytest
from golden import Golden
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_upscaler import BUNDLE

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import Cancelled, UsageError
from flashvsr_trt.configs.schedule import GRID, Parameters
from flashvsr_trt.runtime import decoders, networks, pipeline, tiled
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
from flashvsr_trt.runtime.bundle import open_bundle
from flashvsr_trt.runtime.decoders import Decoder
from flashvsr_trt.runtime.floats import from_float32, to_float32
from flashvsr_trt.runtime.tiles import Axis, Grid, Tiling
from flashvsr_trt.runtime.upscaler import Options, Upscaler
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming

SIDES = st.integers(1, 30).map(lambda cells: cells * GRID)


# --- geometry


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, st.integers(1, 700), st.sampled_from([1, 2, 8]))
def test_an_axis_is_covered_and_its_ramps_sum_to_one(size, tile, overlap, per_cell):
    assume(tile >= size or tile > -(-overlap // GRID) * GRID)
    axis = Axis(size, tile, overlap)
    total, shared = np.zeros(size // per_cell), np.diff(axis.offsets)
    for index, offset in enumerate(axis.offsets):
        assert offset % GRID == 0
        assert 0 <= offset <= size - axis.tile
        weights = axis.weights(index, per_cell)
        assert weights.shape == (axis.tile // per_cell,)
        assert weights.min() >= 0
        total[offset // per_cell : (offset + axis.tile) // per_cell] += weights
    np.testing.assert_allclose(total, 1, atol=1e-12)
    assert all(0 < step <= axis.tile - overlap for step in shared)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(3, 12), st.integers(3, 12), st.integers(1, 256))
def test_tiles_are_a_partition_of_unity(height, width, rows, columns, overlap):
    grid = Grid((height, width), (rows * GRID, columns * GRID), overlap)
    total = np.zeros((height // 8, width // 8), np.float32)
    for index, tile in enumerate(grid):
        for piece in grid.pieces(index, 8):
            tile.of(total, 8)[piece.rows, piece.columns] += 1 if piece.weights is None else piece.weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(3, 12), st.integers(3, 12), st.integers(1, 256))
def test_pieces_are_the_weights_and_only_one_tile_is_copied_anywhere(height, width, rows, columns, overlap):
    grid = Grid((height, width), (rows * GRID, columns * GRID), overlap)
    copied = np.zeros((height // 8, width // 8), int)
    for index, tile in enumerate(grid):
        weights = np.zeros((tile.height // 8, tile.width // 8), np.float32)
        for piece in grid.pieces(index, 8):
            part = weights[piece.rows, piece.columns]
            assert not part.any()  # pieces do not overlap
            part[...] = 1 if piece.weights is None else piece.weights
            if piece.weights is None:
                tile.of(copied, 8)[piece.rows, piece.columns] += 1
        row, column = divmod(index, len(grid.columns.offsets))
        expected = np.outer(grid.rows.weights(row, 8), grid.columns.weights(column, 8))
        np.testing.assert_array_equal(weights, expected.astype(np.float32))
        touched = tile.of(copied, 8)[weights > 0]
        assert (touched <= 1).all()


def test_a_cut_edge_has_no_weight():
    """An overlap of 64 is 128 on the grid: 32 pixels next to each cut do not count."""
    first, last = (Axis(640, 384, 64).weights(i) for i in (0, 1))
    assert not first[-32:].any()
    assert not last[:32].any()
    assert first[-33] > 0
    assert last[32] > 0


@pytest.mark.parametrize(("tile", "overlap"), [(100, 64), (0, 64), (256, 256), (128, 1), (256, 0)])
def test_senseless_tiles_are_refused(tile, overlap):
    with pytest.raises(UsageError):
        Axis(1024, tile, overlap)


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(2, 8), st.integers(2, 8)), st.floats(0.5, 4))
def test_tiles_keep_the_canvas_density(canvas, cells, ratio):
    tile = (cells[0] * GRID, cells[1] * GRID)
    blocks = [(side[0] // GRID * (side[1] // GRID)) ** 2 for side in (canvas, tile)]
    densities = [
        (topk + 1) / count
        for topk, count in zip(
            (schedule.topk(*canvas, ratio), schedule.tile_topk(canvas, tile, ratio)), blocks, strict=True
        )
    ]
    # Both are cut to whole blocks, and a tile keeps at least one.
    assert abs(densities[0] - densities[1]) <= 1 / min(blocks) + 1 / blocks[1]
    assert schedule.tile_topk(canvas, canvas, ratio) == schedule.topk(*canvas, ratio)


@given(st.lists(st.floats(-300, 300, width=32), min_size=1))
def test_bfloat16_is_the_nearest(values):
    exact = np.array(values, np.float32)
    back = to_float32(from_float32(exact, "bfloat16"), "bfloat16")
    assert np.all(np.abs(back - exact) <= np.abs(exact) * 2.0**-8 + 1e-38)
    np.testing.assert_array_equal(from_float32(back, "bfloat16"), from_float32(exact, "bfloat16"))


# --- a network that sees one latent cell and its past: tiled is untiled


class CellDenoiser:
    """Latents: the mean colour of each cell, plus what the steps before had there; noise where it lies."""

    def __init__(self, bundle, backend, config, size):
        self.backend, self.size, self.past = backend, size, None

    def reset(self, origin=(0, 0)):
        self.past = np.zeros((16, self.size[0] // 8, self.size[1] // 8), np.float32)

    def denoise(self, step, lq):
        begin, end = schedule.step_latents(step)
        height, width = self.past.shape[1:]
        mean = lq.reshape(len(lq), height, 8, width, 8, 3).mean((0, 2, 4, 5))
        self.past = 0.5 * self.past + mean / 255
        out = self.backend.allocate((end - begin, *self.past.shape), "float32")
        self.backend.upload(np.stack([self.past] * (end - begin)).astype(np.float32), out)
        return out

    def save_state(self, host):
        host.arrays["past"] = self.past

    def load_state(self, host, origin):
        self.past = host.arrays["past"]

    def release(self):
        pass

    release_first = release

    def restore(self, latents):
        out = self.backend.allocate(latents.shape, "float32")
        self.backend.upload(latents, out)
        return out


class CellDecoder(Decoder):
    """Frames: half the LQ frame, a quarter of the latent's cell, a quarter of the last step's frame."""

    name = "cell"

    def __init__(self, bundle, backend, size):
        self._backend, self.size = backend, size

    def reset(self):
        self.past = np.zeros((3, *self.size), np.float32)

    def decode(self, step, latents, lq):
        cells = self._backend.download(latents)[-1, :3].repeat(8, 1).repeat(8, 2)
        frames = 0.5 * (lq.transpose(0, 3, 1, 2) / 127.5 - 1) + 0.25 * cells + 0.25 * self.past
        self.past = frames[-1]
        for begin in range(0, len(lq), 5):
            out = self._backend.allocate((len(lq[begin : begin + 5]), 3, *self.size), "float32")
            self._backend.upload(frames[begin : begin + 5], out)
            condition = self._backend.allocate((out.shape[0], *self.size, 3), "uint8")
            self._backend.upload(lq[begin : begin + 5], condition)
            yield out, condition

    def save_state(self, host):
        host.arrays["past"] = self.past

    def load_state(self, host):
        self.past = host.arrays["past"]

    def release(self):
        pass

    release_first = release


class CutPost:
    """Rounds to 16 bits and cuts."""

    def __init__(self, bundle, backend, config, most=8):
        self.backend, self.output = backend, config.canvas.output

    def run(self, frames, lq):
        height, width = self.output
        pixels = np.round((self.backend.download(frames) + 1) * 32767.5).clip(0, 65535)
        return pixels.transpose(0, 2, 3, 1)[:, :height, :width].astype(np.uint16)


@pytest.fixture
def _cells(monkeypatch):
    for module in (networks, tiled):
        monkeypatch.setattr(module, "Denoiser", CellDenoiser)
        monkeypatch.setattr(module, "Post", CutPost)
    monkeypatch.setitem(decoders.DECODERS, "tc_decoder", CellDecoder)


def upscale(bundle, frames, **options):
    upscaler = Upscaler(bundle, OrtCpu(1), *frames[0].shape[:2], Options(**options))
    out = [pixels for frame in frames for pixels in upscaler.push(upscaler.prepare(frame))]
    return np.stack(out + upscaler.flush())


def random_frames(count, height, width, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8))


@pytest.mark.usefixtures("_cells")
@pytest.mark.parametrize(
    ("size", "dit", "decoder", "steps"),
    [
        ((70, 150), (256, 384), (256, 256), 1),
        ((100, 33), (384, 384), (256, 256), 2),
        ((120, 96), (384, 512), (384, 256), 8),
    ],
)
def test_tiled_equals_untiled_without_spatial_context(size, dit, decoder, steps):
    frames = random_frames(38, *size)
    tiling = Tiling(dit=dit, decoder=decoder, dit_overlap=100)
    whole = upscale(BUNDLE, frames, bits=16)
    tiles = upscale(BUNDLE, frames, bits=16, tiling=tiling, segment_steps=steps)
    assert tiles.shape == (38, size[0] * 4, size[1] * 4, 3)
    # Weights sum to 1 within rounding of float32; one step of 65535 where a value lies at the half.
    assert np.abs(tiles.astype(int) - whole).max() <= 1


# --- real networks


def test_one_tile_is_the_whole_stream(seeded_bundle):
    """State through host memory and other KV slots after every step changes nothing."""
    bundle = open_bundle(seeded_bundle)
    frames = random_frames(40, 32, 64)
    for kv_ratio in (1.0, 4.0):
        options = {"parameters": Parameters(kv_ratio=kv_ratio), "bits": 16}
        whole = upscale(bundle, frames, **options)
        tiling = Tiling(dit=(128, 256), decoder=(128, 256))
        tiles = upscale(bundle, frames, tiling=tiling, segment_steps=1, **options)
        # adain's statistics are summed per frame, not per eight frames: the last bit of a float32 differs.
        assert np.abs(tiles.astype(int) - whole).max() <= 16


def test_streams_on_tiles_hold_no_more_with_length(seeded_bundle):
    bundle = open_bundle(seeded_bundle)
    upscaler = Upscaler(
        bundle, OrtCpu(1), 64, 96, Options(tiling=Tiling(dit=(256, 256), decoder=(256, 256), dit_overlap=128))
    )
    sizes = []
    for frame in random_frames(25 + 8 * 8, 64, 96):
        upscaler.push(upscaler.prepare(frame))
        sizes.append(upscaler._order._networks.host_bytes)
    assert sizes[60] == sizes[-1] > 0


def test_seams_on_a_photograph_do_not_show(seeded_bundle):
    """Steps between neighbouring pixels at the tiles' borders, against those elsewhere, tiled against untiled."""
    bundle = open_bundle(seeded_bundle)
    golden = Golden("v1.1-256x384")
    frames = list(golden.tensors["lr_frames"].numpy()[:9])
    tiling = Tiling(dit=(384, 512), decoder=(384, 384))
    options = {"scale": 6.0, "colour_fix": "none"}
    whole = upscale(bundle, frames, **options).astype(np.float32)
    tiles = upscale(bundle, frames, **options, tiling=tiling).astype(np.float32)
    assert np.abs(whole - tiles).max() > 0
    assert seam(tiles, whole, Grid((384, 640), tiling.dit, tiling.dit_overlap)) < 1.1
    assert seam(tiles, whole, Grid((384, 640), tiling.decoder, tiling.decoder_overlap)) < 1.1


def seam(tiles, whole, grid):
    """The larger of the two axes' ratios; 0 for an axis without borders."""
    ratios = [0.0]
    for axis, line in ((1, grid.rows), (2, grid.columns)):
        borders = np.zeros(tiles.shape[axis] - 1, bool)
        for before, after, start in zip(line.offsets, line.offsets[1:], line.ramps, strict=False):
            places = np.array([after, before + line.tile, start, start + line.overlap])  # edges and ends of the ramp
            borders[places[places < tiles.shape[axis]] - 1] = True
        if borders.any():
            steps = [np.abs(np.diff(x, axis=axis)).mean(tuple({0, 1, 2, 3} - {axis})) for x in (tiles, whole)]
            there, elsewhere = ([step[mask].mean() for step in steps] for mask in (borders, ~borders))
            ratios.append(there[0] / elsewhere[0] / (there[1] / elsewhere[1]))
    return max(ratios)


def test_a_stop_does_not_wait_for_the_segment(seeded_bundle):
    """Cancelled when the first segment begins, the pipeline leaves before its first tile."""
    cancel = threading.Event()
    tiling = Tiling(dit=(256, 256), decoder=(256, 256), dit_overlap=128)
    upscaler = Upscaler(open_bundle(seeded_bundle), OrtCpu(1), 64, 96, Options(tiling=tiling))
    networks = upscaler._order._networks
    denoise = networks.denoise

    def cancelled(steps):
        cancel.set()
        return denoise(steps)

    networks.denoise = cancelled
    timings = [FrameTiming(index, index, 1, Fraction(1, 25)) for index in range(30)]
    frames = (Frame(rgb=rgb, timing=at) for rgb, at in zip(random_frames(30, 64, 96), timings, strict=True))
    with pytest.raises(Cancelled):
        pipeline.run(frames, upscaler, lambda pixels, timing: None, cancel=cancel)
    assert networks.host_bytes == 0  # not one tile was finished
