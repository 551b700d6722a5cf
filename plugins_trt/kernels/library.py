"""Compiles the custom-op library for ONNX Runtime, with the kernels inside: `make kernels`.

    python -m flashvsr_trt.plugins_trt.kernels.library KERNELS   # the folder that kernels.build wrote

Needs g++, cuda.h (of CUDA_HOME, CUDA_INCLUDE_DIR, nvcc's toolkit or the triton package) and ONNX Runtime's C headers
(ORT_INCLUDE_DIR, the folder of onnxruntime_c_api.h, 1.18 or later); what is missing is named, and the library is then
left out. Nothing links to CUDA or ONNX Runtime: the library loads where neither is.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.contract import HEAD_DIM, TOKENS_PER_WINDOW
from flashvsr_trt.plugins_trt import spec
from flashvsr_trt.plugins_trt.kernels.build import find_nvcc
from flashvsr_trt.plugins_trt.kernels.driver import INDEX, choose
from flashvsr_trt.plugins_trt.locations import ort_library

LIBRARY = ort_library().name
SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "attention"
LIBRARY_SOURCES = (
    "driver.cpp",
    "attention.cpp",
    "fused.cpp",
    "convolve.cpp",
    "cublaslt.cpp",
    "pool.cpp",
    "ort_nodes.cpp",
    "ort_pool.cpp",
    "ort_library.cpp",
)
# The C and C++ runtime libraries of an older machine must do: the C++ one goes inside. Not libgcc, which unwinds: with
# one of its own, an exception of the pool's that passes through ONNX Runtime ends the process.
OWN_RUNTIME = ("-static-libstdc++", "-Wl,--exclude-libs,ALL")
# Of the tensors' types, for ort_library.cpp.
LETTERS = {"T": "T", "float": "f", "float8": "e", "int64": "i", "host int64": "h", "uint8": "b", "uint16": "w"}
_DEFAULT_ORT = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include/onnxruntime/core/session")


def spec_header() -> str:
    """plugins_trt.spec for C++."""
    op = spec.BLOCK_SPARSE_ATTENTION
    names = ", ".join(f'"{name}"' for name, _ in op.inputs)
    integers = ", ".join("true" if kind == "int64" else "false" for _, kind in op.inputs)
    lines = (
        "// Generated from plugins_trt/spec.py: do not edit.",
        "#pragma once",
        "namespace flashvsr::spec {",
        f'inline constexpr const char* kDomain = "{spec.DOMAIN}";',
        f"inline constexpr int kOpset = {spec.OPSET}, kAbi = {spec.ABI};",
        f"inline constexpr int kHeadDim = {HEAD_DIM}, kTokensPerWindow = {TOKENS_PER_WINDOW};",
        f'inline constexpr const char* kAttention = "{op.name}";',
        f"inline constexpr const char* kInputs[] = {{{names}}};",
        f"inline constexpr bool kInputIsInt64[] = {{{integers}}};",
        "struct Op { const char *name, *inputs, *outputs; };  // a letter a tensor",
        *(f"inline constexpr Op k{op.name}{{{_letters(op)}}};" for op in (*spec.OPS, *spec.FUSED_OPS)),
        "}  // namespace flashvsr::spec",
    )
    return "\n".join(lines) + "\n"


def _letters(op: spec.Op) -> str:
    """Name, input types and output types as C++ strings."""
    kinds = ("".join(LETTERS[kind] for _, kind in tensors) for tensors in (op.inputs, op.outputs))
    return ", ".join(f'"{text}"' for text in (op.name, *kinds))


def table(entries: list[dict[str, Any]], symbols: dict[str, str]) -> str:
    """C++ source of the table of kernels; `symbols`: the label of each cubin file."""
    rows, arguments = [], []
    for number, entry in enumerate(entries):
        pairs = ", ".join(f'{{"{name}", "{kind}"}}' for name, kind in entry["arguments"])
        arguments.append(f"constexpr EmbeddedArgument kArguments{number}[] = {{{pairs}}};")
        rows.append(
            f'    {{{entry["architecture"]}, "{entry["element"]}", "{entry["kernel"]}", "{entry["symbol"]}",'
            f" {symbols[entry['file']]}, {entry['threads']}, {entry['shared_bytes']}, {entry['scratch_pointers']},"
            f" {str(entry['persistent']).lower()}, kArguments{number}, {len(entry['arguments'])}}},"
        )
    labels = "\n".join(f'extern "C" const unsigned char {label}[];' for label in sorted(set(symbols.values())))
    return (
        "\n".join(
            (
                "// Generated from kernels.json: do not edit.",
                '#include "embedded.hpp"',
                labels,
                "namespace flashvsr {",
                "namespace {",
                *arguments,
                "}  // namespace",
                "const EmbeddedKernel kEmbeddedKernels[] = {",
                *rows,
                "};",
                f"const int kEmbeddedKernelCount = {len(entries)};",
                "}  // namespace flashvsr",
            )
        )
        + "\n"
    )


def blobs(folder: Path, entries: list[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """Assembler source that holds each cubin once, and the label of each file."""
    labels: dict[str, str] = {}
    by_digest: dict[str, str] = {}
    text = ['.section .note.GNU-stack,"",@progbits', ".section .rodata"]
    for entry in entries:
        if entry["sha256"] not in by_digest:
            label = by_digest[entry["sha256"]] = f"flashvsr_cubin_{len(by_digest)}"
            path = (folder / entry["file"]).resolve()
            text += [".balign 64", f".hidden {label}", f".globl {label}", f"{label}:", f'.incbin "{path}"', ".byte 0"]
        labels[entry["file"]] = by_digest[entry["sha256"]]
    return "\n".join(text) + "\n", labels


def generate(kernels: Path, out: Path) -> list[Path]:
    """Writes what the C++ sources need beside them into `out`; returns the sources among it."""
    every = json.loads((kernels / INDEX).read_text())["kernels"]
    entries = list(_chosen(every))
    assembler, labels = blobs(kernels, entries)
    written = {"spec.hpp": spec_header(), "blobs.S": assembler, "table.cpp": table(entries, labels)}
    for name, text in written.items():
        (out / name).write_text(text)
    return [out / "blobs.S", out / "table.cpp"]


def _chosen(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each architecture and type the kernels that would be taken; those of no type once."""
    for architecture in sorted({entry["architecture"] for entry in entries}):
        seen = set()
        for element in ("float16", "bfloat16"):
            for entry in choose(entries, architecture, element).values():
                if entry["file"] not in seen:
                    seen.add(entry["file"])
                    yield entry


def ort_headers() -> Path | None:
    """Folder of onnxruntime_c_api.h."""
    named = os.environ.get("ORT_INCLUDE_DIR")
    return _folder_of("onnxruntime_c_api.h", [named] if named else list(_DEFAULT_ORT))


def cuda_headers() -> Path | None:
    """Folder of cuda.h: types and numbers of the driver's interface."""
    nvcc = find_nvcc()
    triton = importlib.util.find_spec("triton")
    places = [os.environ.get("CUDA_INCLUDE_DIR"), f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/include"]
    places += [str(Path(nvcc).resolve().parent.parent / "include")] if nvcc else []
    places += [str(Path(triton.origin).parent / "backends/nvidia/include")] if triton and triton.origin else []
    return _folder_of("cuda.h", [place for place in places if place])


def _folder_of(header: str, places: list[str]) -> Path | None:
    return next((Path(place) for place in places if (Path(place) / header).is_file()), None)


def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++."""
    return shutil.which(os.environ.get("CXX", "g++"))


def missing() -> list[str]:
    """What the library cannot be compiled without and is not there."""
    needed = {
        "g++ (or CXX)": compiler(),
        "onnxruntime_c_api.h (set ORT_INCLUDE_DIR)": ort_headers(),
        "cuda.h (set CUDA_INCLUDE_DIR)": cuda_headers(),
    }
    return [name for name, found in needed.items() if found is None]


def build(kernels: Path) -> Path | None:
    """Compiles the library into the folder of the kernels; None, with a printed reason, where it cannot be.

    Raises:
        subprocess.CalledProcessError: the compiler's own message is on stderr.
    """
    lacking = missing()
    if lacking:
        print(
            f"{LIBRARY} left out: no {' and no '.join(lacking)}. ONNX Runtime on CUDA then runs the attention by its"
            " function body, far slower.",
            file=sys.stderr,
        )
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generated = generate(kernels, folder)
        sources = [SOURCES / file for file in LIBRARY_SOURCES]
        includes = [f"-I{place}" for place in (SOURCES, folder, ort_headers(), cuda_headers())]
        options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
        target = folder / LIBRARY
        subprocess.run(
            [
                str(compiler()),
                *options,
                *OWN_RUNTIME,
                *includes,
                "-o",
                str(target),
                *map(str, sources + generated),
                "-ldl",
            ],
            check=True,
        )
        shutil.move(target, kernels / LIBRARY)
    return kernels / LIBRARY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path, help=f"folder with {INDEX}")
    built = build(parser.parse_args().kernels)
    if built:
        print(f"{built} {built.stat().st_size} B")


if __name__ == "__main__":
    main()
