"""Bundles of seeded random weights, exported once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvsr_trt.export.bundle import Options, export_bundle
from flashvsr_trt.export.layouts import DitSizes, LqSizes, TcSizes
from flashvsr_trt.export.seeded import Config, random_weights

# One layer and one head: as much network as it takes to run every graph.
TINY = Config(
    dit=DitSizes(dim=128, layers=1, ffn=128, text=32, frequencies=32),
    lq=LqSizes(hidden=(16, 16), dim=128),
    tc=TcSizes(channels=(16, 8, 8, 8)),
    vae=None,
    prompt_tokens=8,
)


def _export(folder: Path, version: str) -> Path:
    options = Options(
        precision="fp32", model="seeded", about="random weights for tests", meaningful=False, check=False
    )
    export_bundle(random_weights(TINY, 0, version=version), folder, options)
    return folder


@pytest.fixture(scope="session")
def seeded_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v1.1 bundle of random weights in fp32."""
    return _export(tmp_path_factory.mktemp("bundles") / "seeded", "v1.1")


@pytest.fixture(scope="session")
def seeded_bundle_v1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A v1 bundle of random weights in fp32."""
    return _export(tmp_path_factory.mktemp("bundles") / "seeded_v1", "v1")
