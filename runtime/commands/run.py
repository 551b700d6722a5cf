"""`flashvsr-trt run`: flags to jobs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import click

from flashvsr_trt.configs.contract import COLOUR_FIXES
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.backends import check_device
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.backends.choice import DEVICES, open_for
from flashvsr_trt.runtime.batch import Batch
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.commands.sections import Command, option
from flashvsr_trt.runtime.control import run_batch
from flashvsr_trt.runtime.crew import Crew, parse_devices
from flashvsr_trt.runtime.failures import explain
from flashvsr_trt.runtime.inputs import gather
from flashvsr_trt.runtime.jobs import Job
from flashvsr_trt.runtime.progress import JsonLines, choose_display
from flashvsr_trt.runtime.report import write_report
from flashvsr_trt.runtime.sizes import parse_size, parse_tile
from flashvsr_trt.runtime.talk import say_bundle
from flashvsr_trt.runtime.upscaler import AUTO, VARIANTS, Options
from flashvsr_trt.runtime.video.cut import parse_position
from flashvsr_trt.runtime.video.options import OutputOptions

BUNDLE_VARIABLE = "FLASHVSR_TRT_BUNDLE"
PICTURE, ENGINE, ENCODER, PART, RUN = "Picture", "Networks", "Output file", "Part of the source", "Run"


def _declare(command: Callable[..., Any]) -> Callable[..., Any]:
    """All flags, in the order in which --help shows them."""
    flags = (
        option(PICTURE, "-s", "--scale", type=float, help="Output size / source size [4]."),
        option(PICTURE, "--target", metavar="SIZE", help="1080p, 2160p: lines as displayed. WxH: fit into that box."),
        option(PICTURE, "--fit", type=click.Choice(["pad", "crop"]), default="pad", help="crop: as the reference."),
        option(PICTURE, "--scene-cut", default="auto", metavar="auto|off|FILE", help="Where the past is forgotten "
               "[auto]. FILE: a time or frame number a line."),
        option(PICTURE, "--colour-fix", type=click.Choice([AUTO, *COLOUR_FIXES]), default=AUTO, help="auto: what suits "
               "the bundle's weights; adain for the official ones [auto]."),
        option(ENGINE, "-m", "--variant", type=click.Choice(VARIANTS), default="long", help="long, tiny: same frames; "
               "tiny: one network in memory at a time; full: decoded by the Wan VAE [long]."),
        option(ENGINE, "--bundle", metavar="DIR", envvar=BUNDLE_VARIABLE, show_envvar=True, help="What to run."),
        option(ENGINE, "-d", "--device", default="auto", metavar="|".join(DEVICES), help="Where to run it [auto]."),
        option(ENGINE, "--devices", metavar="LIST", help="Several at once: GPU numbers, or cpu; e.g. 0,1. They share "
               "the inputs, or one video at its scene cuts."),
        option(ENGINE, "--tier", metavar="GB|FILE", help="Of the engines; without engines, the memory to plan for."),
        option(ENGINE, "--cuda-graphs", is_flag=True, help="Replay each engine as a whole, where TensorRT offers it."),
        option(ENGINE, "--threads", type=click.IntRange(1), help="CPU threads of the networks."),
        option(ENGINE, "--sparse-ratio", type=float, default=2.0, help="Attention kept [2.0]; 1.5 is faster."),
        option(ENGINE, "--kv-ratio", type=float, default=3.0, help="Past slabs kept [3]."),
        option(ENGINE, "--local-range", type=int, help="Baked into a bundle; another value is refused."),
        option(ENGINE, "--seed", type=int, default=0, help="Of the noise [0]."),
        option(ENGINE, "--segment-steps", type=int, default=8, help="Steps a segment of tiny and of tiles [8]."),
        option(ENGINE, "--tile", default="auto", metavar="auto|off|WxH", help="Cut the picture into tiles of that many "
               "output pixels [auto: where it does not fit into memory]."),
        option(ENGINE, "--overlap", type=click.IntRange(1), metavar="PX", help="Of the tiles [256, decoder 64]."),
        option(ENGINE, "--reference-count", is_flag=True, help="The reference's frame count: loses the tail."),
        option(ENCODER, "-c", "--codec", help="FFmpeg encoder, e.g. libx265, libsvtav1, ffv1."),
        option(ENCODER, "--crf", type=float, help="Quality [18]; lower is better."),
        option(ENCODER, "--preset", help="The encoder's own, e.g. slow."),
        option(ENCODER, "--pix-fmt", help="E.g. yuv420p10le [as the source]."),
        option(ENCODER, "-e", "encoder", multiple=True, metavar="KEY=VALUE", help="Any option of the encoder."),
        option(ENCODER, "--lossless", is_flag=True, help="Every pixel as the networks gave it."),
        option(ENCODER, "--prores", is_flag=True, help="ProRes 422 HQ in .mov."),
        option(ENCODER, "--png", is_flag=True, help="A folder of PNG files."),
        option(ENCODER, "--no-audio", is_flag=True),
        option(ENCODER, "--no-subs", is_flag=True),
        option(PART, "--start", metavar="POS", help="Time (4.5, 4s, 1:02.5) or frame number (120)."),
        option(PART, "--end", metavar="POS", help="The same; exclusive."),
        option(PART, "--frames", type=int, help="At most so many."),
        option(PART, "--preview", metavar="TIME[@POS]", help="Only so long from POS on, e.g. 3s@00:12, as _preview."),
        option(PART, "--rate", default="25", help="Frames per second of a folder of images [25]."),
        option(RUN, "-i", "--input", "more", multiple=True, metavar="IN", help="One more input."),
        option(RUN, "-o", "--output", metavar="FILE|DIR|-", help="[<name>_flashvsr_<size>.<ext> beside it]"),
        option(RUN, "-y", "overwrite", is_flag=True, help="Overwrite existing outputs."),
        option(RUN, "-n", "skip", is_flag=True, help="Skip inputs whose output exists."),
        option(RUN, "--resume", is_flag=True, help="Go on with kept work, as a plain run does where there is some."),
        option(RUN, "--restart", is_flag=True, help="Throw kept work away and begin again."),
        option(RUN, "--segment", type=float, metavar="SECONDS", help="Work is kept after so much video [10 or more]."),
        option(RUN, "--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="What was done, "
               "as JSON."),
        option(RUN, "--dry-run", is_flag=True, help="Print the plan and stop."),
        option(RUN, "--json", "as_json", is_flag=True, help="JSON lines on stdout."),
    )  # fmt: skip
    command = console.options(command)
    for flag in reversed(flags):
        command = flag(command)
    return command


@click.command(cls=Command)
@click.argument("inputs", nargs=-1, metavar="IN...")
@_declare
def run(**flags: Any) -> None:
    """Upscale videos, images or folders of images; - is y4m on stdin.

    A folder of images is one video; a folder of videos stands for all of them. Unset flags follow the source.
    """
    events = JsonLines() if flags["as_json"] else None
    try:
        run_checked(flags, events, click.get_current_context().find_root().obj or [])
    except BaseException as error:  # told to the machine here, to people by the caller
        if events:
            known = explain(error)
            events.event("error", came=known.came, expected=known.expected, todo=known.todo, exit_code=known.exit_code)
        raise


def run_checked(flags: dict[str, Any], events: JsonLines | None, command: list[str]) -> None:
    """Everything that can be refused is refused before the first frame."""
    check_flags(flags)
    inputs = gather([*flags["inputs"], *flags["more"]])
    bundle = open_bundle(flags["bundle"])
    job = Job(
        source="",
        size=parse_size(flags["scale"], flags["target"]),
        options=upscaler_options(flags, bundle),
        auto_tile=flags["tile"] == "auto",
        video=video_options(flags),
        start=parse_position(flags["start"], "--start") if flags["start"] else None,
        end=parse_position(flags["end"], "--end") if flags["end"] else None,
        frames=flags["frames"],
        image_rate=parse_rate(flags["rate"]),
        scene_cut=flags["scene_cut"],
        segment=flags["segment"],
        resume="never" if flags["restart"] else "only" if flags["resume"] and not inputs.many else "auto",
    )
    if flags["preview"]:
        job = preview(job, flags["preview"])
    jobs = [replace(job, source=source) for source in inputs.sources]
    with ExitStack() as stack:
        device = (
            stack.enter_context(open_crew(flags))
            if flags["devices"]
            else opener(flags)(flags["device"], threads=flags["threads"])
        )
        say_bundle(bundle, device, packaged=flags["bundle"] is None)
        batch = Batch(
            bundle=bundle,
            device=device,
            display=choose_display(quiet=console.quiet()),
            events=events,
            skip=flags["skip"] or (flags["resume"] and inputs.many),  # what is done is not begun again
            dry_run=flags["dry_run"],
        )
        try:
            run_batch(batch, jobs, inputs, flags["output"], command)
        finally:
            if flags["report"] is not None:
                write_report(flags["report"], batch.reports)


def opener(flags: dict[str, Any]) -> Callable[..., Backend]:
    """Opens a device for what the flags ask for: (device, threads=...)."""
    names = ("bundle", "variant", "tier", "cuda_graphs")
    return partial(open_for, **{name: flags[name] for name in names})


def open_crew(flags: dict[str, Any]) -> Crew:
    """The worker processes of --devices."""
    devices = parse_devices(flags["devices"])
    return Crew(devices, opener(flags), device=flags["device"], threads=flags["threads"], bundle=flags["bundle"])


def check_flags(flags: dict[str, Any]) -> None:
    """Flags that exclude each other."""
    if not flags["inputs"] and not flags["more"]:
        raise UsageError("no input was named", expected="flashvsr-trt run IN...", todo="see flashvsr-trt run --help")
    pairs = (
        ("overwrite", "skip", "-y", "-n"),
        ("resume", "restart", "--resume", "--restart"),
        ("preview", "start", "--preview", "--start"),
        ("preview", "end", "--preview", "--end"),
        ("preview", "frames", "--preview", "--frames"),
        ("prores", "lossless", "--prores", "--lossless"),
        ("prores", "png", "--prores", "--png"),
        ("prores", "codec", "--prores", "--codec"),
    )
    for one, other, first, second in pairs:
        if flags[one] and flags[other]:
            raise UsageError(f"{first} and {second} exclude each other", todo="give one of them")
    if flags["as_json"] and flags["output"] == "-":
        raise UsageError("--json and -o - both write to stdout", todo="give -o a file, or drop --json")
    check_device(flags["device"], DEVICES)


def upscaler_options(flags: dict[str, Any], bundle: Bundle) -> Options:
    """The networks' flags; an unset local range is the bundle's."""
    for name in ("sparse_ratio", "kv_ratio"):
        if not math.isfinite(flags[name]):
            raise UsageError(f"--{name.replace('_', '-')} {flags[name]} is no number to work with")
    baked = bundle.manifest.local_range
    return Options(
        variant=flags["variant"],
        segment_steps=flags["segment_steps"],
        tiling=parse_tile(flags["tile"], flags["overlap"]),
        colour_fix=flags["colour_fix"],
        fit=flags["fit"],
        reference_count=flags["reference_count"],
        parameters=Parameters(
            sparse_ratio=flags["sparse_ratio"],
            kv_ratio=flags["kv_ratio"],
            local_range=baked if flags["local_range"] is None else flags["local_range"],
            seed=flags["seed"],
        ),
    )


def video_options(flags: dict[str, Any]) -> OutputOptions:
    """The encoder's flags."""
    extra = []
    for text in flags["encoder"]:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"-e {text!r} is not an option", expected="KEY=VALUE, e.g. -e tune=film")
        extra.append((name, value))
    options = OutputOptions(
        codec=flags["codec"],
        crf=flags["crf"],
        preset=flags["preset"],
        pix_fmt=flags["pix_fmt"],
        lossless=flags["lossless"],
        encoder=tuple(extra),
        audio=not flags["no_audio"],
        subtitles=not flags["no_subs"],
        png=flags["png"],
        overwrite=flags["overwrite"],
        may_switch=flags["output"] is None or Path(flags["output"]).is_dir(),
    )
    if flags["prores"]:
        return replace(options, codec="prores_ks", container="mov", encoder=(("profile", "hq"), *extra))
    return options


def preview(job: Job, text: str) -> Job:
    """--preview: 3s@00:12 is three seconds from second 12 on, 3s those at the beginning."""
    length, _, position = text.partition("@")
    long, start = parse_position(length, "--preview"), parse_position(position or "0", "--preview")
    if isinstance(start, int) and start > 0 and not isinstance(long, int):
        raise UsageError(f"--preview {text!r} mixes a time and a frame number", expected="e.g. 3s@12s, or 75@300")
    if isinstance(long, int):  # so many frames
        return replace(job, start=start, frames=long, tag="_preview")
    return replace(job, start=Fraction(start), end=Fraction(start) + long, tag="_preview")


def parse_rate(text: str) -> Fraction:
    """25, 23.976 or 24000/1001."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise UsageError(f"--rate {text!r} is not a frame rate", expected="a number such as 25 or 24000/1001")
    return rate
