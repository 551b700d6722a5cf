"""Every error this project raises on purpose, and the exit code each one ends the command line with.

FlashVSRError               1   work failed
+-- UsageError              2   a flag or an argument that cannot be honoured
+-- InputError              2   an input file, folder or stream that cannot be used
+-- WeightsError            2   weight files: missing, corrupt, of mixed versions, of unknown layout
+-- BundleError             2   a bundle or engine set: missing, corrupt, of another schema version
+-- BatchFailed             3   some inputs of a batch failed, the others are done
+-- BackendUnavailable      4   no usable GPU, driver, back end or engine
+-- OutOfMemory             5   host or device memory, after every fallback
+-- OutputExists            6   the output is there and -y was not given
+-- WriteError              1   the output cannot be written (disk full, permissions, encoder)
+-- Cancelled             130   Ctrl-C
"""

from __future__ import annotations


class FlashVSRError(Exception):
    """What came, what was expected and what to do about it, each part a short sentence.

    Args:
        came: what was found, with the value.
        expected: what would have been right; may be empty where `came` says it.
        todo: what the user can do now.
    """

    exit_code = 1

    def __init__(self, came: str, *, expected: str = "", todo: str = "") -> None:
        self.came, self.expected, self.todo = came, expected, todo
        super().__init__(came, expected, todo)

    def __str__(self) -> str:
        lines = [self.came]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.todo:
            lines.append(f"what to do: {self.todo}")
        return "\n  ".join(lines)


class UsageError(FlashVSRError):
    exit_code = 2


class InputError(FlashVSRError):
    exit_code = 2


class WeightsError(FlashVSRError):
    exit_code = 2


class BundleError(FlashVSRError):
    exit_code = 2


class BatchFailed(FlashVSRError):
    exit_code = 3


class BackendUnavailable(FlashVSRError):
    exit_code = 4


class OutOfMemory(FlashVSRError):
    exit_code = 5


class OutputExists(FlashVSRError):
    exit_code = 6


class WriteError(FlashVSRError):
    exit_code = 1


class Cancelled(FlashVSRError):
    exit_code = 130
