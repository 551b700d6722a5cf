"""`--start` and `--end`: a time or a frame number."""

from __future__ import annotations

import re
from fractions import Fraction

from flashvsr_trt.configs.errors import UsageError

Position = int | Fraction
_CLOCK = re.compile(r"(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d*)?|\.\d+)s?")


def parse_position(text: str, flag: str = "--start") -> Position:
    """A position from the command line.

    Args:
        text: "120" is frame number 120 (from 0); "4.5", "4s", "1:02.5" and "0:01:02" are times.
        flag: the flag's name, for the error.

    Returns:
        A frame number (int) or a time in seconds since the first frame (Fraction).

    Raises:
        UsageError: neither.
    """
    value = text.strip()
    if value.isascii() and value.isdigit():
        return int(value)
    match = _CLOCK.fullmatch(value)
    if match is None:
        raise UsageError(
            f"{flag} {text!r} is neither a time nor a frame number",
            expected="a frame number such as 120, or a time such as 4.5, 4s or 1:02.5",
            todo=f"give {flag} one of these forms",
        )
    first, second, seconds = match.groups()
    hours, minutes = (first, second) if second is not None else (None, first)
    return Fraction(seconds) + 60 * int(minutes or 0) + 3600 * int(hours or 0)
