"""Compiles every kernel ahead of time, for every GPU generation, without a GPU: `make kernels`.

Output: one cubin per (kernel, type, architecture, implementation) and `kernels.json`, which says how to launch each
and its SHA-256. Triton kernels run everywhere; where a CUDA one exists for the same name it is the faster, and is
preferred. Run as `python -m flashvsr_trt.plugins_trt.kernels.build OUT [--arch 80 90]`; needs triton, not torch, and
nvcc for the CUDA ones: without it they are left out, and the output says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flashvsr_trt.plugins_trt.kernels.catalogue import (
    ARCHITECTURES,
    CUDA_KERNELS,
    ELEMENTS,
    KERNELS,
    CudaKernel,
    Kernel,
)

INDEX = "kernels.json"
SCHEMA = 2
SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "kernels"


def find_nvcc() -> str | None:
    """The CUDA compiler: of $CUDA_HOME, else on the path."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def compile_cuda(kernel: CudaKernel, architecture: int, nvcc: str) -> bytes:
    """The cubin of one CUDA source, for all its kernels and types.

    Raises:
        subprocess.CalledProcessError: nvcc's own message is on stderr.
    """
    # "a": the instructions of exactly this architecture, for kernels written for it alone
    target = f"{architecture}a" if len(kernel.architectures) == 1 else str(architecture)
    options = ["-std=c++17", "-O3", "-Xptxas", "-warn-spills", f"-gencode=arch=compute_{target},code=sm_{target}"]
    options.append(f"-DFLASHVSR_SHARED_BYTES={kernel.shared_bytes}")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        command = [nvcc, *options, "-cubin", "-o", str(cubin), str(SOURCES / kernel.source)]
        subprocess.run(command, check=True)
        return cubin.read_bytes()


def compile_kernel(kernel: Kernel, element: str, architecture: int) -> Any:
    """One compiled kernel of triton, with `.asm["cubin"]` and `.metadata`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flashvsr_trt.plugins_trt.kernels import attention, selection

    function = getattr({"attention": attention, "selection": selection}[kernel.module], kernel.name)
    signature = {name: kind.replace("T", ELEMENTS.get(element, "")) for name, kind in kernel.arguments}
    signature |= dict.fromkeys(kernel.constants, "constexpr")
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(kernel.arguments)
        if kind.startswith("*") or name == "dim"
    }
    constants = {(function.arg_names.index(name),): value for name, value in kernel.constants.items()}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": kernel.warps, "num_stages": kernel.stages}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def _entry(kernel: Kernel | CudaKernel, element: str, architecture: int, cubin: bytes) -> dict[str, Any]:
    implementation = "cuda" if isinstance(kernel, CudaKernel) else "triton"
    return {
        "kernel": kernel.name,
        "element": element,
        "architecture": architecture,
        "implementation": implementation,
        "file": f"{kernel.name}.{element}.{implementation}.sm{architecture}.cubin",
        "sha256": hashlib.sha256(cubin).hexdigest(),
        "arguments": [list(argument) for argument in kernel.arguments],
    }


def _triton_kernels(out: Path, architectures: tuple[int, ...]) -> list[dict[str, Any]]:
    entries = []
    for kernel in KERNELS:
        for element in ELEMENTS if kernel.typed else ("float32",):
            for architecture in sorted({*architectures} & {*kernel.architectures}):
                compiled = compile_kernel(kernel, element, architecture)
                entry = _entry(kernel, element, architecture, compiled.asm["cubin"])
                (out / entry["file"]).write_bytes(compiled.asm["cubin"])
                launch = {
                    "symbol": compiled.metadata.name,
                    "threads": 32 * compiled.metadata.num_warps,
                    "shared_bytes": compiled.metadata.shared,
                    "persistent": False,
                    "replaces": [],
                    # triton appends two pointers for scratch memory, which these kernels do not use
                    "scratch_pointers": 2,
                }
                entries.append(entry | launch)
    return entries


def _cuda_kernels(out: Path, architectures: tuple[int, ...], nvcc: str) -> list[dict[str, Any]]:
    entries = []
    cubins: dict[tuple[str, int], bytes] = {}
    for kernel in CUDA_KERNELS:
        for architecture in sorted({*architectures} & {*kernel.architectures}):
            source = (kernel.source, architecture)
            if source not in cubins:
                cubins[source] = compile_cuda(kernel, architecture, nvcc)
            for element in ELEMENTS if kernel.typed else ("float32",):
                entry = _entry(kernel, element, architecture, cubins[source])
                (out / entry["file"]).write_bytes(cubins[source])
                launch = {
                    "symbol": f"{kernel.name}_{element}" if kernel.typed else kernel.name,
                    "threads": kernel.threads,
                    "shared_bytes": kernel.shared_bytes,
                    "persistent": kernel.persistent,
                    "replaces": list(kernel.replaces),
                    "scratch_pointers": 0,
                }
                entries.append(entry | launch)
    return entries


def build(out: Path, architectures: tuple[int, ...] = ARCHITECTURES) -> Path:
    """Compiles all kernels into `out` and writes the index last. Returns the index's path."""
    out.mkdir(parents=True, exist_ok=True)
    entries = _triton_kernels(out, architectures)
    nvcc = find_nvcc()
    if nvcc is not None:
        entries += _cuda_kernels(out, architectures, nvcc)
    else:
        names = ", ".join(kernel.name for kernel in CUDA_KERNELS)
        print(f"nvcc not found, so left out: CUDA {names}; slower Triton kernels stand in for them.", file=sys.stderr)
    temporary = out / f".{INDEX}.part"
    temporary.write_text(json.dumps({"schema": SCHEMA, "kernels": entries}, indent=1) + "\n")
    os.replace(temporary, out / INDEX)
    return out / INDEX


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arch", type=int, nargs="*", default=list(ARCHITECTURES))
    arguments = parser.parse_args()
    index = build(arguments.out, tuple(arguments.arch))
    for entry in json.loads(index.read_text())["kernels"]:
        print(
            f"{entry['file']:56s} {entry['threads']:4d} threads {entry['shared_bytes']:7d} B shared"
            f" {(arguments.out / entry['file']).stat().st_size:7d} B"
        )


if __name__ == "__main__":
    main()
