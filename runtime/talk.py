"""What a run says to people: which bundle, what it will do, what it did."""

from __future__ import annotations

from dataclasses import asdict

from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.console import LOG, counted, say
from flashvsr_trt.runtime.crew import Crew
from flashvsr_trt.runtime.execution import Report
from flashvsr_trt.runtime.jobs import Planned
from flashvsr_trt.runtime.machine import gib, memory
from flashvsr_trt.runtime.progress import clock
from flashvsr_trt.runtime.video.frames import ReadStats, SourceInfo


def say_bundle(bundle: Bundle, device: Backend | Crew, *, packaged: bool) -> None:
    """Which bundle runs where, and what its pictures are worth."""
    manifest = bundle.manifest
    where = "in the package" if packaged else str(bundle.folder)
    say("bundle", f"{manifest.model} {manifest.model_version}, {manifest.precision}, {where}: {manifest.about}")
    say("device", device.describe())
    if not manifest.meaningful:
        LOG.warning("the weights of this bundle are random: its picture content means nothing")
    if packaged:
        say("", "for the real model: `flashvsr-trt weights download`, `flashvsr-trt export --weights FlashVSR-v1.1")
        say("", "-o real`, then `flashvsr-trt run --bundle real` (or FLASHVSR_TRT_BUNDLE=real)")


def describe_source(info: SourceInfo) -> str:
    """Codec, size, rate, length and streams of a source in one line."""
    parts = [info.codec, f"{info.width}x{info.height}", info.pix_fmt]
    if info.rotation:
        parts.append(f"shown turned by {info.rotation} degrees")
    if info.kind != "image":
        parts.append(f"{float(info.rate):.6g} frames/s")
        about = "" if info.frames_exact else "about "
        parts.append("length not known" if info.frames is None else f"{about}{counted(info.frames, 'frame')}")
    for kind in ("audio", "subtitle"):
        count = sum(stream.kind == kind for stream in info.streams)
        if count:
            parts.append(f"{count} {kind}")
    return ", ".join(parts)


def say_plan(planned: Planned) -> None:
    """What will be done, before it is."""
    info, options, canvas = planned.info, planned.options, planned.canvas
    say("input", f"{info.path}: {describe_source(info)}")
    for note in info.notes:
        say("", note)
    width, height = planned.output.size
    say("output", f"{planned.output.path}: {width}x{height}")
    for text in planned.output.lines:
        say("", text)
    parameters = options.parameters
    steps = "" if planned.steps is None else f"{counted(planned.steps, 'step')} on "
    say(
        "upscale",
        f"{options.variant}, {steps}a canvas of {canvas.width}x{canvas.height}, colour fix {options.colour_fix}, "
        f"sparse ratio {parameters.sparse_ratio:g}, kv ratio {parameters.kv_ratio:g}, "
        f"local range {parameters.local_range}, seed {parameters.seed}",
    )
    if options.tiling is not None:
        (h, w), (dh, dw) = options.tiling.dit, options.tiling.decoder
        say("tiles", f"{w}x{h} of the DiT, {dw}x{dh} of the decoder, {options.segment_steps} steps at a time")
    host, need = memory(), planned.memory.total * planned.processes
    free = f"; {gib(host[1])} are free" if host else ""
    of = f" in {planned.processes} processes" if planned.processes > 1 else ""
    say("memory", f"about {gib(need)}{of} at any length{free}")
    if planned.device is not None:
        tier = planned.device.work.tier
        say("", f"of the GPU about {gib(planned.device.peak)} at any length, in tier {tier.name}")
    if host and need > host[1]:
        LOG.warning("this needs %s and only %s are free: it may be stopped or swap", gib(need), gib(host[1]))
    if planned.resumable:
        say_work(planned)
    for text in planned.output.warnings:
        LOG.warning(text)


def say_work(planned: Planned) -> None:
    """When work is kept, what that takes, and what is kept already."""
    seconds = float(planned.segment / planned.info.rate)
    say("keep", f"a segment each {planned.segment} frames ({seconds:.3g} s), with {gib(planned.state)} of state;")
    twice = "the" if planned.output.kind == "images" else "twice the"
    say("", f"disk: {twice} output's size and {gib(2 * planned.state)}, until it is complete")
    kept = planned.kept
    if kept is not None:
        total = "" if planned.frames_out is None else f" of {planned.frames_out}"
        say("resume", f"going on at frame {kept.frames}{total}; --restart would begin again")
        for change in kept.changes:
            say("", change)


def plan_event(planned: Planned) -> dict[str, object]:
    """The plan for machines."""
    info, options = planned.info, planned.options
    return {
        "input": info.path,
        "source": {
            "codec": info.codec,
            "size": [info.width, info.height],
            "rotation": info.rotation,
            "pix_fmt": info.pix_fmt,
            "rate": str(info.rate),
            "frames": planned.frames_in,
            "frames_exact": info.frames_exact,
        },
        "output": planned.output.path,
        "size": list(planned.output.size),
        "canvas": [planned.canvas.width, planned.canvas.height],
        "bits": options.bits,
        "variant": options.variant,
        "steps": planned.steps,
        "tiles": None if options.tiling is None else asdict(options.tiling),
        "memory": planned.memory.total * planned.processes,
        "segment": planned.segment if planned.resumable else None,
        "state": planned.state if planned.resumable else None,
        "resumed": 0 if planned.kept is None else planned.kept.frames,
        "lines": list(planned.output.lines),
        "warnings": list(planned.output.warnings),
    }


def say_report(report: Report, said: tuple[str, ...] = ()) -> None:
    """What was done; `said` are warnings that the plan gave already."""
    status = report.status
    size = "" if report.bytes is None else f", {gib(report.bytes)}"
    say(
        "done",
        f"{report.output}: {counted(status.frames, 'frame')} of {report.size[0]}x{report.size[1]}{size}, "
        f"in {clock(status.elapsed)} ({status.fps:.3g} fps)",
    )
    peak = "" if report.peak_rss is None else f"; peak memory {gib(report.peak_rss)}"
    say("busy", status.shares() + peak)
    if status.frames != status.read:
        say("", f"{counted(status.read, 'frame')} read: --reference-count leaves out the others")
    if report.scene_cuts:
        shown = ", ".join(map(str, report.scene_cuts[:8])) + (" ..." if len(report.scene_cuts) > 8 else "")
        say("", f"{counted(len(report.scene_cuts), 'scene cut')}, at frame {shown}")
    for text in (*(text for text in report.warnings if text not in said), *damage(report.read)):
        LOG.warning(text)


def damage(stats: ReadStats) -> list[str]:
    """What was wrong with the source, one line each."""
    told = {
        "frames could not be decoded and show their neighbour": stats.repeated,
        "frames were damaged and are shown as the decoder repaired them": stats.concealed,
        "time stamps were missing or out of order and were set anew": stats.retimed,
        "leading frames lack the key frame they depend on and are left out": stats.skipped,
        "frames that the file announces are not in it": stats.missing,
    }
    lines = [f"{count} {text}" for text, count in told.items() if count]
    if stats.grown:
        lines.append(f"the file changed by {stats.grown:+} bytes while it was read: it was still being written")
    return lines + ([f"the decoder's first words: {stats.complaints[0]}"] if lines and stats.complaints else [])
