"""The LQ projector's convolutions in float8: convolution and the transposes around it become one node, behind one that
rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from flashvsr_trt.export.float8_parts import eighth, initializer, rounding_of, scale_of
from flashvsr_trt.plugins_trt import spec

CHANNELS = 128  # that both sides of a weight must be multiples of
LARGEST_PIXEL = 1.0


def convolution_fits(node: ir.Node) -> bool:
    """Whether it is one of fused frames: of inner pixels, channels last on both sides, a weight for the kernel."""
    if len(node.inputs) != 3 or node.inputs[0] is None or node.inputs[1] is None:
        return False
    before, weight = node.inputs[0].producer(), node.inputs[1].const_value
    takers = [use.node for value in (*node.inputs[:1], *node.outputs) if value is not None for use in value.uses()]
    if before is None or weight is None or len(takers) != 2:
        return False
    if not (_transposes(before, [0, 3, 1, 2]) and _transposes(takers[1], [0, 2, 3, 1])):
        return False
    return _is_plain(node) and kernel_takes(weight.shape.numpy())


def _transposes(node: ir.Node, order: list[int]) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == order


def _is_plain(node: ir.Node) -> bool:
    """Without padding, strides, dilations and groups."""
    plain = {"pads": {0}, "strides": {1}, "dilations": {1}}
    given = {name: set(node.attributes[name].as_ints()) for name in plain if name in node.attributes}
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    padding = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    return all(given[name] == plain[name] for name in given) and group == 1 and padding == "NOTSET"


def kernel_takes(weight: Sequence[int]) -> bool:
    """Whether it takes one of this shape: [N, C, 3, 3]."""
    return len(weight) == 4 and not any(n % CHANNELS for n in weight[:2]) and list(weight[2:]) == [3, 3]


def change_convolution(model: ir.Model, node: ir.Node, seen: Callable[[str], float]) -> None:
    """One that fits, with the transposes around it, to one node, behind one that rounds."""
    planes, weight, bias = node.inputs
    before = planes.producer() if planes is not None else None
    x = before.inputs[0] if before is not None else None
    if before is None or x is None or weight is None or weight.const_value is None:
        raise ValueError(f"convolution {node.name} does not fit")
    name, maker = str(weight.name), x.producer()
    of_pixels = maker is not None and maker.op_type == spec.FOLD_PIXELS.name
    unit = scale_of(LARGEST_PIXEL if of_pixels else seen(name))
    kernel = weight.const_value.numpy().astype(np.float32).transpose(0, 2, 3, 1)  # [N, 3, 3, C]
    rounded, of_weight = eighth(model, name, kernel)
    scales = initializer(model, f"{name}.scales", np.array([unit, of_weight]))
    rounding = rounding_of(x, initializer(model, f"{name}.unit", np.array([unit])))
    made = ir.node(spec.CONVOLVE_INNER8.name, [rounding.outputs[0], rounded, bias, scales], domain=spec.DOMAIN)
    after = next(iter(node.outputs[0].uses())).node
    made.outputs[0].type, made.outputs[0].shape = after.outputs[0].type, after.outputs[0].shape
    model.graph.insert_before(after, [rounding, made])
    ir.convenience.replace_all_uses_with(after.outputs[0], made.outputs[0])
    model.graph.remove([after, node, before], safe=True)
