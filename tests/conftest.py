"""Bundles of seeded random weights. An export takes half a minute, so they are kept in pytest's cache.

The bundles are shared: a test that changes one copies it first.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import version as version_of
from pathlib import Path

import pytest

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.export.bundle import Options, export_bundle
from flashvsr_trt.export.layouts import DitSizes, LqSizes, TcSizes
from flashvsr_trt.export.seeded import Config, random_weights

# What an export runs: the modules that the imports above have loaded.
SOURCES = sorted(
    str(module.__file__)
    for name, module in sys.modules.items()
    if name.startswith("flashvsr_trt.") and getattr(module, "__file__", None)
)
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")
# One layer and one head: as much network as it takes to run every graph.
TINY = Config(
    dit=DitSizes(dim=128, layers=1, ffn=128, text=32, frequencies=32),
    lq=LqSizes(hidden=(16, 16), dim=128),
    tc=TcSizes(channels=(16, 8, 8, 8)),
    vae=None,
    prompt_tokens=8,
)


def _identity() -> str:
    """A hash of all that decides what an export writes."""
    digest = hashlib.sha256("".join(f"{name}{version_of(name)}" for name in LIBRARIES).encode())
    for path in (*SOURCES, __file__):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]


def _bundle(config: pytest.Config, version: str) -> Path:
    folder = config.cache.mkdir("bundles") / f"seeded-{version}-{_identity()}"  # type: ignore[union-attr]
    try:
        manifests.load(folder, verify="hash")
    except BundleError:
        options = Options(
            precision="fp32", model="seeded", about="random weights", meaningful=False, check=False
        )
        export_bundle(random_weights(TINY, 0, version=version), folder, options, overwrite=True)
    return folder


@pytest.fixture(scope="session")
def seeded_bundle(pytestconfig: pytest.Config) -> Path:
    """A v1.1 bundle of random weights in fp32."""
    return _bundle(pytestconfig, "v1.1")


@pytest.fixture(scope="session")
def seeded_bundle_v1(pytestconfig: pytest.Config) -> Path:
    """A v1 bundle of random weights in fp32."""
    return _bundle(pytestconfig, "v1")
