"""What the conversions to float8 (E4M3) share: scales, constants, nodes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from flashvsr_trt.plugins_trt import spec

LARGEST = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
SMALLEST = 2.0**-14  # of what a scale is made of: an input that is always 0 has one too


def scale_of(largest: float) -> np.float32:
    """What one of float8 stands for where the largest number is `largest`."""
    return np.float32(max(largest, SMALLEST) / LARGEST)


def become(node: ir.Node, kind: str, inputs: list[ir.Value | None]) -> None:
    """Turns a node into one of the op `kind` with other inputs."""
    node.op_type = kind
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def eighth(model: ir.Model, name: str, full: np.ndarray) -> tuple[ir.Value, np.float32]:
    """A weight, float32, in float8, and what a number of it stands for."""
    scale = scale_of(float(np.abs(full).max()))
    rounded = (full / scale).clip(-LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return initializer(model, f"{name}.float8", rounded), scale


def initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """A constant of the graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def rounding_of(x: ir.Value, unit: ir.Value) -> ir.Node:
    """ToFloat8 of x, in no graph yet; unit [1], float32."""
    rounding = ir.node(spec.TO_FLOAT8.name, [x, unit], domain=spec.DOMAIN)
    rounding.outputs[0].type, rounding.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT8E4M3FN), x.shape
    return rounding
