"""`flashvsr-trt compare`: two videos or images in one."""

from __future__ import annotations

from pathlib import Path

import click

from flashvsr_trt.configs.errors import OutputExists, UsageError
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.compare import Layout, parse_crop
from flashvsr_trt.runtime.compare import compare as compare_files
from flashvsr_trt.runtime.video.cut import parse_position


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("-o", "--output", required=True, metavar="FILE", help="An image (one frame) or a video.")
@click.option("--split", is_flag=True, help="The left half of A and the right half of B, instead of both.")
@click.option("--crop", "crops", multiple=True, metavar="WxH+LEFT+TOP", help="Only that part; repeat it for rows.")
@click.option("--at", metavar="POS", help="Frame number or time: what an image shows, where a video begins.")
@click.option("-y", "overwrite", is_flag=True, help="Overwrite.")
@console.options
def compare(
    first: str, second: str, output: str, split: bool, crops: tuple[str, ...], at: str | None, overwrite: bool
) -> None:
    """Put A (left) and B (right) into one picture or video.

    The smaller one is enlarged to the size of the other, so a source can be compared with its upscaled version.
    """
    if output == "-":
        raise UsageError("-o - : a comparison is written to a file", todo="name a file, e.g. side.png or side.mp4")
    if Path(output).exists() and not overwrite:
        raise OutputExists(f"{output} exists", todo="-y overwrites it")
    layout = Layout(split=split, crops=tuple(parse_crop(text) for text in crops))
    frames, notes = compare_files(first, second, output, layout, parse_position(at, "--at") if at else None)
    console.say("done", f"{output}: {console.counted(frames, 'frame')}, {first} left, {second} right")
    for note in notes:
        console.LOG.warning(note)
