"""Times the attention op on this GPU, each implementation: selection and attention apart, TFLOP/s of the kept blocks.

    python -m flashvsr_trt.plugins_trt.bench_attention KERNELS [--canvas 768x1408] [--json FILE]

Needs torch for memory and random numbers. Random inputs, several sets in turn so that no cache holds them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from flashvsr_trt.configs import schedule
from flashvsr_trt.plugins_trt.attention_op import STAGES, Problem, enqueue, workspace
from flashvsr_trt.plugins_trt.kernels.driver import IMPLEMENTATIONS, Driver, Kernel, load_kernels

SETS = 3  # of 260 MB each at 768x1408: more than the second-level cache
REPEATS = 30
QUEUE_CYCLES = 60_000_000  # some 30 ms: longer than Python needs to launch REPEATS times
ATTENTION = "block_sparse_attention"


def measure(
    kernels: Mapping[str, Kernel], height: int, width: int, element: str, ratio: float, heads: int = 12
) -> dict[str, float]:
    """Milliseconds of one layer in the steady state (1 query slab, 3 cached), medians."""
    import torch

    kernels = {name: kernel for name, kernel in kernels.items() if name in STAGES}
    problem = Problem(slabs=1, cached_slabs=3, rows=height // 128, columns=width // 128, heads=heads, local_range=11)
    shape = (problem.rows, problem.columns, 128, problem.dim)
    dtype = getattr(torch, element)
    scratch = torch.empty(workspace(problem)["bytes"], dtype=torch.uint8, device="cuda")
    topk = torch.tensor(schedule.topk(height, width, ratio), device="cuda")
    slabs = torch.tensor([2, 0, 3], device="cuda")

    def draw(count: int) -> torch.Tensor:
        x = torch.randn((count, *shape), device="cuda") + torch.randn((count, *shape[:2], 1, shape[3]), device="cuda")
        return x.to(dtype)

    sets = []
    for _ in range(SETS):
        tensors = {"q": draw(1), "k": draw(1), "v": draw(1), "k_cache": draw(4), "v_cache": draw(4)}
        tensors |= {"slabs": slabs, "topk": topk, "out": torch.empty((1, *shape), dtype=dtype, device="cuda")}
        sets.append(tensors)
    stream = torch.cuda.current_stream().cuda_stream

    def time_of(names: tuple[str, ...]) -> float:
        chosen = {name: kernel for name, kernel in kernels.items() if name in names}
        events = []
        torch.cuda._sleep(QUEUE_CYCLES)  # launches gather behind it, so that no gap between them is the CPU's
        for repeat in range(REPEATS + 5):
            pointers = {name: tensor.data_ptr() for name, tensor in sets[repeat % SETS].items()}
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            enqueue(chosen, problem, pointers, scratch.data_ptr(), stream)
            end.record()
            events.append((begin, end))
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events[5:])

    result = {"all_ms": time_of(tuple(kernels))}
    result["selection_ms"] = time_of(tuple(name for name in kernels if name != ATTENTION))
    result |= {f"{name}_ms": time_of((name,)) for name in kernels if name != ATTENTION}
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
            times = measure(kernels, height, width, element, arguments.sparse_ratio)
            report[f"{element} {implementation}"] = times
            print(element, implementation, {key: round(value, 4) for key, value in times.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
