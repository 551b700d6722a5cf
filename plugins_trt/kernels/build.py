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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
ELEMENTS = {"float16": "fp16", "bfloat16": "bf16"}
INDEX = "kernels.json"
SCHEMA = 2
SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "kernels"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How one kernel is compiled. `arguments` are in the order of the launch; "T" is the tensors' type.

    Pointers are 16-byte aligned and `dim` is a multiple of 128: told to the compiler, which vectorises by it.
    """

    module: str
    name: str
    arguments: tuple[tuple[str, str], ...]
    constants: dict[str, int]
    warps: int
    stages: int = 3

    @property
    def typed(self) -> bool:
        return any(kind == "*T" for _, kind in self.arguments)


def _arguments(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, _, kind in (part.partition(":") for part in text.split()))


KERNELS = (
    Kernel(
        module="selection",
        name="window_means",
        arguments=_arguments(
            "q:*T k:*T k_cache:*T slabs:*i64 q_means:*fp32 k_means:*fp32 q_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        constants={"BLOCK": 128},
        warps=4,
    ),
    Kernel(
        module="selection",
        name="window_scores",
        arguments=_arguments(
            "q_means:*fp32 k_means:*fp32 scores:*fp32 q_windows:i32 k_windows:i32 rows:i32 columns:i32 dim:i32"
            " local_range:i32"
        ),
        constants={"BLOCK": 64},
        warps=4,
    ),
    Kernel(
        module="selection",
        name="select_threshold",
        arguments=_arguments("scores:*fp32 thresholds:*fp32 topk:*i64 count:i32"),
        constants={"BLOCK": 4096},
        warps=16,
    ),
    Kernel(
        module="selection",
        name="list_kept",
        arguments=_arguments(
            "scores:*fp32 thresholds:*fp32 lists:*i32 counts:*i32 q_windows:i32 k_windows:i32 win:i32"
        ),
        constants={"BLOCK": 256},
        warps=2,
    ),
    Kernel(
        module="attention",
        name="block_sparse_attention",
        arguments=_arguments(
            "q:*T k:*T v:*T k_cache:*T v_cache:*T slabs:*i64 lists:*i32 counts:*i32 out:*T"
            " q_windows:i32 k_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        constants={"BLOCK_N": 64},
        warps=8,
        stages=2,
    ),
)


@dataclass(frozen=True, kw_only=True)
class CudaKernel:
    """How one CUDA kernel is compiled: `source` defines `name`, or `name`_`element` where it is typed.

    Argument kind "tile": a tensor map of [tokens, dim], box [128 tokens, 64 channels], 128-byte swizzle, passed by
    value; "map": one that only the C++ launcher makes. persistent: the product of the grid is its number of items, and
    it is launched on that many blocks or as many as the device has multiprocessors, whichever is fewer. replaces:
    kernels that it makes superfluous.
    """

    source: str
    name: str
    arguments: tuple[tuple[str, str], ...]
    threads: int
    architectures: tuple[int, ...] = ARCHITECTURES
    shared_bytes: int = 0  # dynamic; the source checks that it suffices
    persistent: bool = False
    replaces: tuple[str, ...] = ()

    @property
    def typed(self) -> bool:
        return any(kind in ("*T", "tile") for _, kind in self.arguments)


CUDA_KERNELS = (
    CudaKernel(
        source="selection.cu",
        name="window_means",
        arguments=_arguments(
            "q:*T k:*T k_cache:*T slabs:*i64 q_means:*fp32 k_means:*fp32 ticket:*i32 finished:*i32"
            " q_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        threads=128,
    ),
    CudaKernel(
        source="selection.cu",
        name="group_scores",
        arguments=_arguments(
            "q_means:*fp32 k_means:*fp32 scores:*fp32 q_windows:i32 k_windows:i32 rows:i32 columns:i32 dim:i32"
            " local_range:i32"
        ),
        threads=512,
        replaces=("window_scores",),
    ),
    CudaKernel(
        source="selection.cu",
        name="select_windows",
        arguments=_arguments(
            "scores:*fp32 topk:*i64 lists:*i32 counts:*i32 order:*i32 finished:*i32 items:i32 k_windows:i32 win:i32"
        ),
        threads=1024,
        replaces=("select_threshold", "list_kept"),
    ),
    CudaKernel(
        source="fused.cu",
        name="norm_rotate",
        arguments=_arguments("qkv:*T gain_q:*fp32 gain_k:*fp32 table:*fp32 q:*T k:*T v:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fused.cu",
        name="norm_rows",
        arguments=_arguments("x:*T gain:*fp32 out:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fused.cu",
        name="layer_norm",
        arguments=_arguments("x:*T out:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fused.cu",
        name="list_all",
        arguments=_arguments("lists:*i32 counts:*i32 order:*i32 ticket:*i32 k_windows:i32"),
        threads=32,
    ),
    CudaKernel(
        source="fused.cu",
        name="norm_silu",
        arguments=_arguments("x:*T gain:*fp32 out:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fold.cu",
        name="fold_frames",
        arguments=_arguments("x:*T past:*T out:*T results:i32 height:i32 width:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fold.cu",
        name="fold_pixels",
        arguments=_arguments("frames:*u8 past:*u8 out:*T results:i32 height:i32 width:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fold.cu",
        name="last_planes",
        arguments=_arguments("x:*u16 out:*u16 pixels:i32 channels:i32"),
        threads=256,
    ),
    CudaKernel(
        source="colours.cu",
        name="convolve_colours",
        arguments=_arguments("x:*T weight:*T bias:*T out:*T height:i32 width:i32 channels:i32"),
        threads=256,
        shared_bytes=74_160,  # weights of 256 channels, 27 sums for each of 512 pixels
    ),
    CudaKernel(
        source="adain.cu",
        name="colour_statistics",
        arguments=_arguments("frames:*T lq:*u8 sums:*fp64 height:i32 width:i32 rows:i32 columns:i32 parts:i32"),
        threads=256,
    ),
    CudaKernel(
        source="adain.cu",
        name="adapt_colours",
        arguments=_arguments("frames:*T sums:*fp64 pixels:*u8 height:i32 width:i32 rows:i32 columns:i32 parts:i32"),
        threads=256,
    ),
    CudaKernel(
        source="adain.cu",
        name="adapt_colours16",
        arguments=_arguments("frames:*T sums:*fp64 pixels:*u16 height:i32 width:i32 rows:i32 columns:i32 parts:i32"),
        threads=256,
    ),
    CudaKernel(
        source="convolve_sm90.cu",
        name="convolve",
        architectures=(90,),
        arguments=_arguments(
            "x:map past:map weight:map bias:*T residual:*T out:*T frames:i32 height:i32 width:i32 channels:i32"
            " sources:i32 outputs:i32 growth:i32 side:i32 relu:i32"
        ),
        threads=384,
        shared_bytes=197_760,  # 1024 to align, four stages of 48 KiB, barriers
        persistent=True,
    ),
    CudaKernel(
        source="attention_sm90.cu",
        name="block_sparse_attention",
        architectures=(90,),
        arguments=_arguments(
            "q:tile k:tile v:tile k_cache:tile v_cache:tile slabs:*i64 lists:*i32 counts:*i32 order:*i32 ticket:*i32"
            " out:*T items:i32 q_windows:i32 k_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        threads=384,
        shared_bytes=165_120,  # 1024 to align, five tiles of 32 KiB, barriers
        persistent=True,
    ),
)


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
            for architecture in architectures:
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
