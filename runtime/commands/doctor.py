"""`flashvsr-trt doctor`: what works here, what a run would use, and why."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import click

from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError
from flashvsr_trt.runtime import console, machine
from flashvsr_trt.runtime.failures import explain

ENCODERS = (
    "libx264", "libx264rgb", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1", "h264_nvenc", "hevc_nvenc",
    "av1_nvenc",
)  # fmt: skip
DECODERS = ("h264", "hevc", "av1", "vp9", "mpeg2video", "mpeg4", "prores", "ffv1", "mjpeg")

BECAUSE = {
    "tensorrt": "engines of this bundle are there for this GPU",
    "onnxruntime-cuda": "there are no engines of this bundle for this GPU, and ONNX Runtime drives it",
    "onnxruntime-cpu": "there is no GPU that this installation drives",
}


@dataclass
class Findings:
    """Sections of (name, value), and what stands in the way of a run."""

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[FlashVSRError] = field(default_factory=list)


@click.command()
@click.option("--bundle", metavar="DIR", envvar="FLASHVSR_TRT_BUNDLE", help="Examine this one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@console.options
def doctor(bundle: str | None, as_json: bool) -> None:
    """Say what works on this machine, and what a run would use.

    Ends with 0 if a run would work, else with 4. The output can be pasted into a report as it is.
    """
    findings = Findings()
    findings.sections["machine"] = machine.summary() | {
        f"gpu {i}": gpu for i, gpu in enumerate(machine.gpus() or ["none that nvidia-smi knows"])
    }
    findings.sections["packages"] = machine.versions()
    for examine in (examine_video, examine_places, lambda found: examine_run(found, bundle)):
        try:
            examine(findings)
        except Exception as error:  # a broken installation is what this is for: every other finding still counts
            findings.problems.append(explain(error))
    click.echo(as_text(findings) if not as_json else as_json_text(findings))
    if findings.problems:
        raise BackendUnavailable(
            f"a run would fail: {console.counted(len(findings.problems), 'thing')} in the way",
            todo="see the last lines of the report",
        )


def examine_video(findings: Findings) -> None:
    """FFmpeg's version and the coders that matter."""
    import av
    from av.codec import codecs_available
    from av.codec.codec import Codec, UnknownCodecError

    def there(name: str, mode: str) -> bool:
        try:
            Codec(name, mode)  # type: ignore[arg-type]
        except UnknownCodecError:
            return False
        return True

    missing = [name for name in DECODERS if name not in codecs_available or not there(name, "r")]
    findings.sections["video"] = {
        "ffmpeg": f"{av.ffmpeg_version_info}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}",
        "encoders": ", ".join(name for name in ENCODERS if there(name, "w")),
        "not built in": ", ".join(name for name in ENCODERS if not there(name, "w")) or "none",
        "decoders": "all that matter" if not missing else f"without {', '.join(missing)}",
    }


def examine_places(findings: Findings) -> None:
    """Folders that are read or written beside the videos."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    weights = Path(os.environ.get("HF_HOME", cache / "huggingface")).expanduser()
    temporary = Path(tempfile.gettempdir())
    places = {"weights": weights, "temporary": temporary, "working": Path.cwd()}
    findings.sections["folders"] = {name: _place(path) for name, path in places.items()}
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            findings.sections["folders"][name] = os.environ[name]


def _place(path: Path) -> str:
    if not path.is_dir():
        return f"{path} (not there yet)"
    rights = "" if os.access(path, os.W_OK) else ", not writable"
    return f"{path} ({machine.gib(shutil.disk_usage(path).free)} free{rights})"


def examine_run(findings: Findings, named: str | None) -> None:
    """The back end and the bundle that a run would take, tried out."""
    import onnxruntime

    from flashvsr_trt.runtime.backends.choice import open_for
    from flashvsr_trt.runtime.bundle import open_bundle

    section = findings.sections["a run would use"] = {
        "providers": ", ".join(onnxruntime.get_available_providers()),
    }
    backend = open_for("auto", bundle=named)
    section["back end"] = f"{backend.name}: {backend.describe()}"
    section["because"] = BECAUSE[backend.name]
    where = f"{named} (--bundle or FLASHVSR_TRT_BUNDLE)" if named else "the one in the package (none was named)"
    section["bundle"] = where
    bundle = open_bundle(named, verify="hash")
    manifest = bundle.manifest
    worth = "" if manifest.meaningful else "; random weights: its picture content means nothing"
    section["bundle is"] = f"{manifest.model} {manifest.model_version}, {manifest.precision}: {manifest.about}{worth}"
    section["verified"] = f"{len(manifest.files)} files by SHA-256, identity {manifest.digest()[:16]}"
    tried = []
    for name, graph in manifest.graphs.items():
        if name.startswith(("post_", "tc_decoder")):
            backend.load(bundle.graph_path(name), graph)
            tried.append(name)
    section["loads"] = ", ".join(tried)


def as_text(findings: Findings) -> str:
    """The report for people."""
    width = max(len(name) for section in findings.sections.values() for name in section)
    lines = []
    for title, section in findings.sections.items():
        lines.append(title)
        lines += [f"  {name:<{width}}  {value}" for name, value in section.items()]
    if not findings.problems:
        return "\n".join([*lines, "a run would work"])
    lines.append("a run would fail")
    lines += [f"  {line}" for problem in findings.problems for line in str(problem).splitlines()]
    return "\n".join(lines)


def as_json_text(findings: Findings) -> str:
    """The report for machines."""
    problems = [{"came": p.came, "expected": p.expected, "todo": p.todo} for p in findings.problems]
    return json.dumps({"ok": not problems, "problems": problems, **findings.sections})
