"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import bundles
import counts
import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the fault injection has done, where a run had any."""
    if lines := counts.lines():
        terminalreporter.section("faults injected, figures measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def seeded_bundle(pytestconfig: pytest.Config) -> Path:
    """A v1.1 bundle of random weights in fp32. Shared and kept: a test that changes it copies it first."""
    return bundles.seeded(pytestconfig, "v1.1")


@pytest.fixture(scope="session")
def seeded_bundle_v1(pytestconfig: pytest.Config) -> Path:
    """A v1 bundle of random weights in fp32; shared and kept likewise."""
    return bundles.seeded(pytestconfig, "v1")


@pytest.fixture(scope="session")
def seeded_bundle_fp16(pytestconfig: pytest.Config) -> Path:
    """A v1.1 bundle of random weights in fp16, the type that engines are built from; shared and kept likewise."""
    return bundles.seeded(pytestconfig, "v1.1", "fp16")


@pytest.fixture(scope="session")
def full_bundle(pytestconfig: pytest.Config) -> Path:
    """The golden v1.1 weights with the Wan VAE in fp32: runs every variant; shared and kept likewise."""
    return bundles.golden_full(pytestconfig)
