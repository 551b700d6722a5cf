"""The fused ops by ONNX Runtime on a GPU, against their function bodies in float32 on the CPU.

The library is `make kernels`'s, or the one that FLASHVSR_TRT_ORT_LIBRARY names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from flashvsr_trt.plugins_trt import spec
from flashvsr_trt.plugins_trt.locations import ort_library

onnx_ops = pytest.importorskip("flashvsr_trt.export.onnx_ops")
LIBRARY = Path(os.environ.get("FLASHVSR_TRT_ORT_LIBRARY") or ort_library())
needs_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers() or not LIBRARY.is_file(),
    reason="needs onnxruntime-gpu, a GPU and the compiled library",
)
TYPES = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "host int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "float8": TensorProto.FLOAT8E4M3FN,
}
# ||out - ref|| / ||ref||: inputs are rounded alike on both sides, so what is left is the rounding of the result and of
# the one intermediate that a kernel rounds.
TOLERANCES = {"float16": 1e-3, "bfloat16": 8e-3}
FLOAT8 = 4e-3  # beside those: Hopper's fast sums of float8 products keep about 13 bits of mantissa
WEIGHTS8 = 0.05  # the attention's weights in float8
TWICE8 = 0.01  # beside those: a result on the edge between two numbers of float8 falls on either side
DIM, HEADS = 1536, 12


def model(op: spec.Op, shapes: dict[str, tuple[int, ...]], element: str, attributes: dict[str, int]) -> bytes:
    """float32 inputs, rounded to `element`, the op, and its results as float32."""
    nodes, inputs, outputs = [], [], []
    for name, kind in op.inputs:
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]))
        to = TYPES[element if kind == "T" else kind]
        nodes.append(helper.make_node("Cast", [name], [f"{name}.cast"], to=to))
    made = [f"{name}.made" for name, _ in op.outputs]
    nodes.append(helper.make_node(op.name, [f"{i.name}.cast" for i in inputs], made, domain=spec.DOMAIN, **attributes))
    for (name, _), inner in zip(op.outputs, made, strict=True):
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(shapes[op.inputs[0][0]])))
        nodes.append(helper.make_node("Cast", [inner], [name], to=TensorProto.FLOAT))
    opset = 22 if element == "bfloat16" else 20
    functions = onnx_ops.functions({op.name})
    for function in functions:
        for imported in function.opset_import:
            imported.version = opset if imported.domain == "" else imported.version
    graph = helper.make_graph(nodes, "op", inputs, outputs)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(spec.DOMAIN, spec.OPSET)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10).SerializeToString()


def rounded(x: np.ndarray, element: str) -> np.ndarray:
    if element == "float16":
        return x.astype(np.float16).astype(np.float32)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def draw(op: spec.Op, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    feed = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    if "weight" in feed:  # results of order one
        shape = feed["weight"].shape
        feed["weight"] /= np.sqrt(np.prod(shape[-3:] if len(shape) > 2 else shape[-1:]))
    if shapes.get("scales") == (3,):
        feed["scales"] = np.array([0.011, 0.012, 0.013], np.float32)
        for name in ("q", "k", "v", "k_cache", "v_cache"):
            feed[name] = feed.get(name, np.zeros(0, np.float32)) * 80
        feed["slabs"], feed["topk"] = np.array([2, 0], np.float32), np.array(40, np.float32)
        feed = {name: feed[name] for name in shapes}
    elif (
        "scales" in feed
    ):  # x within float8's normal numbers; results of order one, those in float8 up to 448 and beyond
        units = [3 / 448, 0.02 / np.sqrt(np.prod(shapes["weight"][1:])), 100][: shapes["scales"][0]]
        feed["scales"] = np.array(units, np.float32)
        if op is not spec.CONVOLVE_INNER8:
            feed["scales"] = np.repeat(feed["scales"][:, None], 4, axis=1)
            feed["scales"][2:, 1:] **= -1
        feed["x"] *= 150
        feed["weight"] = random.standard_normal(shapes["weight"], dtype=np.float32) * 50
    if "unit" in feed:
        feed["unit"] = np.array([3 / 448], np.float32)
    if "table" in feed:
        angles = feed["table"][..., 0]
        feed["table"] = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    for name, kind in op.inputs:
        if kind == "uint8":
            feed[name] = random.integers(0, 256, shapes[name]).astype(np.float32)
    if "size" in feed:
        height, width = shapes["frames"][2:]
        feed["size"] = np.array([height - 5, width - 3], np.float32)  # of the picture in the frames
    return feed


SCALES = {"scales": (2, 4)}
WINDOWS = (1, 2, 3, 128)  # slabs, rows, columns, tokens
LINEAR = {"x": (*WINDOWS, DIM), "weight": (8960, DIM), "bias": (8960,)}
TURNED = (*WINDOWS[:3], DIM, 128)
CACHED = {"k_cache": (3, *WINDOWS[1:], DIM), "v_cache": (3, *TURNED[1:]), "slabs": (2,), "topk": ()}
COLOURS = {"frames": (3, 3, 64, 96), "lq": (3, 64, 96, 3), "size": (2,)}
CONVOLVE = {"x": (2, 32, 48, 256), "weight": (256, 3, 3, 256), "bias": (256,)}
CASES = {
    "Linear": (spec.LINEAR, LINEAR, {}),
    "Linear of few rows": (spec.LINEAR, LINEAR | {"x": (7, DIM)}, {}),
    "LinearGelu": (spec.LINEAR_GELU, LINEAR, {}),
    "LinearAdd": (
        spec.LINEAR_ADD,
        {"x": (*WINDOWS, 8960), "weight": (DIM, 8960), "bias": (DIM,), "residual": (*WINDOWS, DIM)},
        {},
    ),
    "ToFloat8": (spec.TO_FLOAT8, {"x": (*WINDOWS, DIM), "unit": (1,)}, {}),
    "Linear8": (spec.LINEAR8, LINEAR | SCALES, {}),
    "LinearGelu8": (spec.LINEAR_GELU8, LINEAR | {"scales": (3, 4)}, {}),
    "LinearAdd8": (
        spec.LINEAR_ADD8,
        {"x": (*WINDOWS, 8960), "weight": (DIM, 8960), "bias": (DIM,), "residual": (*WINDOWS, DIM)} | SCALES,
        {},
    ),
    "NormRotate": (
        spec.NORM_ROTATE,
        {"qkv": (*WINDOWS, 3 * DIM), "gain_q": (DIM,), "gain_k": (DIM,), "table": (*WINDOWS, 1, 64, 2)},
        {},
    ),
    "NormRotate8": (
        spec.NORM_ROTATE8,
        {"qkv": (*WINDOWS, 3 * DIM), "gain_q": (DIM,), "gain_k": (DIM,), "table": (*WINDOWS, 1, 64, 2), "scales": (3,)},
        {},
    ),
    "BlockSparseAttention8": (
        spec.BLOCK_SPARSE_ATTENTION8,
        {"q": (*WINDOWS, DIM), "k": (*WINDOWS, DIM), "v": TURNED} | CACHED | {"scales": (3,), "like": (1,)},
        {"heads": HEADS, "local_range": 11},
    ),
    "LayerNorm": (spec.LAYER_NORM, {"x": (*WINDOWS, DIM)}, {}),
    "LayerNorm8": (spec.LAYER_NORM8, {"x": (*WINDOWS, DIM), "unit": (1,)}, {}),
    "PromptAttention": (
        spec.PROMPT_ATTENTION,
        {"q": (*WINDOWS, DIM), "gain": (DIM,), "k": (512, DIM), "v": (512, DIM)},
        {"heads": HEADS},
    ),
    "Convolve": (spec.CONVOLVE, CONVOLVE, {}),
    "Convolve of part tiles": (spec.CONVOLVE, CONVOLVE | {"x": (3, 24, 40, 256)}, {}),
    "ConvolveAdd": (spec.CONVOLVE_ADD, CONVOLVE | {"residual": (2, 32, 48, 256)}, {}),
    "ConvolvePast": (spec.CONVOLVE_PAST, CONVOLVE | {"weight": (256, 3, 3, 512), "past": (32, 48, 256)}, {}),
    "ConvolveUp": (spec.CONVOLVE_UP, {"x": (2, 32, 48, 256), "weight": (4, 256, 2, 2, 256)}, {"growth": 2}),
    "ConvolveUpRelu": (spec.CONVOLVE_UP_RELU, {"x": (2, 16, 80, 128), "weight": (4, 128, 2, 2, 128)}, {"growth": 1}),
    "ConvolveInner8": (
        spec.CONVOLVE_INNER8,
        {"x": (2, 26, 42, 256), "weight": (256, 3, 3, 256), "bias": (256,), "scales": (2,)},
        {},
    ),
    "ConvolveColours": (
        spec.CONVOLVE_COLOURS,
        {"x": (2, 32, 72, 128), "weight": (3, 3, 3, 128), "bias": (3,)},
        {},
    ),
    "LastPlanes": (spec.LAST_PLANES, {"x": (2, 5, 30, 192)}, {}),
    "FoldFrames": (spec.FOLD_FRAMES, {"x": (4, 6, 10, 520), "past": (2, 6, 10, 520)}, {}),
    "FoldPixels": (spec.FOLD_PIXELS, {"frames": (4, 128, 256, 3), "past": (2, 128, 256, 3), "like": (1,)}, {}),
    "NormSilu": (spec.NORM_SILU, {"x": (2, 5, 7, 3072), "gain": (3072,)}, {}),
    "AdaptColours": (spec.ADAPT_COLOURS, COLOURS, {}),
    "AdaptColours16": (spec.ADAPT_COLOURS_16, COLOURS, {}),
}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("element", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_op(case, element):
    op, shapes, attributes = CASES[case]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(LIBRARY))
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    on_gpu = ort.InferenceSession(model(op, shapes, element, attributes), options, providers=cuda)
    on_cpu = ort.InferenceSession(model(op, shapes, "float32", attributes), providers=["CPUExecutionProvider"])
    kinds = dict(op.inputs)
    eighths = [kinds.get("x") == "float8", op.outputs[0][1] == "float8"]
    tolerance = TOLERANCES[element] + FLOAT8 * ("float8" in kinds.values())
    tolerance += WEIGHTS8 * (op is spec.BLOCK_SPARSE_ATTENTION8) + TWICE8 * all(eighths)
    for seed in range(3):
        feed = draw(op, shapes, seed)
        same = {name: rounded(x, element) if kinds[name] == "T" else x for name, x in feed.items()}
        for out, ref in zip(on_gpu.run(None, feed), on_cpu.run(None, same), strict=True):
            assert out.shape == ref.shape
            error = np.linalg.norm(out - ref) / np.linalg.norm(ref)
            assert error < tolerance, f"seed {seed}: {error:.2e}"  # NaN fails too


def test_cases_are_all_ops():
    assert {op for op, _, _ in CASES.values()} == set(spec.FUSED_OPS)
    for op, shapes, attributes in CASES.values():
        onnx.checker.check_model(onnx.load_from_string(model(op, shapes, "float32", attributes)))
