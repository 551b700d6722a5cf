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

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.manifest import PRECISIONS
from flashvsr_trt.configs.schedule import FIRST_OUTPUT, STEP, Parameters
from flashvsr_trt.runtime import console, machine
from flashvsr_trt.runtime.backends import DEVICES, open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.backends.choice import plan_for
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.commands.bench_text import as_text
from flashvsr_trt.runtime.commands.random_bundle import SIZES, random_bundle
from flashvsr_trt.runtime.device_memory import DeviceMemory
from flashvsr_trt.runtime.execution import Report, execute
from flashvsr_trt.runtime.identity import Described
from flashvsr_trt.runtime.interrupt import run_stoppable
from flashvsr_trt.runtime.jobs import Job, Planned, plan
from flashvsr_trt.runtime.limits import limits
from flashvsr_trt.runtime.progress import STAGES, Display, Meter, Status, choose_display
from flashvsr_trt.runtime.sizes import Size, parse_size, parse_tile
from flashvsr_trt.runtime.speed import moving_picture
from flashvsr_trt.runtime.talk import say_bundle, say_plan
from flashvsr_trt.runtime.upscaler import VARIANTS, Options
from flashvsr_trt.runtime.video.frames import ColourTags, FrameTiming, SourceInfo
from flashvsr_trt.runtime.video.options import OutputOptions
from flashvsr_trt.runtime.video.plan import plan_output
from flashvsr_trt.runtime.video.writer import open_writer

_SCALE = 4
_GENERATED_FRAMES = 96
_RATE = Fraction(25)
_GROWTH = (4, 16)  # times the frames
_GROWING = ("frames", "fps", "fps_steady", "peak_rss", "peak_device")


@dataclass
class Watch:
    """Notes when the start is over: from then on one step is like the next.

    A step is noted when its first frame leaves: its other frames may wait for the encoder, while the device goes on.
    Where steps leave in segments it is the last frame of each, with which the segment's work is over.
    """

    backend: Backend
    start_frames: int  # that the start gives: those of step 0, or of the first segment of variant tiny
    in_segments: bool = False
    meter: Meter = field(init=False)
    mark: tuple[float, int, dict[str, float]] | None = None  # time, frames, seconds by graph
    last: tuple[float, int, dict[str, float]] | None = None

    def __post_init__(self) -> None:
        self.meter = Meter(self.backend)

    def frame(self, upscaled: int) -> None:
        """Called when `upscaled` frames have left the networks."""
        first = self.start_frames + (0 if self.in_segments else 1)
        if upscaled < first or (upscaled - first) % STEP:
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
@click.option(
    "--random-weights",
    type=click.Choice(SIZES),
    is_flag=False,
    flag_value=SIZES[0],
    help="A network of random weights instead of a bundle [real]; exported into the cache the first time.",
)
@click.option("--precision", type=click.Choice(PRECISIONS), help="Of the random weights [fp16; fp32 on a CPU].")
@click.option("--growth", is_flag=True, help="Also with 4 and with 16 times the frames: speed and memory must stay.")
@click.option("-d", "--device", default="auto", metavar="|".join(DEVICES), help="Where to run it [auto].")
@click.option("--tier", metavar="GB|FILE", help="Plan for the memory of this tier [what is free].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the networks.")
@click.option("--sparse-ratio", type=float, default=2.0, show_default=True)
@click.option("--tile", default="auto", metavar="auto|off|WxH", help="As of run [auto].")
@click.option("--overlap", type=click.IntRange(1), metavar="PX", help="As of run.")
@click.option("--segment-steps", type=click.IntRange(1), default=8, show_default=True, help="Of tiny and of tiles.")
@click.option("-c", "--codec", help="As of run.")
@click.option("--preset", help="As of run; ultrafast, where the encoder keeps the networks waiting.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@console.options
def bench(clip: str | None, bundle: str | None, as_json: bool, **flags: Any) -> None:
    """Measure decode, networks and encode on CLIP, or on a generated one.

    The output is encoded as a run would, into a temporary file.
    """
    backend = open_backend(flags["device"], threads=flags["threads"])
    plan_for(flags["tier"], backend)
    opened = open_bundle(_chosen(bundle, backend, flags))
    say_bundle(opened, backend, packaged=bundle is None and not flags["random_weights"])
    frames = flags["frames"] or (None if clip else _GENERATED_FRAMES)
    before = DeviceMemory(backend).before
    facts = _run(clip, frames, opened, backend, flags, before)
    if flags["growth"]:
        if clip:
            raise UsageError("--growth with a clip", expected="a generated clip", todo="leave the clip away")
        more = [_run(clip, times * (frames or 1), opened, backend, flags, before) for times in _GROWTH]
        facts["growth"] = [{key: run[key] for key in _GROWING} for run in (facts, *more)]
    facts |= limits(opened, backend, facts)  # behind all runs: what it takes of the device's memory stays taken
    click.echo(json.dumps(facts) if as_json else as_text(facts))


def _chosen(bundle: str | None, backend: Backend, flags: dict[str, Any]) -> Path | str | None:
    """The bundle to open."""
    if flags["random_weights"] is None:
        if flags["precision"]:
            raise UsageError("--precision without --random-weights", expected="a bundle has the one of its export")
        return bundle
    if bundle:
        raise UsageError("--random-weights with --bundle", expected="one of them")
    precision = flags["precision"] or ("fp16" if backend.asynchronous else "fp32")
    fused = backend.name == "onnxruntime-cuda" and precision != "fp32"
    return random_bundle(flags["random_weights"], precision, fused=fused)


def _run(
    clip: str | None, frames: int | None, opened: Bundle, backend: Backend, flags: dict[str, Any], before: int | None
) -> dict[str, Any]:
    """One run from decoding to encoding, and its figures."""
    parameters = Parameters(sparse_ratio=flags["sparse_ratio"], local_range=opened.manifest.local_range)
    with tempfile.TemporaryDirectory(prefix="flashvsr_bench_") as folder:
        size = parse_size(None, flags["canvas"] or (None if clip else "640x384"))
        job = Job(
            source=clip or str(generated(Path(folder), size, frames or _GENERATED_FRAMES)),
            output=str(Path(folder) / "out.mkv"),
            size=size,
            video=OutputOptions(codec=flags["codec"], preset=flags["preset"]),
            options=Options(
                variant=flags["variant"],
                segment_steps=flags["segment_steps"],
                tiling=parse_tile(flags["tile"], flags["overlap"]),
                parameters=parameters,
            ),
            auto_tile=flags["tile"] == "auto",
            frames=frames,
        )
        planned = plan(job, opened, Described.of(backend))
        say_plan(planned)
        display = choose_display(quiet=console.quiet())
        return run_stoppable(
            lambda cancel: measure(planned, opened, backend, display, cancel, before),
            on_stop=lambda: console.LOG.warning("stopping after this step"),
            at_once=lambda: shutil.rmtree(folder, ignore_errors=True),
        )


def measure(
    planned: Planned,
    bundle: Bundle,
    backend: Backend,
    display: Display,
    cancel: threading.Event,
    before: int | None = None,
) -> dict[str, Any]:
    """Runs the job and gives the figures; `before` is as of DeviceMemory."""
    options = planned.options
    segment = options.segment_steps - 1 if options.phased and options.tiling is None else 0
    in_segments = options.phased or options.tiling is not None
    watch = Watch(backend, FIRST_OUTPUT + STEP * segment, in_segments)

    def look(status: Status) -> None:
        watch.frame(status.upscaled)
        display.update(status)

    copied = dict(backend.transfers)
    display.begin(Path(planned.info.path).name, planned.frames_out)
    try:
        with DeviceMemory(backend, before) as memory:
            report = execute(planned, bundle, backend, on_status=look, cancel=cancel)
    finally:
        display.end()
    facts = figures(planned, bundle, backend, report, watch)
    transfers = {
        way: {
            "seconds": round(seconds - copied.get(way, (0.0, 0))[0], 4),
            "bytes": count - copied.get(way, (0.0, 0))[1],
        }
        for way, (seconds, count) in backend.transfers.items()
    }
    return facts | {"peak_device": memory.peak, "transfers": transfers}


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
        "predicted_device": None if planned.device is None else planned.device.peak,
    }


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
