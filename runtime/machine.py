"""What this machine and this process are: for doctor, bench and the closing summary."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("flashvsr-trt", "numpy", "onnxruntime", "onnxruntime-gpu", "av", "pillow", "click", "rich")
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")


def peak_rss() -> int | None:
    """Largest resident size of this process so far in bytes; None where the system does not tell."""
    # Not getrusage on Linux: its figure survives exec, so a child of a large process reports its parent's.
    kib = _proc_field(Path("/proc/self/status"), "VmHWM")
    if kib is not None:
        return int(kib.split()[0]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> tuple[int, int] | None:
    """(total, available) bytes of host memory; None where the system does not tell."""
    total, free = (_proc_field(Path("/proc/meminfo"), key) for key in ("MemTotal", "MemAvailable"))
    if total is None or free is None:
        return None
    return int(total.split()[0]) * 1024, int(free.split()[0]) * 1024


def cpu() -> str:
    """The processor's name."""
    return _proc_field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Those instruction sets that decide how fast the networks run here; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    flags = (_proc_field(info, "flags") or _proc_field(info, "Features") or "").split()
    return tuple(name for name in CPU_FEATURES if name in flags)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of the packages that matter, of those installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gpus() -> list[str]:
    """One line a GPU, as nvidia-smi tells it; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # a driver that is half there counts as none
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def summary() -> dict[str, str]:
    """System, processor and Python, for people."""
    features = ", ".join(cpu_features())
    sizes = memory()
    return {
        "system": platform.platform(terse=True),
        "python": f"{platform.python_version()} ({sys.executable})",
        "cpu": f"{cpu()}, {cores()} cores" + (f" ({features})" if features else ""),
        "memory": f"{gib(sizes[0])}, {gib(sizes[1])} free" if sizes else "unknown",
    }


def gib(count: int | float) -> str:
    """Bytes for people: 1.4 GiB, 230 MiB, 12 KiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _proc_field(path: Path, key: str) -> str | None:
    """The first `key: value` of a file of /proc."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        return None
    return None
