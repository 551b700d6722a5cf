"""`flashvsr-trt weights`: get the official weights, or say what is wrong with those that are there."""

from __future__ import annotations

from pathlib import Path

import click

from flashvsr_trt.configs.manifest import VERSIONS
from flashvsr_trt.runtime import console

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def weights() -> None:
    """Download or check the official weights."""


@weights.command()
@click.option("--version", type=click.Choice(VERSIONS), default="v1.1", show_default=True, help="Model version.")
@click.option("-o", "--output", type=FOLDER, help="Folder for the files [FlashVSR or FlashVSR-v1.1].")
@click.option("--with-vae", is_flag=True, help="The Wan 2.1 VAE too, for --variant full.")
@click.option("--offline", is_flag=True, help="Never touch the network; take what the hub's cache has.")
@console.options
def download(version: str, output: Path | None, with_vae: bool, offline: bool) -> None:
    """Get the official weights from the Hugging Face hub (6.4 GB).

    HF_HOME and HF_ENDPOINT are honoured; a download that stopped goes on where it was.
    """
    from flashvsr_trt.export import download as hub

    folder = output or Path(hub.FOLDERS[version])
    console.say("weights", f"{hub.REPOSITORIES[version]} to {folder}")
    hub.download(version, folder, vae=with_vae, offline=offline, report=lambda line: console.say("", line))
    console.say("done", f"flashvsr-trt export --weights {folder}")


@weights.command()
@click.argument("folder", type=FOLDER)
@click.option("--version", type=click.Choice(VERSIONS), help="What the folder should hold [told from the files].")
@console.options
def check(folder: Path, version: str | None) -> None:
    """Say whether a folder holds the official files, whole and of one version."""
    from flashvsr_trt.export import download as hub
    from flashvsr_trt.export import weights as files

    found, lines = hub.identify(folder, version)
    for line in lines:
        console.say("", line)
    model = files.load(folder, version=found, verify=False)
    sizes = model.sizes
    console.say("layout", f"{found}, {sizes.layers} layers of {sizes.dim} channels, all tensors there")
