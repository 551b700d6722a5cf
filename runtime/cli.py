"""`flashvsr-trt`: the commands, each loaded when it is called, and what becomes of an error."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.failures import report
from flashvsr_trt.runtime.threads import READER

PROGRAM = "flashvsr-trt"
# Name -> one line for --help. Each is the click command of that name in runtime/commands/<name>.py.
COMMANDS = {
    "run": "Upscale videos, images or folders of images.",
    "compare": "Put two videos or images side by side.",
    "info": "Say what is in a video file or a bundle.",
    "export": "Make a bundle from the official weights.",
    "calibrate": "Make a bundle for FP8 from one for fp16.",
    "engines": "Build, list, inspect, verify and clean TensorRT engines.",
    "plan": "Say how a video would be computed in the memory of a card.",
    "weights": "Download or check the official weights.",
    "doctor": "Say what works on this machine, and what a run would use.",
    "bench": "Measure the speed on this machine.",
    "completions": "Print a completion script for a shell.",
}


class Cli(click.Group):
    """Imports a command when it is called, so that --help needs no back end, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"flashvsr_trt.runtime.commands.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in COMMANDS and os.path.exists(args[0]):
            ctx.fail(f"{args[0]!r} is a file, not a command; did you mean `{PROGRAM} run {args[0]}`?")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Runs a command and ends the process with its exit code."""
        console.reset()
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors=console.UNPRINTABLE)
        extra["standalone_mode"] = False
        extra["obj"] = list(sys.argv[1:] if args is None else args)  # as typed, for the command that resumes
        try:
            code = super().main(args, prog_name=PROGRAM, **extra)
            sys.stdout.flush()
        except BaseException as error:  # every way out ends in an exit code, told on stderr
            code = report(error)
            if isinstance(error, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes it again
        leave(code if isinstance(code, int) else 0)


def leave(code: int) -> NoReturn:
    """Ends the process."""
    if any(thread.name == READER for thread in threading.enumerate()):
        # It waits inside stdin, whose lock the interpreter would want in order to shut down: it would abort instead.
        console.reset()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


EPILOG = """\b
Examples:
  flashvsr-trt run in.mp4                      writes in_flashvsr_4x.mp4
  flashvsr-trt run in.mp4 --target 2160p -o out.mkv --crf 16
  flashvsr-trt run clips/ -o upscaled/ -n      every video of a folder
  ffmpeg -i in.mp4 -f yuv4mpegpipe - | flashvsr-trt run - -o out.mkv

\b
Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 part of a batch failed,
4 no usable back end, 5 out of memory, 6 output exists, 130 Ctrl-C."""


@click.group(
    cls=Cli,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name=PROGRAM, message="%(prog)s %(version)s")
@console.options
@click.pass_context
def cli(context: click.Context) -> None:
    """FlashVSR video super-resolution: 4x, streaming, every frame and every pixel kept."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Entry point of the console script."""
    cli.main()
