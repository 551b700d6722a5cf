"""What the user is told about an error, and the exit code it ends the program with."""

from __future__ import annotations

import os

import click

from flashvsr_trt.configs.errors import BackendUnavailable, Cancelled, FlashVSRError, OutOfMemory
from flashvsr_trt.runtime import console

_EXPORT_MODULES = {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "einops", "huggingface_hub"}
_EXPORT_MODULES |= {"ml_dtypes", "filelock"}


def report(error: BaseException) -> int:
    """Tells the user what happened, on stderr, and gives the exit code. A traceback only when debugging."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, click.ClickException):
        console.LOG.error("%s", _usage_text(error))
        return 2
    known = explain(error)
    trace = error if console.debugging() and not isinstance(known, Cancelled) else None
    console.LOG.error("%s", known, exc_info=trace)
    return known.exit_code


def explain(error: BaseException) -> FlashVSRError:
    """The error in the project's own terms; one that nobody foresaw is called a fault of the program."""
    if isinstance(error, FlashVSRError):
        return error
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Cancelled("stopped")
    if isinstance(error, MemoryError):
        return OutOfMemory(f"out of host memory: {error}".rstrip(": "), todo="use a smaller --scale, or --variant tiny")
    if isinstance(error, BrokenPipeError):
        return FlashVSRError("whoever read the output has gone (broken pipe)")
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _EXPORT_MODULES:
        return BackendUnavailable(
            f"the package {error.name} is not installed",
            expected="the packages that export needs; running needs none of them",
            todo="pip install 'flashvsr-trt[export]'",
        )
    details = "" if console.debugging() else "; --log-level debug adds the details"
    return FlashVSRError(
        f"this is a fault of the program: {_where(error)}",
        todo=f"report this line with the output of `flashvsr-trt doctor`{details}",
    )


def _usage_text(error: click.ClickException) -> str:
    text = error.format_message()
    context = getattr(error, "ctx", None)
    return f"{text}\n  what to do: `{context.command_path} --help` lists what there is" if context else text


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {error}{place}"
