"""Bundles of small networks for tests. An export takes half a minute, so they are kept in pytest's cache."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version as version_of
from pathlib import Path

import pytest
from golden import CASES, Golden

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError
from flashvsr_trt.export.bundle import Options, export_bundle
from flashvsr_trt.export.layouts import DitSizes, LqSizes, TcSizes
from flashvsr_trt.export.seeded import Config, random_weights
from flashvsr_trt.export.weights import Weights, load

# What an export runs: the modules that the imports above have loaded.
SOURCES = sorted(
    str(module.__file__)
    for name, module in sys.modules.items()
    if name.startswith("flashvsr_trt.") and getattr(module, "__file__", None)
)
LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir")
# One layer and one head: as much network as it takes to run every graph.
TINY = Config(
    dit=DitSizes(dim=128, layers=1, ffn=128, text=32, frequencies=32),
    lq=LqSizes(hidden=(16, 16), dim=128),
    tc=TcSizes(channels=(16, 8, 8, 8)),
    vae=None,
    prompt_tokens=8,
)
SEEDED = Options(precision="fp32", model="seeded", about="random weights", meaningful=False, check=False)


def seeded(config: pytest.Config, version: str, precision: str = "fp32") -> Path:
    """A bundle of random weights."""
    options = replace(SEEDED, precision=precision)
    name = f"seeded-{version}-{precision}"
    return cached(config, name, lambda: random_weights(TINY, 0, version=version), options)


def golden_full(config: pytest.Config) -> Path:
    """A bundle of the golden v1.1 weights, with the VAE."""
    root = Golden(CASES[1]).root / "weights"
    # The golden v1 case's reach is 11, which on its canvas of one window by two is the same.
    options = Options(precision="fp32", model="golden", local_range=3, check=False)
    return cached(config, "golden-full", lambda: load(root, version="v1.1"), options)


def cached(config: pytest.Config, name: str, weights: Callable[[], Weights], options: Options) -> Path:
    """The bundle of that name, exported if the cache has none that this code would write."""
    folder = config.cache.mkdir("bundles") / name / _identity(options)  # type: ignore[union-attr]
    try:
        manifests.load(folder, verify="hash")
    except BundleError:
        export_bundle(weights(), folder, options, overwrite=True)
    return folder


def _identity(options: Options) -> str:
    """A hash of all that decides what an export writes."""
    told = [repr(options), *(f"{name} {version_of(name)}" for name in LIBRARIES)]
    digest = hashlib.sha256("\n".join(told).encode())
    for path in (*SOURCES, __file__):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]
