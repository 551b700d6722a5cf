"""`flashvsr-trt info`: what a video or a bundle is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.machine import gib


@click.command()
@click.argument("path", metavar="FILE|BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@console.options
def info(path: str, as_json: bool) -> None:
    """Say what is in a video file, a folder of images or a bundle."""
    if (Path(path) / manifests.FILE_NAME).is_file():
        bundle = open_bundle(path)
        facts, lines = bundle_facts(bundle), bundle_lines(bundle)
    else:
        facts, lines = source_facts(path)
    click.echo(json.dumps(facts, default=str) if as_json else "\n".join(lines))


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """The manifest without the tensors."""
    manifest = bundle.manifest
    return {
        "kind": "bundle",
        "folder": str(bundle.folder),
        "digest": manifest.digest(),
        "bytes": sum(file.bytes for file in manifest.files.values()),
        "graphs": sorted(manifest.graphs),
        **{
            name: getattr(manifest, name)
            for name in (
                "model",
                "about",
                "model_version",
                "precision",
                "local_range",
                "colour_fix",
                "op_abi",
                "meaningful",
                "weights",
            )
        },
        "sizes": asdict(manifest.sizes),
    }


def bundle_lines(bundle: Bundle) -> list[str]:
    """The manifest for people."""
    manifest, sizes = bundle.manifest, bundle.manifest.sizes
    total = sum(file.bytes for file in manifest.files.values())
    lines = [
        f"bundle     {manifest.model} {manifest.model_version}, {manifest.precision}: {manifest.about}",
        f"           {len(manifest.graphs)} graphs, {len(manifest.files)} files, {gib(total)}",
        f"networks   DiT of {sizes.layers} layers with {sizes.dim} channels, decoders {', '.join(manifest.decoders)}",
        f"baked in   local range {manifest.local_range}; free are sparse ratio, kv ratio and seed",
        f"suits it   colour fix {manifest.colour_fix}",
        f"identity   {manifest.digest()}",
    ]
    if not manifest.meaningful:
        lines.append("           random weights: its picture content means nothing")
    lines += [f"made from  {name} {digest}" for name, digest in manifest.weights.items()]
    return lines


def source_facts(path: str) -> tuple[dict[str, Any], list[str]]:
    """(for machines, for people) of a source that a run could read."""
    from flashvsr_trt.runtime.talk import describe_source  # FFmpeg, which a bundle does not need
    from flashvsr_trt.runtime.video.reader import open_source

    with open_source(path) as source:
        found = source.info
    lines = [f"{found.kind:<10} {found.path}: {describe_source(found)}"]
    length = "unknown" if found.duration is None else f"{float(found.duration):.3f} s"
    certain = "" if found.frames_exact or found.frames is None else " (frame count estimated)"
    lines.append(f"container  {found.container}, length {length}{certain}, time stamps in units of {found.time_base} s")
    for stream in found.streams:
        language = f" [{stream.language}]" if stream.language else ""
        lines.append(f"stream {stream.index:<3} {stream.kind}, {stream.codec}{language} {stream.detail}".rstrip())
    if found.chapters:
        lines.append(f"chapters   {found.chapters}")
    lines += [f"note       {note}" for note in found.notes]
    return asdict(found), lines
