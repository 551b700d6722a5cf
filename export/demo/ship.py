"""The shipped bundle from trained weights: `python -m flashvsr_trt.export.demo.ship build/demo/run/weights.safetensors`

fp32 graphs, for a CPU runs them fastest, over weights stored in fp16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flashvsr_trt.configs.manifest import Manifest, sha256_of
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.export.bundle import Options, export_bundle
from flashvsr_trt.export.demo.checkpoint import load_weights
from flashvsr_trt.export.weights import Weights

ABOUT = "a small model trained on 104 photographs and drawings; not the official weights"
FOLDER = Path(__file__).parents[2] / "runtime" / "demo"  # of a checkout: what the package will contain


def ship(trained: Path, out: Path) -> Manifest:
    """Exports what `train` wrote to the bundle `out`, replacing one that is there."""
    official, context = load_weights(trained)
    weights = Weights(
        version="v1.1",
        dit=official["dit"],
        lq_proj=official["lq"],
        tc_decoder=official["tc"],
        prompt=context,
    )
    options = Options(
        precision="fp32",
        storage="fp16",
        local_range=Parameters().local_range,
        model="demo",
        about=ABOUT,
        sources={trained.name: sha256_of(trained)},
    )
    return export_bundle(weights, out, options, overwrite=True, report=print)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    ship(arguments.trained, arguments.out)


if __name__ == "__main__":
    main()
