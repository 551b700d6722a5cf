"""Does an exported graph compute what its torch module computes? ONNX Runtime against torch, canvas by canvas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from flashvsr_trt.configs.contract import Graph, Tensor, evaluate_shape
from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.configs.manifest import DTYPES
from flashvsr_trt.export.to_onnx import Step

# Canvas that is neither square nor of the traced size; the smallest one, where every window axis is 1.
CANVASES = (
    {"H": 128, "W": 128, "ring": 3, "slabs": 2, "T": 3},
    {"H": 128, "W": 384, "ring": 4, "slabs": 3, "T": 8},
)
_ERRORS = 3  # of ONNX Runtime's log levels
TOPK = 5  # keeps some blocks and drops some on every canvas above


@dataclass(frozen=True)
class Tolerance:
    """Largest |onnx - torch| / (1 + |torch|) of a graph, and why it is not smaller."""

    value: float
    reason: str


_ORDER = "the sums run in another order"
_ROUND = "16-bit rounding at each layer, at other places"
TOLERANCES = {
    ("lq_proj_first", "fp32"): Tolerance(2e-5, _ORDER),
    ("lq_proj", "fp32"): Tolerance(2e-5, _ORDER),
    ("dit_first", "fp32"): Tolerance(1e-4, f"{_ORDER}, over all layers"),
    ("dit", "fp32"): Tolerance(1e-4, f"{_ORDER}, over all layers"),
    ("tc_decoder", "fp32"): Tolerance(1e-4, f"{_ORDER}, over 35 convolutions"),
    ("vae_decoder_first", "fp32"): Tolerance(1e-4, f"{_ORDER}, over 37 convolutions"),
    ("vae_decoder", "fp32"): Tolerance(1e-4, f"{_ORDER}, over 37 convolutions"),
    ("lq_proj_first", "fp16"): Tolerance(5e-3, _ROUND),
    ("lq_proj", "fp16"): Tolerance(5e-3, _ROUND),
    # Grows by about 1e-3 a layer: 3.3e-2 for the 30 of the real size. A wrong graph is off by 1 and more.
    ("dit_first", "fp16"): Tolerance(6e-2, f"{_ROUND}; a block of a tied score may flip"),
    ("dit", "fp16"): Tolerance(6e-2, f"{_ROUND}; a block of a tied score may flip"),
    ("tc_decoder", "fp16"): Tolerance(3e-2, _ROUND),
    ("vae_decoder_first", "fp16"): Tolerance(5e-2, _ROUND),
    ("vae_decoder", "fp16"): Tolerance(5e-2, _ROUND),
}
INTEGERS = Tolerance(1.0, "truncation to an integer falls either way where the value is within rounding of one")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The largest error of one graph over its outputs and canvases."""

    graph: str
    error: float
    tolerance: Tolerance
    checked: bool  # False: only loaded and its shapes inferred

    def __str__(self) -> str:
        if not self.checked:
            return f"{self.graph}: valid ONNX, not run (ONNX Runtime has no CPU kernels for bfloat16)"
        return f"{self.graph}: error {self.error:.1e}, allowed {self.tolerance.value:.0e} ({self.tolerance.reason})"


def validate(step: Step, path: Path, precision: str, seed: int = 0) -> Result:
    """Compares a written graph with its module on random inputs.

    Raises:
        FlashVSRError: the graph disagrees with the module, or does not load.
    """
    onnx.checker.check_model(str(path))
    onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), check_type=True, strict_mode=True)
    tolerance = TOLERANCES.get((step.graph.name, precision), INTEGERS)
    if precision == "bf16":
        return Result(graph=step.graph.name, error=0.0, tolerance=tolerance, checked=False)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of all weights
    options.log_severity_level = _ERRORS  # it warns of every operator that it computes in a wider type
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    error = max(_error(step, session, precision, symbols, seed) for symbols in CANVASES)
    result = Result(graph=step.graph.name, error=error, tolerance=tolerance, checked=True)
    if not error <= tolerance.value:  # also true for NaN
        raise FlashVSRError(
            f"{path}: differs from the torch module by {error:.2e}",
            expected=f"at most {tolerance.value:.0e}",
            todo="this is a fault of the exporter or of a library version: report it with the versions in use",
        )
    return result


def random_inputs(graph: Graph, precision: str, symbols: dict[str, int], seed: int) -> tuple[torch.Tensor, ...]:
    """Inputs of a graph: normal floats, uniform pixels, valid slots, sizes inside the canvas."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_random(tensor, precision, symbols, generator) for tensor in graph.inputs)


def _random(tensor: Tensor, precision: str, symbols: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = evaluate_shape(tensor.shape, symbols)
    if tensor.dtype == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if tensor.name == "size":
        return torch.tensor([symbols["H"] - 3, symbols["W"] - 50])
    if tensor.name == "topk":
        return torch.tensor(TOPK)
    if tensor.name == "slabs":
        return torch.randperm(symbols["ring"], generator=generator)[: shape[0]]
    values = torch.randn(shape, generator=generator)
    if tensor.name.startswith("rope"):
        angle = values[..., :1]
        values = torch.cat([angle.cos(), angle.sin()], dim=-1)
    return values.to(getattr(torch, DTYPES[precision] if tensor.dtype == "f" else tensor.dtype))


@torch.no_grad()
def _error(step: Step, session: ort.InferenceSession, precision: str, symbols: dict[str, int], seed: int) -> float:
    inputs = random_inputs(step.graph, precision, symbols, seed)
    with _WideSums():
        wanted = step.module(*inputs)
    feed = {tensor.name: value.numpy() for tensor, value in zip(step.graph.inputs, inputs, strict=True)}
    names = [tensor.name for tensor in step.graph.outputs]
    got = session.run(names, feed)
    wanted = (wanted,) if isinstance(wanted, torch.Tensor) else wanted
    return max(_distance(a, b.numpy()) for a, b in zip(got, wanted, strict=True))


_WIDE = (F.linear, torch.conv2d, torch.conv3d, torch.matmul, torch.Tensor.matmul, F.scaled_dot_product_attention)


class _WideSums(TorchFunctionMode):
    """Sums of 16-bit products in fp32, rounded to 16 bits: of its own 16-bit ones on CPUs torch has only slow forms."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in _WIDE:
            return func(*args, **kwargs)
        wide = (value.float() if isinstance(value, torch.Tensor) else value for value in args)
        return func(*wide, **kwargs).to(args[0].dtype)


def _distance(got: np.ndarray, wanted: np.ndarray) -> float:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise FlashVSRError(
            f"ONNX Runtime gave {got.dtype}{list(got.shape)}",
            expected=f"{wanted.dtype}{list(wanted.shape)} as torch",
        )
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    scale = 1.0 if got.dtype.kind == "u" else 1 + np.abs(b)
    return float(np.max(np.abs(a - b) / scale))
