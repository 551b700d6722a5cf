"""`flashvsr-trt calibrate`: a bundle of FP8 from one of fp16 and a clip."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import click
import numpy as np

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import Graph
from flashvsr_trt.configs.errors import FlashVSRError, UsageError
from flashvsr_trt.configs.schedule import FIRST_OUTPUT, Parameters
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.backends.base import NOTHING, Buffer, StepGraph
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu, OrtGraph
from flashvsr_trt.runtime.machine import gib
from flashvsr_trt.runtime.upscaler import Options, upscale

FRAMES = 45  # step 0 and three more
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("clip")
@click.option("-o", "--output", type=FOLDER, required=True, help="The FP8 bundle's folder.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--frames", type=click.IntRange(FIRST_OUTPUT), default=FRAMES, show_default=True, help="Of the clip.")
@click.option("-s", "--scale", type=float, default=4.0, show_default=True, help="As of run.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@console.options
def calibrate(
    bundle: Path, clip: str, output: Path, overwrite: bool, frames: int, scale: float, threads: int | None
) -> None:
    """Make a bundle whose DiT and LQ projector compute in FP8, for ONNX Runtime on GPUs from RTX 40 and H100 on.

    BUNDLE is one of `export --fused` in fp16. CLIP shows what numbers to expect: a few frames of the kind of video that
    it is for, and small, since it runs on the CPU. The projector's gain is Hopper's alone.
    """
    from_clip(bundle, clip, output, frames=frames, scale=scale, threads=threads, overwrite=overwrite)


def from_clip(
    bundle: Path,
    clip: str,
    output: Path,
    *,
    frames: int = FRAMES,
    scale: float = 4.0,
    threads: int | None = None,
    overwrite: bool = False,
) -> None:
    """What the command does; all that can be refused at once is."""
    from flashvsr_trt.export.float8 import check_source
    from flashvsr_trt.export.folder import refuse_existing

    refuse_existing(output, overwrite=overwrite)
    check_source(bundle)
    pixels = first_frames(clip, frames)
    from_frames(bundle, pixels, clip, output, scale=scale, threads=threads, overwrite=overwrite)


def from_frames(
    bundle: Path,
    pixels: list[np.ndarray],
    clip: str,
    output: Path,
    *,
    scale: float = 4.0,
    threads: int | None = None,
    overwrite: bool = False,
) -> None:
    """`from_clip` of the frames that `first_frames` gave of a clip."""
    largest = largest_inputs(bundle, pixels, scale=scale, threads=threads)
    about = f"FP8, calibrated on {console.counted(len(pixels), 'frame')} of {Path(clip).name}"
    write(bundle, output, largest, about=about, overwrite=overwrite)


def first_frames(clip: str, count: int = FRAMES) -> list[np.ndarray]:
    """Up to `count` frames of a video, uint8 [height, width, 3]; UsageError for one too short."""
    from flashvsr_trt.runtime.video.reader import open_source

    with open_source(clip) as source:
        pixels = [frame.rgb for frame in islice(source, count)]
    if len(pixels) < FIRST_OUTPUT:
        raise UsageError(
            f"{clip} has only {console.counted(len(pixels), 'frame')}",
            expected=f"at least {FIRST_OUTPUT}",
            todo="calibrate with a longer clip",
        )
    return pixels


def largest_inputs(
    bundle: Path, frames: Iterable[np.ndarray], *, scale: float = 4.0, threads: int | None = None
) -> dict[str, float]:
    """Runs `frames` (uint8 [height, width, 3]) through a fused bundle on the CPU.

    Returns:
        What `export.float8.to_float8` asks for: of each fused product of the DiT and each convolution of the LQ
        projector, by its weight's name, the largest |x| that came in; of each attention the largest query, key and
        value.

    Raises:
        BundleError: the bundle is not a fused one.
    """
    backend = Watching(threads)
    options = Options(scale=scale, parameters=Parameters(local_range=manifests.load(bundle).local_range))
    for _ in upscale(frames, bundle=bundle, backend=backend, options=options):
        pass
    return backend.largest


def write(bundle: Path, output: Path, largest: Mapping[str, float], *, about: str, overwrite: bool) -> None:
    """`export.float8.to_float8`, told to the user."""
    from flashvsr_trt.export.float8 import to_float8

    began = time.monotonic()
    made = to_float8(
        bundle, output, largest, about=about, overwrite=overwrite, report=lambda line: console.say("graph", line)
    )
    size = gib(sum(file.bytes for file in made.files.values()))
    console.say("done", f"{output}: {len(made.files)} files, {size}, in {time.monotonic() - began:.0f} s")


class Watching(OrtCpu):
    """Notes the largest inputs of products, attentions and the projector's convolutions: `largest`, by name."""

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self.largest: dict[str, float] = {}

    def load(self, path: Path, graph: Graph, symbols: Mapping[str, int] = NOTHING) -> StepGraph:
        from flashvsr_trt.export.float8 import GRAPHS, PROJECTOR, SEEN, watched

        if graph.name not in GRAPHS + PROJECTOR:
            return super().load(path, graph, symbols)
        session = self.open(path, watched(path))
        names = [output.name for output in session.get_outputs() if output.name.startswith(SEEN)]
        return _Watched(self, OrtGraph(self, session, path, graph), {name: name.removeprefix(SEEN) for name in names})


class _Watched(StepGraph):
    def __init__(self, backend: Watching, inner: OrtGraph, names: Mapping[str, str]) -> None:
        self._backend, self._inner, self._names = backend, inner, names

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        binding, largest = self._inner.binding, self._backend.largest
        binding.clear_binding_outputs()
        for name in self._names:
            binding.bind_output(name, "cpu")
        self._inner.run(inputs, outputs)
        # Bound first, they come first.
        for name, value in zip(self._names.values(), binding.get_outputs(), strict=False):
            seen = float(value.numpy())
            if not math.isfinite(seen):
                raise FlashVSRError(
                    f"the largest of {name} is {seen} in this clip", expected="a number", todo="calibrate with another"
                )
            largest[name] = max(largest.get(name, 0.0), seen)
