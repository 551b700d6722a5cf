"""Graphs as TensorRT gets them: against the graphs as exported, on ONNX Runtime and number by number."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.engines import prepare as preparing


def test_fp8_weights_are_the_weights(seeded_bundle_fp16):
    """To within FP8's rounding: 3 bits of mantissa, so 1/16 of a number, or 2^-10 of its column's largest; where a
    whole column is next to nothing, the least number of fp16."""
    import onnx
    from onnx import numpy_helper

    path = seeded_bundle_fp16 / "dit.onnx"
    model = preparing.prepare(path, "fp16", weights="fp8")
    arrays = {t.name: t for t in model.graph.initializer}
    before = {t.name: t for t in onnx.load(path, load_external_data=False).graph.initializer}
    steps = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(steps) == 6  # q, k and v in one, o, cross q and o, two of the MLP
    for node in steps:
        name = node.input[0].removesuffix(".fp8")
        assert name not in arrays
        full = numpy_helper.to_array(before[name], base_dir=str(seeded_bundle_fp16)).astype(np.float32)
        eighth = numpy_helper.to_array(arrays[node.input[0]]).astype(np.float32)
        scale = numpy_helper.to_array(arrays[node.input[1]]).astype(np.float32)
        error = np.abs(eighth * scale - full)
        allowed = np.maximum(np.abs(full) / 16, np.abs(full).max(axis=0) * 2**-10) * 1.01
        assert (error <= np.maximum(allowed, 2**-24)).all()


@pytest.mark.parametrize(
    "name", ["lq_proj_first", "lq_proj", "post_adain8", "post_adain16", "post_wavelet16", "tc_decoder"]
)
def test_prepared_graph_gives_the_same_bits(tmp_path, seeded_bundle_fp16, name):
    """Against the graph as exported, on ONNX Runtime: what `prepare` changes is exact."""
    import onnxruntime as ort

    graph = manifests.load(seeded_bundle_fp16).graphs[name]
    for path in seeded_bundle_fp16.glob("*.bin"):  # ONNX Runtime does not follow links out of the folder
        shutil.copy(path, tmp_path)
    prepared = tmp_path / f"{name}.onnx"
    prepared.write_bytes(preparing.prepare(seeded_bundle_fp16 / f"{name}.onnx", "fp16").SerializeToString())
    sides = {"H": 128, "W": 256, "T": 3, "ring": 4, "slabs": 3}
    random = np.random.default_rng(0)

    def draw(tensor):
        if tensor.name == "size":
            return np.array([120, 250])
        shape = shape_of(tensor.shape, sides)
        if tensor.dtype == "uint8":
            return random.integers(0, 256, shape, dtype=np.uint8)
        return random.standard_normal(shape).astype(np.float16)

    feed = {tensor.name: draw(tensor) for tensor in graph.inputs}
    before, after = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)
        for path in (seeded_bundle_fp16 / f"{name}.onnx", prepared)
    )
    for tensor, one, other in zip(graph.outputs, before, after, strict=True):
        if tensor.dtype == "uint16":
            assert other.dtype == np.uint8
            other = other.view("<u2")[..., 0]
        np.testing.assert_array_equal(one, other, err_msg=tensor.name)


def shape_of(shape, sides):
    """A symbolic shape, read independently of the contract's own reader."""
    parts = [str(dim).partition("/") for dim in shape]
    return tuple(sides[name] // int(by or 1) if name in sides else int(name) for name, _, by in parts)
