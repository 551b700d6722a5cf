"""`flashvsr-trt bench`: the speed on this machine, in figures that two people can compare."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.schedule import FIRST_OUTPUT, STEP, Parameters
from flashvsr_trt.runtime import console, machine
from flashvsr_trt.runtime.backends import DEVICES, open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.execution import Report, execute
from flashvsr_trt.runtime.identity import Described
from flashvsr_trt.runtime.interrupt import run_stoppable
from flashvsr_trt.runtime.jobs import Job, Planned, plan
from flashvsr_trt.runtime.progress import STAGES, Display, Meter, Status, choose_display, clock
from flashvsr_trt.runtime.sizes import Size, parse_size, parse_tile
from flashvsr_trt.runtime.talk import say_bundle, say_plan
from flashvsr_trt.runtime.upscaler import VARIANTS, Options
from flashvsr_trt.runtime.video.frames import ColourTags, FrameTiming, SourceInfo
from flashvsr_trt.runtime.video.options import OutputOptions
from flashvsr_trt.runtime.video.plan import plan_output
from flashvsr_trt.runtime.video.writer import open_writer

_SCALE = 4
_GENERATED_FRAMES = 96
_RATE = Fraction(25)


@dataclass
class Watch:
    """Notes when the start is over: from then on one step is like the next."""

    backend: Backend
    start_frames: int  # that the start gives: those of step 0, or of the first segment of variant tiny
    meter: Meter = field(init=False)
    mark: tuple[float, int, dict[str, float]] | None = None  # time, frames, seconds by graph
    last: tuple[float, int, dict[str, float]] | None = None

    def __post_init__(self) -> None:
        self.meter = Meter(self.backend)

    def frame(self, upscaled: int) -> None:
        """Called when `upscaled` frames have left the networks."""
        if upscaled < self.start_frames or (upscaled - FIRST_OUTPUT) % STEP:
            return
        self.last = (time.perf_counter(), upscaled, self.meter.graphs)
        self.mark = self.mark or self.last

    def steady(self) -> tuple[float, dict[str, float]] | None:
        """(frames per second, ms by graph per step of 8 frames) after the start; None if nothing came after it."""
        if self.mark is None or self.last is None or self.last[1] == self.mark[1]:
            return None
        steps = (self.last[1] - self.mark[1]) / STEP
        spent = {name: value - self.mark[2].get(name, 0.0) for name, value in self.last[2].items()}
        seconds = self.last[0] - self.mark[0]
        return steps * STEP / seconds, {name: 1000 * value / steps for name, value in spent.items()}


@click.command()
@click.argument("clip", required=False)
@click.option("--frames", type=click.IntRange(1), help=f"At most so many [{_GENERATED_FRAMES} without a clip].")
@click.option("--canvas", metavar="WxH", help="Output size [640x384 without a clip, 4x with one].")
@click.option("-m", "--variant", type=click.Choice(VARIANTS), default="long", show_default=True)
@click.option("--bundle", metavar="DIR", envvar="FLASHVSR_TRT_BUNDLE", help="What to run.")
@click.option("-d", "--device", default="auto", metavar="|".join(DEVICES), help="Where to run it [auto].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the networks.")
@click.option("--sparse-ratio", type=float, default=2.0, show_default=True)
@click.option("--tile", default="auto", metavar="auto|off|WxH", help="As of run [auto].")
@click.option("--overlap", type=click.IntRange(1), metavar="PX", help="As of run.")
@click.option("--segment-steps", type=click.IntRange(1), default=8, show_default=True, help="Of tiny and of tiles.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@console.options
def bench(clip: str | None, bundle: str | None, as_json: bool, **flags: Any) -> None:
    """Measure decode, networks and encode on CLIP, or on a generated one.

    The output is encoded as a run would, into a temporary file.
    """
    opened = open_bundle(bundle)
    backend = open_backend(flags["device"], threads=flags["threads"])
    say_bundle(opened, backend, packaged=bundle is None)
    parameters = Parameters(sparse_ratio=flags["sparse_ratio"], local_range=opened.manifest.local_range)
    with tempfile.TemporaryDirectory(prefix="flashvsr_bench_") as folder:
        size = parse_size(None, flags["canvas"] or (None if clip else "640x384"))
        source = clip or str(generated(Path(folder), size, flags["frames"] or _GENERATED_FRAMES))
        job = Job(
            source=source,
            output=str(Path(folder) / "out.mkv"),
            size=size,
            options=Options(
                variant=flags["variant"],
                segment_steps=flags["segment_steps"],
                tiling=parse_tile(flags["tile"], flags["overlap"]),
                parameters=parameters,
            ),
            auto_tile=flags["tile"] == "auto",
            frames=flags["frames"],
        )
        planned = plan(job, opened, Described.of(backend))
        say_plan(planned)
        display = choose_display(quiet=console.quiet())
        facts = run_stoppable(
            lambda cancel: measure(planned, opened, backend, display, cancel),
            on_stop=lambda: console.LOG.warning("stopping after this step"),
            at_once=lambda: shutil.rmtree(folder, ignore_errors=True),
        )
    click.echo(json.dumps(facts) if as_json else as_text(facts))


def measure(
    planned: Planned, bundle: Bundle, backend: Backend, display: Display, cancel: threading.Event
) -> dict[str, Any]:
    """Runs the job and gives the figures."""
    options = planned.options
    segment = options.segment_steps - 1 if options.phased and options.tiling is None else 0
    watch = Watch(backend, FIRST_OUTPUT + STEP * segment)

    def look(status: Status) -> None:
        watch.frame(status.upscaled)
        display.update(status)

    display.begin(Path(planned.info.path).name, planned.frames_out)
    try:
        report = execute(planned, bundle, backend, on_status=look, cancel=cancel)
    finally:
        display.end()
    return figures(planned, bundle, backend, report, watch)


def figures(planned: Planned, bundle: Bundle, backend: Backend, report: Report, watch: Watch) -> dict[str, Any]:
    """What was measured and on what."""
    status, steady = report.status, watch.steady()
    runtime = status.seconds["runtime"]
    inside = sum(status.seconds[stage] for stage in ("load", "networks", "runtime"))
    return {
        "date": date.today().isoformat(),
        "machine": machine.summary(),
        "gpus": machine.gpus(),
        "versions": machine.versions(),
        "backend": backend.describe(),
        "bundle": f"{bundle.manifest.model} {bundle.manifest.model_version} {bundle.manifest.precision}",
        "bundle_identity": bundle.manifest.digest(),
        "source": f"{planned.info.width}x{planned.info.height} {planned.info.codec}",
        "output": list(report.size),
        "canvas": [planned.canvas.width, planned.canvas.height],
        "variant": planned.options.variant,
        "sparse_ratio": planned.options.parameters.sparse_ratio,
        "tiles": None if planned.options.tiling is None else asdict(planned.options.tiling),
        "frames": status.frames,
        "seconds": round(status.elapsed, 3),
        "fps": round(status.fps, 4),
        "fps_steady": None if steady is None else round(steady[0], 4),
        "ms_per_step": None
        if steady is None
        else {name: round(value, 3) for name, value in steady[1].items() if value},
        "ms_start": {
            name: round(1000 * value, 3) for name, value in (watch.mark[2] if watch.mark else {}).items() if value
        },
        "stages": {stage: round(status.seconds[stage], 4) for stage in STAGES},
        "runtime_share": round(runtime / inside, 5) if inside else 0.0,
        "peak_rss": report.peak_rss,
        "predicted": planned.memory.total,
    }


def as_text(facts: dict[str, Any]) -> str:
    """The figures for people."""
    steady = facts["fps_steady"]
    seconds = facts["seconds"]
    lines = [
        f"flashvsr-trt bench, {facts['date']}",
        *(f"  {name:<8} {value}" for name, value in facts["machine"].items()),
        *(f"  gpu      {gpu}" for gpu in facts["gpus"]),
        f"  versions {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}",
        f"  device   {facts['backend']}",
        f"  bundle   {facts['bundle']} ({facts['bundle_identity'][:16]})",
        f"  work     {facts['source']} to {facts['output'][0]}x{facts['output'][1]}, canvas "
        f"{facts['canvas'][0]}x{facts['canvas'][1]}, {facts['frames']} frames, {facts['variant']}, "
        f"sparse ratio {facts['sparse_ratio']:g}",
        "",
        f"  {facts['fps']:.3g} fps with the start, {clock(seconds)} in all",
        "  too few frames for a steady speed: at least two steps after the start are needed"
        if steady is None
        else f"  {steady:.3g} fps steady, {1000 * STEP / steady:.1f} ms a step of {STEP} frames",
        "",
        "  graph            ms a step   ms in the start",
    ]
    names = sorted({*(facts["ms_per_step"] or {}), *facts["ms_start"]})
    for name in names:
        step = (facts["ms_per_step"] or {}).get(name)
        lines.append(
            f"  {name:<15} {'-' if step is None else f'{step:.1f}':>10} {facts['ms_start'].get(name, 0.0):>17.1f}"
        )
    lines += ["", "  stage       busy s   of the time"]
    lines += [
        f"  {stage:<10} {value:>7.2f} {100 * value / seconds:>11.1f} %" for stage, value in facts["stages"].items()
    ]
    peak = facts["peak_rss"]
    lines += [
        "",
        f"  runtime's own share of the upscaling thread: {100 * facts['runtime_share']:.2f} %",
        f"  peak memory {machine.gib(peak) if peak else 'not told by this system'}; the networks and their frames on a "
        f"CPU were predicted to take {machine.gib(facts['predicted'])}",
    ]
    return "\n".join(lines)


def generated(folder: Path, size: Size, frames: int) -> Path:
    """A clip of a quarter of the size, moving in all its parts, encoded so that decoding it is real work."""
    if size.box is None:
        raise UsageError("a generated clip needs a size in pixels", todo="give --canvas as WIDTHxHEIGHT, e.g. 640x384")
    width, height = (max(2, round(side / _SCALE / 2) * 2) for side in size.box)
    path = folder / "generated.mkv"
    info = SourceInfo(
        path="generated", kind="images", container="images", codec="raw", width=width, height=height, rate=_RATE,
        time_base=1 / _RATE, pix_fmt="yuv420p", bit_depth=8, colour=ColourTags(), frames=frames,
    )  # fmt: skip
    with open_writer(plan_output(info, path, (width, height), OutputOptions())) as writer:
        for index in range(frames):
            writer.write(moving_picture(index, height, width), FrameTiming(index, index, 1, 1 / _RATE))
    return path


def moving_picture(index: int, height: int, width: int) -> np.ndarray:
    """Waves that move across each other: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width] / 16.0
    phase = index / 6.0
    waves = np.stack((np.sin(x + phase), np.sin(y - phase), np.sin((x + y) * 2 + 2 * phase)), axis=-1)
    return np.round(127.5 + 100 * waves).astype(np.uint8)  # [height, width, 3]
