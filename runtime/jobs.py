"""One input to one output: open, plan, upscale, finish. What `flashvsr-trt run` does, for Python too.

from flashvsr_trt.runtime import Job, upscale_file
report = upscale_file(Job(source="in.mp4", output="out.mp4"))
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import BundleError, UsageError
from flashvsr_trt.configs.schedule import Canvas
from flashvsr_trt.runtime import estimate, pipeline
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.machine import memory as machine_memory
from flashvsr_trt.runtime.machine import peak_rss
from flashvsr_trt.runtime.progress import Meter, Status, look
from flashvsr_trt.runtime.sizes import Size
from flashvsr_trt.runtime.upscaler import Options, Upscaler, check_options
from flashvsr_trt.runtime.video.cut import Position
from flashvsr_trt.runtime.video.frames import Frame, ReadStats, SourceInfo
from flashvsr_trt.runtime.video.options import OutputOptions
from flashvsr_trt.runtime.video.plan import OutputPlan, default_output, plan_output
from flashvsr_trt.runtime.video.reader import Source, open_source
from flashvsr_trt.runtime.video.writer import open_writer


@dataclass(frozen=True, kw_only=True)
class Job:
    """What shall be done.

    Attributes:
        source: a video, an image, a folder of images, or "-" for y4m on stdin.
        output: a file, a folder for images, "-" for y4m on stdout, or None for the default name. With
            `into_folder` it is the folder that the default name goes to.
        size: of the output.
        options: of the upscaler; its `scale`, `output` and `bits` are set here, from `size` and the output.
        auto_tile: where `options` name no tiles, take some if the run would not fit into host memory.
        video: of the encoder.
        start, end, frames: the part to read, see video.reader.open_source.
        image_rate: frames per second that a folder of images stands for.
    """

    source: str
    output: str | None = None
    into_folder: bool = False
    size: Size = field(default_factory=Size)
    options: Options = field(default_factory=Options)
    auto_tile: bool = True
    video: OutputOptions = field(default_factory=OutputOptions)
    start: Position | None = None
    end: Position | None = None
    frames: int | None = None
    image_rate: Fraction = Fraction(25)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job with an open source, fully decided; `close` it or `execute` it."""

    job: Job
    source: Source
    output: OutputPlan
    options: Options
    canvas: Canvas
    memory: estimate.Memory

    @property
    def info(self) -> SourceInfo:
        return self.source.info

    @property
    def frames_in(self) -> int | None:
        """Frames that will be read, as far as the source tells."""
        return None if self.info.path == "-" else self.info.frames  # of a pipe FFmpeg knows what it has seen

    @property
    def steps(self) -> int | None:
        """Steps of the networks; None where the source does not tell its length."""
        if self.frames_in is None:
            return None
        count = schedule.reference_frames if self.options.reference_count else schedule.padded_frames
        return schedule.steps(count(self.frames_in))

    @property
    def frames_out(self) -> int | None:
        """Frames that will be written, as far as the source tells."""
        if self.frames_in is None or not self.options.reference_count:
            return self.frames_in
        return schedule.reference_frames(self.frames_in) - schedule.LOOK_AHEAD

    def close(self) -> None:
        self.source.close()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done."""

    input: str
    output: str
    size: tuple[int, int]  # (width, height)
    bytes: int | None  # None: a pipe
    status: Status
    read: ReadStats
    peak_rss: int | None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        own = {"input": self.input, "output": self.output, "size": list(self.size), "bytes": self.bytes}
        state = self.status.as_dict()
        del state["left"], state["total"]
        return own | state | {"source": asdict(self.read), "peak_rss": self.peak_rss, "warnings": self.warnings}


def upscale_file(
    job: Job,
    *,
    bundle: Path | str | None = None,
    backend: Backend | None = None,
    on_status: Callable[[Status], None] = lambda status: None,
    cancel: threading.Event | None = None,
) -> Report:
    """Upscales one input to one output.

    Args:
        job: what to do.
        bundle: a bundle folder; None takes the packaged one.
        backend: None takes the best one present.
        on_status: called after each frame.
        cancel: set it from elsewhere to stop within a step; nothing half-written stays.

    Raises:
        FlashVSRError: see configs.errors; nothing half-written stays.
    """
    opened, device = open_bundle(bundle), backend or open_backend()
    planned = plan(job, opened, device)
    return execute(planned, opened, device, on_status=on_status, cancel=cancel)


def plan(job: Job, bundle: Bundle, backend: Backend) -> Planned:
    """Opens the source and decides everything; writes nothing and runs nothing.

    Raises:
        FlashVSRError: anything that can be known before work starts.
    """
    check_options(bundle.manifest, job.options)
    source = open_source(job.source, start=job.start, end=job.end, frames=job.frames, image_rate=job.image_rate)
    try:
        return _decide(job, bundle, source, backend.name in estimate.HOST_BACKENDS)
    except BaseException:
        source.close()
        raise


def _decide(job: Job, bundle: Bundle, source: Source, on_host: bool) -> Planned:
    info = source.info
    wanted = job.size.output(info.height, info.width, turned=info.rotation % 180 == 90)
    canvas = schedule.canvas(info.height, info.width, output=wanted, fit=job.options.fit)
    height, width = canvas.output
    output = plan_output(info, _output_path(job, info), (width, height), job.video)
    options = replace(job.options, output=wanted, bits=16 if output.depth > 8 else 8)
    post = f"post_{options.colour_fix}{options.bits}"
    if post not in bundle.manifest.graphs:
        raise BundleError(f"{bundle.folder} has no graph {post}", todo="export the bundle again")
    if options.reference_count and info.frames is not None and info.frames_exact:
        schedule.reference_frames(info.frames)  # too few frames are told now, not at the end
    if job.auto_tile and options.tiling is None and on_host and (host := machine_memory()) is not None:
        options = replace(options, tiling=estimate.choose_tiling(bundle.manifest, canvas, options, host[1]))
    return Planned(
        job=job,
        source=source,
        output=output,
        options=options,
        canvas=canvas,
        memory=estimate.memory(bundle.manifest, canvas, options),
    )


def _output_path(job: Job, info: SourceInfo) -> str:
    if job.output is not None and not job.into_folder:
        return job.output
    if info.path == "-" and job.output is None:
        raise UsageError("stdin gives the output no name", todo="name it with -o, e.g. -o out.mkv")
    before, _, suffix = default_output(info, 0, job.video).rpartition("0x")
    named = Path(f"{before}{job.size.tag}{suffix}")
    return str(named if job.output is None else Path(job.output) / named.name)


def execute(
    planned: Planned,
    bundle: Bundle,
    backend: Backend,
    *,
    on_status: Callable[[Status], None] = lambda status: None,
    cancel: threading.Event | None = None,
) -> Report:
    """Does what was planned, and closes the source.

    Raises:
        FlashVSRError: the first failure; nothing half-written stays.
    """
    meter = Meter(backend)
    with ExitStack() as stack:
        closing = stack.enter_context(ExitStack())
        closing.callback(planned.close)
        upscaler = Upscaler(bundle, backend, planned.info.height, planned.info.width, planned.options)
        writer = stack.enter_context(open_writer(planned.output))
        closing.pop_all()  # from here on the thread that reads the source closes it
        progress = pipeline.run(
            _frames(planned.source),
            upscaler,
            writer.write,
            on_progress=lambda progress: on_status(look(progress, planned.frames_out, meter)),
            cancel=cancel,
        )
        began = time.perf_counter()
        result = writer.finish()  # encoders hold frames back until they are told that it was the last
        progress.seconds["encode"] += time.perf_counter() - began
    return Report(
        input=planned.job.source,
        output=result.path,
        size=planned.output.size,
        bytes=result.bytes,
        status=look(progress, planned.frames_out, meter),
        read=planned.source.stats,
        peak_rss=peak_rss(),
        warnings=(*planned.output.warnings, *result.warnings),
    )


def _frames(source: Source) -> Iterator[Frame]:
    with source:
        yield from source
