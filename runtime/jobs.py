"""One input to one output: open, decide everything, and find what an earlier run has kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import BundleError, OutputExists, UsageError
from flashvsr_trt.configs.schedule import Canvas
from flashvsr_trt.runtime import estimate, session
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.identity import Described, program_identity, source_identity
from flashvsr_trt.runtime.machine import memory as machine_memory
from flashvsr_trt.runtime.planner import Plan
from flashvsr_trt.runtime.scenes import Listed, parse_scene_cut
from flashvsr_trt.runtime.sizes import Size
from flashvsr_trt.runtime.upscaler import VARIANTS, Options, check_options, settled
from flashvsr_trt.runtime.video.cut import Position
from flashvsr_trt.runtime.video.frames import SourceInfo
from flashvsr_trt.runtime.video.options import OutputOptions
from flashvsr_trt.runtime.video.plan import STDOUT, OutputPlan, default_output, plan_output
from flashvsr_trt.runtime.video.probe import STDIN
from flashvsr_trt.runtime.video.reader import Source, open_source
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
        auto_tile: where `options` name no tiles, take some if the run would not fit into memory.
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
    processes: int = 1  # that need that memory, each
    device: Plan | None = None  # of a GPU's memory
    scene_cut: session.SceneCut = None
    segment: int = 0  # frames
    state: int = 0  # bytes stored at the end of a segment
    settings: dict[str, Any] = field(default_factory=dict)  # all that decides the output's bits
    kept: Kept | None = None  # work to go on with

    @property
    def resumable(self) -> bool:
        """Whether the work is kept: the source can be read again, and the output is made of segments."""
        return self.source.info.path != STDIN and keeps(self.output)

    @property
    def info(self) -> SourceInfo:
        return self.output.info

    def __getstate__(self) -> dict[str, Any]:
        """All but the open source: who gets the plan in another process opens its own."""
        return {name: value for name, value in vars(self).items() if name != "source"}

    @property
    def frames_in(self) -> int | None:
        """Frames that will be read, as far as the source tells."""
        return self.info.frames

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


class AlreadyDone(OutputExists):
    """The output is complete: the run that wrote it was cut off when only its work folder was left to remove."""


def keeps(output: OutputPlan) -> bool:
    """Whether an output grows in segments."""
    target = output.video
    if target is None:
        return output.kind == "images"
    return output.path != STDOUT and target.muxer != "yuv4mpegpipe"


def plan(job: Job, bundle: Bundle, device: Described) -> Planned:
    """Opens the source and decides everything; writes nothing.

    Args:
        job: what shall be done.
        bundle: what to run.
        device: where to run it.

    Raises:
        AlreadyDone: an earlier run has finished it.
        FlashVSRError: anything that can be known before work starts.
    """
    check_options(bundle.manifest, job.options)
    source = open_job(job)
    try:
        return _with_session(_decide(job, bundle, source, device), bundle, device)
    except BaseException:
        source.close()
        raise


def open_job(job: Job) -> Source:
    """The job's part of its source."""
    return open_source(job.source, start=job.start, end=job.end, frames=job.frames, image_rate=job.image_rate)


def _decide(job: Job, bundle: Bundle, source: Source, device: Described) -> Planned:
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
    options = settled(job.options, bundle.manifest)
    options = replace(options, output=wanted, bits=16 if output.depth > 8 else 8)
    post = f"post_{options.colour_fix}{options.bits}"
    if post not in bundle.manifest.graphs:
        raise BundleError(f"{bundle.folder} has no graph {post}", todo="export the bundle again")
    if options.reference_count and info.frames is not None and info.frames_exact:
        schedule.reference_frames(info.frames)  # too few frames are told now, not at the end
    on_host, fitted = device.name in estimate.HOST_BACKENDS, None
    if device.card is not None:
        options, fitted = device.card.fit(bundle.manifest, canvas, options, may_tile=job.auto_tile)
    elif job.auto_tile and options.tiling is None and on_host and (host := machine_memory()) is not None:
        free = host[1] // device.sharing
        tiling = estimate.choose_tiling(bundle.manifest, canvas, options, free, output.encoder)
        options = replace(options, tiling=tiling)
    return Planned(
        job=job,
        source=source,
        output=output,
        options=options,
        canvas=canvas,
        memory=estimate.memory(bundle.manifest, canvas, options, output.encoder, on_gpu=device.card is not None),
        processes=device.sharing if device.splits else 1,
        device=fitted,
    )


def _with_session(planned: Planned, bundle: Bundle, device: Described) -> Planned:
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
    planned = replace(planned, memory=_with_state(planned, planned.memory, device))
    settings = _settings(planned, bundle, device)
    work = Work(planned.output.path)
    kept = session.continued(work, job.resume, settings)
    if kept is not None and not device.splits and (ahead := work.frames() - kept.frames):
        raise UsageError(
            f"{work.path} keeps {ahead} frames of parts that several devices were working on",
            todo="go on with --devices, one is enough, or throw the work away with --restart",
        )
    planned = replace(planned, settings=settings, kept=kept)
    if kept is None:
        return planned
    options = session.as_kept(planned.options, kept)
    on_gpu = device.card is not None
    needed = estimate.memory(bundle.manifest, planned.canvas, options, planned.output.encoder, on_gpu=on_gpu)
    planned = replace(planned, options=options)
    return replace(planned, memory=_with_state(planned, needed, device))


def _with_state(planned: Planned, needed: estimate.Memory, device: Described) -> estimate.Memory:
    """And the state that a GPU's networks hand over where a segment ends; of tiles it is there anyway."""
    ends = planned.frames_out is None or planned.frames_out > planned.segment
    if device.card is None or planned.options.tiling is not None or not ends:
        return needed
    return replace(needed, state=needed.state + int(estimate.PINNED * planned.state))


def _settings(planned: Planned, bundle: Bundle, device: Described) -> dict[str, Any]:
    """All that decides the output's bits, by the names that people know. Only what JSON gives back unchanged."""
    options, canvas, job = planned.options, planned.canvas, planned.job
    parameters, cut = options.parameters, planned.scene_cut
    return {
        **source_identity(planned.info.path),
        "part of the source": f"{job.start} to {job.end}, {job.frames} frames",
        "rate of images": str(job.image_rate),
        "output size": f"{canvas.output[1]}x{canvas.output[0]}",
        "fit": options.fit,
        "bundle": bundle.manifest.digest(),
        **device.identity,
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
        **_encoding(planned.output),
        **program_identity(),
    }


def _encoding(output: OutputPlan) -> dict[str, Any]:
    target = output.video
    if target is None:
        return {"container": "PNG files", "bits": output.depth}
    encoder = target.encoder
    return {
        "container": target.muxer,
        "encoder": encoder.codec,
        "pixel format": encoder.pix_fmt,
        "encoder options": dict(encoder.options),
        "time base": str(encoder.time_base),
        "copied streams": list(target.copied),
    }


def _output_path(job: Job, info: SourceInfo) -> str:
    if job.output is not None and not job.into_folder:
        return job.output
    if info.path == STDIN and job.output is None:
        raise UsageError("stdin gives the output no name", todo="name it with -o, e.g. -o out.mkv")
    named = Path(default_output(info, f"{job.size.tag}{job.tag}", job.video))
    return str(named if job.output is None else Path(job.output) / named.name)
