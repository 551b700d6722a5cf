"""Stand-ins for the networks of worker processes, and what goes wrong in them.

Worker processes import this module: a test names `open_backend` in place of the real one, and says in the environment
what shall happen: FAULT=<kind>@<stream>.<step>[/once], where the streams of a process count from 1.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faults import Remembering
from stand_in import NoBackend

from flashvsr_trt.configs.errors import FlashVSRError, InputError, OutOfMemory
from flashvsr_trt.runtime import upscaler

VARIABLE = "FAULT"
ERRORS = {
    "lost": FlashVSRError("the device is lost"),
    "memory": OutOfMemory("no memory for the ring"),
    "input": InputError("the source is gone"),
}


class Faulty(Remembering):
    """Fails as the environment says; in one process only where it says `once`."""

    streams = 0

    def decode(self, step, latents, lq):
        Faulty.streams += step == 0
        kind, _, place = os.environ.get(VARIABLE, "@").partition("@")
        place, _, once = place.partition("/")
        if place == f"{Faulty.streams}.{step}" and not (once and _first_to("fault")):
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ERRORS[kind]
        return super().decode(step, latents, lq)


def _first_to(name: str) -> bool:
    """False for the one that comes first."""
    try:
        Path(f"../{name}").touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def open_backend(*args, **settings):
    """Opens no back end, and puts the stand-ins in place."""
    upscaler.Networks = Faulty  # type: ignore[misc]
    return NoBackend()


def open_processor(*args, **settings):
    """The same for a machine whose only device is its processor."""
    backend = open_backend()
    backend.name = "onnxruntime-cpu"
    return backend
