"""What the fault injection has done and seen, summed over the tests; printed at the end of a run, see conftest."""

from __future__ import annotations

from collections import Counter

FAULTS: Counter[str] = Counter()
FIGURES: list[str] = []  # other figures that tests have measured


def lines() -> list[str]:
    """One line a kind of fault that was injected."""
    if not FAULTS:
        return FIGURES
    return [
        *FIGURES,
        *(f"{name}: {FAULTS[name]}" for name in sorted(FAULTS) if name != "frames lost"),
        f"frames lost: {FAULTS['frames lost']}",
    ]
