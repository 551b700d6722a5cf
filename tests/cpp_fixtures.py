"""libflashvsr's builds, made once and kept in pytest's cache: a plug-in of tests/test_cpp*.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from cpp_programs import Inside, compiled, headers_of


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config) -> Path:
    folder = pytestconfig.cache.mkdir("cpp") / "release"  # type: ignore[union-attr]
    return compiled(folder, "-DCMAKE_BUILD_TYPE=Release", "-DFLASHVSR_WARNINGS_AS_ERRORS=ON")


@pytest.fixture(scope="session")
def sanitized(build: Path, pytestconfig: pytest.Config) -> Path:
    """Address and undefined-behaviour sanitizers; ONNX Runtime itself is not instrumented."""
    folder = pytestconfig.cache.mkdir("cpp") / "sanitized"  # type: ignore[union-attr]
    options = ("-DCMAKE_BUILD_TYPE=Debug", "-DFLASHVSR_SANITIZE=ON", "-DFLASHVSR_EXAMPLES=OFF", *headers_of(build))
    with_tensorrt = (build / "tests" / "stand_ins" / "libstand_in_tensorrt.so").is_file()
    stand_ins = ("stand_in_cuda", "stand_in_tensorrt") if with_tensorrt else ()
    return compiled(folder, *options, targets=("border", "device", "mutate", *stand_ins))


@pytest.fixture(scope="session")
def inside(build: Path) -> Inside:
    return Inside(build)
