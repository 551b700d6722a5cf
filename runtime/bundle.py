"""Which bundle a run uses, and where its files are."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.configs.manifest import Manifest

PACKAGED = "demo"  # folder of the bundle that ships in the package


@dataclass(frozen=True)
class Bundle:
    """A bundle folder and its manifest."""

    folder: Path
    manifest: Manifest

    def graph_path(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"


def open_bundle(folder: Path | str | None = None, *, verify: str = "size") -> Bundle:
    """Opens a bundle; None takes the one in the package.

    Raises:
        BundleError: see configs.manifest.load.
    """
    if folder is None:
        path = Path(str(files("flashvsr_trt.runtime").joinpath(PACKAGED)))
        if not path.is_dir():
            raise BundleError("this installation holds no packaged bundle", todo="export one and name it with --bundle")
    else:
        path = Path(folder)
    return Bundle(path, manifests.load(path, verify=verify))
