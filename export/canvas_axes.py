"""The canvas axes of a graph while it is traced: H = 128 * window rows, W = 128 * window columns.

The tracer gives each input axis a symbol of its own and learns at the end that H/16 is 8 * window rows; until then
it carries quotients of symbols through every reshape, which makes tracing five times slower and the graph's shape
arithmetic unreadable. So one input of each graph is traced with the axis split into [windows, rest], which makes
the number of windows a symbol, and the other axes are declared as its multiples. `restore` takes the split back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch.export import Dim

from flashvsr_trt.configs.contract import Dim as ContractDim
from flashvsr_trt.configs.contract import Graph, evaluate_shape
from flashvsr_trt.configs.schedule import GRID

CANVAS = ("H", "W")
MOST = {"H": 4096, "W": 4096, "ring": 4096, "slabs": 4096, "T": 1 << 20}  # H and W in windows


@dataclass(frozen=True)
class Axis:
    """Axis `axis` of input `index`, `factor` elements a window."""

    index: int
    axis: int
    symbol: str
    factor: int


@dataclass(frozen=True)
class CanvasAxes:
    """Which axes of a graph's inputs follow the canvas, and which of them (`roots`) are split for the tracer."""

    graph: Graph
    all: tuple[Axis, ...]
    roots: tuple[Axis, ...]  # one per symbol

    @staticmethod
    def of(graph: Graph) -> CanvasAxes:
        found = [
            Axis(index, axis, symbol, GRID // divisor)
            for index, tensor in enumerate(graph.inputs)
            for axis, dim in enumerate(tensor.shape)
            for symbol, divisor in (_parsed(dim),)
            if symbol in CANVAS
        ]
        if not any(_parsed(dim)[1] > 1 for tensor in graph.inputs + graph.outputs for dim in tensor.shape):
            return CanvasAxes(graph, (), ())  # the graph does not count in tokens or windows: any H, W
        sizes = {"H": GRID, "W": GRID, "ring": 1, "slabs": 1, "T": 1}

        def cost(axis: Axis) -> tuple[bool, int]:
            """An axis that counts windows needs no split; else the smallest tensor."""
            numbers = evaluate_shape(graph.inputs[axis.index].shape, sizes)
            return axis.factor > 1, int(torch.Size(numbers).numel())

        roots = tuple(min((a for a in found if a.symbol == symbol), key=cost) for symbol in CANVAS)
        return CanvasAxes(graph, tuple(found), roots)

    def split(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The inputs as the tracer sees them."""
        out = list(inputs)
        for root in self._splits():
            x = out[root.index]
            out[root.index] = x.unflatten(root.axis, (x.shape[root.axis] // root.factor, root.factor))
        return tuple(out)

    def join(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The inverse of `split`, called by the tracer; tells it that all axes follow the roots."""
        out, windows = list(inputs), {}
        for root in self.roots:
            windows[root.symbol] = inputs[root.index].shape[self._traced_axis(root)]
        for root in reversed(self._splits()):
            shape = list(out[root.index].shape)
            shape[root.axis : root.axis + 2] = [shape[root.axis] * root.factor]
            out[root.index] = out[root.index].reshape(shape)
        for axis in self.all:
            torch._check(out[axis.index].shape[axis.axis] == axis.factor * windows[axis.symbol])
        return tuple(out)

    def dynamic(self) -> tuple[dict[int, object], ...]:
        """torch.export's description of the free axes of the inputs as `split` gives them."""
        return tuple(self._dynamic(index) for index in range(len(self.graph.inputs)))

    def restore(self, model: ir.Model) -> None:
        """Puts the unsplit inputs in front of `model`, traced with the split ones."""
        for index in sorted({root.index for root in self._splits()}):
            _unsplit(model, index, [root for root in self._splits() if root.index == index])

    def _splits(self) -> list[Axis]:
        """Roots that are split, the last axis of a tensor first."""
        return sorted((root for root in self.roots if root.factor > 1), key=lambda root: -root.axis)

    def _traced_axis(self, axis: Axis) -> int:
        before = [root for root in self._splits() if root.index == axis.index and root.axis < axis.axis]
        return axis.axis + len(before)

    def _dynamic(self, index: int) -> dict[int, object]:
        out: dict[int, object] = {}
        for axis, dim in enumerate(self.graph.inputs[index].shape):
            symbol, divisor = _parsed(dim)
            here = Axis(index, axis, symbol, GRID // divisor)
            if symbol:
                factor = here.factor if here in self.all and here not in self.roots else 1
                name = f"{symbol}_windows" if here in self.all else symbol
                free = Dim(name, min=int(symbol != "slabs"), max=MOST[symbol])
                out[self._traced_axis(here)] = free * factor if factor > 1 else free
        return out


def _parsed(dim: ContractDim) -> tuple[str, int]:
    """Symbol and divisor of a dimension; no symbol for a number."""
    if isinstance(dim, int):
        return "", 1
    symbol, _, divisor = dim.partition("/")
    return symbol, int(divisor or 1)


def _unsplit(model: ir.Model, index: int, roots: list[Axis]) -> None:
    """Input `index` becomes a Reshape of a new input of the same name."""
    split = model.graph.inputs[index]
    whole = ir.Value(name=split.name, type=split.type)
    factors = {root.axis: root.factor for root in roots}
    rank = len(split.shape or ()) - len(roots)
    nodes, parts = [], []
    for axis in range(rank):
        size = ir.node("Shape", [whole], attributes={"start": axis, "end": axis + 1})
        nodes.append(size)
        if axis not in factors:
            parts.append(size.outputs[0])
            continue
        factor = ir.node("Constant", [], attributes={"value_ints": [factors[axis]]})
        windows = ir.node("Div", [size.outputs[0], factor.outputs[0]])
        nodes += [factor, windows]
        parts += [windows.outputs[0], factor.outputs[0]]
    shape = ir.node("Concat", parts, attributes={"axis": 0})
    reshape = ir.node("Reshape", [whole, shape.outputs[0]])
    reshape.outputs[0].shape, reshape.outputs[0].type = split.shape, split.type
    split.name = f"{whole.name}.windows"
    ir.convenience.replace_all_uses_with(split, reshape.outputs[0])
    model.graph.inputs[index] = whole
    model.graph.insert_before(model.graph[0], [*nodes, shape, reshape])
