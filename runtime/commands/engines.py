"""`flashvsr-trt engines`: build, list, inspect, verify and clean TensorRT engine sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashvsr_trt.configs.errors import BackendUnavailable, BundleError, FlashVSRError, UsageError
from flashvsr_trt.configs.tiers import load_tier
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.machine import gib, peak_rss

if TYPE_CHECKING:  # TensorRT is looked for when a command runs, not for its --help
    from flashvsr_trt.engines.sets import Wanted
    from flashvsr_trt.engines.store import EngineSet
    from flashvsr_trt.runtime.backends.base import Backend

VARIANTS = ("tiny", "long", "full")


@click.group(invoke_without_command=True)
@console.options
@click.pass_context
def engines(context: click.Context) -> None:
    """Build, list, inspect, verify and clean TensorRT engine sets.

    They lie in $FLASHVSR_TRT_CACHE, else in the user's cache folder.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _choice(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say which set is meant."""
    for flag in (
        click.option("--target", metavar="LIST", help="GPUs, e.g. sm86,sm89,sm120 [all RTX; tensorrt: this one]."),
        click.option("--flavour", type=click.Choice(["tensorrt_rtx", "tensorrt"]), help="[the one installed]"),
        click.option("-m", "--variant", type=click.Choice(VARIANTS), help="tiny and long share engines [the tier's]."),
        click.option(
            "--tier", default="8", show_default=True, metavar="GB|FILE", help="8, 12, 16, 24, 48, 8-fp8 ... or a file."
        ),
        click.option("--bundle", metavar="DIR", envvar="FLASHVSR_TRT_BUNDLE", show_envvar=True, help="[packaged one]"),
    ):
        command = flag(command)
    return command


@engines.command()
@_choice
@click.option("--rebuild", is_flag=True, help="Build even if a valid set is there.")
@click.option(
    "--embed-plugin",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Put libflashvsr_trt.so into the plans, for programs without Python.",
)
@console.options
def build(rebuild: bool, embed_plugin: Path | None, **flags: Any) -> None:
    """Build the engines of a bundle for a tier, unless a valid set is there.

    With tensorrt_rtx this needs no GPU and builds for several at once.
    """
    from flashvsr_trt.engines import sets

    wanted = replace(choose(flags), plugin_library=embed_plugin)
    manifest = wanted.manifest
    console.say("bundle", f"{wanted.bundle}: {manifest.model} {manifest.model_version}, {manifest.precision}")
    console.say("", manifest.about)
    console.say("engines", f"tier {wanted.tier.name}, {wanted.decoder}, for {', '.join(wanted.targets)}")
    console.say("with", f"{wanted.flavour.name} {wanted.flavour.version}")
    started = time.monotonic()
    found = sets.ensure(
        wanted,
        lambda line: console.say("", line),
        on_wait=lambda: console.say("", "another process is building this set: waiting for it"),
        rebuild=rebuild,
    )
    rss = peak_rss()
    console.say("done", f"{len(found.engines)} plans, {gib(found.bytes)}, in {time.monotonic() - started:.1f} s")
    console.say("", f"peak memory of this process {gib(rss) if rss else 'unknown'}")
    click.echo(found.folder)


@engines.command(name="list")
@console.options
def list_sets() -> None:
    """List the engine sets that are there, and why one would not be used."""
    from flashvsr_trt.engines import store

    for found in store.all_sets():
        key = found.key
        stale = outdated(found)
        state = f"stale: {'; '.join(stale)}" if stale else "valid for its bundle"
        click.echo(f"{found.folder.name}  {gib(found.bytes)}")
        click.echo(f"  {found.bundle}, tier {key.tier}, {key.decoder}, {key.flavour} {key.version}")
        click.echo(f"  for {', '.join(key.targets)}; {state}")


@engines.command()
@click.argument("name")
@console.options
def inspect(name: str) -> None:
    """Show the plans of a set and what they are valid for. NAME is of `engines list`."""
    found = named(name)
    click.echo(f"{found.folder}\n{found.bundle}\n")
    click.echo(f"{'graph':<16}{'plan':>10}{'weights':>10}{'scratch':>10}{'layers':>8}{'plug-ins':>10}{'built':>9}")
    for graph, engine in found.engines.items():
        sizes = "".join(f"{gib(size):>10}" for size in (engine.bytes, engine.weights, engine.activations))
        click.echo(f"{graph:<16}{sizes}{engine.layers:>8}{engine.plugins:>10}{engine.seconds:>7.1f} s")
    click.echo()
    for member, value in found.key.as_dict().items():
        if member != "profiles":
            click.echo(f"{member:<12} {', '.join(value) if isinstance(value, (list, tuple)) else value}")
    for graph, profiles in found.key.profiles.items():
        for index, ranges in enumerate(profiles):
            click.echo(f"shapes of {graph}" + (f", profile {index}" if len(profiles) > 1 else ""))
            for tensor, (least, _, most) in ranges.items():
                click.echo(f"  {tensor:<16} {least} .. {most}")


@engines.command()
@_choice
@click.option("--min-psnr", type=float, default=40.0, show_default=True, help="Least agreement in dB.")
@click.option("--reference", metavar="DIR", help="The same weights in a type that a CPU computes [the bundle itself].")
@console.options
def verify(min_psnr: float, reference: str | None, **flags: Any) -> None:
    """Check every byte of a set, its graphs against ONNX Runtime on the CPU, and a clip against its stored frames.

    A set that fails is refused from then on, and built again when it is asked for. All but the bytes needs a GPU that
    the set was built for; where there is none, that is said, and it ends with code 4.
    """
    from flashvsr_trt.engines import sets, store
    from flashvsr_trt.runtime.backends.tensorrt import TensorRt

    wanted = choose(flags)
    found = sets.find(wanted)
    with _refusing(found):
        store.open_set(found.folder, hashed=True)
    console.say("files", f"{len(found.engines)} plans, {gib(found.bytes)}: every SHA-256 is right")
    try:
        backend = TensorRt(found, wanted.flavour, wanted.tier)
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"the files are whole, but nothing was run: {error.came}", expected=error.expected, todo=error.todo
        ) from error
    with _refusing(found):
        compute(wanted, backend, open_bundle(reference or wanted.bundle), min_psnr)
    console.say("done", "the engines compute what the bundle says")


def compute(wanted: Wanted, backend: Backend, reference: Bundle, min_psnr: float) -> None:
    """Runs the graphs, then a clip, on a back end.

    Raises:
        FlashVSRError: what differs; of the graphs the first one.
    """
    from flashvsr_trt.engines.key import graph_names
    from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
    from flashvsr_trt.runtime.stored_frames import check_frames, stored
    from flashvsr_trt.runtime.verify import check_graphs

    bundle = open_bundle(wanted.bundle)
    expected = stored(reference, wanted.variant)
    if wanted.manifest.precision == "bf16":
        console.say("graph", "not compared one by one: no CPU here computes bf16")
    else:
        names = graph_names(bundle.manifest, wanted.decoder)
        held = replace(bundle.manifest, graphs={name: bundle.manifest.graphs[name] for name in names})
        for result in check_graphs(Bundle(bundle.folder, held), OrtCpu(), backend, min_psnr=min_psnr):
            console.say("graph", str(result))
    psnr = check_frames(bundle, wanted.variant, backend, expected, min_psnr=min_psnr)
    console.say("frames", f"{len(expected)} of a clip: the worst agrees to {psnr:.1f} dB")


@contextmanager
def _refusing(found: EngineSet) -> Iterator[None]:
    """A set that is found wrong is marked. A lack of memory, of a GPU or of a reference is not the set's fault."""
    from flashvsr_trt.engines import store

    try:
        yield
    except FlashVSRError as error:
        if type(error) in (FlashVSRError, BundleError):
            store.refuse(found, error.came)
        raise


@engines.command()
@click.option("--all", "everything", is_flag=True, help="Valid sets too.")
@console.options
def clean(everything: bool) -> None:
    """Remove sets that no longer serve, and what killed builds left."""
    from flashvsr_trt.engines import store

    removed = store.clean(keep=lambda found: not everything and not outdated(found))
    for folder in removed:
        click.echo(f"removed {folder}")
    if not removed:
        click.echo(f"nothing to remove in {store.root()}")


def choose(flags: dict[str, Any]) -> Wanted:
    """The set that the flags name.

    Raises:
        FlashVSRError: no such bundle, tier or target, or no TensorRT.
    """
    from flashvsr_trt.engines import targets, trt
    from flashvsr_trt.engines.sets import Wanted

    tier = load_tier(flags["tier"])
    bundle = open_bundle(flags["bundle"])
    flavour = trt.load(flags["flavour"])
    return Wanted(
        bundle=bundle.folder,
        manifest=bundle.manifest,
        tier=tier,
        variant=flags["variant"] or tier.variant,
        flavour=flavour,
        targets=targets.parse_targets(flags["target"], flavour, weights=tier.weights),
    )


def named(name: str) -> EngineSet:
    """The set of that folder or name.

    Raises:
        UsageError: none; BundleError: it is damaged.
    """
    from flashvsr_trt.engines import store

    for folder in (Path(name), store.root() / name):
        if (folder / store.FILE_NAME).is_file():
            return store.open_set(folder)
    known = ", ".join(found.folder.name for found in store.all_sets())
    raise UsageError(f"there is no engine set {name!r}", expected=known or "a set built before", todo="engines list")


def outdated(found: EngineSet) -> list[str]:
    """Why a set no longer serves its own bundle with what is installed here."""
    from flashvsr_trt.engines import trt
    from flashvsr_trt.engines.key import plugin_digest

    try:
        version = trt.load(found.key.flavour).version
    except BackendUnavailable:
        version = found.key.version  # another machine's flavour: nothing here tells against it
    now = replace(found.key, plugin=plugin_digest(), version=version)
    try:
        now = replace(now, tier_values=load_tier(found.key.tier).digest())
    except UsageError:  # of a file of the user's own
        return found.diff(now)
    return found.diff(now)
