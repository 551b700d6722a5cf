"""What the arguments of `run` stand for: inputs, and the folder that outputs go to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashvsr_trt.configs.errors import InputError, UsageError
from flashvsr_trt.runtime.console import LOG
from flashvsr_trt.runtime.jobs import Job
from flashvsr_trt.runtime.video.images import IMAGE_SUFFIXES, natural_key
from flashvsr_trt.runtime.video.options import CONTAINERS
from flashvsr_trt.runtime.video.plan import STDOUT

# What a folder is searched for; a file named by itself may be anything that FFmpeg reads.
VIDEO_SUFFIXES = frozenset({*CONTAINERS, ".wmv", ".mxf", ".ogv", ".vob", ".asf", ".gif", ".dv"})
_OWN = "_flashvsr_"


@dataclass(frozen=True)
class Inputs:
    """What to upscale. `many` where a folder of videos or more than one input was named, even if one is left."""

    sources: list[str]
    many: bool


def gather(names: list[str]) -> Inputs:
    """The inputs that the arguments stand for; a folder of videos stands for all of them.

    Raises:
        InputError: a folder with both images and videos.
        UsageError: an input twice, or stdin among others.
    """
    sources: list[str] = []
    for name in names:
        sources += _videos_of(Path(name)) or [name]
    if len(set(sources)) < len(sources):
        twice = next(name for name in sources if sources.count(name) > 1)
        raise UsageError(f"{twice} is named twice", todo="name each input once")
    if "-" in sources and len(sources) > 1:
        raise UsageError("stdin cannot be one input among others", todo="give - alone")
    return Inputs(sources, len(names) > 1 or sources != names)


def _videos_of(folder: Path) -> list[str]:
    """The videos of a folder without images; empty for anything else."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if videos and images:
        raise InputError(
            f"{folder} holds {len(images)} images and {len(videos)} videos",
            expected="a folder of images (one video), or a folder of videos",
            todo=f"name the videos themselves, e.g. {folder}/*{videos[0].suffix}",
        )
    fresh = [path for path in videos if _OWN not in path.name]
    if len(fresh) < len(videos):
        LOG.info("%s: %d outputs of earlier runs (*%s*) are no inputs", folder, len(videos) - len(fresh), _OWN)
    if videos and not fresh:
        raise InputError(f"{folder} holds only outputs of earlier runs", todo="name one of them to upscale it again")
    return [str(path) for path in sorted(fresh, key=lambda path: natural_key(path.name))]


@contextmanager
def output_folder(job: Job, inputs: Inputs, output: str | None, *, keep: bool) -> Iterator[bool]:
    """Whether -o is the folder that default names go to; makes it, and takes it away again if nothing came of it."""
    if output is None or output == STDOUT:
        if inputs.many and output == STDOUT:
            raise UsageError("several inputs cannot share stdout", todo="give -o a folder")
        yield False
        return
    frames = job.video.png or (Path(job.source).is_dir() and not Path(output).suffix)
    into = inputs.many or ((output.endswith(("/", os.sep)) or Path(output).is_dir()) and not frames)
    made: list[Path] = []
    if into:
        made = _make_folder(Path(output))
    try:
        yield into
    finally:
        for folder in made:
            if not keep or not any(folder.iterdir()):
                folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Makes it with its parents; what was made, the deepest first."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, several outputs need a folder", todo="name a folder with -o")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}", todo="choose another") from error
    return missing
