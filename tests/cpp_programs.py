"""libflashvsr and its test programs: built with CMake, run, given engine sets. Used by tests/test_cpp*.py.

What is missing (CMake, a compiler, headers, a library) skips the tests that need it, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from flashvsr_trt.configs import manifest
from flashvsr_trt.engines.key import EngineKey
from flashvsr_trt.engines.store import FILE_NAME, SCHEMA, Engine

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tests" / "cpp"
ORT_LIBRARY = next(iter((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")), None)
HEADERS = ("ORT_INCLUDE_DIR", "JSON_INCLUDE_DIR", "TENSORRT_INCLUDE_DIR")
# Also tools that pip has put beside this Python, which need not be activated.
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def need(tool: str) -> str:
    """The path of a program; skips the test without it."""
    found = shutil.which(tool, path=PATH)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def call(
    *command: object, data: bytes = b"", check: bool = True, **variables: object
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program; `variables` are added to its environment. Fails the test where the program does, if `check`."""
    environment = {"FLASHVSR_ORT_LIBRARY": ORT_LIBRARY, **variables}
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        input=data,
        capture_output=True,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        timeout=500,
    )
    if check and done.returncode:
        pytest.fail(f"{words} ended with {done.returncode}:\n{done.stderr.decode()}\n{done.stdout.decode()[-4000:]}")
    return done


def compiled(folder: Path, *options: str, targets: tuple[str, ...] = ("all",)) -> Path:
    """Configures and builds; a build folder of an earlier run is brought up to date."""
    cmake, _ = need("cmake"), need("c++")
    if ORT_LIBRARY is None:
        pytest.skip("this onnxruntime wheel holds no libonnxruntime.so")
    ninja = shutil.which("ninja", path=PATH)
    if not (folder / "CMakeCache.txt").is_file():
        options = (*(("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}") if ninja else ()), *options)
    said = call(cmake, "-S", ROOT / "runtime" / "cpp", "-B", folder, "-DFLASHVSR_TESTS=ON", *options)
    if "skipped: no " in said.stdout.decode():
        pytest.skip("; ".join(line for line in said.stdout.decode().splitlines() if "flashvsr:" in line))
    call(cmake, "--build", folder, "--parallel", "2", "--target", *targets)
    return folder


def headers_of(build: Path) -> list[str]:
    """Options that give another build folder the headers that this one has found."""
    cached = (line.partition(":PATH=") for line in (build / "CMakeCache.txt").read_text().splitlines())
    return [f"-D{name}={value}" for name, _, value in cached if name in HEADERS and "NOTFOUND" not in value]


class Inside:
    """Parts of the library by name; see tests/cpp/inside.cpp."""

    def __init__(self, build: Path) -> None:
        self._program = build / "tests" / "inside"

    def __call__(self, *arguments: object, data: bytes = b"", dtype: type = np.uint8) -> np.ndarray:
        return np.frombuffer(call(self._program, *arguments, data=data).stdout, dtype)

    def text(self, *arguments: object, data: bytes = b"") -> str:
        return call(self._program, *arguments, data=data).stdout.decode()


def moving_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """A smooth picture that a window moves over."""
    rng = np.random.default_rng(9)
    small = Image.fromarray(rng.integers(0, 256, (height // 4 + 8, width // 4 + 8, 3), np.uint8))
    picture = np.asarray(small.resize((width + count, height + count), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(picture[i : i + height, i // 2 : i // 2 + width]) for i in range(count)]


def engine_set(of: Path, plans: dict[str, str], **changes: object) -> str:
    """engines.json of a set of a bundle's plans, for the stand-ins' GPU and TensorRT; `changes` are of its key."""
    values = {
        "bundle": manifest.load(of).digest(), "decoder": "tc_decoder", "plugin": "", "tier": "8", "tier_values": "",
        "profiles": {}, "flags": {"weight_streaming_mib": 0}, "flavour": "tensorrt", "version": "11.1.0.0",
        "targets": ("sm89", "sm90"),
    }  # fmt: skip
    zeros = {"sha256": "", "weights": 0, "activations": 0, "layers": 0, "plugins": 0, "seconds": 0.0}
    engines = {name: asdict(Engine(file=f"{name}.plan", bytes=len(plan), **zeros)) for name, plan in plans.items()}
    key = EngineKey(**(values | changes)).as_dict()
    return json.dumps({"schema": SCHEMA, "bundle": "", "source": str(of), "key": key, "engines": engines})


def write_engine_set(folder: Path, of: Path, *, largest: int = 10**6, **changes: object) -> Path:
    """A set whose plans the stand-in for TensorRT runs, with a profile that is too small and one up to `largest`."""
    names = [name for name in manifest.load(of).graphs if not name.startswith("vae")]
    plans = {name: f"{of} {name} 4 {largest}\n" for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    for name, plan in plans.items():
        (folder / f"{name}.plan").write_text(plan)
    (folder / FILE_NAME).write_text(engine_set(of, plans, **changes))
    return folder
