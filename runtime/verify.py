"""Does one back end compute what another does? Graph by graph, on the same random inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flashvsr_trt.configs.contract import FIRST_LATENTS, STEP_LATENTS, Graph, Tensor, evaluate_shape
from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.configs.schedule import GRID
from flashvsr_trt.runtime import rope
from flashvsr_trt.runtime.agreement import mean_square, psnr
from flashvsr_trt.runtime.backends.base import Backend, Buffer
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.floats import from_float32, to_float32

HEIGHT, WIDTH = GRID, 2 * GRID
WINDOWS = 2
SYMBOLS = {"H": HEIGHT, "W": WIDTH, "T": 8, "ring": 4, "slabs": 3, "height": HEIGHT - 8, "width": WIDTH - 8}
LISTED = (2, 0, 3)  # slots of the ring: some, out of order
DEAD = 1e-6  # of the reference's spread: an output with less is constant, a black picture for instance


@dataclass(frozen=True)
class Agreement:
    """How well one graph's outputs agree: the worst of them."""

    graph: str
    output: str
    psnr: float  # dB, of the reference's largest magnitude

    def __str__(self) -> str:
        return f"{self.graph}: {self.psnr:.1f} dB ({self.output} is the worst)"


def check_graphs(
    bundle: Bundle, reference: Backend, candidate: Backend, *, min_psnr: float, seed: int = 0
) -> Iterator[Agreement]:
    """Runs every graph of a bundle on both back ends, in the order in which a stream uses them.

    Args:
        bundle: what to run.
        reference: is right.
        candidate: is tested.
        min_psnr: least agreement in dB.
        seed: of the inputs.

    Raises:
        FlashVSRError: naming the first graph whose output is not finite, is constant, or differs too much.
    """
    random = np.random.default_rng(seed)
    for name, graph in bundle.manifest.graphs.items():
        inputs = {tensor.name: _input(bundle, graph, tensor, random) for tensor in graph.inputs}
        expected, seen = (_run(bundle, backend, graph, inputs) for backend in (reference, candidate))
        worst = min((_compare(name, t.name, expected[t.name], seen[t.name]) for t in graph.outputs), key=_psnr)
        if worst.psnr < min_psnr:
            raise FlashVSRError(
                f"{name} differs: {worst.output} agrees to {worst.psnr:.1f} dB",
                expected=f"at least {min_psnr:g} dB against {reference.describe()}",
                todo="build the engines again; if that does not help, report it with `flashvsr-trt doctor`",
            )
        yield worst


def _psnr(agreement: Agreement) -> float:
    return agreement.psnr


def _input(bundle: Bundle, graph: Graph, tensor: Tensor, random: np.random.Generator) -> np.ndarray:
    """Numbers in the range that the graph meets in a stream, in the tensor's type."""
    frames = FIRST_LATENTS if graph.name == "dit_first" else STEP_LATENTS
    fixed = {
        "rope_frames": lambda: rope.frame_table(range(frames)),
        "rope_rows": lambda: rope.row_table(HEIGHT // 16),
        "rope_columns": lambda: rope.column_table(WIDTH // 16),
        "topk": lambda: np.asarray(WINDOWS * WINDOWS),  # of 4 slabs' pairs a quarter
        "slabs": lambda: np.asarray(LISTED),
        "size": lambda: np.asarray((SYMBOLS["height"], SYMBOLS["width"])),
    }
    if tensor.name in fixed:
        return fixed[tensor.name]()
    shape = evaluate_shape(tensor.shape, SYMBOLS)
    dtype = bundle.manifest.dtype(tensor)
    if dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    return from_float32(random.standard_normal(shape, dtype=np.float32), dtype)


def _run(bundle: Bundle, backend: Backend, graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs as float32, by name."""

    def buffer(tensor: Tensor) -> Buffer:
        return backend.allocate(evaluate_shape(tensor.shape, SYMBOLS), bundle.manifest.dtype(tensor))

    inputs = {tensor.name: buffer(tensor) for tensor in graph.inputs}
    outputs = {tensor.name: buffer(tensor) for tensor in graph.outputs}
    for name, array in arrays.items():
        backend.upload(array, inputs[name])
    backend.load(bundle.graph_path(graph.name), graph).run(inputs, outputs)
    return {
        tensor.name: to_float32(backend.download(outputs[tensor.name]), bundle.manifest.dtype(tensor))
        for tensor in graph.outputs
    }


def _compare(graph: str, output: str, expected: np.ndarray, seen: np.ndarray) -> Agreement:
    if not np.isfinite(seen).all():
        raise FlashVSRError(
            f"{graph} is broken: {output} has {np.count_nonzero(~np.isfinite(seen))} numbers that are not finite",
            todo="build the engines again",
        )
    spread = float(expected.std())
    if spread > 0 and float(seen.std()) < DEAD * spread:
        raise FlashVSRError(f"{graph} is broken: {output} is constant", todo="build the engines again")
    peak = float(np.abs(expected).max()) or 1.0
    return Agreement(graph, output, psnr(mean_square(seen, expected), peak))
