"""The folder of a bundle in the making: it takes the place of the old one whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError, OutputExists, WriteError
from flashvsr_trt.configs.files import replace_folder, sync_file

LOCK_NAME = ".lock"


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and disappears when it does not.

    Raises:
        OutputExists, BundleError, WriteError: as `bundle.write_bundle` says.
    """
    out = Path(os.path.abspath(out))
    refuse_existing(out, overwrite=overwrite)
    part = out.with_name(f".{out.name}.part")
    lock = FileLock(part / LOCK_NAME, timeout=0)
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        try:
            _clear(part)  # of an export that was killed
            yield part
            os.unlink(lock.lock_file)
            sync_file(part)
            replace_folder(part, out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            lock.release()
    except Timeout:
        todo = "wait for it, or name another folder"
        raise BundleError(f"{out} is being written by another export", todo=todo) from None
    except OSError as error:
        raise WriteError(f"{out} cannot be written: {error}", todo="free disk space or name another folder") from error


def _clear(part: Path) -> None:
    for path in part.iterdir():
        if path.name != LOCK_NAME:
            path.unlink()


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Raises OutputExists or BundleError where `new_folder` would."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / manifests.FILE_NAME).is_file():
        raise BundleError(f"{out} exists and is not a bundle", expected="a new folder, or a bundle to replace")
    if not overwrite:
        raise OutputExists(f"{out} exists", todo="give --overwrite to replace it, or name another folder")
