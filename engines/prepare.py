"""What TensorRT cannot take as exported, said in other standard ops; exact, and other runtimes never see it.

- uint8 is a type of inputs and outputs only: no op but Cast takes it. Bytes become float16 at the border, which
  holds 0 .. 255 exactly, and so does every type they are cast to afterwards.
- uint16 is no type at all: such an output becomes its two bytes, low one first, on a last axis of 2: the same memory.
- The attention kernels have 16 bits: in an fp32 bundle the op gets float16 and gives float16. That rounds.
- Where a tier asks for it, the weights of the DiT's large matrix products are FP8 (E4M3) with a scale for each output
  channel: half the memory. The products themselves stay in 16 bits. That rounds, too; nothing else here does.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # comes with onnx
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from flashvsr_trt.configs.contract import HEAD_DIM
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.plugins_trt.spec import BLOCK_SPARSE_ATTENTION, DOMAIN

QUANTISED = ("dit", "dit_first")
_FP8_MAX = 448.0


def prepare(path: Path, precision: str, *, weights: str = "bundle") -> onnx.ModelProto:
    """The graph of a bundle as TensorRT takes it; its weights stay in their files beside `path`.

    `precision` is the bundle's, `weights` the tier's.

    Raises:
        BundleError: no ONNX file, or one with an integer output that is not made by a Cast.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own error class is not importable by a stable name
        raise BundleError(f"{path} is no ONNX file: {error}", todo="export the bundle again") from error
    _float_inputs(model.graph)
    for output in model.graph.output:
        kind = output.type.tensor_type.elem_type
        if kind == TensorProto.UINT8:
            _byte_output(model.graph, output.name)
        elif kind == TensorProto.UINT16:
            _two_bytes(model.graph, output, path)
    if precision == "fp32":
        _half_attention(model.graph)
    if weights == "fp8" and path.stem in QUANTISED:
        _quantise(model.graph, path.parent)
    return model


def _quantise(graph: onnx.GraphProto, folder: Path) -> None:
    """Weights [K, N] of matrix products as FP8, each column scaled to the type's range."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        tensor = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if tensor is not None and len(tensor.dims) == 2 and min(tensor.dims) >= HEAD_DIM:
            scale = f"{tensor.name}.scale"
            if f"{tensor.name}.fp8" not in tensors:
                full = numpy_helper.to_array(tensor, base_dir=str(folder)).astype(np.float32)  # [K, N]
                largest = np.maximum(np.abs(full).max(axis=0) / _FP8_MAX, np.finfo(np.float16).tiny)  # [N]
                kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                largest = largest.astype(kind)  # what the product will be scaled by
                eighth = (full / largest.astype(np.float32)).clip(-_FP8_MAX, _FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
                added = [(f"{tensor.name}.fp8", eighth), (scale, largest)]
                for name, array in added:
                    tensors[name] = numpy_helper.from_array(array, name)
                    graph.initializer.append(tensors[name])
            plain = f"{tensor.name}.plain"
            if plain not in {output for made in nodes for output in made.output}:
                nodes.append(helper.make_node("DequantizeLinear", [f"{tensor.name}.fp8", scale], [plain], axis=1))
            node.input[1] = plain
        nodes.append(node)
    _replace_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input}
    for name in [tensor.name for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _half_attention(graph: onnx.GraphProto) -> None:
    nodes = []
    for node in graph.node:
        if (node.domain, node.op_type) != (DOMAIN, BLOCK_SPARSE_ATTENTION.name):
            nodes.append(node)
            continue
        for index, (name, kind) in enumerate(BLOCK_SPARSE_ATTENTION.inputs):
            if kind == "T":
                half = f"{node.output[0]}.{name}.float16"
                nodes.append(helper.make_node("Cast", [node.input[index]], [half], to=TensorProto.FLOAT16))
                node.input[index] = half
        result = node.output[0]
        node.output[0] = f"{result}.float16"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [result], to=TensorProto.FLOAT)]
    _replace_nodes(graph, nodes)


def _float_inputs(graph: onnx.GraphProto) -> None:
    renamed = {}
    casts = []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            renamed[value.name] = f"{value.name}.float16"
            casts.append(helper.make_node("Cast", [value.name], [renamed[value.name]], to=TensorProto.FLOAT16))
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _maker(graph: onnx.GraphProto, name: str) -> NodeProto:
    return next(node for node in graph.node if name in node.output)


def _byte_output(graph: onnx.GraphProto, name: str) -> None:
    maker = _maker(graph, name)
    if maker.op_type == "Cast":
        return
    inner = f"{name}.float16"
    for node in graph.node:
        for index, used in enumerate(node.input):
            if used == name:
                node.input[index] = inner
        for index, made in enumerate(node.output):
            if made == name:
                node.output[index] = inner
    graph.node.append(helper.make_node("Cast", [inner], [name], to=TensorProto.UINT8))


def _two_bytes(graph: onnx.GraphProto, output: onnx.ValueInfoProto, path: Path) -> None:
    cast = _maker(graph, output.name)
    if cast.op_type != "Cast":
        raise BundleError(f"{path}: {output.name} is uint16 and made by {cast.op_type}", expected="a Cast")
    source = cast.input[0]
    graph.node.remove(cast)

    def constant(name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{output.name}.{name}"))
        return f"{output.name}.{name}"

    def node(kind: str, inputs: list[str], name: str, **attributes: int) -> str:
        graph.node.append(helper.make_node(kind, inputs, [f"{output.name}.{name}"], **attributes))
        return f"{output.name}.{name}"

    base = constant("base", np.array(256, np.float32))
    axis = constant("axis", np.array([-1], np.int64))
    whole = node("Floor", [node("Cast", [source], "float32", to=TensorProto.FLOAT)], "whole")
    high = node("Floor", [node("Div", [whole, base], "share")], "high")
    low = node("Sub", [whole, node("Mul", [high, base], "above")], "low")
    parts = [node("Unsqueeze", [part, axis], f"{part}.part") for part in (low, high)]
    both = node("Concat", parts, "both", axis=-1)
    graph.node.append(helper.make_node("Cast", [both], [output.name], to=TensorProto.UINT8))
    output.type.tensor_type.elem_type = TensorProto.UINT8
    output.type.tensor_type.shape.dim.add().dim_value = 2
