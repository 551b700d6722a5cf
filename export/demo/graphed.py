"""Loss and gradients of an iteration as one CUDA graph: thousands of small kernels for the price of one launch.

Replayed, a graph does exactly what was recorded: same shapes, same addresses, no decision of the host. So a
recording is checked before it is used, against the plain computation on the batch it was recorded with and on
another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flashvsr_trt.export.demo.batches import Batch

Gradients = Callable[[Batch], Tensor]  # leaves gradients in the parameters, returns the loss

WARM_UP = 3  # runs before the recording: libraries choose algorithms and allocate
# Relative, in the Euclidean norm. Two plain runs differ by some 1e-3: sums in an order that is not fixed.
TOLERANCE = 0.03


class GraphError(Exception):
    """The recording failed or computes something else."""


class Graphed:
    """`compute` recorded for batches of one shape. The gradients live in the graph's memory, and stay there."""

    def __init__(self, compute: Gradients, example: Batch) -> None:
        self._batch = Batch(**{name: tensor.clone() for name, tensor in vars(example).items()})
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                compute(self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = compute(self._batch)

    def __call__(self, batch: Batch) -> Tensor:
        for own, new in zip(self._batch.tensors(), batch.tensors(), strict=True):
            own.copy_(new)
        self._graph.replay()
        return self._loss.clone()


def graphed(compute: Gradients, parameters: Sequence[Tensor], examples: tuple[Batch, Batch]) -> Gradients:
    """`compute`, recorded with the first example and found to do the same with both.

    Args:
        compute: sets the gradients anew at each call, starting from None.
        parameters: whose gradients are compared.

    Raises:
        GraphError: recording it failed, or a replay differs from the plain computation.
    """
    expected = [_result(compute, parameters, example) for example in examples]
    try:
        replay = Graphed(compute, examples[0])
    except RuntimeError as error:
        raise GraphError(f"recording a CUDA graph failed: {error}") from error
    compare(replay, parameters, examples, expected)
    return replay


def compare(
    compute: Gradients, parameters: Sequence[Tensor], examples: Sequence[Batch], expected: Sequence[Tensor]
) -> None:
    """GraphError where a loss or the gradients differ from `expected` by more than TOLERANCE."""
    for number, (example, wanted) in enumerate(zip(examples, expected, strict=True)):
        got = _result(compute, parameters, example)
        for what, part in (("loss", slice(1)), ("gradients", slice(1, None))):
            error = float((got[part] - wanted[part]).norm() / wanted[part].norm())
            if not error <= TOLERANCE:  # also where it is NaN
                raise GraphError(f"batch {number}: the {what} differ by {error:.2%} from the plain computation's")


def _result(compute: Gradients, parameters: Sequence[Tensor], batch: Batch) -> Tensor:
    """The loss, then all gradients, as one fp32 vector."""
    loss = compute(batch)
    gradients = [p.grad.detach().reshape(-1) for p in parameters if p.grad is not None]
    return torch.cat([loss.reshape(1), *gradients]).float()
