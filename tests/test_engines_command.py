"""flashvsr-trt engines."""

from __future__ import annotations

import shutil

import pytest
from engine_sets import fake, key, needs_rtx

from flashvsr_trt.configs.errors import BackendUnavailable, BundleError, UsageError
from flashvsr_trt.engines import store


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_command_line(cache, seeded_bundle_fp16, tmp_path):
    """list, inspect and clean on a set of a few bytes; bad names."""
    from click.testing import CliRunner

    from flashvsr_trt.runtime.commands.engines import engines

    runner = CliRunner()
    built = store.create(key(), fake("dit"), {"bundle": "seeded", "source": "/b"})
    listed = runner.invoke(engines, ["list"]).output
    assert built.folder.name in listed
    assert "stale" in listed
    assert "the plug-in or its kernels have changed" in listed
    assert "workspace_mib" in runner.invoke(engines, ["inspect", built.folder.name]).output
    assert isinstance(runner.invoke(engines, ["inspect", "nothing"]).exception, UsageError)
    assert f"removed {built.folder}" in runner.invoke(engines, ["clean"]).output
    assert "nothing to remove" in runner.invoke(engines, ["clean", "--all"]).output


@needs_rtx
def test_command_line_builds(cache, seeded_bundle_fp16):
    from click.testing import CliRunner

    from flashvsr_trt.runtime.commands.engines import engines

    arguments = ["build", "--bundle", str(seeded_bundle_fp16), "--tier", "8", "--target", "sm89"]
    result = CliRunner().invoke(engines, arguments, catch_exceptions=False)
    (built,) = store.all_sets()
    assert result.output.splitlines()[-1] == str(built.folder)
    verify = CliRunner().invoke(engines, ["verify", *arguments[1:]])
    assert isinstance(verify.exception, BackendUnavailable)  # no GPU: the files are checked, and that is said
    assert "the files are whole" in str(verify.exception)
    assert not store.all_sets()[0].refused  # the lack of a GPU is not the engines' fault
    plan = built.path("tc_decoder")
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    verify = CliRunner().invoke(engines, ["verify", *arguments[1:]])
    assert isinstance(verify.exception, BundleError)
    assert "verify has refused it: " in CliRunner().invoke(engines, ["list"]).output
    verify = CliRunner().invoke(engines, ["verify", *arguments[1:]])
    assert "verify has refused it" in str(verify.exception)
    shutil.rmtree(built.folder)
