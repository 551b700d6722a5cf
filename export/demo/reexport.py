"""A shipped bundle from itself: `python -m flashvsr_trt.export.demo.reexport --out FOLDER`

The bundle holds all that an export needs: its graphs' initializers are the step modules' tensors. They are read
back, put into the modules and exported anew, e.g. after a change of the graphs, without the training's weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import Graph, graphs
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.export.attention import block_sparse_attention
from flashvsr_trt.export.bundle import Content, Options, post_steps, steps_of, write_bundle
from flashvsr_trt.export.demo.ship import FOLDER
from flashvsr_trt.export.dit import Dit
from flashvsr_trt.export.layouts import DitSizes, LqSizes
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.tc_decoder import TcDecoder
from flashvsr_trt.export.to_onnx import Step
from flashvsr_trt.export.trainable import assigned

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


def reexport(folder: Path, out: Path, *, overwrite: bool = False, check: bool = True) -> Manifest:
    """Writes the bundle of `folder` anew to `out`: the same bytes, if the exporter is the one that wrote it.

    Raises:
        BundleError: `folder` is not a bundle like the demo model's: v1.1, fp32 over fp16, folded, no Wan VAE.
        FlashVSRError: see export.bundle.write_bundle.
    """
    manifest = manifests.load(folder, verify="hash")
    if (manifest.model_version, manifest.precision, manifest.decoders) != ("v1.1", "fp32", ("tc_decoder",)):
        raise BundleError(
            f"{folder} is {manifest.model_version} in {manifest.precision} with {', '.join(manifest.decoders)}",
            expected="v1.1 in fp32 with tc_decoder, as demo.ship writes it",
            todo="export it from its weights",
        )
    options = Options(
        precision=manifest.precision,
        storage="fp16",
        local_range=manifest.local_range,
        check=check,
        model=manifest.model,
        about=manifest.about,
        meaningful=manifest.meaningful,
        sources=manifest.weights,
    )
    contract = graphs(manifest.sizes, causal=manifest.causal)
    content = Content(
        version=manifest.model_version,
        sizes=manifest.sizes,
        contract=contract,
        networks=_networks(folder, manifest, contract),
    )
    return write_bundle(content, out, options, overwrite=overwrite, report=print)


def _networks(folder: Path, manifest: Manifest, contract: dict[str, Graph]) -> Iterator[list[Step]]:
    yield steps_of(lq_proj(folder, manifest), "lq_proj.bin", ("lq_proj_first", "lq_proj"), contract)
    yield steps_of(dit(folder, manifest), "dit.bin", ("dit_first", "dit"), contract)
    yield steps_of(TcDecoder.of(_stored(folder, "tc_decoder")), "tc_decoder.bin", ("tc_decoder",), contract)
    yield post_steps(contract)


def lq_proj(folder: Path, manifest: Manifest) -> LqProj:
    """The LQ projector with the bundle's weights."""
    first, second = manifest.sizes.lq_hidden
    with torch.device("meta"):
        module = LqProj(LqSizes(hidden=(first, second), dim=manifest.sizes.dim), causal=manifest.causal)
    state = _stored(folder, "lq_proj", LQ_REARRANGED)
    for name in LQ_REARRANGED[:2]:
        gain = state[name].reshape(-1)
        state[name] = _without_factor(gain, gain.numel() ** 0.5)
    return assigned(module, state | {"linear.weight": state["linear.weight"].T.contiguous()})


def dit(folder: Path, manifest: Manifest) -> Dit:
    """The folded DiT with the bundle's weights."""
    blocks = [f"blocks.{layer}.{name}" for layer in range(manifest.sizes.layers) for name in BLOCK_REARRANGED]
    rearranged = ("patch_embedding.weight", *blocks, "head.weight")
    state = _stored(folder, "dit", rearranged)
    for name in rearranged:
        tensor = state[name].squeeze(0)  # the prompt's keys and values have a batch axis in the graph
        state[name] = tensor if name.endswith(".v") else tensor.mT.contiguous()
    sizes = DitSizes(
        dim=manifest.sizes.dim,
        layers=manifest.sizes.layers,
        ffn=state["blocks.0.ffn_in.bias"].shape[0],
        text=0,  # this and the next are widths of what is folded away
        frequencies=0,
    )
    tokens = state["blocks.0.cross_attn.k"].shape[1]
    with torch.device("meta"):
        module = Dit(sizes, tokens, folded=True, local_range=manifest.local_range, attend=block_sparse_attention)
    return assigned(module, state)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    reexport(arguments.bundle, arguments.out, overwrite=arguments.overwrite)


if __name__ == "__main__":
    main()
