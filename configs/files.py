"""Files that are there whole or not at all, a crash of the machine included."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sync_file(path: Path) -> None:
    """Forces a written file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(part: Path, target: Path) -> None:
    """`part` takes the place of `target`, beside it, which may be there or not.

    Folders cannot be exchanged in one call everywhere: the old one goes aside, and away at the end.
    """
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    part.rename(target)
    sync_file(target.parent)
    shutil.rmtree(old, ignore_errors=True)
