"""The fused ops: their function bodies through ONNX Runtime against numpy in double, and a DiT built of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import bundles
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from test_export import written

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.export import bundle as bundle_module
from flashvsr_trt.export import fused_lq, onnx_ops
from flashvsr_trt.export import validate as validate_module
from flashvsr_trt.export.dit import Dit
from flashvsr_trt.export.fused import FUSED, PLAIN, for_prompt
from flashvsr_trt.export.fused_decoder import FusedTcDecoder, fits
from flashvsr_trt.export.fused_lq import FusedLqProj
from flashvsr_trt.export.layouts import LqSizes, TcSizes
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.seeded import random_weights
from flashvsr_trt.export.tc_decoder import TcDecoder
from flashvsr_trt.export.to_onnx import Step
from flashvsr_trt.export.validate import random_inputs, validate
from flashvsr_trt.plugins_trt import spec

TYPES = {
    "T": TensorProto.FLOAT16,
    "float": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "host int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "float8": TensorProto.FLOAT8E4M3FN,
}
HEADS, DIM = 2, 256
TOLERANCE = 4e-3  # float16 inputs and results of order one; sums in ONNX Runtime's float32


def run(op: spec.Op, feed: dict[str, np.ndarray], **attributes: int) -> list[np.ndarray]:
    """One node of the domain with its body, on the CPU."""
    inputs = [helper.make_tensor_value_info(name, TYPES[kind], feed[name].shape) for name, kind in op.inputs]
    anything = [None] * feed[op.inputs[0][0]].ndim
    outputs = [helper.make_tensor_value_info(name, TYPES[kind], anything) for name, kind in op.outputs]
    node = helper.make_node(
        op.name, [i.name for i in inputs], [o.name for o in outputs], domain=spec.DOMAIN, **attributes
    )
    model = helper.make_model(
        helper.make_graph([node], "op", inputs, outputs),
        functions=onnx_ops.functions({op.name}),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(spec.DOMAIN, spec.OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = {name: ort_value(array) for name, array in feed.items()}
    return [value.numpy() for value in session.run_with_ort_values(None, values)]


def ort_value(array: np.ndarray) -> ort.OrtValue:
    if array.dtype != ml_dtypes.float8_e4m3fn:
        return ort.OrtValue.ortvalue_from_numpy(array)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint8), TensorProto.FLOAT8E4M3FN)


def numbers(*shape: int, seed: int, dtype: type = np.float16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def root_mean_square(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("op", [spec.LINEAR, spec.LINEAR_GELU, spec.LINEAR_ADD], ids=lambda op: op.name)
def test_linear(op):
    feed = {"x": numbers(2, 3, 64, seed=1), "weight": numbers(48, 64, seed=2) / 8, "bias": numbers(48, seed=3)}
    if op is spec.LINEAR_ADD:
        feed["residual"] = numbers(2, 3, 48, seed=4)
    wide = {name: value.astype(np.float64) for name, value in feed.items()}
    expected = wide["x"] @ wide["weight"].T + wide["bias"]
    if op is spec.LINEAR_GELU:
        expected *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (expected + 0.044715 * expected**3)))
    expected += wide.get("residual", 0)
    (out,) = run(op, feed)
    assert out.dtype == np.float16
    np.testing.assert_allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE)


def rotation(*shape: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs of NormRotate for windows of that shape, and the angles of their table."""
    angles = np.random.default_rng(5).uniform(-3, 3, (*shape, 1, 64))
    feed = {
        "qkv": numbers(*shape, 3 * DIM, seed=6) * 3,
        "gain_q": numbers(DIM, seed=7, dtype=np.float32),
        "gain_k": numbers(DIM, seed=8, dtype=np.float32),
        "table": np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32),
    }
    return feed, angles


def test_norm_rotate():
    shape = (1, 2, 1, 128)
    feed, angles = rotation(*shape)
    got = run(spec.NORM_ROTATE, feed)
    parts = np.split(feed["qkv"].astype(np.float64), 3, axis=-1)
    for part, gain, out in zip(parts, ("gain_q", "gain_k"), got, strict=False):
        heads = (part / root_mean_square(part) * feed[gain]).reshape(*shape, HEADS, 64, 2)
        turned = (heads[..., 0] + 1j * heads[..., 1]) * np.exp(1j * angles)
        expected = np.stack([turned.real, turned.imag], axis=-1).reshape(part.shape)
        np.testing.assert_allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_array_equal(got[2], parts[2])


def test_layer_norm():
    feed = {"x": numbers(2, 3, 200, seed=15) * 3 + 5}
    (out,) = run(spec.LAYER_NORM, feed)
    x = feed["x"].astype(np.float64)
    expected = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_prompt_attention():
    feed = {
        "q": numbers(1, 1, 1, 128, DIM, seed=9) * 2,
        "gain": numbers(DIM, seed=10, dtype=np.float32),
        "k": numbers(128, DIM, seed=11),
        "v": numbers(128, DIM, seed=12),
    }
    (out,) = run(spec.PROMPT_ATTENTION, feed, heads=HEADS)
    q = feed["q"].astype(np.float64).reshape(128, DIM)
    q = (q / root_mean_square(q) * feed["gain"]).reshape(128, HEADS, 128)
    k, v = (feed[name].astype(np.float64).reshape(128, HEADS, 128) for name in "kv")
    scores = np.exp(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(128))
    expected = np.einsum("hqk,khd->qhd", scores / scores.sum(axis=-1, keepdims=True), v)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=TOLERANCE)


@pytest.mark.parametrize("bits", [8, 16])
def test_adapt_colours(bits):
    """Only the first rows and columns count, and come out."""
    feed = {
        "frames": numbers(2, 3, 10, 14, seed=13) / 3,
        "lq": np.random.default_rng(14).integers(0, 256, (2, 10, 14, 3), dtype=np.uint8),
        "size": np.array([7, 11]),
    }
    (out,) = run(spec.ADAPT_COLOURS if bits == 8 else spec.ADAPT_COLOURS_16, feed)
    x, target = feed["frames"].astype(np.float64)[:, :, :7, :11], feed["lq"][:, :7, :11] / 127.5 - 1
    target = target.transpose(0, 3, 1, 2)
    axes = {"axis": (2, 3), "keepdims": True}
    fixed = (x - x.mean(**axes)) * np.sqrt((target.var(**axes) + 1e-5) / (x.var(**axes) + 1e-5)) + target.mean(**axes)
    top = 2**bits - 1
    expected = np.trunc(np.clip((fixed + 1) * (top / 2), 0, top)).transpose(0, 2, 3, 1)
    assert out.dtype == f"uint{bits}"
    off = np.abs(out - expected)
    assert off.max() <= 1  # truncation of what float32 has rounded
    assert (off > 0).mean() < 0.02


@pytest.mark.parametrize("bits", [8, 16])
def test_graph_of_colours(weights, tmp_path, bits):
    name = f"post_adain{bits}"
    graph = bundle_module.graphs(weights.sizes, causal=True)[name]
    (made,) = bundle_module.post_steps({name: graph}, fused=True)
    path = written(made, tmp_path, "fp16")
    assert validate(made, path, "fp16").checked
    model = onnx.load(path, load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["AdaptColours" if bits == 8 else "AdaptColours16"]


# --- The LQ projector


def folded(x: np.ndarray) -> np.ndarray:
    """[2 + T, h, w, C] to [T / 2, h + 2, w + 2, 4 C], frame by frame."""
    every = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return np.stack([np.concatenate(list(every[t : t + 4]), axis=-1) for t in range(0, len(x) - 2, 2)])


def test_fold_frames():
    feed = {"x": numbers(4, 2, 3, 8, seed=16), "past": numbers(2, 2, 3, 8, seed=17)}
    (out,) = run(spec.FOLD_FRAMES, feed)
    np.testing.assert_array_equal(out, folded(np.concatenate([feed["past"], feed["x"]])))


def test_fold_pixels():
    random = np.random.default_rng(18)
    frames, past = (random.integers(0, 256, (n, 32, 48, 3), dtype=np.uint8) for n in (4, 2))
    (out,) = run(spec.FOLD_PIXELS, {"frames": frames, "past": past, "like": numbers(1, seed=0)})
    cells = np.concatenate([past, frames]).reshape(6, 2, 16, 3, 16, 3).transpose(0, 1, 3, 5, 2, 4)
    np.testing.assert_allclose(out, folded(cells.reshape(6, 2, 3, 768) / 127.5 - 1), atol=TOLERANCE)


def test_norm_silu():
    feed = {"x": numbers(1, 2, 3, 40, seed=19), "gain": numbers(40, seed=20, dtype=np.float32)}
    feed["x"][0, 0, 0] = 0  # has no direction
    (out,) = run(spec.NORM_SILU, feed)
    x = feed["x"].astype(np.float64)
    normal = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) * 40**0.5 * feed["gain"]
    np.testing.assert_allclose(out, normal / (1 + np.exp(-normal)), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["lq_proj", "lq_proj_first"])
def test_projector_is_the_plain_one(weights, name):
    graph = bundle_module.graphs(weights.sizes, causal=True)[name]
    inputs = random_inputs(graph, "fp32", {"H": 128, "W": 256}, seed=5)
    results = [kind.of(weights.lq_proj, causal=True)(*inputs) for kind in (LqProj, FusedLqProj)]
    assert len(results[0]) == len(results[1]) == len(graph.outputs)
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["lq_proj", "lq_proj_first"])
def test_graph_of_the_projector(weights, tmp_path, name):
    module = FusedLqProj.of(weights.lq_proj, causal=True, dtype=torch.float16)
    graph = bundle_module.graphs(weights.sizes, causal=True)[name]
    made = Step(graph=graph, module=module, file="w.bin")
    path = written(made, tmp_path, "fp16")
    assert validate(made, path, "fp16").checked
    model = onnx.load(path, load_external_data=False)
    kinds = [node.op_type for node in model.graph.node]
    once = ["FoldPixels", "Transpose", "Conv", "Transpose", "NormSilu"]
    assert [kind for kind in kinds if kind in (*once, "FoldFrames", "Linear", "Pad", "Cast")] == (
        [*once, "Transpose"]
        if name == "lq_proj_first"
        else [*once, "Transpose", "FoldFrames", *once[1:], "Linear", "Transpose"]
    )


def test_projectors_that_the_kernels_take(weights):
    sizes = LqSizes(hidden=(2048, 3072), dim=1536)
    assert fused_lq.fits(sizes, causal=True)
    assert not fused_lq.fits(sizes, causal=False)
    assert not fused_lq.fits(replace(sizes, hidden=(2048, 4096)), causal=True)


# --- a DiT of them


@pytest.fixture(scope="module")
def weights():
    """A prompt of a whole window of keys, which the fused attention takes."""
    return random_weights(replace(bundles.TINY, prompt_tokens=128), 0)


def step(weights, name: str, dtype: torch.dtype) -> Step:
    module = Dit.of(weights.dit, weights.prompt, dtype=dtype, ops=FUSED)
    graph = bundle_module.graphs(weights.sizes, causal=True)[name]
    return Step(graph=graph, module=module, file="w.bin")


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_graph_of_fused_ops(weights, tmp_path, precision, dtype):
    made = step(weights, "dit", dtype)
    path = written(made, tmp_path, precision)
    assert validate(made, path, precision).checked == (precision == "fp16")
    model = onnx.load(path, load_external_data=False)
    kinds = [node.op_type for node in model.graph.node if node.domain == spec.DOMAIN]
    assert kinds == [
        "LayerNorm", "Linear", "NormRotate", "BlockSparseAttention", "LinearAdd",
        "LayerNorm", "Linear", "PromptAttention", "LinearAdd", "LayerNorm", "LinearGelu", "LinearAdd",
    ]  # fmt: skip
    (last,) = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    assert initializers[last.input[1]].data_type == TensorProto.FLOAT


def test_fused_is_plain(weights):
    graph = bundle_module.graphs(weights.sizes, causal=True)["dit"]
    inputs = random_inputs(graph, "fp32", {"H": 128, "W": 256, "ring": 4, "slabs": 3, "T": 8}, seed=3)
    results = [Dit.of(weights.dit, weights.prompt, ops=ops)(*inputs) for ops in (PLAIN, FUSED)]
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, atol=2e-5, rtol=2e-5)  # sums in another order


def test_prompts_of_other_lengths_are_attended_to_plainly():
    assert for_prompt(FUSED, 512) is FUSED
    assert for_prompt(FUSED, 8).by_head
    assert for_prompt(FUSED, 8).linear is FUSED.linear
    assert for_prompt(PLAIN, 512) is PLAIN


def test_not_in_float32():
    with pytest.raises(UsageError, match="fp32"):
        bundle_module.Options(precision="fp32", fused=True)


# --- The decoder of fused convolutions


@pytest.fixture(scope="module")
def decoder_weights():
    """Channels that the kernel takes."""
    config = replace(bundles.TINY, tc=TcSizes(channels=(128, 128, 128, 128)))
    return random_weights(config, 0, dtype=torch.float32)


def test_decoder_is_the_plain_one(decoder_weights):
    graph = bundle_module.graphs(decoder_weights.sizes, causal=True)["tc_decoder"]
    inputs = random_inputs(graph, "fp32", {"H": 128, "W": 128, "T": 8}, seed=4)
    plain = TcDecoder.of(decoder_weights.tc_decoder)(*inputs)
    fused = FusedTcDecoder.of(decoder_weights.tc_decoder)(*inputs)
    for a, b in zip(plain, fused, strict=True):
        # Sums in another order over 35 layers, and weights that were summed beforehand.
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)


def test_graph_of_the_decoder(decoder_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(validate_module, "CANVASES", validate_module.CANVASES[:1])  # 0.1 TFLOP are enough
    module = FusedTcDecoder.of(decoder_weights.tc_decoder, dtype=torch.float16)
    graph = bundle_module.graphs(decoder_weights.sizes, causal=True)["tc_decoder"]
    made = Step(graph=graph, module=module, file="w.bin")
    path = written(made, tmp_path, "fp16")
    assert validate(made, path, "fp16").checked
    model = onnx.load(path, load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node if node.domain == spec.DOMAIN)
    frames = 4  # at half size: at full size one after the other
    kept = {"Convolve": 11 + frames, "ConvolvePast": 9, "ConvolveAdd": 9, "ConvolveUp": 2, "ConvolveUpRelu": frames}
    assert kinds == kept | {"ConvolveColours": frames, "LastPlanes": 9}
    assert not [node for node in model.graph.node if node.op_type in ("Conv", "Gather")]


def test_sizes_that_the_kernel_takes():
    assert fits(TcSizes(channels=(512, 256, 128, 128)))
    assert not fits(TcSizes(channels=(128, 96, 32, 32)))
    assert not fits(TcSizes(channels=(512, 512, 512, 512)))
