"""The rate of a large matrix product on a back end: the ceiling that networks' rates are compared with."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np

from flashvsr_trt.configs.contract import Graph, Tensor
from flashvsr_trt.runtime.backends.base import ITEM_BYTES, Backend
from flashvsr_trt.runtime.backends.onnxruntime import ONNX_TYPES

_SIDE = {True: 8192, False: 1024}  # of the square matrices, by whether the back end is a GPU's
_RUNS = 12
_WARM = 3
_OPSET = 20


def matrix_rate(backend: Backend, dtype: str) -> float:
    """Operations a second of a square matrix product in `dtype` (float32, float16 or bfloat16): the median of 9.

    Random numbers: a product of zeros runs faster than real ones do.
    """
    side = _SIDE[backend.asynchronous]
    shape = (side, side)
    graph = Graph(
        name="matrix_rate",
        inputs=(Tensor(name="a", dtype=dtype, shape=shape), Tensor(name="b", dtype=dtype, shape=shape)),
        outputs=(Tensor(name="c", dtype=dtype, shape=shape),),
    )
    buffers = {name: backend.allocate(shape, dtype) for name in "abc"}
    for name in "ab":
        backend.upload(_random(shape, dtype, seed=ord(name)), buffers[name])
    with tempfile.TemporaryDirectory(prefix="flashvsr_rate_") as folder:
        path = Path(folder) / "matrix_rate.onnx"
        path.write_bytes(product_model(ONNX_TYPES[dtype]))
        step = backend.load(path, graph)
    seconds = []
    for _ in range(_RUNS):
        before = backend.seconds.get(graph.name, 0.0)
        step.run({"a": buffers["a"], "b": buffers["b"]}, {"c": buffers["c"]})
        backend.download(buffers["c"].slots(0, 1))  # waits
        seconds.append(backend.seconds[graph.name] - before)
    del backend.seconds[graph.name]
    return 2.0 * side**3 / statistics.median(seconds[_WARM:])


def _random(shape: tuple[int, int], dtype: str, seed: int) -> np.ndarray:
    numbers = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    if dtype == "bfloat16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)  # its upper half, as numpy has no such type
    return numbers.astype(f"f{ITEM_BYTES[dtype]}")


def product_model(element: int) -> bytes:
    """The ONNX model c = a b of two matrices of the element type; written out here, for the runtime has no onnx."""
    matrix = _message(1, _number(1, element) + _message(2, _message(1, b"") * 2))  # any sizes
    values = {name: _text(1, name) + _message(2, matrix) for name in "abc"}
    node = _text(1, "a") + _text(1, "b") + _text(2, "c") + _text(4, "MatMul")
    graph = _message(1, node) + _text(2, "matrix_rate")
    graph += _message(11, values["a"]) + _message(11, values["b"]) + _message(12, values["c"])
    return _number(1, 10) + _message(7, graph) + _message(8, _number(2, _OPSET))


def _number(field: int, value: int) -> bytes:
    """Protocol buffers: a field with a number below 128."""
    return bytes((field << 3, value))


def _message(field: int, content: bytes) -> bytes:
    """Protocol buffers: a field with bytes."""
    size, count = b"", len(content)
    while count > 127:
        size += bytes((count & 127 | 128,))
        count >>= 7
    return bytes((field << 3 | 2,)) + size + bytes((count,)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
