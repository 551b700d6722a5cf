"""The networks read back from a bundle, to export them again or to go on training them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.export.demo.networks import VERSION, Networks

PREFIX = "module."  # of the names that the exporter gives to a module's tensors
# The exporter stores a weight that enters its graph rearranged under a name of its own. These are the modules'
# names of such tensors, in the order in which the graph uses them.
LQ_REARRANGED = ("conv1.norm.gamma", "conv2.norm.gamma", "linear.weight")
BLOCK_REARRANGED = (
    "self_attn.qkv.weight",
    "self_attn.o.weight",
    "cross_attn.q.weight",
    "cross_attn.v",
    "cross_attn.k",
    "cross_attn.o.weight",
    "ffn_in.weight",
    "ffn_out.weight",
)


def stored(folder: Path) -> tuple[Networks, Manifest]:
    """The networks in a bundle, in fp32.

    Raises:
        BundleError: `folder` is not a bundle like the demo model's: v1.1, fp32 over fp16, folded, no Wan VAE.
    """
    manifest = manifests.load(folder, verify="hash")
    if (manifest.model_version, manifest.precision, manifest.decoders) != (VERSION, "fp32", ("tc_decoder",)):
        raise BundleError(
            f"{folder} is {manifest.model_version} in {manifest.precision} with {', '.join(manifest.decoders)}",
            expected=f"{VERSION} in fp32 with tc_decoder, as demo.ship writes it",
            todo="export it from its weights",
        )
    networks = {
        "lq_proj": _lq_proj(folder),
        "dit": _dit(folder, manifest.sizes.layers),
        "tc_decoder": _stored(folder, "tc_decoder"),
    }
    return networks, manifest


def _lq_proj(folder: Path) -> dict[str, Tensor]:
    state = _stored(folder, "lq_proj", LQ_REARRANGED)
    for name in LQ_REARRANGED[:2]:
        gain = state[name].reshape(-1)
        state[name] = _without_factor(gain, gain.numel() ** 0.5)
    return state | {"linear.weight": state["linear.weight"].T.contiguous()}


def _dit(folder: Path, layers: int) -> dict[str, Tensor]:
    blocks = [f"blocks.{layer}.{name}" for layer in range(layers) for name in BLOCK_REARRANGED]
    rearranged = ("patch_embedding.weight", *blocks, "head.weight")
    state = _stored(folder, "dit", rearranged)
    for name in rearranged:
        tensor = state[name].squeeze(0)  # the prompt's keys and values have a batch axis in the graph
        state[name] = tensor if name.endswith(".v") else tensor.mT.contiguous()
    return state


def _stored(folder: Path, graph: str, rearranged: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A graph's weights in fp32 under the module's names, those of `rearranged` still as the graph has them."""
    named: dict[str, Tensor] = {}
    others: list[Tensor] = []
    for name, value in ir.load(folder / f"{graph}.onnx").graph.initializers.items():
        assert value.const_value is not None
        if not value.const_value.dtype.is_floating_point():
            continue
        tensor = torch.from_numpy(value.const_value.numpy().astype(np.float32))
        if name.startswith(PREFIX):
            named[name.removeprefix(PREFIX).removesuffix(".fp16")] = tensor
        elif tensor.dim() > 1:  # the graph's own constants are scalars and vectors
            others.append(tensor)
    return named | dict(zip(rearranged, others, strict=True))


def _without_factor(product: Tensor, factor: float) -> Tensor:
    """fp32 x with x * factor = `product` to the last bit; a division alone is off by one bit now and then."""
    x = product / factor
    for direction in (-torch.inf, torch.inf):
        beside = torch.nextafter(x, torch.tensor(direction))
        x = torch.where((x * factor != product) & (beside * factor == product), beside, x)
    return x
