"""One input to one output: open, plan, upscale, finish. What `flashvsr-trt run` does, for Python too.

from flashvsr_trt.runtime import Job, upscale_file
report = upscale_file(Job(source="in.mp4", output="out.mp4"))
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import BundleError, OutOfMemory, OutputExists, UsageError
from flashvsr_trt.configs.schedule import Canvas
from flashvsr_trt.runtime import estimate, pipeline, session
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.identity import program_identity, source_identity
from flashvsr_trt.runtime.machine import memory as machine_memory
from flashvsr_trt.runtime.machine import peak_rss
from flashvsr_trt.runtime.progress import Meter, Status, look
from flashvsr_trt.runtime.scenes import Listed, parse_scene_cut
from flashvsr_trt.runtime.session import Recorded, Scenes
from flashvsr_trt.runtime.shrink import smaller
from flashvsr_trt.runtime.sizes import Size
from flashvsr_trt.runtime.upscaler import VARIANTS, Options, Upscaler, check_options
from flashvsr_trt.runtime.video.cut import Position
from flashvsr_trt.runtime.video.frames import Frame, ReadStats, SourceInfo
from flashvsr_trt.runtime.video.images import sync_file
from flashvsr_trt.runtime.video.options import OutputOptions
from flashvsr_trt.runtime.video.output import publish
from flashvsr_trt.runtime.video.plan import STDOUT, OutputPlan, default_output, plan_output
from flashvsr_trt.runtime.video.probe import STDIN
from flashvsr_trt.runtime.video.reader import Source, open_source
from flashvsr_trt.runtime.video.segments import SegmentWriter, join
from flashvsr_trt.runtime.video.writer import WriteResult, open_writer
from flashvsr_trt.runtime.work import Kept, Work


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
        scene_cut: "auto", "off" or a file that lists them.
        segment: seconds of video after which the work is kept; None decides by what keeping costs.
        resume: "auto" goes on with kept work, "only" refuses to begin, "never" throws it away.
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
    scene_cut: str = "auto"
    segment: float | None = None
    resume: str = "auto"
    tag: str = ""  # at the end of a default name


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job with an open source, fully decided; `close` it or `execute` it."""

    job: Job
    source: Source
    output: OutputPlan
    options: Options
    canvas: Canvas
    memory: estimate.Memory
    scene_cut: session.SceneCut = None
    segment: int = 0  # frames
    state: int = 0  # bytes stored at the end of a segment
    settings: dict[str, Any] = field(default_factory=dict)  # all that decides the output's bits
    kept: Kept | None = None  # work to go on with

    @property
    def resumable(self) -> bool:
        """Whether the work is kept: the source can be read again, and the output is a file of segments."""
        return self.source.info.path != STDIN and keeps(self.output)

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
    scene_cuts: tuple[int, ...] = ()  # first frames of new scenes, of those that this run has upscaled
    kept: Kept | None = None  # segments; None where nothing is kept
    settings: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        own = {"input": self.input, "output": self.output, "size": list(self.size), "bytes": self.bytes}
        state = self.status.as_dict()
        del state["left"], state["total"]
        more = {"source": asdict(self.read), "peak_rss": self.peak_rss, "warnings": self.warnings}
        return own | state | more | {"scene_cuts": self.scene_cuts, "resumed": self.status.resumed}


class AlreadyDone(OutputExists):
    """The output is complete: the run that wrote it was cut off when only its work folder was left to remove."""


def keeps(output: OutputPlan) -> bool:
    """Whether an output grows in segments."""
    target = output.video
    return output.kind == "video" and output.path != STDOUT and target is not None and target.muxer != "yuv4mpegpipe"


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
    """Opens the source and decides everything; writes nothing.

    Raises:
        AlreadyDone: an earlier run has finished it.
        FlashVSRError: anything that can be known before work starts.
    """
    check_options(bundle.manifest, job.options)
    source = _open(job)
    try:
        on_host = backend.name in estimate.HOST_BACKENDS
        return _with_session(_decide(job, bundle, source, on_host), bundle, backend)
    except BaseException:
        source.close()
        raise


def _open(job: Job) -> Source:
    return open_source(job.source, start=job.start, end=job.end, frames=job.frames, image_rate=job.image_rate)


def _decide(job: Job, bundle: Bundle, source: Source, on_host: bool) -> Planned:
    info = source.info
    wanted = job.size.output(info.height, info.width, turned=info.rotation % 180 == 90)
    canvas = schedule.canvas(info.height, info.width, output=wanted, fit=job.options.fit)
    height, width = canvas.output
    path = _output_path(job, info)
    try:
        output = plan_output(info, path, (width, height), job.video)
    except OutputExists as error:
        if Work(path).tidy_up():
            raise AlreadyDone(f"{path} is complete: an earlier run has written it") from error
        raise
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


def _with_session(planned: Planned, bundle: Bundle, backend: Backend) -> Planned:
    """Adds scenes, segments and what earlier runs have done."""
    job, info = planned.job, planned.info
    # One image has no cuts, and the reference knows none: its frame count is that of one stream.
    plain = info.kind == "image" or planned.options.reference_count
    planned = replace(planned, scene_cut=None if plain else parse_scene_cut(job.scene_cut))
    state = session.state_bytes(bundle.manifest, planned.canvas, planned.options)
    segment = session.segment_frames(job.segment, state, info.rate)
    planned = replace(planned, state=state, segment=segment)
    if not planned.resumable:
        if job.resume == "only":
            raise UsageError("--resume: this output is not kept in segments, or its source cannot be read again")
        return planned
    settings = _settings(planned, bundle, backend)
    kept = session.continued(Work(planned.output.path), job.resume, settings)
    planned = replace(planned, settings=settings, kept=kept)
    if kept is None:
        return planned
    options = session.as_kept(planned.options, kept)
    return replace(planned, options=options, memory=estimate.memory(bundle.manifest, planned.canvas, options))


def _settings(planned: Planned, bundle: Bundle, backend: Backend) -> dict[str, Any]:
    """All that decides the output's bits, by the names that people know. Only what JSON gives back unchanged."""
    options, canvas, target, job = planned.options, planned.canvas, planned.output.video, planned.job
    assert target is not None
    encoder, parameters, cut = target.encoder, options.parameters, planned.scene_cut
    return {
        **source_identity(planned.info.path),
        "part of the source": f"{job.start} to {job.end}, {job.frames} frames",
        "rate of images": str(job.image_rate),
        "output size": f"{canvas.output[1]}x{canvas.output[0]}",
        "fit": options.fit,
        "bundle": bundle.manifest.digest(),
        "back end": backend.describe(),
        "decoder": VARIANTS[options.variant],
        "tiles": "as memory allows" if job.auto_tile else str(options.tiling),
        "colour fix": options.colour_fix,
        "reference count": options.reference_count,
        "sparse ratio": parameters.sparse_ratio,
        "kv ratio": parameters.kv_ratio,
        "local range": parameters.local_range,
        "seed": parameters.seed,
        "noise": "the seed's" if options.noise is None else "the caller's",
        "scene cuts": [str(place) for place in cut.places] if isinstance(cut, Listed) else cut is not None,
        "segment length": planned.segment,
        "container": target.muxer,
        "encoder": encoder.codec,
        "pixel format": encoder.pix_fmt,
        "encoder options": dict(encoder.options),
        "time base": str(encoder.time_base),
        "copied streams": list(target.copied),
        **program_identity(),
    }


def _output_path(job: Job, info: SourceInfo) -> str:
    if job.output is not None and not job.into_folder:
        return job.output
    if info.path == "-" and job.output is None:
        raise UsageError("stdin gives the output no name", todo="name it with -o, e.g. -o out.mkv")
    before, _, suffix = default_output(info, 0, job.video).rpartition("0x")
    named = Path(f"{before}{job.size.tag}{job.tag}{suffix}")
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
        FlashVSRError: the first failure; finished segments are kept, and nothing else.
    """
    run = _Run(planned, bundle, backend, on_status, cancel)
    return run.kept() if planned.resumable else run.straight()


class _Run:
    """One job in progress."""

    def __init__(
        self,
        planned: Planned,
        bundle: Bundle,
        backend: Backend,
        on_status: Callable[[Status], None],
        cancel: threading.Event | None,
    ) -> None:
        self._planned, self._bundle, self._backend = planned, bundle, backend
        self._on_status, self._cancel = on_status, cancel
        self._meter = Meter(backend)

    def straight(self) -> Report:
        """Into a pipe or images: nothing is kept."""
        planned = self._planned
        with ExitStack() as stack:
            closing = stack.enter_context(ExitStack())
            closing.callback(planned.close)
            upscaler = self._upscaler(planned.options)
            writer = stack.enter_context(open_writer(planned.output))
            closing.pop_all()  # from here on the thread that reads the source closes it
            scenes = Scenes(planned.scene_cut)
            progress = self._pipeline(planned.source, upscaler, writer.write, scenes)
            began = time.perf_counter()
            result = writer.finish()  # encoders hold frames back until they are told that it was the last
            progress.seconds["encode"] += time.perf_counter() - began
        return self._report(result, progress, planned.source, scenes)

    def kept(self) -> Report:
        """In segments, going on with those that are there, with smaller and smaller plans where memory is short."""
        work = Work(self._planned.output.path)
        with ExitStack() as stack:
            stack.callback(self._planned.close)
            work.enter()
            kept: Kept | None = None
            try:
                kept = self._begin(work)
                return self._until_it_fits(work, kept)
            finally:
                work.leave(keep=kept is not None and bool(kept.segments))

    def _begin(self, work: Work) -> Kept:
        planned = self._planned
        # Read again: it may have changed before the folder was locked.
        kept = session.continued(work, "never" if planned.kept is None else "auto", planned.settings)
        if kept is not None and kept.size is not None and not work.part.exists():
            kept = None  # what it names has got its name and was overwritten on purpose
        work.clear(kept)
        if kept is None:
            kept = Kept(settings=planned.settings, plan=session.plan_of(planned.options))
        return kept

    def _until_it_fits(self, work: Work, kept: Kept) -> Report:
        options = self._planned.options
        may_tile = self._planned.job.auto_tile or options.tiling is not None
        source: Source | None = self._planned.source
        while True:
            try:
                return self._attempt(work, kept, options, source or _open(self._planned.job))
            except (OutOfMemory, MemoryError) as error:
                next_plan = smaller(options, self._planned.canvas, tiles=may_tile)
                if next_plan is None:
                    if isinstance(error, OutOfMemory):
                        raise
                    raise OutOfMemory(f"out of host memory: {error}".rstrip(": "), todo="use a smaller size") from error
                before, (options, text) = options.tiling, next_plan
                told = f"{error.came if isinstance(error, OutOfMemory) else 'out of host memory'}: {text}"
            source = None
            gc.collect()  # the error's traceback has held the networks and their memory, in a circle
            LOG.warning("%s; going on at frame %d", told, kept.frames)
            kept.changes.append(f"from frame {kept.frames}: {text}")
            kept.plan = session.plan_of(options)
            if options.tiling != before:
                kept.scene = kept.frames  # the state of other tiles fits none of these: a new stream
                if kept.segments:
                    work.save(kept, {})
            work.clear(kept if kept.segments else None)

    def _attempt(self, work: Work, kept: Kept, options: Options, source: Source) -> Report:
        """From the last segment that is kept to the end."""
        planned = self._planned
        writer = SegmentWriter(planned.output, work.path, kept.segments, kept.timeline)
        recorded = Recorded(work, kept, writer, planned.segment, planned.scene_cut)
        with ExitStack() as stack:
            stack.callback(writer.abandon)
            closing = stack.enter_context(ExitStack())
            closing.callback(source.close)
            progress = pipeline.Progress(kept.frames)
            if not kept.finished:
                upscaler = self._upscaler(options)
                upscaler.load_state(work.arrays(kept))
                source.hidden = recorded.hidden
                closing.pop_all()  # from here on the thread that reads the source closes it
                progress = self._pipeline(source, upscaler, writer.write, recorded)
                began = time.perf_counter()
                recorded.complete()
                progress.seconds["encode"] += time.perf_counter() - began
        began = time.perf_counter()
        copied = join(planned.output, work.path, kept.segments, work.part)
        size = self._publish(work, kept)
        result = WriteResult(planned.output.path, kept.frames, size, copied.check())
        progress.seconds["join"] += time.perf_counter() - began
        return self._report(result, progress, source, recorded, kept)

    def _publish(self, work: Work, kept: Kept) -> int:
        """Gives the joined file its name and returns its bytes. The size is kept before: it tells a run cut off here."""
        sync_file(work.part)
        kept.size = work.part.stat().st_size
        try:
            work.save(kept)
            size = publish(work.part, self._planned.output)
        except BaseException:
            kept.size = None
            raise
        work.finish()
        return size

    def _upscaler(self, options: Options) -> Upscaler:
        info = self._planned.info
        return Upscaler(self._bundle, self._backend, info.height, info.width, options)

    def _pipeline(self, source: Source, upscaler: Upscaler, write: pipeline.Write, scenes: Scenes) -> pipeline.Progress:
        total, meter = self._planned.frames_out, self._meter
        return pipeline.run(
            _frames(source),
            upscaler,
            write,
            on_progress=lambda progress: self._on_status(look(progress, total, meter)),
            cancel=self._cancel,
            session=scenes,
        )

    def _report(
        self, result: WriteResult, progress: pipeline.Progress, source: Source, scenes: Scenes, kept: Kept | None = None
    ) -> Report:
        planned = self._planned
        return Report(
            input=planned.job.source,
            output=result.path,
            size=planned.output.size,
            bytes=result.bytes,
            status=look(progress, planned.frames_out, self._meter),
            read=source.stats,
            peak_rss=peak_rss(),
            warnings=(*planned.output.warnings, *result.warnings),
            scene_cuts=tuple(scenes.found),
            kept=kept,
            settings=planned.settings,
            plan=session.plan_of(planned.options) if kept is None else kept.plan,
        )


def _frames(source: Source) -> Iterator[Frame]:
    with source:
        yield from source
