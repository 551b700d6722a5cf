"""A step module as an ONNX graph of the contract: names, dynamic sizes, and the op domain's functions."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn

from flashvsr_trt.configs.contract import Graph, evaluate_shape
from flashvsr_trt.configs.manifest import DTYPES
from flashvsr_trt.export import fused, fused_colour, fused_decoder, fused_lq, onnx_ops
from flashvsr_trt.export.attention import block_sparse_attention
from flashvsr_trt.export.canvas_axes import CanvasAxes
from flashvsr_trt.plugins_trt.spec import BLOCK_SPARSE_ATTENTION, DOMAIN, OPSET

ONNX_OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}  # 22 is the first with a bfloat16 Conv
# Sizes the tracer sees; any would do that are not 0 or 1 and differ from each other.
EXAMPLE = {"H": 256, "W": 384, "ring": 5, "slabs": 4, "T": 7}
FOLD_LIMIT = 4096  # elements; larger constants are weights and stay as they are
FUSED_NODES = fused.NODES | fused_lq.NODES | fused_decoder.NODES | fused_colour.NODES


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step graph and the module that computes it, inputs and outputs in the graph's order."""

    graph: Graph
    module: nn.Module
    file: str  # weight file of the bundle


def to_model(step: Step, precision: str) -> ir.Model:
    """The ONNX model of a step, weights still in memory. `precision` is what "f" of the contract stands for."""
    graph = step.graph
    axes = CanvasAxes.of(graph)
    with warnings.catch_warnings(), _quiet("torch.onnx", "torch.export"):
        warnings.simplefilter("ignore")  # about renamed axes and torch's own internals
        program = torch.onnx.export(
            _Traced(step.module, axes).eval(),
            axes.split(example(graph, precision, EXAMPLE)),
            dynamo=True,
            opset_version=ONNX_OPSETS[precision],
            input_names=[t.name for t in graph.inputs],
            output_names=[t.name for t in graph.outputs],
            dynamic_shapes=(axes.dynamic(),),
            custom_translation_table={
                block_sparse_attention._opoverload: onnx_ops.translation(BLOCK_SPARSE_ATTENTION),
                **{op._opoverload: onnx_ops.translation(node, plugin=False) for op, node in FUSED_NODES.items()},
                torch.ops.aten.scaled_dot_product_attention.default: onnx_ops.dense_attention,
            },
            optimize=False,
            verbose=False,
        )
    assert program is not None
    model = program.model
    axes.restore(model)
    optimizer.optimize_ir(model, inline=False, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    _store_rearranged(model)
    _order(model)
    _clean(model, graph)
    return model


def example(graph: Graph, precision: str, symbols: dict[str, int]) -> tuple[torch.Tensor, ...]:
    """Tensors of a graph's input shapes at those symbols; contents are undefined."""

    def dtype(name: str) -> torch.dtype:
        return getattr(torch, DTYPES[precision] if name == "f" else name)

    return tuple(torch.empty(evaluate_shape(t.shape, symbols), dtype=dtype(t.dtype)) for t in graph.inputs)


class _Traced(nn.Module):
    """What the tracer calls: the inputs, canvas axes split, as one list."""

    def __init__(self, module: nn.Module, axes: CanvasAxes) -> None:
        super().__init__()
        self.module, self.axes = module, axes

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.module(*self.axes.join(inputs))


def _store_rearranged(model: ir.Model) -> None:
    """Weights that enter only through a Transpose or Unsqueeze are stored that way.

    Lazily: the rearranged copy exists while it is written. Left in the graph, every load would make it anew.
    """
    for node in list(model.graph):
        weight = node.inputs[0] if node.inputs else None
        if weight is None or weight.const_value is None:
            continue
        if node.op_type == "Transpose":
            rearrange = partial(np.transpose, axes=node.attributes["perm"].as_ints())
        elif node.op_type == "Unsqueeze" and node.inputs[1] is not None and node.inputs[1].const_value is not None:
            rearrange = partial(np.expand_dims, axis=tuple(node.inputs[1].const_value.numpy().tolist()))
        else:
            continue
        value = _rearranged(model, weight, rearrange, f"{weight.name}.{node.op_type.lower()}")
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        model.graph.remove(node, safe=True)
    for value in list(model.graph.initializers.values()):
        if not value.uses():
            del model.graph.initializers[str(value.name)]


def _rearranged(model: ir.Model, weight: ir.Value, rearrange: Callable[..., np.ndarray], name: str) -> ir.Value:
    """An initializer with the rearranged `weight`."""
    tensor = weight.const_value
    assert tensor is not None
    while name in model.graph.initializers:
        name += "_"
    shape = ir.Shape(rearrange(np.broadcast_to(np.int8(0), tensor.shape.numpy())).shape)

    def compute() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(rearrange(tensor.numpy())), dtype=tensor.dtype)

    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
    value.const_value = ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape, name=name)
    model.graph.initializers[name] = value
    return value


def _order(model: ir.Model) -> None:
    """States are written as soon as they are known.

    ONNX Runtime begins with the last node of the file that nothing waits for, and computes what it needs. In the order
    of the trace that makes the first output, and what states are made of stayed in memory until then: for the decoders
    twice what a step needs. So the nodes of states come behind it, the earliest last.
    """
    ends = [node for node in model.graph if all(value.is_graph_output() and not value.uses() for value in node.outputs)]
    first = model.graph.outputs[0].producer()
    for node in reversed([node for node in ends if node is not first]):
        model.graph.remove(node)
        model.graph.append(node)


def _clean(model: ir.Model, graph: Graph) -> None:
    """Contract's symbols on inputs and outputs, nothing of the tracing inside, functions of the op domain."""
    border = [*model.graph.inputs, *model.graph.outputs]
    for value, tensor in zip(border, graph.inputs + graph.outputs, strict=True):
        if value.name != tensor.name:
            raise AssertionError(f"graph {graph.name}: the exporter gave {value.name} for {tensor.name}")
        value.shape = ir.Shape(tensor.shape)
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = value.type = None  # named after the tracer's symbols; every reader infers its own
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.name, model.producer_name, model.producer_version = graph.name, "flashvsr-trt", ""
    add_functions(model)


def add_functions(model: ir.Model) -> None:
    """The bodies of the op domain's nodes in `model`, in place of those it has."""
    model.functions.clear()
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    if used:
        for function in map(ir.serde.deserialize_function, onnx_ops.functions(used)):
            function.opset_imports[""] = model.opset_imports[""]  # the checker wants them equal
            model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = OPSET


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silences loggers that report each missing optional package of the exporter."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
