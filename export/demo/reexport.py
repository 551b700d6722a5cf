"""A shipped bundle from itself: `python -m flashvsr_trt.export.demo.reexport --out FOLDER`

The bundle holds all that an export needs: its graphs' initializers are the step modules' tensors. They are read
back, put into the modules and exported anew, e.g. after a change of the graphs, without the training's weights.
`--fused`: in fp16 with the fused ops, for ONNX Runtime on CUDA and for `flashvsr-trt calibrate`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.export.bundle import Options
from flashvsr_trt.export.demo.ship import FOLDER, write
from flashvsr_trt.export.demo.stored import stored


def reexport(folder: Path, out: Path, *, fused: bool = False, overwrite: bool = False, check: bool = True) -> Manifest:
    """Writes the bundle of `folder` anew to `out`: the same bytes, if the exporter is the one that wrote it.

    Args:
        fused: in fp16 with the fused ops instead.

    Raises:
        BundleError: see stored.stored.
        FlashVSRError: see export.bundle.write_bundle.
    """
    networks, manifest = stored(folder)
    if fused:
        networks = {name: {key: _half(key, value) for key, value in state.items()} for name, state in networks.items()}
    options = Options(
        precision="fp16" if fused else manifest.precision,
        storage=None if fused else "fp16",
        fused=fused,
        local_range=manifest.local_range,
        check=check,
        model=manifest.model,
        about=manifest.about,
        meaningful=manifest.meaningful,
        colour_fix=manifest.colour_fix,
        sources=manifest.weights,
    )
    return write(networks, out, options, overwrite=overwrite)


def _half(name: str, tensor: Tensor) -> Tensor:
    """As the modules' `of` has it in fp16: the gains of norms stay wide."""
    return tensor if name.endswith(("norm_q", "norm_k", "norm.gamma")) else tensor.half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    reexport(arguments.bundle, arguments.out, fused=arguments.fused, overwrite=arguments.overwrite)


if __name__ == "__main__":
    main()
