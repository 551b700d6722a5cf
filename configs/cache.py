"""Where files go that can be made again: engine sets and runtime caches. Never into the package."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "FLASHVSR_TRT_CACHE"


def cache_root() -> Path:
    """$FLASHVSR_TRT_CACHE, else flashvsr-trt in the user's cache folder. It need not exist."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flashvsr-trt"
