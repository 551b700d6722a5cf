"""Speed of the networks alone: generated frames in, no video file, no encoder. Needs no av.

    python -m flashvsr_trt.runtime.speed BUNDLE|random --size 768x1408 --frames 125 --device cuda [--json FILE]

`random`: a network of the real size with random weights, made in the cache. What decode and encode cost beside it is
told by `flashvsr-trt bench`.

`--against BUNDLE|random` then runs the frames once more, untimed, and compares each with those of another bundle, or of
the random weights in another precision; `--against-device cpu` computes those on the CPU. All are held meanwhile:

    python -m flashvsr_trt.runtime.speed random --device cuda --precision fp8 --against random --against-precision fp16
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.manifest import PRECISIONS
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime import machine
from flashvsr_trt.runtime.agreement import agreement
from flashvsr_trt.runtime.backends import DEVICES, open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.device_memory import DeviceMemory
from flashvsr_trt.runtime.limits import limits
from flashvsr_trt.runtime.upscaler import VARIANTS, Options, Upscaler, check_options, settled

_SCALE = 4
_DISTINCT = 16  # frames that are generated; they come again in turn
_WARM = 2  # steps behind step 0 that are not counted: each graph's first run chooses its kernels


def moving_picture(index: int, height: int, width: int) -> np.ndarray:
    """Waves that move across each other: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width] / 16.0
    phase = index / 6.0
    waves = np.stack((np.sin(x + phase), np.sin(y - phase), np.sin((x + y) * 2 + 2 * phase)), axis=-1)
    return np.round(127.5 + 100 * waves).astype(np.uint8)  # [height, width, 3]


def measure(bundle: Bundle, backend: Backend, size: tuple[int, int], frames: int, options: Options) -> dict[str, Any]:
    """Runs `frames` frames to `size` (height, width).

    Returns:
        Figures: fps with the start and in the steady state (the median step), ms a step by graph, peak memory.
    """
    with DeviceMemory(backend) as memory:
        upscaler, prepared = _prepared(bundle, backend, size, options)
        began = time.perf_counter()
        marks = [(began, 0, dict(backend.seconds))]
        for ready in _stream(upscaler, prepared, frames):
            marks.append((time.perf_counter(), marks[-1][1] + len(ready), dict(backend.seconds)))
    steps = [
        (after[0] - before[0], {name: after[2][name] - before[2].get(name, 0.0) for name in after[2]})
        for before, after in pairwise(marks)
        if after[1] - before[1] == schedule.STEP
    ][_WARM:]
    if not steps:
        raise UsageError(
            f"{frames} frames are too few", expected=f"at least {schedule.FIRST_OUTPUT + (_WARM + 1) * schedule.STEP}"
        )
    wall = statistics.median(seconds for seconds, _ in steps)
    by_graph = {name: statistics.median(spent[name] for _, spent in steps) for name in steps[-1][1]}
    return {
        "date": date.today().isoformat(),
        "machine": machine.summary(),
        "gpus": machine.gpus(),
        "versions": machine.versions(),
        "backend": backend.describe(),
        "bundle": f"{bundle.manifest.model} {bundle.manifest.model_version} {bundle.manifest.precision}",
        "canvas": list(size),
        "variant": options.variant,
        "colour_fix": options.colour_fix,
        "sparse_ratio": options.parameters.sparse_ratio,
        "frames": frames,
        "fps_steady": schedule.STEP / wall,
        "fps_with_start": frames / (marks[-1][0] - began),
        "first_frames_s": marks[1][0] - began,
        "ms_per_step": 1000 * wall,
        "ms_by_graph": {name: 1000 * seconds for name, seconds in by_graph.items() if seconds},
        "ms_of_steps": [round(1000 * seconds, 2) for seconds, _ in steps],
        "peak_rss": machine.peak_rss(),
        "peak_device": memory.peak,
        "transfers": dict(backend.transfers),
    }


@dataclass(frozen=True)
class Side:
    """One of two that are compared."""

    bundle: Bundle
    backend: Backend


def compared(side: Side, reference: Side, size: tuple[int, int], frames: int, options: Options) -> dict[str, Any]:
    """Every frame of `side` against `reference`'s, one after the other, for both may not fit at once.

    Returns:
        Their number, PSNR in dB of all and of the worst frame: None where every pixel is the same.
    """
    # Copies: a back end's own frames lie in memory that it uses again.
    seen = [frame.copy() for frame in _frames(side, size, frames, options)]
    side.backend.trim()
    found = asdict(agreement(seen, _frames(reference, size, frames, options)))
    against = (
        f"{reference.bundle.manifest.model} {reference.bundle.manifest.precision} on {reference.backend.describe()}"
    )
    return {"against": against} | {name: value if math.isfinite(value) else None for name, value in found.items()}


def _frames(side: Side, size: tuple[int, int], frames: int, options: Options) -> Iterator[np.ndarray]:
    upscaler, prepared = _prepared(side.bundle, side.backend, size, options)
    for ready in _stream(upscaler, prepared, frames):
        yield from ready


def _prepared(
    bundle: Bundle, backend: Backend, size: tuple[int, int], options: Options
) -> tuple[Upscaler, list[np.ndarray]]:
    """An upscaler to `size`, and the frames that are pushed in turn, enlarged."""
    height, width = (side // _SCALE for side in size)
    upscaler = Upscaler(bundle, backend, height, width, options)
    return upscaler, [upscaler.prepare(moving_picture(i, height, width)) for i in range(_DISTINCT)]


def _stream(upscaler: Upscaler, prepared: list[np.ndarray], frames: int) -> Iterator[list[np.ndarray]]:
    """Pushes everything; gives what leaves, as it leaves."""
    for index in range(frames):
        if ready := upscaler.push(prepared[index % len(prepared)]):
            yield ready
    if ready := upscaler.flush():
        yield ready


def _opened(bundle: str, precision: str, backend: Backend) -> Bundle:
    if bundle != "random":
        return open_bundle(bundle)
    from flashvsr_trt.runtime.commands.random_bundle import random_bundle  # the way to the export

    return open_bundle(random_bundle("real", precision, fused=backend.asynchronous and precision != "fp32"))


def _reference(given: argparse.Namespace, backend: Backend, options: Options) -> Side:
    """Opened before anything is measured, so that what does not fit is told at once."""
    other = open_backend(given.against_device) if given.against_device else backend
    reference = _opened(given.against, given.against_precision or "fp32", other)
    check_options(reference.manifest, options)
    return Side(reference, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a folder, or random")
    parser.add_argument("--precision", default="fp16", choices=PRECISIONS, help="of random weights")
    parser.add_argument("--size", default="768x1408", help="output, HEIGHTxWIDTH")
    parser.add_argument("--frames", type=int, default=125)
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--variant", default="long", choices=VARIANTS)
    parser.add_argument("--sparse-ratio", type=float, default=2.0)
    parser.add_argument("--against", metavar="BUNDLE|random", help="compare the frames with those of this one")
    parser.add_argument("--against-precision", choices=PRECISIONS, help="of its random weights [fp32]")
    parser.add_argument("--against-device", choices=DEVICES, help="where it runs [as --device]")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not given.against and (given.against_precision or given.against_device):
        parser.error("--against-precision and --against-device need --against")
    backend = open_backend(given.device)
    side = Side(_opened(given.bundle, given.precision, backend), backend)
    manifest = side.bundle.manifest
    parameters = Parameters(sparse_ratio=given.sparse_ratio, local_range=manifest.local_range)
    options = settled(Options(variant=given.variant, parameters=parameters), manifest)
    reference = _reference(given, backend, options) if given.against else None
    height, width = map(int, given.size.split("x"))
    facts = measure(side.bundle, backend, (height, width), given.frames, options)
    run = {"ms_per_step": facts["ms_by_graph"], "canvas": (width, height), "tiles": None}
    facts |= limits(side.bundle, backend, run | {"sparse_ratio": given.sparse_ratio})
    if reference:
        backend.trim()
        facts["agreement"] = compared(side, reference, (height, width), given.frames, options)
    if given.json:
        given.json.write_text(json.dumps(facts, indent=1) + "\n")
    for name, value in facts.items():
        print(f"{name:<15} {value}")


if __name__ == "__main__":
    main()
