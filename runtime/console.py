"""Where text for people goes: stderr, and a log file where one was named. stdout is left to data."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flashvsr_trt.configs.errors import UsageError

LOG = logging.getLogger("flashvsr_trt")
# What becomes of characters that a stream cannot encode, such as the bytes of a file name that are not UTF-8. stderr
# does so by itself.
UNPRINTABLE = "backslashreplace"
LEVELS = ("error", "warning", "info", "debug")
_PREFIXES = {logging.DEBUG: ("debug: ", "2"), logging.WARNING: ("warning: ", "33"), logging.ERROR: ("error: ", "1;31")}


class _Stderr(logging.Handler):
    """Plain text, coloured prefixes on a terminal. Looks stderr up each time: a progress bar may stand in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix, colour = _PREFIXES.get(record.levelno, ("", ""))
        text = record.getMessage()
        label = getattr(record, "label", "")
        if label:
            prefix, colour, text = label, "36", text.removeprefix(label)
        if prefix and sys.stderr.isatty() and "NO_COLOR" not in os.environ:
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        try:
            print(prefix + text, file=sys.stderr, flush=True)
        except OSError:  # the terminal went away: the work need not
            logging.Handler.handleError(self, record)


def reset() -> None:
    """Info and above to stderr, no log file: the state at the start of each command."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
    LOG.addHandler(_Stderr())
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG)
    set_level("info")


def set_level(level: str) -> None:
    """The least that stderr shows; the log file has everything."""
    for handler in LOG.handlers:
        if isinstance(handler, _Stderr):
            handler.setLevel(level.upper())


def counted(count: int, noun: str) -> str:
    """E.g. "1 frame", "2 frames"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def say(label: str, text: str) -> None:
    """One line of a plan or a summary, its label in a column of its own; "" goes on with the line before."""
    LOG.info("%-9s %s", label, text, extra={"label": label})


def show_cursor() -> None:
    """Undoes what a progress bar did to the terminal, for an end that gives it no time to."""
    if sys.stderr.isatty():
        print("\x1b[?25h", file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return any(isinstance(h, _Stderr) and h.level <= logging.DEBUG for h in LOG.handlers)


def add_log_file(path: Path) -> None:
    """Appends everything to a file, with the time of each line.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors=UNPRINTABLE)
    except OSError as error:
        raise UsageError(f"--log-file {path} cannot be written: {error.strerror}", todo="name another") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --log-level, --log-file and -q to a command; they act by themselves."""

    def level(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value:
            set_level(value)

    def file(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
        if value:
            add_log_file(value)

    def silence(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            set_level("warning")

    place = click.Path(dir_okay=False, path_type=Path)
    flags: tuple[tuple[list[str], dict[str, Any]], ...] = (
        (["--log-file"], {"type": place, "callback": file, "help": "Append all messages to a file."}),
        (["--log-level"], {"type": click.Choice(LEVELS), "callback": level, "help": "What stderr shows [info]."}),
        (["-q", "--quiet"], {"is_flag": True, "callback": silence, "help": "Show only warnings and errors."}),
    )
    for names, settings in flags:
        command = click.option(*names, expose_value=False, **settings)(command)
    return command


def quiet() -> bool:
    """Whether progress is unwanted."""
    return all(h.level > logging.INFO for h in LOG.handlers if isinstance(h, _Stderr))
