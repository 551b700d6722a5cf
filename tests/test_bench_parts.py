"""Parts of `bench`: the matrix product's model and rate, random bundles in the cache."""

import onnx
import pytest
from onnx import TensorProto

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime import matrix_rate as module
from flashvsr_trt.runtime.backends.onnxruntime import ONNX_TYPES, OrtCpu
from flashvsr_trt.runtime.commands import random_bundle as bundles
from flashvsr_trt.runtime.commands.bench import Watch
from flashvsr_trt.runtime.commands.bench_text import as_text


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_model_of_the_product(dtype):
    model = onnx.load_from_string(module.product_model(ONNX_TYPES[dtype]))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    kinds = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert kinds == {getattr(TensorProto, dtype.upper().replace("FLOAT32", "FLOAT"))}


def test_rate_of_the_product(monkeypatch):
    monkeypatch.setattr(module, "_SIDE", {False: 128})
    backend = OrtCpu(1)
    assert 1e8 < module.matrix_rate(backend, "float32") < 1e13
    assert not backend.seconds  # it leaves no trace among the graphs


def test_bfloat16_numbers_are_cut_floats():
    bits = module._random((4, 4), "bfloat16", seed=1)
    floats = module._random((4, 4), "float32", seed=1)
    assert (abs((bits.astype("u4") << 16).view("f4") - floats) <= abs(floats) / 128).all()


def test_random_bundle_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path))
    made = []

    def export(weights, folder, options, overwrite):
        made.append((folder, options.precision))

    monkeypatch.setattr("flashvsr_trt.export.bundle.export_bundle", export)
    folder = bundles.random_bundle("small", "fp32")
    assert folder.is_relative_to(tmp_path)
    monkeypatch.setattr(bundles.manifests, "load", lambda folder: None)
    assert bundles.random_bundle("small", "fp32") == folder
    assert made == [(folder, "fp32")]


def test_without_torch_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "flashvsr_trt.export.bundle", None)
    with pytest.raises(UsageError, match="export"):
        bundles.random_bundle("small", "fp32")


@pytest.mark.parametrize(("in_segments", "speed"), [(False, 10.0), (True, 32 / (3.2 - 0.42))])
def test_steady_speed_is_that_of_steps_not_of_the_encoder(monkeypatch, in_segments, speed):
    """Steps of 0.8 s; the 21 frames of the start leave slowly, those of later steps at once."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    watch = Watch(OrtCpu(1), 21, in_segments)
    for upscaled in range(1, 21 + 4 * 8 + 1):
        step = max(0, (upscaled - 22) // 8 + 1)
        now[0] = 0.8 * step + (0.02 * upscaled if step == 0 else 0.3 if (upscaled - 21) % 8 == 0 and step < 4 else 0.0)
        watch.frame(upscaled)
    measured, _ = watch.steady()
    assert measured == pytest.approx(speed)


def test_text_of_a_run_on_a_gpu():
    run = {
        "date": "2026-01-01", "machine": {"cpu": "x"}, "gpus": ["G"], "versions": {"a": "1"}, "backend": "b",
        "bundle": "seeded v1.1 fp16", "bundle_identity": "0" * 64, "source": "s", "output": [1408, 768],
        "canvas": [1408, 768], "frames": 96, "variant": "long", "sparse_ratio": 2.0, "fps": 70.0, "seconds": 2.0,
        "fps_steady": 75.0, "ms_per_step": {"dit": 70.0}, "ms_start": {}, "stages": {"decode": 0.1},
        "runtime_share": 0.01, "peak_rss": 2**30, "predicted": 2**30, "peak_device": 11 * 2**30,
        "predicted_device": 12 * 2**30,
        "transfers": {"upload": {"seconds": 0.02, "bytes": 2**28}}, "matrix_tflops": 780.0,
        "graphs": {"dit": {"tflop": 45.8, "limit_ms": 58.7, "tflops": 654.0, "of_matrix": 0.838}},
        "attention": {
            "selection_ms": 0.07, "block_sparse_attention_ms": 1.17, "attention_tflops": 683.0, "density": 0.45,
        },
    }  # fmt: skip
    text = as_text(run | {"growth": [run, run | {"frames": 384, "fps_steady": None}]})
    for part in ("11.0 GiB", "83.8 %", "683 TFLOP/s", "256 MiB", "   384"):
        assert part in text
