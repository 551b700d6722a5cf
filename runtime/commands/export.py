"""`flashvsr-trt export`: official or random weights to a bundle."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.manifest import PRECISIONS, VERSIONS, Manifest
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.commands.sections import Command, option
from flashvsr_trt.runtime.machine import gib, peak_rss

if TYPE_CHECKING:  # torch is imported when the command runs, not for its --help
    from flashvsr_trt.export.bundle import Options
    from flashvsr_trt.export.weights import Weights

FOLDER = click.Path(file_okay=False, path_type=Path)
SIZES = ("small", "real")
VAE_VARIABLE = "FLASHVSR_TRT_VAE"  # export.weights reads it too, for Python; that module needs torch
SOURCE, RESULT = "Weights", "Bundle"


@click.command(cls=Command)
@option(SOURCE, "--weights", type=FOLDER, help="Folder with the official files.")
@option(
    SOURCE,
    "--version",
    type=click.Choice(VERSIONS),
    help="Model version [told from the files; random: v1.1].",
)
@option(
    SOURCE,
    "--vae",
    type=click.Path(exists=True, path_type=Path),
    envvar=VAE_VARIABLE,
    show_envvar=True,
    help="Wan 2.1 VAE for variant full: a file, or a folder that holds one [in the weights' folder].",
)
@option(SOURCE, "--random-weights", is_flag=True, help="Random weights instead, to try a machine.")
@option(SOURCE, "--size", type=click.Choice(SIZES), help="Size of the random network [real].")
@option(SOURCE, "--seed", type=click.IntRange(0), help="Seed of the random weights [0].")
@option(RESULT, "-o", "--output", type=FOLDER, required=True, help="The bundle's folder.")
@option(RESULT, "--overwrite", is_flag=True, help="Replace a bundle that is there.")
@option(
    RESULT,
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp16",
    show_default=True,
    help="Type of it all; fp8: of the DiT's products, attention, KV ring and the projector, in a fused bundle of fp16.",
)
@option(RESULT, "--calibration", metavar="CLIP", help="With fp8: the clip of `calibrate`.")
@option(
    RESULT,
    "--half-storage",
    is_flag=True,
    help="With fp32: weights rounded to and stored as fp16, half the size.",
)
@option(RESULT, "--local-range", type=click.IntRange(1), default=11, show_default=True, help="9 is sharper.")
@option(RESULT, "--no-fold", is_flag=True, help="Keep modulation and gates as operations, for comparison.")
@option(RESULT, "--fused", is_flag=True, help="For ONNX Runtime on CUDA: whole chains as nodes that have kernels.")
@option(RESULT, "--no-check", is_flag=True, help="Do not compare the graphs with the torch modules.")
@console.options
def export(output: Path, overwrite: bool, **flags: Any) -> None:
    """Make a bundle: step graphs in ONNX and the weights they share.

    A bundle runs every variant that its decoders allow; it needs no torch. With the Wan VAE it also runs full.
    """
    clip = flags.pop("calibration")
    if (flags["precision"] == "fp8") != (clip is not None):
        raise UsageError("--precision fp8 and --calibration belong together", todo="name a clip of a few frames")
    if clip is None:
        _write(output, flags, overwrite=overwrite)
        return
    from flashvsr_trt.export.folder import refuse_existing
    from flashvsr_trt.runtime.commands.calibrate import first_frames, from_frames  # loads a back end: not for --help

    refuse_existing(output, overwrite=overwrite)  # this and the next before an export that takes minutes
    pixels = first_frames(clip)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=_parent(output)) as folder:
        fp16 = Path(folder) / "fp16"
        _write(fp16, flags | {"precision": "fp16", "fused": True}, overwrite=False, shown="to calibrate, not kept")
        from_frames(fp16, pixels, clip, output, overwrite=overwrite)


def _parent(output: Path) -> Path:
    folder = output.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(output: Path, flags: dict[str, Any], *, overwrite: bool, shown: str | None = None) -> None:
    """`shown`: what people are told instead of the folder."""
    from flashvsr_trt.export.bundle import export_bundle

    started = time.monotonic()
    weights, options = _source(flags)
    _say_plan(weights, options, shown or str(output))
    manifest = export_bundle(
        weights, output, options, overwrite=overwrite, report=lambda line: console.say("graph", line)
    )
    _say_done(manifest, shown or str(output), time.monotonic() - started)


def _source(flags: dict[str, Any]) -> tuple[Weights, Options]:
    """The weights and what they say of themselves."""
    if bool(flags["weights"]) == flags["random_weights"]:
        raise UsageError("the source is unclear", expected="either --weights FOLDER or --random-weights")
    for name in ("size", "seed"):
        if flags[name] is not None and not flags["random_weights"]:
            raise UsageError(f"--{name} with --weights", expected=f"--{name} with --random-weights only")
    from flashvsr_trt.export.bundle import Options

    choices = {
        "precision": flags["precision"],
        "local_range": flags["local_range"],
        "fold": not flags["no_fold"],
        "fused": flags["fused"],
        "check": not flags["no_check"],
        "storage": "fp16" if flags["half_storage"] else None,
    }
    if flags["random_weights"]:
        return _random(flags, Options, choices)
    return _official(flags, Options, choices)


def _random(flags: dict[str, Any], make: type[Options], choices: dict[str, Any]) -> tuple[Weights, Options]:
    from flashvsr_trt.export.seeded import CONFIGS, random_weights

    size, seed = flags["size"] or "real", flags["seed"] or 0
    weights = random_weights(CONFIGS[size], seed, version=flags["version"] or "v1.1")
    about = f"random weights, seed {seed}, {size} size: the picture content means nothing"
    return weights, make(model="seeded", about=about, meaningful=False, **choices)


def _official(flags: dict[str, Any], make: type[Options], choices: dict[str, Any]) -> tuple[Weights, Options]:
    from flashvsr_trt.configs.manifest import sha256_of
    from flashvsr_trt.export.download import identify
    from flashvsr_trt.export.weights import FILES, find_vae, load

    folder, vae = flags["weights"], find_vae(flags["weights"], flags["vae"])
    found, lines = identify(folder, flags["version"], official=False)
    for line in lines:
        console.say("weights", line)
    console.say("vae", f"{vae}: variant full too" if vae else "none: the bundle will run tiny and long, not full")
    weights = load(folder, version=found, vae=vae, verify=False)
    sources = {name: sha256_of(folder / name) for name in FILES}
    if vae:
        sources[vae.name] = sha256_of(vae)
    return weights, make(about=f"FlashVSR {found}", sources=sources, **choices)


def _say_plan(weights: Weights, options: Options, output: str) -> None:
    sizes = weights.sizes
    states = (weights.dit, weights.lq_proj, weights.tc_decoder, weights.vae or {})
    numbers = sum(tensor.numel() for state in states for tensor in state.values())
    stored = 4 if options.precision == "fp32" and not options.storage else 2
    console.say("model", f"{options.model} {weights.version}: {sizes.layers} layers, {sizes.dim} channels")
    console.say("bundle", f"{output}: {options.precision}, about {gib(numbers * stored)}")
    console.say("baked in", f"local range {options.local_range}, {'folded' if options.fold else 'not folded'}")


def _say_done(manifest: Manifest, output: str, seconds: float) -> None:
    total = sum(file.bytes for file in manifest.files.values())
    peak = peak_rss()
    memory = f", peak memory {gib(peak)}" if peak is not None else ""
    console.say("done", f"{output}: {len(manifest.files)} files, {gib(total)}, in {seconds:.0f} s{memory}")
