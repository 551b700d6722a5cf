"""A shipped bundle from itself: `python -m flashvsr_trt.export.demo.reexport --out FOLDER`

The bundle holds all that an export needs: its graphs' initializers are the step modules' tensors. They are read
back, put into the modules and exported anew, e.g. after a change of the graphs, without the training's weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.export.bundle import Options
from flashvsr_trt.export.demo.ship import FOLDER, write
from flashvsr_trt.export.demo.stored import stored


def reexport(folder: Path, out: Path, *, overwrite: bool = False, check: bool = True) -> Manifest:
    """Writes the bundle of `folder` anew to `out`: the same bytes, if the exporter is the one that wrote it.

    Raises:
        BundleError: see stored.stored.
        FlashVSRError: see export.bundle.write_bundle.
    """
    networks, manifest = stored(folder)
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
    return write(networks, out, options, overwrite=overwrite)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    reexport(arguments.bundle, arguments.out, overwrite=arguments.overwrite)


if __name__ == "__main__":
    main()
