"""`flashvsr-trt plan`: what a tier would do with a video, and what memory it would take."""

from __future__ import annotations

from typing import Any

import click

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.configs.tiers import USABLE, Tier, load_tier
from flashvsr_trt.engines.key import DECODERS
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.card import Card
from flashvsr_trt.runtime.machine import gib
from flashvsr_trt.runtime.planner import Plan
from flashvsr_trt.runtime.sizes import parse_size
from flashvsr_trt.runtime.upscaler import Options


@click.command()
@click.argument("source", metavar="IN")
@click.option(
    "--tier", default="8", show_default=True, metavar="GB|FILE", help="8, 12, 16, 24, 48, 8-fp8 ... or a file."
)
@click.option("-m", "--variant", type=click.Choice(["tiny", "long", "full"]), help="[the tier's]")
@click.option("-s", "--scale", type=float, help="Output size / source size [4].")
@click.option("--target", metavar="SIZE", help="1080p, 2160p or WxH instead of a scale.")
@click.option("--kv-ratio", type=float, default=3.0, show_default=True, help="Past slabs kept.")
@click.option("--bundle", metavar="DIR", envvar="FLASHVSR_TRT_BUNDLE", show_envvar=True, help="[packaged one]")
@console.options
def plan(source: str, **flags: Any) -> None:
    """Say how a video would be computed on a card of a tier: tiles, engines, device memory.

    Numbers come from the engines of the tier where they are built, else they are estimated.
    """
    from flashvsr_trt.runtime.video.reader import open_source

    tier, bundle = load_tier(flags["tier"]), open_bundle(flags["bundle"])
    with open_source(source) as opened:
        info = opened.info
    size = parse_size(flags["scale"], flags["target"])
    output = size.output(info.height, info.width, turned=info.rotation % 180 == 90)
    options = Options(variant=flags["variant"] or tier.variant, parameters=Parameters(kv_ratio=flags["kv_ratio"]))
    card = Card(tier, _engines(bundle, tier, DECODERS[options.variant]))
    canvas = schedule.canvas(info.height, info.width, output=output)
    for line in lines(card.plan(bundle.manifest, canvas, options)):
        click.echo(line)


def _engines(bundle: Bundle, tier: Tier, decoder: str) -> Any:
    """The newest set of this bundle and tier, whatever its target: numbers differ little between targets."""
    try:
        from flashvsr_trt.engines import store
    except ImportError:  # without the packages of the extras there are no engines either
        return None
    wanted = (bundle.manifest.digest(), tier.digest(), decoder)
    fitting = [
        found for found in store.all_sets() if (found.key.bundle, found.key.tier_values, found.key.decoder) == wanted
    ]
    return max(fitting, key=lambda found: found.folder.stat().st_mtime, default=None)


def lines(made: Plan) -> list[str]:
    """The plan for people."""
    work = made.work
    canvas, tier = work.canvas, work.tier
    out = [
        f"picture   {canvas.output[1]}x{canvas.output[0]} on a canvas of {canvas.width}x{canvas.height}",
        f"tier      {tier.name}, variant {work.variant}",
        "engines   "
        + (f"{made.engines.folder.name}: memory as their build told" if made.engines else "none: memory is estimated"),
    ]
    if made.tiling is None:
        order = "the networks take turns in memory" if made.turns else "all networks stay in memory"
        out.append(f"tiles     none, the canvas fits as a whole; {order}")
    else:
        for name, count, tile in (
            ("DiT", made.tiles[0], made.tiling.dit),
            ("decoder", made.tiles[1], made.tiling.decoder),
        ):
            out.append(f"tiles     {name}: {count} of {tile[1]}x{tile[0]}")
    for phase in made.phases:
        out.append(
            f"memory    {phase.name}: weights {gib(phase.weights)}, buffers {gib(phase.buffers)},"
            f" scratch {gib(phase.scratch)}"
        )
    out.append(
        f"peak      {gib(made.peak)} of {tier.memory_gib} GiB, {made.peak / tier.memory_gib / 2**30:.0%};"
        f" at most {USABLE:.0%} is planned, {tier.reserve_mib} MiB of it for driver and context"
    )
    return out
