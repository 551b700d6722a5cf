"""What decides the bits of an output, by name: two runs with the same answers write the same file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.card import Card

_SAMPLE = 1 << 20  # bytes at the beginning and at the end of a file that are hashed


def source_identity(path: str) -> dict[str, Any]:
    """Size, time of change and a hash of the beginning and the end of a file; of a folder, of its listing."""
    here = Path(path)
    if here.is_dir():
        digest, size, latest = hashlib.sha256(), 0, 0
        for child in sorted(here.iterdir()):
            status = child.stat()
            digest.update(f"{child.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            size, latest = size + status.st_size, max(latest, status.st_mtime_ns)
        return {"source size": size, "source changed at": latest, "source content": digest.hexdigest()[:16]}
    status = here.stat()
    with open(here, "rb") as file:
        digest = hashlib.sha256(file.read(_SAMPLE))
        file.seek(max(0, status.st_size - _SAMPLE), os.SEEK_SET)
        digest.update(file.read(_SAMPLE))
    return {
        "source size": status.st_size,
        "source changed at": status.st_mtime_ns,
        "source content": digest.hexdigest()[:16],
    }


@dataclass(frozen=True, kw_only=True)
class Described:
    """What planning needs to know of a back end; it may be in another process.

    Attributes:
        name: of the kind of back end.
        identity: all of it that decides bits, by name.
        card: the GPU that runs are fitted to; None: host memory.
        sharing: processes that share the host's memory.
        splits: several devices work on one video.
    """

    name: str
    identity: dict[str, str]
    card: Card | None = None
    sharing: int = 1
    splits: bool = False

    @classmethod
    def of(cls, backend: Backend, *, sharing: int = 1) -> Described:
        identity = {"back end": backend.describe()}
        engines = getattr(backend, "engines", None)
        if engines is not None:  # two builds of one network may choose other kernels
            identity["engines"] = engines.digest
        return cls(name=backend.name, identity=identity, card=Card.of(backend), sharing=sharing)


def program_identity() -> dict[str, Any]:
    return {"program": version("flashvsr-trt"), "PyAV": version("av")}


def differences(kept: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """`seed 0, now 1` for each setting that is not as it was."""
    names = [*kept, *(name for name in asked if name not in kept)]
    return [
        f"{name} {kept.get(name, 'unset')}, now {asked.get(name, 'unset')}"
        for name in names
        if kept.get(name) != asked.get(name)
    ]


def refuse(folder: Path, frames: int, told: list[str]) -> UsageError:
    """Kept work that does not belong to what is asked for now."""
    return UsageError(
        f"{folder} keeps {frames} frames that were made with other settings: {'; '.join(told)}",
        expected="the settings, source, bundle and device that the work was begun with",
        todo="give those again, choose another -o, or throw the work away with --restart",
    )
