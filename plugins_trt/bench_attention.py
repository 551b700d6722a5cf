"""Times the attention op on this GPU, each implementation: selection and attention apart, TFLOP/s of the kept blocks.

    python -m flashvsr_trt.plugins_trt.bench_attention KERNELS [--canvas 768x1408] [--json FILE]

Needs torch for memory and random numbers. Random inputs, several sets in turn so that no cache holds them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from flashvsr_trt.configs import schedule
from flashvsr_trt.plugins_trt.attention_op import EIGHTHS, STAGES, Problem, enqueue, workspace
from flashvsr_trt.plugins_trt.bench_timing import median_ms
from flashvsr_trt.plugins_trt.kernels.driver import IMPLEMENTATIONS, Driver, Kernel, load_kernels

SETS = 3  # of 260 MB each at 768x1408, half in float8: more than the second-level cache
REPEATS = 30
ATTENTION = STAGES[-1]


def measure(
    kernels: Mapping[str, Kernel],
    height: int,
    width: int,
    element: str,
    ratio: float,
    heads: int = 12,
    *,
    eighth: bool = False,
) -> dict[str, float]:
    """Milliseconds of one layer in the steady state (1 query slab, 3 cached), medians; `eighth`: of float8, to
    `element`."""
    import torch

    names = {stage: EIGHTHS.get(stage, stage) if eighth else stage for stage in STAGES}
    stages = {stage: kernels[name] for stage, name in names.items() if name in kernels}
    problem = Problem(slabs=1, cached_slabs=3, rows=height // 128, columns=width // 128, heads=heads, local_range=11)
    shape = (problem.rows, problem.columns, 128, problem.dim)
    dtype = getattr(torch, element)
    scratch = torch.empty(workspace(problem)["bytes"], dtype=torch.uint8, device="cuda")
    topk = torch.tensor(schedule.topk(height, width, ratio), device="cuda")
    slabs = torch.tensor([2, 0, 3], device="cuda")
    scales = torch.full((3,), 1 / 64, device="cuda")

    def draw(count: int) -> torch.Tensor:
        x = torch.randn((count, *shape), device="cuda") + torch.randn((count, *shape[:2], 1, shape[3]), device="cuda")
        # Values of float8 have another shape, but random numbers are alike in all.
        return (x * 64).clamp(-448, 448).to(torch.float8_e4m3fn) if eighth else x.to(dtype)  # beyond is not a number

    sets = []
    for _ in range(2 * SETS if eighth else SETS):
        tensors = {"q": draw(1), "k": draw(1), "v": draw(1), "k_cache": draw(4), "v_cache": draw(4)}
        tensors |= {"slabs": slabs, "topk": topk, "out": torch.empty((1, *shape), dtype=dtype, device="cuda")}
        sets.append(tensors | ({"scales": scales} if eighth else {}))
    stream = torch.cuda.current_stream().cuda_stream

    def time_of(chosen: tuple[str, ...]) -> float:
        own = {names[stage]: stages[stage] for stage in chosen}
        pointers = [{name: tensor.data_ptr() for name, tensor in tensors.items()} for tensors in sets]
        calls = [partial(enqueue, own, problem, of, scratch.data_ptr(), stream) for of in pointers]
        return median_ms(calls, REPEATS)

    selection = tuple(stage for stage in stages if stage != ATTENTION)
    result = {"all_ms": time_of(tuple(stages)), "selection_ms": time_of(selection)}
    result |= {f"{stage}_ms": time_of((stage,)) for stage in selection}
    # not alone: each run uses up the work queue that the selection fills
    result[f"{ATTENTION}_ms"] = result["all_ms"] - result["selection_ms"]
    offset = workspace(problem)["counts"]
    counts = scratch[offset : offset + 4 * problem.heads * problem.q_windows].view(torch.int32)
    kept = int(counts.sum())
    flop = 4.0 * 128 * 128 * 128 * kept
    result["density"] = kept / (problem.heads * problem.q_windows * problem.k_windows)
    result["attention_tflops"] = flop / result[f"{ATTENTION}_ms"] / 1e9
    return result


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("--canvas", default="768x1408", help="HEIGHTxWIDTH")
    parser.add_argument("--sparse-ratio", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    height, width = map(int, arguments.canvas.split("x"))
    report = {"device": torch.cuda.get_device_name(), "canvas": arguments.canvas}
    torch.zeros(1, device="cuda")
    driver = Driver()
    for element in ("bfloat16", "float16"):
        for implementation in IMPLEMENTATIONS:
            kernels = load_kernels(arguments.kernels, element, driver, ("triton", implementation))
            for eighth in (False, True):
                if eighth and not set(EIGHTHS.values()) <= set(kernels):
                    continue  # this GPU has no float8, or there was no nvcc
                times = measure(kernels, height, width, element, arguments.sparse_ratio, eighth=eighth)
                name = f"{'float8 to ' if eighth else ''}{element} {implementation}"
                report[name] = times
                print(name, {key: round(value, 4) for key, value in times.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
