"""Function bodies of the fused ops (plugins_trt.spec) in standard ONNX ops: what a runtime without kernels runs.

The decorated functions are onnxscript: they are parsed, never called.
"""

from __future__ import annotations

import onnx
from onnxscript import opset20 as op
from onnxscript import script, values

from flashvsr_trt.plugins_trt.spec import DOMAIN, OPSET

_domain = values.Opset(DOMAIN, OPSET)


@script(_domain, default_opset=op)
def Linear(x, weight, bias):
    """x [..., K], weight [N, K], bias [N] to [..., N]."""
    columns = op.Shape(weight, start=1, end=2)
    rows = op.Reshape(x, op.Concat(op.Constant(value_ints=[-1]), columns, axis=0))
    product = op.Gemm(rows, weight, bias, transB=1)
    out = op.Reshape(product, op.Concat(op.Shape(x, start=0, end=-1), op.Shape(bias), axis=0))
    return out


@script(_domain, default_opset=op)
def LinearGelu(x, weight, bias):
    """GELU, tanh form, of Linear."""
    out = op.Gelu(Linear(x, weight, bias), approximate="tanh")
    return out


@script(_domain, default_opset=op)
def LinearAdd(x, weight, bias, residual):
    """residual + Linear."""
    out = op.Add(residual, Linear(x, weight, bias))
    return out


@script(_domain, default_opset=op)
def Normalised(x, gain):
    """float32 x / sqrt(mean(x^2) + 1e-6) * gain over the last axis."""
    wide = op.Cast(x, to=1)
    mean = op.ReduceMean(op.Mul(wide, wide), [-1], keepdims=1)
    root = op.Sqrt(op.Add(mean, op.Constant(value_float=1e-6)))
    out = op.Mul(op.Div(wide, root), gain)
    return out


@script(_domain, default_opset=op)
def Turned(x, gain, table):
    """Normalised x [..., heads*128], its pairs turned by table [..., 1, 64, 2], in float32."""
    pairs = op.Constant(value_ints=[-1, 64, 2])
    heads = op.Reshape(Normalised(x, gain), op.Concat(op.Shape(x, start=0, end=-1), pairs, axis=0))
    even, odd = op.Split(heads, axis=-1, num_outputs=2)
    cos, sin = op.Split(table, axis=-1, num_outputs=2)
    first = op.Sub(op.Mul(even, cos), op.Mul(odd, sin))
    second = op.Add(op.Mul(even, sin), op.Mul(odd, cos))
    out = op.Reshape(op.Concat(first, second, axis=-1), op.Shape(x))
    return out


@script(_domain, default_opset=op)
def NormRotate(qkv, gain_q, gain_k, table):
    """q, k, v of qkv [..., 3*heads*128]."""
    q_in, k_in, v = op.Split(qkv, axis=-1, num_outputs=3)
    q = op.CastLike(Turned(q_in, gain_q, table), qkv)
    k = op.CastLike(Turned(k_in, gain_k, table), qkv)
    return q, k, v


@script(_domain, default_opset=op)
def Standardised(x):
    """Mean 0 and variance 1 over the last axis, in float32."""
    wide = op.Cast(x, to=1)
    centred = op.Sub(wide, op.ReduceMean(wide, [-1]))
    variance = op.ReduceMean(op.Mul(centred, centred), [-1])
    out = op.Div(centred, op.Sqrt(op.Add(variance, op.Constant(value_float=1e-6))))
    return out


@script(_domain, default_opset=op)
def LayerNorm(x):
    """Standardised x, in x's type."""
    out = op.CastLike(Standardised(x), x)
    return out


@script(_domain, default_opset=op)
def PromptAttention(q, gain, k, v, heads: int):
    """q [..., heads*128] to all keys and values [tokens, heads*128]; softmax in float32."""
    count = op.Unsqueeze(op.Constant(value_int=heads), [0])
    split = op.Concat(op.Constant(value_ints=[-1]), count, op.Constant(value_ints=[128]), axis=0)
    scale = op.CastLike(op.Constant(value_float=0.08838834764831845), q)  # 1/sqrt(128)
    queries = op.Mul(op.Reshape(op.CastLike(Normalised(q, gain), q), split), scale)
    keys = op.Transpose(op.Reshape(k, split), perm=[1, 2, 0])  # [heads, 128, tokens]
    scores = op.MatMul(op.Transpose(queries, perm=[1, 0, 2]), keys)
    weights = op.CastLike(op.Softmax(op.Cast(scores, to=1), axis=-1), q)
    gathered = op.MatMul(weights, op.Transpose(op.Reshape(v, split), perm=[1, 0, 2]))  # [heads, queries, 128]
    out = op.Reshape(op.Transpose(gathered, perm=[1, 0, 2]), op.Shape(q))
    return out


@script(_domain, default_opset=op)
def Convolved(x, weight, bias):
    """3x3 convolution of x [T, h, w, C] by weight [N, 3, 3, C]: [T, N, h, w]."""
    picture = op.Transpose(x, perm=[0, 3, 1, 2])
    kernel = op.Transpose(weight, perm=[0, 3, 1, 2])
    out = op.Conv(picture, kernel, bias, pads=[1, 1, 1, 1])
    return out


@script(_domain, default_opset=op)
def Convolve(x, weight, bias):
    """ReLU of the convolution, channels last."""
    out = op.Transpose(op.Relu(Convolved(x, weight, bias)), perm=[0, 2, 3, 1])
    return out


@script(_domain, default_opset=op)
def ConvolveAdd(x, weight, bias, residual):
    """ReLU of the convolution plus residual."""
    out = op.Relu(op.Add(op.Transpose(Convolved(x, weight, bias), perm=[0, 2, 3, 1]), residual))
    return out


@script(_domain, default_opset=op)
def ConvolvePast(x, weight, bias, past):
    """ReLU of the convolution of x beside itself one frame earlier."""
    earlier = op.Slice(x, op.Constant(value_ints=[0]), op.Constant(value_ints=[-1]), op.Constant(value_ints=[0]))
    before = op.Concat(op.Unsqueeze(past, [0]), earlier, axis=0)
    both = op.Concat(x, before, axis=3)
    out = op.Transpose(op.Relu(Convolved(both, weight, bias)), perm=[0, 2, 3, 1])
    return out


@script(_domain, default_opset=op)
def ConvolveUp(x, weight, growth: int):
    """Four 2x2 convolutions of x [T, h, w, C], put together as [T * growth, 2 h, 2 w, N]."""
    picture = op.Transpose(x, perm=[0, 3, 1, 2])
    kernels = op.Transpose(weight, perm=[0, 1, 4, 2, 3])  # [4, growth N, C, 2, 2]
    first, second, third, fourth = op.Split(kernels, axis=0, num_outputs=4)
    upper_left = op.Conv(picture, op.Squeeze(first, [0]), pads=[1, 1, 0, 0])
    upper_right = op.Conv(picture, op.Squeeze(second, [0]), pads=[1, 0, 0, 1])
    lower_left = op.Conv(picture, op.Squeeze(third, [0]), pads=[0, 1, 1, 0])
    lower_right = op.Conv(picture, op.Squeeze(fourth, [0]), pads=[0, 0, 1, 1])
    upper = op.Concat(op.Unsqueeze(upper_left, [4]), op.Unsqueeze(upper_right, [4]), axis=4)
    lower = op.Concat(op.Unsqueeze(lower_left, [4]), op.Unsqueeze(lower_right, [4]), axis=4)
    every = op.Concat(op.Unsqueeze(upper, [3]), op.Unsqueeze(lower, [3]), axis=3)  # [T, growth N, h, 2, w, 2]
    grown = op.Unsqueeze(op.Constant(value_int=growth), [0])
    frames = op.Mul(op.Shape(x, start=0, end=1), grown)
    any_number = op.Constant(value_ints=[-1])
    rows = op.Mul(op.Shape(x, start=1, end=2), op.Constant(value_ints=[2]))
    columns = op.Mul(op.Shape(x, start=2, end=3), op.Constant(value_ints=[2]))
    joined = op.Reshape(every, op.Concat(frames, any_number, rows, columns, axis=0))
    out = op.Transpose(joined, perm=[0, 2, 3, 1])
    return out


@script(_domain, default_opset=op)
def ConvolveUpRelu(x, weight, growth: int):
    """ReLU of ConvolveUp."""
    out = op.Relu(ConvolveUp(x, weight, growth=growth))
    return out


@script(_domain, default_opset=op)
def ConvolveColours(x, weight, bias):
    """The convolution as planes."""
    out = Convolved(x, weight, bias)
    return out


@script(_domain, default_opset=op)
def LastPlanes(x):
    """The last frame of [T, h, w, C] as [C, h, w]."""
    out = op.Transpose(op.Gather(x, op.Constant(value_int=-1)), perm=[2, 0, 1])
    return out


@script(_domain, default_opset=op)
def Folded(every):
    """Four frames beside each other, for every second one of [2 + T, h, w, C], edge pixels twice."""
    frames = op.Shape(every, start=0, end=1)
    last = op.Sub(frames, op.Constant(value_ints=[2]))
    first_axis = op.Constant(value_ints=[0])
    two = op.Constant(value_ints=[2])
    one = op.Slice(every, op.Constant(value_ints=[0]), last, first_axis, two)
    next_one = op.Slice(every, op.Constant(value_ints=[1]), last, first_axis, two)
    third = op.Slice(every, op.Constant(value_ints=[2]), frames, first_axis, two)
    fourth = op.Slice(every, op.Constant(value_ints=[3]), frames, first_axis, two)
    beside = op.Concat(one, next_one, third, fourth, axis=3)
    out = op.Pad(beside, op.Constant(value_ints=[0, 1, 1, 0, 0, 1, 1, 0]), mode="edge")
    return out


@script(_domain, default_opset=op)
def FoldFrames(x, past):
    """Folded past and x."""
    out = Folded(op.Concat(past, x, axis=0))
    return out


@script(_domain, default_opset=op)
def FoldPixels(frames, past, like):
    """Folded features of uint8 [T, 16 h, 16 w, 3]: [T, h, w, 768]."""
    every = op.Cast(op.Concat(past, frames, axis=0), to=1)
    unit = op.CastLike(op.Sub(op.Div(every, op.Constant(value_float=127.5)), op.Constant(value_float=1.0)), like)
    side = op.Constant(value_ints=[16])
    count = op.Shape(unit, start=0, end=1)
    columns = op.Div(op.Shape(unit, start=2, end=3), side)
    rest = op.Concat(columns, side, op.Constant(value_ints=[3]), axis=0)
    cells = op.Reshape(unit, op.Concat(count, op.Constant(value_ints=[-1]), side, rest, axis=0))
    features = op.Transpose(cells, perm=[0, 1, 3, 5, 2, 4])  # [T, h, w, 3, 16, 16]
    out = Folded(op.Reshape(features, [0, 0, 0, 768]))
    return out


@script(_domain, default_opset=op)
def NormSilu(x, gain):
    """SiLU of x / max(||x||, 1e-12) * sqrt(C) * gain over the last axis."""
    wide = op.Cast(x, to=1)
    square = op.ReduceSum(op.Mul(wide, wide), [-1])
    norm = op.Sqrt(op.Max(square, op.Constant(value_float=1e-24)))
    scale = op.Mul(gain, op.Sqrt(op.Cast(op.Shape(gain), to=1)))
    normal = op.Mul(op.Div(wide, norm), scale)
    out = op.CastLike(op.Mul(normal, op.Sigmoid(normal)), x)
    return out


@script(_domain, default_opset=op)
def AdaptedColours(frames, lq, size):
    """float32 [T, 3, height, width] in [0, 2] of the first `size` rows and columns."""
    origin = op.Constant(value_ints=[0, 0])
    x = op.Cast(op.Slice(frames, origin, size, op.Constant(value_ints=[2, 3])), to=1)
    bytes_ = op.Cast(op.Slice(lq, origin, size, op.Constant(value_ints=[1, 2])), to=1)
    one = op.Constant(value_float=1.0)
    reference = op.Transpose(op.Sub(op.Div(bytes_, op.Constant(value_float=127.5)), one), perm=[0, 3, 1, 2])
    eps = op.Constant(value_float=1e-5)
    mean = op.ReduceMean(x, [2, 3])
    centred = op.Sub(x, mean)
    spread = op.Sqrt(op.Add(op.ReduceMean(op.Mul(centred, centred), [2, 3]), eps))
    target = op.ReduceMean(reference, [2, 3])
    apart = op.Sub(reference, target)
    target_spread = op.Sqrt(op.Add(op.ReduceMean(op.Mul(apart, apart), [2, 3]), eps))
    fixed = op.Add(op.Mul(op.Div(centred, spread), target_spread), target)
    out = op.Add(op.Clip(fixed, op.Constant(value_float=-1.0), one), one)
    return out


@script(_domain, default_opset=op)
def AdaptColours(frames, lq, size):
    """AdaptedColours in 8 bits, [T, height, width, 3]."""
    values = op.Mul(AdaptedColours(frames, lq, size), op.Constant(value_float=127.5))
    pixels = op.Cast(op.Transpose(values, perm=[0, 2, 3, 1]), to=2)
    return pixels


@script(_domain, default_opset=op)
def AdaptColours16(frames, lq, size):
    """AdaptedColours in 16 bits."""
    values = op.Mul(AdaptedColours(frames, lq, size), op.Constant(value_float=32767.5))
    pixels = op.Cast(op.Transpose(values, perm=[0, 2, 3, 1]), to=4)
    return pixels


def functions() -> list[onnx.FunctionProto]:
    """The bodies, to be appended to a model that uses one of them; helpers first."""
    linear = (Linear, LinearGelu, LinearAdd)
    norms = (Normalised, Turned, NormRotate, Standardised, LayerNorm)
    convolutions = (
        Convolved,
        Convolve,
        ConvolveAdd,
        ConvolvePast,
        ConvolveUp,
        ConvolveUpRelu,
        ConvolveColours,
        LastPlanes,
    )
    projector = (Folded, FoldFrames, FoldPixels, NormSilu)
    colours = (AdaptedColours, AdaptColours, AdaptColours16)
    every = (*linear, *norms, PromptAttention, *convolutions, *projector, *colours)
    return [function.to_function_proto() for function in every]
