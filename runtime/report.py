"""report.json: what a run was given, what it did and how fast."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.errors import WriteError
from flashvsr_trt.runtime.execution import Report


def report_of(done: Report) -> dict[str, Any]:
    """One input, for machines; sizes in bytes, times in seconds."""
    status, kept = done.status, done.kept
    seconds = {stage: round(value, 3) for stage, value in status.seconds.items()}
    frames = status.frames - status.resumed
    return {
        "input": done.input,
        "output": done.output,
        "output_bytes": done.bytes,
        "size": list(done.size),
        "settings": done.settings,
        "plan": done.plan,
        "plan_changes": [] if kept is None else kept.changes,
        "frames": {
            "in": status.read,
            "out": status.frames,
            "done_by_earlier_runs": status.resumed,
            "repeated": done.read.repeated,
            "concealed": done.read.concealed,
            "retimed": done.read.retimed,
            "skipped": done.read.skipped,
            "missing": done.read.missing,
        },
        "decoder_messages": done.read.complaints,
        "scene_cuts": list(done.scene_cuts),
        "elapsed": round(status.elapsed, 3),
        "elapsed_before": 0.0 if kept is None else round(max(0.0, kept.elapsed - status.elapsed), 3),
        "fps": round(status.fps, 3),
        "seconds": seconds,
        "fps_by_stage": {stage: round(frames / value, 3) for stage, value in seconds.items() if value > 0},
        "peak_memory": done.peak_rss,
        "segments": [] if kept is None else [asdict(segment) for segment in kept.segments],
        "warnings": list(done.warnings),
    }


def write_report(path: Path, reports: list[Report]) -> None:
    """A list with one entry for each input that is done.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        path.write_text(json.dumps([report_of(done) for done in reports], indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise WriteError(f"--report {path} cannot be written: {error.strerror}", todo="name another file") from error
