"""A fused fp16 bundle to one whose DiT and LQ projector multiply in float8 (E4M3): weights, their inputs, and the
attention's queries, keys and values in 8 bits, sums in more: on Hopper about 13 bits of mantissa. The KV ring has half
the size.

Each matrix product and convolution has two scales: its weight's, of the largest number, and its input's, of the largest
number that a calibration saw there (Micikevicius et al. 2022, "FP8 formats for deep learning"). Each attention has
three, of what the calibration saw of its queries, keys and values. What is beyond them saturates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import WINDOW, in_float8, kv_name
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.export.bundle import files_of
from flashvsr_trt.export.external import WeightFiles, write_graph
from flashvsr_trt.export.float8_parts import become, eighth, initializer, rounding_of, scale_of
from flashvsr_trt.export.float8_projector import change_convolution, convolution_fits, kernel_takes
from flashvsr_trt.export.folder import new_folder
from flashvsr_trt.export.onnx_ops import PLUGIN
from flashvsr_trt.export.to_onnx import add_functions
from flashvsr_trt.plugins_trt import spec

GRAPHS = ("dit_first", "dit")
PROJECTOR = ("lq_proj_first", "lq_proj")
MULTIPLE = 16  # that both sides of a matrix must be of
APART = 4  # numbers from one scale of a product to the next: cuBLASLt wants them 16 bytes apart
EIGHTHS = {op.name: eighth.name for op, eighth in (
    (spec.LINEAR, spec.LINEAR8), (spec.LINEAR_GELU, spec.LINEAR_GELU8), (spec.LINEAR_ADD, spec.LINEAR_ADD8)
)}  # fmt: skip
SEEN = "largest."  # begins the name of an output that `watched` adds


def watched(path: Path) -> bytes:
    """The graph at `path` with an output more for each number that `to_float8` asks for, "largest.NAME": a scalar.

    Raises:
        BundleError: it has no fused products.
    """
    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if path.stem in GRAPHS and node.domain == spec.DOMAIN and node.op_type in EIGHTHS:
            _watch(model, node.input[0], node.input[1])
        elif node.domain == spec.DOMAIN and node.op_type == spec.NORM_ROTATE.name:
            for kind, value in zip("qkv", node.output, strict=True):
                _watch(model, value, _attention_name(kind, node.output[1]))
        elif node.op_type == "Conv" and kernel_takes(weights.get(node.input[1], ())):
            _watch(model, node.input[0], node.input[1])
    if path.stem in GRAPHS and not any(value.name.startswith(SEEN) for value in model.graph.output):
        raise BundleError(
            f"{path} has no fused products", expected="a bundle of --fused", todo="export it with --fused"
        )
    return model.SerializeToString()


def _watch(model: onnx.ModelProto, value: str, what: str) -> None:
    name = SEEN + what
    model.graph.node.append(helper.make_node("Cast", [value], [f"{name}.float32"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Abs", [f"{name}.float32"], [f"{name}.size"]))
    model.graph.node.append(helper.make_node("ReduceMax", [f"{name}.size"], [name], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))


def _attention_name(kind: str, keys: str) -> str:
    """`q.3`, `k.3` or `v.3` of the attention whose keys are the output `k_new.3`."""
    return f"{kind}.{keys.removeprefix(kv_name('k', 0, new=True).removesuffix('0'))}"


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
        largest: of each product's and convolution's weight, by name, the largest input seen; of each layer's
            attention, by `q.LAYER`, `k.LAYER` and `v.LAYER`, the largest query, key and value. Sizes, without sign.
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
            changed = _change(model, largest, path) if path.stem in GRAPHS + PROJECTOR else 0
            model.metadata_props["flashvsr.precision"] = "fp8"
            files.externalize(model, _file_of(path.stem))
            files.flush()
            write_graph(model, part / path.name)
            if path.stem in GRAPHS + PROJECTOR:
                _check(part / path.name)
                report(f"{path.stem}: {changed} matrix products, convolutions and attention operands in float8")
        files.close()
        graphs = {name: in_float8(graph) if name in GRAPHS else graph for name, graph in manifest.graphs.items()}
        about = f"{manifest.about}; {about}"
        made = replace(manifest, precision="fp8", about=about, graphs=graphs, files=files_of(part))
        manifests.save(made, part)
    return made


def check_source(bundle: Path) -> Manifest:
    """The manifest of a bundle that can become one of FP8; BundleError where it cannot for its type."""
    manifest = manifests.load(bundle)
    if manifest.precision != "fp16":
        raise BundleError(f"{bundle} is of {manifest.precision}", expected="fp16", todo="export one with --fused")
    return manifest


def _file_of(graph: str) -> str:
    return f"{'post' if graph.startswith('post_') else graph.removesuffix('_first')}.bin"


def _change(model: ir.Model, largest: Mapping[str, float], path: Path) -> int:
    """Its products, convolutions and attentions to those of float8; how many of them, and operands, it changed."""

    def seen(name: str) -> float:
        if name not in largest:
            raise BundleError(f"{path}: {name} was not calibrated", todo="calibrate this bundle itself")
        return largest[name]

    if path.stem in PROJECTOR:
        convolutions = [node for node in model.graph if node.op_type == "Conv" and convolution_fits(node)]
        for node in convolutions:
            change_convolution(model, node, seen)
        return _changed(model, len(convolutions))
    products = [node for node in model.graph if _is_product(node) and _fits(node)]
    if not products:
        raise BundleError(
            f"{path}: no product can be in float8", expected=f"matrices whose sides are multiples of {MULTIPLE}"
        )
    for node in reversed(products):  # what makes the x of one gives float8 itself, if it can
        _change_product(model, node, seen, products)
    changed = len(products)
    for node in model.graph:
        if node.domain == spec.DOMAIN and node.op_type == spec.BLOCK_SPARSE_ATTENTION.name:
            changed += _change_attention(model, node, seen)
    return _changed(model, changed)


def _changed(model: ir.Model, count: int) -> int:
    """Takes out what nobody uses now, puts in the new ops' bodies; `count`."""
    for value in list(model.graph.initializers.values()):
        if not value.uses():
            del model.graph.initializers[str(value.name)]
    add_functions(model)
    return count


def _is_product(node: ir.Node) -> bool:
    return node.domain == spec.DOMAIN and node.op_type in EIGHTHS


def _fits(node: ir.Node) -> bool:
    """Whether both sides of its matrix are multiples of 16; and whether who takes its GELU takes float8."""
    weight = node.inputs[1]
    if weight is None or weight.const_value is None:
        raise BundleError(f"product {node.name} has no constant weight", todo="export the bundle again")
    if any(side % MULTIPLE for side in weight.const_value.shape.numpy()):
        return False
    if node.op_type != spec.LINEAR_GELU.name:
        return True
    takers = [use.node for use in node.outputs[0].uses()]
    if node.outputs[0].is_graph_output() or len(takers) != 1:
        return False
    return _is_product(takers[0]) and takers[0].inputs[0] is node.outputs[0] and _fits(takers[0])


def _change_product(model: ir.Model, node: ir.Node, seen: Callable[[str], float], chosen: Collection[ir.Node]) -> None:
    x, weight, bias, *residual = node.inputs
    if x is None or weight is None or weight.const_value is None:
        raise BundleError(f"product {node.name} has no x or no constant weight", todo="export the bundle again")
    name = str(weight.name)
    rounded, of_weight = eighth(model, name, weight.const_value.numpy().astype(np.float32))
    unit = scale_of(seen(name))
    scales = [[unit] * APART, [of_weight] * APART]
    if node.op_type == spec.LINEAR_GELU.name:
        taker = next(iter(node.outputs[0].uses())).node.inputs[1]
        taken = str(taker.name).removesuffix(".float8") if taker is not None else ""
        result = scale_of(seen(taken))
        scales.append([np.float32(1 / result), *[result] * (APART - 1)])
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    apart = initializer(model, f"{name}.scales", np.array(scales, np.float32))
    x = _in_float8(model, node, x, name, unit, chosen)
    become(node, EIGHTHS[node.op_type], [x, rounded, bias, apart, *residual])


def _in_float8(
    model: ir.Model, node: ir.Node, x: ir.Value, name: str, unit: np.float32, chosen: Collection[ir.Node]
) -> ir.Value:
    """x rounded: by the layer norm or the GELU that makes it, where nobody else takes it, else by a node of its own."""
    maker = x.producer()
    alone = len(list(x.uses())) == 1 and not x.is_graph_output()
    kind = maker.op_type if maker is not None and maker.domain == spec.DOMAIN and alone else ""
    if kind == spec.LINEAR_GELU.name and maker in chosen:
        return x  # becomes one of float8 in its turn
    of_one = initializer(model, f"{name}.unit", np.array([unit]))
    if maker is not None and kind == spec.LAYER_NORM.name:
        become(maker, spec.LAYER_NORM8.name, [*maker.inputs, of_one])
        x.type = ir.TensorType(ir.DataType.FLOAT8E4M3FN)
        return x
    rounding = rounding_of(x, of_one)
    model.graph.insert_before(node, rounding)
    return rounding.outputs[0]


def _change_attention(model: ir.Model, node: ir.Node, seen: Callable[[str], float]) -> int:
    """An attention, what makes its operands, and the ring that it reads; the three numbers that it took."""
    rotation = node.inputs[1].producer() if node.inputs[1] is not None else None
    qkv = rotation.inputs[0].producer() if rotation is not None and rotation.inputs[0] is not None else None
    if rotation is None or rotation.op_type != spec.NORM_ROTATE.name or qkv is None:
        raise BundleError(f"attention {node.name} is not of a fused bundle", todo="export it with --fused")
    keys = str(rotation.outputs[1].name)
    units = np.array([scale_of(seen(_attention_name(kind, keys))) for kind in "qkv"], np.float32)
    scales = initializer(model, f"{_attention_name('qkv', keys)}.scales", units)
    become(rotation, spec.NORM_ROTATE8.name, [*rotation.inputs, scales])
    ring = [value for value in node.inputs[3:5] if value is not None and value.producer() is None]
    for value in ring:
        _count_windows_elsewhere(model, value)
    for value in (*rotation.outputs, *ring):
        value.type = ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    for value in (rotation.outputs[2], *ring[1:]):
        if value.shape is not None:
            *lead, tokens, channels = value.shape
            value.shape = ir.Shape([*lead, channels, tokens])
    for plugin in PLUGIN:  # TensorRT has none for it
        node.attributes.pop(plugin, None)
    become(node, spec.BLOCK_SPARSE_ATTENTION8.name, [*node.inputs, scales, qkv.inputs[2]])
    return len(units)


def _count_windows_elsewhere(model: ir.Model, ring: ir.Value) -> None:
    """Lets the graph read the rows and columns of windows off `lq_tokens`: ONNX Runtime has no Shape of float8."""
    tokens = next(value for value in model.graph.inputs if value.name == "lq_tokens")
    for use in ring.uses():
        if use.node.op_type != "Shape":
            continue
        axes = {name: attribute.as_int() for name, attribute in use.node.attributes.items()}
        if axes not in ({"start": 1, "end": 2}, {"start": 2, "end": 3}):
            raise BundleError(f"{use.node.name} asks for axes {axes} of {ring.name}", todo="export the bundle again")
        cells = ir.node("Shape", [tokens], axes)
        side = initializer(model, f"{use.node.name}.side", np.array([WINDOW[1]], np.int64))
        windows = ir.node("Div", [cells.outputs[0], side])
        model.graph.insert_before(use.node, [cells, windows])
        ir.convenience.replace_all_uses_with(use.node.outputs[0], windows.outputs[0])
        model.graph.remove(use.node, safe=True)


def _check(path: Path) -> None:
    """That it is valid and loads."""
    onnx.checker.check_model(str(path))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # else it widens all weights
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
