"""The two flavours of TensorRT behind one door: find the module, cure its traps, keep what it says.

`tensorrt_rtx` (wheels of the extra `rtx`) builds on any machine, for a list of GPUs. `tensorrt` (extra `trt`) builds
for the GPU it finds. Their Python interfaces have the same classes; differences are asked for here, not elsewhere.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError, OutOfMemory

FLAVOURS = ("tensorrt_rtx", "tensorrt")
INSTALL = {
    "tensorrt_rtx": "pip install 'flashvsr-trt[rtx]'",
    "tensorrt": "pip install 'flashvsr-trt[trt]'",
}
_KEPT_LINES = 20
_ECHO = "catchCudaError"  # without a driver each failure is followed by one of cleaning up
_PARSER_WANTS = "libtensorrt_rtx.so"
_WHEEL_HAS = "libtensorrt_rtx.so.1"


@dataclass(frozen=True)
class Flavour:
    """One TensorRT: its module, version, and the one logger it has in this process."""

    name: str
    module: Any
    log: Log

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def architectures(self) -> dict[str, Any]:
        """GPU generations it builds for without having one, e.g. sm89; empty: only for the GPU it finds."""
        kinds = getattr(self.module, "ComputeCapability", None)
        if kinds is None or not hasattr(self.module.IBuilderConfig, "set_compute_capability"):
            return {}
        return {name.lower(): kind for name, kind in kinds.__members__.items() if name.startswith("SM")}

    def failure(self, came: str, *, todo: str = "") -> FlashVSRError:
        """The error to raise after a call gave nothing, with the last that TensorRT said."""
        said = self.log.last()
        text = f"{came}: {said}" if said else f"{came}, and {self.name} does not say why"
        lowered = said.lower()
        if "out of memory" in lowered or "outofmemory" in lowered or "insufficient memory" in lowered:
            return OutOfMemory(text, todo=todo or "take a smaller tier, or free memory")
        return FlashVSRError(text, todo=todo)


class Log:
    """What TensorRT logs: errors are kept, everything goes to the listeners. TensorRT calls it from any thread."""

    def __init__(self, trt: Any) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listeners: list[Callable[[str, str], None]] = []
        self._lock = threading.Lock()
        log = self

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                log.take(severity.name, message)

        self.logger = Logger()

    def take(self, severity: str, message: str) -> None:
        with self._lock:
            if severity in ("ERROR", "INTERNAL_ERROR"):
                self._errors.append(" ".join(message.split()))
            listeners = list(self._listeners)
        for listen in listeners:
            listen(severity, message)

    def last(self) -> str:
        """The error line to tell: the last one that is neither a frame of the parser's report nor an echo."""
        told = [line for line in self._errors if "--- " not in line and not line.startswith("Node name")]
        causes = [line for line in told if _ECHO not in line]
        return (causes or told or [""])[-1]

    def errors(self) -> list[str]:
        return list(self._errors)

    @contextmanager
    def listening(self, listener: Callable[[str, str], None]) -> Iterator[None]:
        """Hands (severity, message) of all that is logged inside to `listener`; starts with no errors kept."""
        with self._lock:
            self._errors.clear()
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


@functools.cache
def load(name: str | None = None) -> Flavour:
    """The flavour of that name, or the first one that is installed.

    Raises:
        BackendUnavailable: not installed, or not usable as it is installed.
    """
    problems = []
    for candidate in (name,) if name else FLAVOURS:
        try:
            module = importlib.import_module(candidate)
        except (ImportError, OSError, RuntimeError) as error:  # a stub package raises the latter
            problems.append(f"{candidate}: {error}")
            continue
        if candidate == "tensorrt_rtx":
            link_library()
        return Flavour(candidate, module, Log(module))
    wanted = name or FLAVOURS[0]
    raise BackendUnavailable(
        f"no TensorRT is installed ({'; '.join(problems)})",
        expected=" or ".join((name,) if name else FLAVOURS),
        todo=INSTALL.get(wanted, f"use one of {', '.join(FLAVOURS)}"),
    )


def installed() -> list[str]:
    """The flavours that can be imported.

    Raises:
        BackendUnavailable: none.
    """
    found = []
    for name in FLAVOURS:
        try:
            found.append(load(name).name)
        except BackendUnavailable:
            continue
    return found or [load().name]


def link_library(folder: Path | None = None) -> None:
    """Gives libtensorrt_rtx its unversioned name, which the ONNX parser opens and the wheel lacks.

    Without it the parser ends the process ("terminate called ...") as soon as it meets a plug-in.

    Args:
        folder: where the library is; None takes the installed wheel's.

    Raises:
        BackendUnavailable: the name is missing, and the folder cannot be written.
    """
    if folder is None:
        package = importlib.import_module("tensorrt_rtx_libs")
        folder = Path(str(package.__file__)).parent
    link = folder / _PARSER_WANTS
    if not (folder / _WHEEL_HAS).exists() or link.exists() or _on_library_path():
        return
    try:
        link.symlink_to(_WHEEL_HAS)
    except FileExistsError:  # another process was faster
        return
    except OSError as error:
        raise BackendUnavailable(
            f"TensorRT-RTX lacks the file name {_PARSER_WANTS}, and {folder} cannot be written: {error.strerror}",
            expected=f"a link {_PARSER_WANTS} -> {_WHEEL_HAS} in that folder",
            todo=f"ln -s {_WHEEL_HAS} {link} as its owner, or make the link elsewhere and add that to LD_LIBRARY_PATH",
        ) from error


def _on_library_path() -> bool:
    return any(
        (Path(folder) / _PARSER_WANTS).exists() for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder
    )
