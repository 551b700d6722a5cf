"""The ONNX side of the op domain `flashvsr`: schemas, node translation for the exporter, function bodies.

The bodies say what an op means in standard ONNX ops, so that any runtime runs the graphs; a runtime that has a
kernel for the op ignores them. Selection and softmax are in float32 whatever the tensors' type. The decorated
functions are onnxscript: they are parsed, never called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import onnx
from onnxscript import BOOL, FLOAT, INT64, graph, script, values
from onnxscript import opset20 as op

from flashvsr_trt.export import onnx_float8, onnx_fused
from flashvsr_trt.export.onnx_float8 import TurnedBack
from flashvsr_trt.plugins_trt.spec import BLOCK_SPARSE_ATTENTION, DOMAIN, OPSET, Op

TYPES = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
NAMES = {"host int64": "int64", "float8": "float8e4m3fn"}  # ONNX's, where it is another
# TensorRT takes a plug-in for a node only if the node names its namespace; other runtimes do not read these.
PLUGIN = {"plugin_namespace": DOMAIN, "plugin_version": str(OPSET)}

_domain = values.Opset(DOMAIN, OPSET)


@script(_domain, default_opset=op)
def BlockMask(q, k, topk, local_range: int):
    """Which key windows each query window attends to: the selection of BlockSparseAttention by itself.

    q [S, R, C, 128, heads*128], k [N, R, C, 128, heads*128] with R x C windows a slab; topk int64 scalar.
    Result bool [heads, S*R*C, N*R*C].
    """
    # Means of each window, heads first.
    split_heads = op.Constant(value_ints=[0, 0, 0, -1, 128])
    q_mean = op.Reshape(op.ReduceMean(op.Cast(q, to=1), [3], keepdims=0), split_heads)
    k_mean = op.Reshape(op.ReduceMean(op.Cast(k, to=1), [3], keepdims=0), split_heads)
    queries = op.Reshape(op.Transpose(q_mean, perm=[3, 0, 1, 2, 4]), [0, 0, -1, 128])  # [heads, S, RC, 128]
    keys = op.Reshape(op.Transpose(k_mean, perm=[3, 4, 0, 1, 2]), [0, 1, 128, -1])  # [heads, 1, 128, N*RC]
    scores = op.Mul(op.MatMul(queries, keys), op.Constant(value_float=0.08838834764831845))  # 1/sqrt(128)

    # Rows r - R//2 .. r - R//2 + R - 1 of a window in row r, columns alike; the same for every slab.
    reach = op.Constant(value_int=local_range)
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    behind = op.Div(reach, op.Constant(value_int=2))
    rows = op.Shape(q, start=1, end=2)
    columns = op.Shape(q, start=2, end=3)
    row = op.Range(zero, op.Squeeze(rows), one)
    column = op.Range(zero, op.Squeeze(columns), one)
    row_place = op.Add(op.Sub(op.Unsqueeze(row, [0]), op.Unsqueeze(row, [1])), behind)  # [query, key]
    column_place = op.Add(op.Sub(op.Unsqueeze(column, [0]), op.Unsqueeze(column, [1])), behind)
    row_near = op.And(op.GreaterOrEqual(row_place, zero), op.Less(row_place, reach))
    column_near = op.And(op.GreaterOrEqual(column_place, zero), op.Less(column_place, reach))
    near_grid = op.And(op.Unsqueeze(row_near, [1, 3]), op.Unsqueeze(column_near, [0, 2]))  # [R, C, R, C]
    windows = op.Mul(rows, columns)
    near = op.Reshape(near_grid, op.Concat(windows, op.Constant(value_ints=[1]), windows, axis=0))

    any_number = op.Constant(value_ints=[-1])
    heads_slabs = op.Shape(scores, start=0, end=2)
    by_slab = op.Reshape(scores, op.Concat(heads_slabs, windows, any_number, windows, axis=0))
    local = op.Where(near, by_slab, op.Constant(value_float=float("-inf")))  # [heads, S, RC, N, RC]
    share = op.Softmax(op.Reshape(local, op.Shape(scores)), axis=-1)  # [heads, S, RC, N*RC]

    # What is above the (min(topk, n-1)+1)-th largest of a head and query slab stays.
    flat = op.Reshape(share, [0, 0, -1])
    count = op.Squeeze(op.Shape(flat, start=2))
    rank = op.Add(op.Min(topk, op.Sub(count, one)), one)
    largest, _ = op.TopK(flat, op.Reshape(rank, [1]), sorted=0)
    threshold = op.Unsqueeze(op.ReduceMin(largest, [-1]), [-1])
    kept = op.Greater(share, threshold)
    head_count = op.Shape(scores, start=0, end=1)
    mask = op.Reshape(kept, op.Concat(head_count, any_number, op.Shape(scores, start=3), axis=0))
    return mask


@script(_domain, default_opset=op)
def BlockSparseAttention(q, k, v, k_cache, v_cache, slabs, topk, heads: int, local_range: int):
    """Attention of each query window to the key windows that BlockMask keeps; see plugins_trt/spec.py.

    One query window of one head at a time: memory stays at the size of its kept keys, and on a CPU the matrix
    products run at 85 % of their peak rate. The maths is in float32.
    """
    all_keys = op.Concat(op.Gather(k_cache, slabs), k, axis=0)
    all_values = op.Concat(op.Gather(v_cache, slabs), v, axis=0)
    mask = BlockMask(q, all_keys, topk, local_range=local_range)

    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    count = op.Constant(value_int=heads)
    side = op.Constant(value_ints=[128])
    split_heads = op.Concat(op.Constant(value_ints=[-1]), side, op.Unsqueeze(count, [0]), side, axis=0)
    q_windows = op.Reshape(q, split_heads)  # [query windows, 128, heads, 128]
    k_windows = op.Reshape(all_keys, split_heads)
    v_windows = op.Reshape(all_values, split_heads)

    @graph()
    def one_head(head: INT64, head_mask: BOOL[...]):
        q_head = op.Cast(op.Gather(q_windows, head, axis=2), to=1)  # [query windows, 128, 128]
        k_head = op.Gather(k_windows, head, axis=2)
        v_head = op.Gather(v_windows, head, axis=2)

        @graph()
        def one_window(q_window: FLOAT[128, 128], kept: BOOL[...]):
            index = op.Squeeze(op.NonZero(kept), [0])
            # allowzero: without a kept window this is [0, 128], and the product below gives zeros.
            tokens = op.Concat(op.Mul(op.Shape(index), side), side, axis=0)
            k_kept = op.Cast(op.Reshape(op.Gather(k_head, index), tokens, allowzero=1), to=1)
            v_kept = op.Cast(op.Reshape(op.Gather(v_head, index), tokens, allowzero=1), to=1)
            scores = op.Gemm(q_window, k_kept, transB=1, alpha=0.08838834764831845)  # 1/sqrt(128)
            return op.MatMul(op.Softmax(scores, axis=-1), v_kept)

        return op.Scan(q_head, head_mask, body=one_window, num_scan_inputs=2)

    by_head = op.Scan(op.Range(zero, count, one), mask, body=one_head, num_scan_inputs=2)
    windows_first = op.Transpose(by_head, perm=[1, 2, 0, 3])
    out = op.CastLike(op.Reshape(windows_first, op.Shape(q)), q)
    return out


@script(_domain, default_opset=op)
def BlockSparseAttention8(q, k, v, k_cache, v_cache, slabs, topk, scales, like, heads: int, local_range: int):
    """BlockSparseAttention of what the float8 numbers of NormRotate8 stand for, in the type of `like`."""
    q_unit, k_unit, v_unit = op.Split(scales, axis=0, num_outputs=3)
    queries = op.Mul(op.Cast(q, to=1), q_unit)
    keys = op.Mul(op.Cast(k, to=1), k_unit)
    cached = op.Mul(op.Cast(k_cache, to=1), k_unit)
    values = TurnedBack(op.Cast(v, to=1), v_unit)
    cached_values = TurnedBack(op.Cast(v_cache, to=1), v_unit)
    wide = BlockSparseAttention(
        queries, keys, values, cached, cached_values, slabs, topk, heads=heads, local_range=local_range
    )
    out = op.CastLike(wide, like)
    return out


def functions(used: Collection[str] = (BLOCK_SPARSE_ATTENTION.name,)) -> list[onnx.FunctionProto]:
    """The bodies of the ops of the domain that a model uses, and of those that they use."""
    attention = BlockSparseAttention.to_function_proto()
    attention.attribute.extend(PLUGIN)  # a function must declare every attribute that its nodes carry
    bodies = [BlockMask.to_function_proto(), attention, *onnx_fused.functions(), *onnx_float8.functions()]
    bodies.append(BlockSparseAttention8.to_function_proto())
    every = {body.name: body for body in bodies}
    wanted = set(used)
    for body in reversed(every.values()):  # each uses earlier ones only
        if body.name in wanted:
            wanted |= {node.op_type for node in body.node if node.domain == DOMAIN}
    return [body for body in every.values() if body.name in wanted]


def schema(op_spec: Op) -> onnx.defs.OpSchema:
    """ONNX schema of an op of the domain."""
    parameter, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    kind = onnx.defs.OpSchema.AttrType

    def typed(dtype: str) -> str:
        return dtype if dtype == "T" else f"tensor({NAMES.get(dtype, dtype)})"

    return onnx.defs.OpSchema(
        op_spec.name,
        DOMAIN,
        OPSET,
        inputs=[parameter(name, typed(dtype)) for name, dtype in op_spec.inputs],
        outputs=[parameter(name, typed(dtype)) for name, dtype in op_spec.outputs],
        type_constraints=[("T", list(TYPES), "16- and 32-bit floating point")],
        attributes=[attribute(name, kind.INT) for name in op_spec.attributes]
        + [attribute(name, kind.STRING, required=False) for name in PLUGIN],
    )


def translation(op_spec: Op, *, plugin: bool = True) -> Callable[..., Any]:
    """Entry of torch.onnx.export's `custom_translation_table`: a torch op with the inputs of `op_spec` in their
    order, its attributes as keywords, to one node of the domain. `plugin`: one that TensorRT has a plug-in for."""
    node = values.Op(_domain, op_spec.name, schema(op_spec))

    def translate(*inputs: Any, **attributes: int) -> Any:
        return node(*inputs, **attributes, **(PLUGIN if plugin else {}))

    return translate


def dense_attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Translation of aten.scaled_dot_product_attention without mask, [..., tokens, d], softmax in float32.

    The exporter's own runs the softmax in the tensors' type and takes the root of the scale inside the graph.
    """
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("attention with a mask, dropout, causality or grouped heads")
    order = list(range(len(q.shape)))
    order[-2:] = order[:-3:-1]
    factor = op.CastLike(op.Constant(value_float=scale or q.shape[-1] ** -0.5), q)
    scores = op.MatMul(op.Mul(q, factor), op.Transpose(k, perm=order))
    weights = op.CastLike(op.Softmax(op.Cast(scores, to=onnx.TensorProto.FLOAT), axis=-1), q)
    return op.MatMul(weights, v)
