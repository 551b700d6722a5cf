"""The shipped bundle from trained weights: `python -m flashvsr_trt.export.demo.ship build/demo/run/weights.safetensors`

fp32 graphs, for a CPU runs them fastest, over weights stored in fp16.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from flashvsr_trt.configs.contract import Graph, graphs
from flashvsr_trt.configs.manifest import Manifest, sha256_of
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.export.bundle import Content, Options, post_steps, steps_of, write_bundle
from flashvsr_trt.export.demo import networks as nets
from flashvsr_trt.export.demo.checkpoint import load_weights
from flashvsr_trt.export.demo.config import COLOUR_FIX
from flashvsr_trt.export.demo.networks import Networks
from flashvsr_trt.export.fused import FUSED, PLAIN
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.tc_decoder import TcDecoder
from flashvsr_trt.export.to_onnx import Step

ABOUT = "a small model trained on 136 images and 48 drawn ones; not the official weights"
FOLDER = Path(__file__).parents[2] / "runtime" / "demo"  # of a checkout: what the package will contain


def ship(trained: Path, out: Path) -> Manifest:
    """Exports what `train` wrote to the bundle `out`, replacing one that is there."""
    options = Options(
        precision="fp32",
        storage="fp16",
        local_range=Parameters().local_range,
        model="demo",
        about=ABOUT,
        colour_fix=COLOUR_FIX,
        sources={trained.name: sha256_of(trained)},
    )
    return write(load_weights(trained), out, options, overwrite=True)


def write(networks: Networks, out: Path, options: Options, *, overwrite: bool) -> Manifest:
    """The networks, rounded to fp16 already, as a bundle.

    Raises:
        FlashVSRError: see export.bundle.write_bundle.
    """
    sizes = nets.sizes(networks)
    contract = graphs(sizes, causal=True)
    steps = _steps(networks, options, contract)
    content = Content(version=nets.VERSION, sizes=sizes, contract=contract, networks=steps)
    return write_bundle(content, out, options, overwrite=overwrite, report=print)


def _steps(networks: Networks, options: Options, contract: dict[str, Graph]) -> Iterator[list[Step]]:
    projector = nets.lq_proj(networks["lq_proj"], LqProj)
    yield steps_of(projector, "lq_proj.bin", ("lq_proj_first", "lq_proj"), contract)
    dit = nets.dit(networks["dit"], local_range=options.local_range, ops=FUSED if options.fused else PLAIN)
    yield steps_of(dit, "dit.bin", ("dit_first", "dit"), contract)
    yield steps_of(nets.tc_decoder(networks["tc_decoder"], TcDecoder), "tc_decoder.bin", ("tc_decoder",), contract)
    yield post_steps(contract, fused=options.fused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    ship(arguments.trained, arguments.out)


if __name__ == "__main__":
    main()
