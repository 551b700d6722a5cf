"""A fused fp16 bundle to one whose DiT multiplies in float8 (E4M3): weights and their inputs in 8 bits, sums in 32.

Each matrix product has two scales: the weight's, of its largest number, and its input's, of the largest number that a
calibration saw there (Micikevicius et al. 2022, "FP8 formats for deep learning"). What is beyond it saturates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.export.bundle import files_of
from flashvsr_trt.export.external import WeightFiles, write_graph
from flashvsr_trt.export.folder import new_folder
from flashvsr_trt.export.to_onnx import add_functions
from flashvsr_trt.plugins_trt import spec

GRAPHS = ("dit_first", "dit")
LARGEST = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
SMALLEST = 2.0**-14  # of what a scale is made of: an input that is always 0 has one too
MULTIPLE = 16  # that both sides of a matrix must be of
EIGHTHS = {op.name: eighth.name for op, eighth in (
    (spec.LINEAR, spec.LINEAR8), (spec.LINEAR_GELU, spec.LINEAR_GELU8), (spec.LINEAR_ADD, spec.LINEAR_ADD8)
)}  # fmt: skip
SEEN = "largest."  # begins the name of an output that `watched` adds


def watched(path: Path) -> bytes:
    """The graph at `path` with an output more for each of its products, "largest.WEIGHT": the largest |x|, a scalar.

    Raises:
        BundleError: it has no such product.
    """
    model = onnx.load(path, load_external_data=False)
    for node in list(model.graph.node):
        if not _is_product(node.domain, node.op_type):
            continue
        name = SEEN + node.input[1]
        model.graph.node.append(helper.make_node("Cast", [node.input[0]], [f"{name}.float32"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("Abs", [f"{name}.float32"], [f"{name}.size"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{name}.size"], [name], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    if not any(value.name.startswith(SEEN) for value in model.graph.output):
        raise BundleError(
            f"{path} has no fused products", expected="a bundle of --fused", todo="export it with --fused"
        )
    return model.SerializeToString()


def to_float8(
    bundle: Path,
    out: Path,
    largest: Mapping[str, float],
    *,
    about: str,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Writes the bundle `out`.

    Args:
        bundle: a fused one of fp16.
        largest: of each product's weight, by name, the largest input seen.
        about: what the manifest says of the calibration, behind what it says of the weights.
        overwrite, report: as of `bundle.write_bundle`.

    Returns:
        The manifest as written.

    Raises:
        BundleError: `bundle` is not of fp16, or was not what `largest` was seen in.
        OutputExists, WriteError: as of `bundle.write_bundle`.
    """
    manifest = check_source(bundle)
    with new_folder(out, overwrite=overwrite) as part:
        files = WeightFiles(part)
        for path in sorted(bundle.glob("*.onnx"), key=lambda path: (path.stem.removesuffix("_first"), path.stem)):
            model = ir.load(path)
            changed = _change(model, largest, path) if path.stem in GRAPHS else 0
            model.metadata_props["flashvsr.precision"] = "fp8"
            files.externalize(model, _file_of(path.stem))
            files.flush()
            write_graph(model, part / path.name)
            if path.stem in GRAPHS:
                _check(part / path.name)
                report(f"{path.stem}: {changed} of {len(largest)} matrix products in float8")
        files.close()
        made = replace(manifest, precision="fp8", about=f"{manifest.about}; {about}", files=files_of(part))
        manifests.save(made, part)
    return made


def check_source(bundle: Path) -> Manifest:
    """The manifest of a bundle that can become one of FP8; BundleError where it cannot for its type."""
    manifest = manifests.load(bundle)
    if manifest.precision != "fp16":
        raise BundleError(f"{bundle} is of {manifest.precision}", expected="fp16", todo="export one with --fused")
    return manifest


def scale_of(largest: float) -> np.float32:
    """What one of float8 stands for where the largest number is `largest`."""
    return np.float32(max(largest, SMALLEST) / LARGEST)


def _is_product(domain: str, kind: str) -> bool:
    return domain == spec.DOMAIN and kind in EIGHTHS


def _file_of(graph: str) -> str:
    return f"{'post' if graph.startswith('post_') else graph.removesuffix('_first')}.bin"


def _change(model: ir.Model, largest: Mapping[str, float], path: Path) -> int:
    """Its products to those of float8; how many. One whose matrix has other sides than multiples of 16 stays."""
    changed = 0
    for node in model.graph:
        if not _is_product(node.domain, node.op_type):
            continue
        weight = node.inputs[1]
        tensor = weight.const_value if weight is not None else None
        if weight is None or tensor is None or weight.name not in largest:
            raise BundleError(f"{path}: product {node.name} was not calibrated", todo="calibrate this bundle itself")
        if any(side % MULTIPLE for side in tensor.shape.numpy()):
            continue
        eighth, scales = _eighth(model, weight.name, tensor, largest[weight.name])
        x, _, bias, *residual = node.inputs
        inputs = [x, eighth, bias, scales, *residual]
        node.op_type = EIGHTHS[node.op_type]
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
        changed += 1
    if not changed:
        raise BundleError(
            f"{path}: no product can be in float8", expected=f"matrices whose sides are multiples of {MULTIPLE}"
        )
    for value in list(model.graph.initializers.values()):
        if not value.uses():
            del model.graph.initializers[str(value.name)]
    add_functions(model)
    return changed


def _eighth(model: ir.Model, name: str, tensor: ir.TensorProtocol, seen: float) -> tuple[ir.Value, ir.Value]:
    """Initializers of a weight in float8 and of both scales."""
    full = tensor.numpy().astype(np.float32)  # [N, K]
    scale = scale_of(float(np.abs(full).max()))
    rounded = (full / scale).clip(-LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    scales = np.array([scale_of(seen), scale], np.float32)
    return _initializer(model, f"{name}.float8", rounded), _initializer(model, f"{name}.scales", scales)


def _initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _check(path: Path) -> None:
    """That it is valid and loads."""
    onnx.checker.check_model(str(path))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else it widens all weights
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
