"""The figures of `flashvsr-trt bench` for people."""

from __future__ import annotations

from typing import Any

from flashvsr_trt.configs.schedule import STEP
from flashvsr_trt.runtime import machine
from flashvsr_trt.runtime.progress import clock


def as_text(facts: dict[str, Any]) -> str:
    """The figures for people."""
    steady = facts["fps_steady"]
    seconds = facts["seconds"]
    lines = [
        f"flashvsr-trt bench, {facts['date']}",
        *(f"  {name:<8} {value}" for name, value in facts["machine"].items()),
        *(f"  gpu      {gpu}" for gpu in facts["gpus"]),
        f"  versions {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}",
        f"  device   {facts['backend']}",
        f"  bundle   {facts['bundle']} ({facts['bundle_identity'][:16]})",
        f"  work     {facts['source']} to {facts['output'][0]}x{facts['output'][1]}, canvas "
        f"{facts['canvas'][0]}x{facts['canvas'][1]}, {facts['frames']} frames, {facts['variant']}, "
        f"sparse ratio {facts['sparse_ratio']:g}",
        "",
        f"  {facts['fps']:.3g} fps with the start, {clock(seconds)} in all",
        "  too few frames for a steady speed: at least two steps after the start are needed"
        if steady is None
        else f"  {steady:.3g} fps steady, {1000 * STEP / steady:.1f} ms a step of {STEP} frames",
        "",
        "  graph            ms a step   ms in the start",
    ]
    names = sorted({*(facts["ms_per_step"] or {}), *facts["ms_start"]})
    for name in names:
        step = (facts["ms_per_step"] or {}).get(name)
        lines.append(
            f"  {name:<15} {'-' if step is None else f'{step:.1f}':>10} {facts['ms_start'].get(name, 0.0):>17.1f}"
        )
    lines += ["", "  stage       busy s   of the time"]
    lines += [
        f"  {stage:<10} {value:>7.2f} {100 * value / seconds:>11.1f} %" for stage, value in facts["stages"].items()
    ]
    peak = facts["peak_rss"]
    lines += _rates(facts) + _beside(facts)
    lines += [
        "",
        f"  runtime's own share of the upscaling thread: {100 * facts['runtime_share']:.2f} %",
        f"  peak memory {machine.gib(peak) if peak else 'not told by this system'}; "
        f"predicted {machine.gib(facts['predicted'])}",
    ]
    return "\n".join(lines)


def _rates(facts: dict[str, Any]) -> list[str]:
    """Operations, their least time, and how near to it each graph is."""
    if not facts["graphs"]:
        return []
    lines = [
        "",
        f"  matrix product of this machine: {facts['matrix_tflops']:.4g} TFLOP/s",
        "  part              TFLOP   least ms    TFLOP/s   of the product's",
    ]
    for name, part in facts["graphs"].items():
        line = f"  {name:<15} {part['tflop']:>7.4g} {part['limit_ms']:>10.4g}"
        if "tflops" in part:
            line += f" {part['tflops']:>10.4g} {100 * part['of_matrix']:>16.1f} %"
        lines.append(line)
    if (own := facts["attention"]) is not None:
        lines.append(
            f"  one layer: selection {own['selection_ms']:.3f} ms, attention {own['block_sparse_attention_ms']:.3f} ms,"
            f" {own['attention_tflops']:.0f} TFLOP/s on {100 * own['density']:.1f} % of the blocks"
        )
    return lines


def _beside(facts: dict[str, Any]) -> list[str]:
    """Copies to and from the device, its memory, and longer runs."""
    lines = []
    for way, told in facts["transfers"].items():
        share = 100 * told["seconds"] / facts["seconds"]
        lines.append(f"  {way:<10} {told['seconds']:>7.2f} {share:>11.1f} %   {machine.gib(told['bytes'])}")
    if facts["peak_device"] is not None:
        told = facts["predicted_device"]
        predicted = "no prediction" if told is None else f"predicted {machine.gib(told)}"
        lines += ["", f"  peak device memory {machine.gib(facts['peak_device'])}; {predicted}"]
    if "growth" in facts:
        lines += ["", "  frames   fps steady   peak host   peak device"]
        for run in facts["growth"]:
            speed = "-" if run["fps_steady"] is None else f"{run['fps_steady']:.4g}"
            peaks = ["-" if run[key] is None else machine.gib(run[key]) for key in ("peak_rss", "peak_device")]
            lines.append(f"  {run['frames']:>6} {speed:>12} {peaks[0]:>11} {peaks[1]:>13}")
    return lines
