"""Compiles every kernel ahead of time, for every GPU generation, without a GPU: `make kernels`.

Output: one cubin per (kernel, type, architecture) and `kernels.json`, which says how to launch each and its SHA-256.
Run as `python -m flashvsr_trt.plugins_trt.kernels.build OUT [--arch 80 90]`; needs triton, not torch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
ELEMENTS = {"float16": "fp16", "bfloat16": "bf16"}
INDEX = "kernels.json"
SCHEMA = 1


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


def build(out: Path, architectures: tuple[int, ...] = ARCHITECTURES) -> Path:
    """Compiles all kernels into `out` and writes the index last. Returns the index's path."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for kernel in KERNELS:
        for element in ELEMENTS if kernel.typed else ("float32",):
            for architecture in architectures:
                compiled = compile_kernel(kernel, element, architecture)
                cubin: bytes = compiled.asm["cubin"]
                file = f"{kernel.name}.{element}.sm{architecture}.cubin"
                (out / file).write_bytes(cubin)
                entries.append(
                    {
                        "kernel": kernel.name,
                        "element": element,
                        "architecture": architecture,
                        "file": file,
                        "sha256": hashlib.sha256(cubin).hexdigest(),
                        "symbol": compiled.metadata.name,
                        "threads": 32 * compiled.metadata.num_warps,
                        "shared_bytes": compiled.metadata.shared,
                        "arguments": [list(argument) for argument in kernel.arguments],
                        # triton appends two pointers for scratch memory, which these kernels do not use
                        "scratch_pointers": 2,
                    }
                )
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
            f"{entry['file']:48s} {entry['threads']:4d} threads {entry['shared_bytes']:7d} B shared"
            f" {(arguments.out / entry['file']).stat().st_size:7d} B"
        )


if __name__ == "__main__":
    main()
