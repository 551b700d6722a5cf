"""The command line in this process, with a stand-in for the networks."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from media import Clip, picture, write_clip
from stand_in import NoBackend, bundle

from flashvsr_trt.runtime import limits, upscaler
from flashvsr_trt.runtime.cli import cli
from flashvsr_trt.runtime.commands import bench as bench_module
from flashvsr_trt.runtime.commands import run as run_module

FAST = ["-e", "preset=ultrafast"]


def home(tmp_path, monkeypatch, networks):
    """A folder of its own for a test, with a stand-in bundle in the environment."""
    monkeypatch.setattr(upscaler, "Networks", networks)
    monkeypatch.setattr(limits, "matrix_rate", lambda backend, dtype: 1e12)
    for module, name in ((run_module, "open_for"), (bench_module, "open_backend")):
        monkeypatch.setattr(module, name, lambda *args, **settings: NoBackend())
    bundle(tmp_path / "bundle")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("FLASHVSR_TRT_BUNDLE", str(tmp_path / "bundle"))


class Result:
    """Exit code, stdout and stderr of a command."""

    def __init__(self, result):
        self.code, self.out, self.err, self.bytes = result.exit_code, result.stdout, result.stderr, result.stdout_bytes
        self.events = [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]


def call(*args, stdin=None):
    result = Result(CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin))
    assert "Traceback" not in result.err
    return result


def clip(name="in.mp4", count=30, width=64, height=48, **settings):
    return write_clip(Path(name), [picture(i, width, height) for i in range(count)], Clip(**settings))


def left():
    return sorted(path.name for path in Path.cwd().iterdir())
