"""Draws a training's curve: `python -m flashvsr_trt.export.demo.plot docs/demo-curve.json docs/demo-curve.svg`

Validation gains over bicubic in dB, on clean and on degraded input, over the iterations.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINES = {"clean_psnr": ("clean", "#1f6f8b"), "degraded_psnr": ("degraded", "#c8553d")}
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 112, 16, 44  # margins, with room for the axes' and the lines' names
TICK_DB, TICKS_X = 0.5, 8
FONT = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True)
class Frame:
    """Where an iteration and a gain lie in the picture."""

    last: float  # iteration
    low: float  # dB
    high: float

    def x(self, iteration: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * iteration / self.last

    def y(self, gain: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - gain) / (self.high - self.low)


def svg(curve: Sequence[dict[str, Any]]) -> str:
    """The picture of points as `train` writes them: `iteration`, `clean_psnr`, `degraded_psnr`."""
    gains = [point[key] for point in curve for key in LINES] + [0.0]
    low, high = TICK_DB * math.floor(min(gains) / TICK_DB), TICK_DB * math.ceil(max(gains) / TICK_DB)
    frame = Frame(curve[-1]["iteration"], low, high)
    parts = [*_grid(frame), *(part for key in LINES for part in _line(frame, curve, key))]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>", ""])


def _grid(frame: Frame) -> list[str]:
    parts = []
    for step in range(round((frame.high - frame.low) / TICK_DB) + 1):
        gain = frame.low + step * TICK_DB
        colour = "#555" if gain == 0 else "#ddd"
        y = f"{frame.y(gain):.1f}"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{colour}"/>')
        parts.append(_text(LEFT - 6, frame.y(gain) + 4, f"{gain:+.1f}" if gain else "0", anchor="end"))
    every = 1000 * max(1, round(frame.last / TICKS_X / 1000))
    for iteration in range(0, int(frame.last) + 1, every):
        parts.append(_text(frame.x(iteration), HEIGHT - BOTTOM + 18, f"{iteration:,}"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "iterations"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'<g transform="rotate(-90 14 {middle})">'
    return [*parts, turned + _text(14, middle, "Y-PSNR over bicubic, dB") + "</g>"]


def _line(frame: Frame, curve: Sequence[dict[str, Any]], key: str) -> list[str]:
    name, colour = LINES[key]
    points = [(frame.x(point["iteration"]), frame.y(point[key])) for point in curve]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    label = _text(x + 6, y + 4, f"{name} {curve[-1][key]:+.2f}", anchor="start", colour=colour)
    return [f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{drawn}"/>', label]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.write_text(svg(json.loads(arguments.curve.read_text())["curve"]))


if __name__ == "__main__":
    main()
