"""libflashvsr's border: C header, exported symbols, wrong arguments, memory, sanitizers, strangers' projects."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cpp_programs import ORT_LIBRARY, ROOT, SOURCES, call, compiled, engine_set, headers_of, need

pytest_plugins = ("cpp_fixtures",)

HEADER = ROOT / "runtime" / "cpp" / "include" / "flashvsr.h"
MODES = ("arguments", "stream", "threads", "memory")
VALGRIND = ("--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite")


def test_header_is_c(build, tmp_path):
    flags = ("-std=c11", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-I", HEADER.parent)
    call("cc", *flags, "-c", SOURCES / "header.c", "-o", tmp_path / "header.o")


def test_library_shows_the_interface_only(build):
    symbols = call(need("nm"), "-D", "--defined-only", build / "libflashvsr.so").stdout.decode().split()[2::3]
    names = set(re.findall(r"^FLASHVSR_API [\w ]+\*?(flashvsr_\w+)\(", HEADER.read_text(), re.MULTILINE))
    assert set(symbols) == names


def test_library_needs_neither_cuda_nor_an_inference_library(build):
    needed = call(need("readelf"), "-d", build / "libflashvsr.so").stdout.decode()
    assert "NEEDED" in needed
    assert not [word for word in ("cuda", "nvinfer", "tensorrt", "onnxruntime", "python") if word in needed.lower()]


@pytest.mark.parametrize("mode", MODES)
def test_border(build, seeded_bundle, mode):
    call(build / "tests" / "border", seeded_bundle, ORT_LIBRARY, mode)


@pytest.mark.parametrize("mode", MODES)
def test_border_under_sanitizers(sanitized, seeded_bundle, mode):
    call(sanitized / "tests" / "border", seeded_bundle, ORT_LIBRARY, mode)


def test_border_under_valgrind(build, seeded_bundle):
    suppressions = f"--suppressions={SOURCES / 'valgrind.supp'}"
    border = build / "tests" / "border"
    call(need("valgrind"), *VALGRIND, suppressions, border, seeded_bundle, ORT_LIBRARY, "arguments")


def test_20_cycles_hold_no_more_memory(build, seeded_bundle):
    heap = [int(x) for x in call(build / "tests" / "border", seeded_bundle, ORT_LIBRARY, "cycles").stdout.split()]
    assert len(heap) == 20
    # One leaked stream would be megabytes; ONNX Runtime's own caches move by some kilobytes.
    assert heap[-1] - heap[4] < 500_000


def test_a_strangers_project_builds(build, tmp_path):
    prefix, consumer = tmp_path / "prefix", tmp_path / "consumer"
    call(need("cmake"), "--install", build, "--prefix", prefix)
    call(need("cmake"), "-S", SOURCES / "consumer", "-B", consumer, f"-DCMAKE_PREFIX_PATH={prefix}")
    call(need("cmake"), "--build", consumer)
    assert b"flashvsr 0." in call(consumer / "consumer_c").stdout
    assert b"FLASHVSR_ERROR_BUNDLE" in call(consumer / "consumer_cpp").stdout
    (library,) = prefix.rglob("libflashvsr.so")
    assert library.is_symlink()  # to the one with the version in its name
    found = call(need("pkg-config"), "--cflags", "--libs", *prefix.rglob("flashvsr.pc")).stdout.decode().split()
    program = tmp_path / "by_pkg_config"
    call("cc", SOURCES / "consumer" / "main.c", "-o", program, *found)
    assert b"flashvsr 0." in call(program, LD_LIBRARY_PATH=library.parent).stdout


# Bytes of a stranger


def corpus(folder: Path, bundle: Path) -> Path:
    """A manifest; and an engine set and the structs of the border behind the letter that says which."""
    folder.mkdir()
    structs = np.zeros(24, np.int64).tobytes()
    files = {letter: letter.encode() + structs for letter in "oim"}
    files["manifest"] = (bundle / "manifest.json").read_bytes()
    files["engines"] = b"e" + engine_set(bundle, {"dit": "a plan"}).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_mutated_input_never_crashes(sanitized, seeded_bundle, tmp_path):
    files = sorted(corpus(tmp_path / "corpus", seeded_bundle).iterdir())
    done = call(sanitized / "tests" / "mutate", 2000, 1, *files)
    assert done.stdout == b"2000 rounds\n"


def test_libfuzzer_finds_no_crash(build, seeded_bundle, tmp_path, pytestconfig):
    """Guided by coverage, with both sanitizers; `fuzz` can be left to run for as long as one likes."""
    clang = need("clang++")
    folder = pytestconfig.cache.mkdir("cpp") / "fuzz"
    options = [f"-DCMAKE_CXX_COMPILER={clang}", f"-DCMAKE_C_COMPILER={need('clang')}", "-DCMAKE_BUILD_TYPE=Debug"]
    options += ["-DFLASHVSR_SANITIZE=ON", "-DFLASHVSR_EXAMPLES=OFF", "-DFLASHVSR_FUZZ=ON", *headers_of(build)]
    compiled(folder, *options, targets=("fuzz",))
    files = corpus(tmp_path / "corpus", seeded_bundle)
    done = call(folder / "tests" / "fuzz", "-runs=20000", "-seed=1", "-max_len=200000", "-max_total_time=20", files)
    assert b"Done " in done.stderr
