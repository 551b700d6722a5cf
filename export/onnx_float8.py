"""Function bodies of the ops in float8 (plugins_trt.spec) in standard ONNX ops.

The decorated functions are onnxscript: they are parsed, never called.
"""

from __future__ import annotations

import onnx
from onnxscript import opset20 as op
from onnxscript import script, values

from flashvsr_trt.export.onnx_fused import Standardised, Turned
from flashvsr_trt.plugins_trt.spec import DOMAIN, OPSET

_domain = values.Opset(DOMAIN, OPSET)

# ONNX Runtime takes float8 inputs of a function only where an op of the standard reads them, not another function.


@script(_domain, default_opset=op)
def ToFloat8(x, unit):
    """x in units of unit [1], rounded to float8."""
    out = op.Cast(op.Div(op.Cast(x, to=1), unit), to=17)
    return out


@script(_domain, default_opset=op)
def Product8(x, weight, bias, scales):
    """float32 Linear of float32 x and weight [N, K], numbers of float8, in units of the rows of scales [n, 4]."""
    unit, weight_unit = op.Split(op.Slice(scales, [0, 0], [2, 1]), axis=0, num_outputs=2)
    columns = op.Shape(weight, start=1, end=2)
    rows = op.Reshape(x, op.Concat(op.Constant(value_ints=[-1]), columns, axis=0))
    product = op.Mul(op.Gemm(rows, weight, transB=1), op.Mul(unit, weight_unit))
    sums = op.Add(product, op.Cast(bias, to=1))
    out = op.Reshape(sums, op.Concat(op.Shape(x, start=0, end=-1), op.Shape(bias), axis=0))
    return out


@script(_domain, default_opset=op)
def Linear8(x, weight, bias, scales):
    """Product8 of float8, in bias's type."""
    out = op.CastLike(Product8(op.Cast(x, to=1), op.Cast(weight, to=1), bias, scales), bias)
    return out


@script(_domain, default_opset=op)
def LinearGelu8(x, weight, bias, scales):
    """GELU, tanh form, of Product8 times the last row of scales, rounded to float8."""
    wide = op.Gelu(Product8(op.Cast(x, to=1), op.Cast(weight, to=1), bias, scales), approximate="tanh")
    out = op.Cast(op.Mul(wide, op.Slice(scales, [2, 0], [3, 1])), to=17)
    return out


@script(_domain, default_opset=op)
def LinearAdd8(x, weight, bias, scales, residual):
    """residual + Linear8."""
    product = op.CastLike(Product8(op.Cast(x, to=1), op.Cast(weight, to=1), bias, scales), residual)
    out = op.Add(residual, product)
    return out


@script(_domain, default_opset=op)
def ConvolveInner8(x, weight, bias, scales):
    """Convolution of x [T, h + 2, w + 2, C] with weight [N, 3, 3, C] to [T, h, w, N], in bias's type."""
    unit, weight_unit = op.Split(scales, axis=0, num_outputs=2)
    picture = op.CastLike(op.Mul(op.Cast(x, to=1), unit), bias)
    kernel = op.CastLike(op.Mul(op.Cast(weight, to=1), weight_unit), bias)
    planes = op.Conv(op.Transpose(picture, perm=[0, 3, 1, 2]), op.Transpose(kernel, perm=[0, 3, 1, 2]), bias)
    out = op.Transpose(planes, perm=[0, 2, 3, 1])
    return out


@script(_domain, default_opset=op)
def LayerNorm8(x, unit):
    """Standardised x in units of unit [1], rounded to float8."""
    out = op.Cast(op.Div(Standardised(x), unit), to=17)
    return out


@script(_domain, default_opset=op)
def NormRotate8(qkv, gain_q, gain_k, table, scales):
    """The same in float8, in units of scales; v [..., heads*128, 128], its tokens in the order of plugins_trt.spec."""
    q_in, k_in, v_in = op.Split(qkv, axis=-1, num_outputs=3)
    q_unit, k_unit, v_unit = op.Split(scales, axis=0, num_outputs=3)
    q = op.Cast(op.Div(Turned(q_in, gain_q, table), q_unit), to=17)
    k = op.Cast(op.Div(Turned(k_in, gain_k, table), k_unit), to=17)
    values = op.Div(op.Cast(v_in, to=1), v_unit)
    lead = op.Shape(qkv, start=0, end=3)
    # Token 16g + 8b + 2t + e becomes number 16g + 4t + 2b + e.
    split = op.Reshape(values, op.Concat(lead, op.Constant(value_ints=[8, 2, 4, 2, -1]), axis=0))
    turned = op.Transpose(split, perm=[0, 1, 2, 7, 3, 5, 4, 6])
    v = op.Cast(op.Reshape(turned, op.Concat(lead, op.Constant(value_ints=[-1, 128]), axis=0)), to=17)
    return q, k, v


@script(_domain, default_opset=op)
def TurnedBack(v, unit):
    """float32 values [..., 128, heads*128] of the float32 numbers of a v of NormRotate8."""
    lead = op.Shape(v, start=0, end=3)
    split = op.Reshape(op.Mul(v, unit), op.Concat(lead, op.Constant(value_ints=[-1, 8, 4, 2, 2]), axis=0))
    turned = op.Transpose(split, perm=[0, 1, 2, 4, 6, 5, 7, 3])
    out = op.Reshape(turned, op.Concat(lead, op.Constant(value_ints=[128, -1]), axis=0))
    return out


def functions() -> list[onnx.FunctionProto]:
    """The bodies; helpers first, some of `onnx_fused`."""
    linear = (ToFloat8, Product8, Linear8, LinearGelu8, LinearAdd8)
    return [function.to_function_proto() for function in (*linear, ConvolveInner8, LayerNorm8, NormRotate8, TurnedBack)]
