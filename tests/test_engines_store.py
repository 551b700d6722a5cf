"""Key and store of engine sets; the plans here are a few bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine_sets import fake, key, needs_rtx, wanted_of

from flashvsr_trt.configs.errors import BackendUnavailable, BundleError, OutOfMemory
from flashvsr_trt.engines import sets, store


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


CHANGES = {
    "bundle": ("c" * 64, "the bundle has changed: bbbbbbbbbbbb then, cccccccccccc now"),
    "decoder": ("vae_decoder", "the decoder is vae_decoder, the engines were built for tc_decoder"),
    "plugin": ("q" * 64, "the plug-in or its kernels have changed"),
    "tier": ("12gb", "the tier is 12gb"),
    "tier_values": ("u" * 64, "the tier's values have changed"),
    "profiles": ({"dit": [{"noise": [[1], [2], [4]]}]}, "the shapes differ: dit"),
    "flags": ({"workspace_mib": 2}, "the build flags differ: workspace_mib"),
    "flavour": ("tensorrt", "the TensorRT flavour is tensorrt"),
    "version": ("1.8", "the TensorRT version is 1.8, the engines were built for 1.7"),
    "targets": (("sm120",), "the target is sm120, the engines were built for sm86,sm89"),
}


def test_every_member_of_the_key_has_a_reason():
    assert set(CHANGES) == set(key().as_dict())


@pytest.mark.parametrize("member", CHANGES)
def test_change_of_a_member_makes_a_set_stale(cache, member):
    value, reason = CHANGES[member]
    built = store.create(key(), fake("dit"), {"bundle": "x", "source": "/bundle"})
    assert store.find(key(), Path("/bundle")) == built
    changed = key(**{member: value})
    (found,) = key().diff(changed)
    assert reason in found
    stale = store.find(changed, Path("/bundle"))
    assert isinstance(stale, store.Stale)
    if member not in ("tier", "decoder"):  # those are other sets, not stale ones
        assert reason in stale.lines()[0]


def test_all_reasons_are_told_at_once():
    reasons = key().diff(key(version="2", plugin="z" * 64, targets=("sm120",)))
    assert len(reasons) == 3


def test_other_bundles_set_is_not_called_stale(cache):
    store.create(key(), fake("dit"), {"bundle": "x", "source": "/one"})
    assert store.find(key(bundle="c" * 64), Path("/two")) == store.Stale(())


@needs_rtx
def test_missing_engines_are_told_with_reasons_and_command(cache, seeded_bundle_fp16):
    wanted = wanted_of(seeded_bundle_fp16)
    old = replace(wanted.key(), version="1.0")
    store.create(old, fake("dit"), {"bundle": "x", "source": str(seeded_bundle_fp16)})
    with pytest.raises(BackendUnavailable) as caught:
        sets.find(wanted)
    assert "the engines were built for 1.0" in str(caught.value)
    assert "engines build --bundle" in caught.value.todo


def test_failed_build_leaves_nothing(cache):
    def plans(folder):
        yield fake("dit", folder=folder)
        raise OutOfMemory("no memory")

    with pytest.raises(OutOfMemory):
        store.create(key(), plans, {"bundle": "x", "source": "/b"})
    assert store.all_sets() == []
    assert [p for p in store.root().iterdir() if p.is_dir()] == []


def test_rebuild_keeps_the_old_set_until_the_new_one_is_whole(cache):
    about = {"bundle": "x", "source": "/b"}
    store.create(key(), fake("dit", b"old"), about)

    def plans(folder):
        assert store.all_sets()[0].path("dit").read_bytes() == b"old"
        yield fake("dit", b"new", folder)

    built = store.create(key(), plans, about, rebuild=True)
    assert built.path("dit").read_bytes() == b"new"
    assert store.create(key(), None, about) == built  # valid: no plan is asked for


@pytest.mark.parametrize("damage", ["shorter", "changed", "missing", "json", "schema"])
def test_damage_is_found(cache, damage):
    built = store.create(key(), fake("dit", b"plan of some bytes"), {"bundle": "x", "source": "/b"})
    plan, index = built.path("dit"), built.folder / store.FILE_NAME
    if damage == "shorter":
        plan.write_bytes(b"plan")
    elif damage == "changed":
        plan.write_bytes(b"plan of some bytez")
    elif damage == "missing":
        plan.unlink()
    elif damage == "json":
        index.write_text(index.read_text()[:-20])
    else:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"schema": 99}))
    with pytest.raises(BundleError):
        store.open_set(built.folder, hashed=True)
    if damage != "changed":  # that one costs reading every byte, which only verify does
        assert store.all_sets() == []
        assert store.create(key(), fake("dit"), {"bundle": "x", "source": "/b"}).path("dit").read_bytes() == b"plan"


def test_refused_set_serves_nobody_and_is_built_again(cache):
    about = {"bundle": "x", "source": "/b"}
    built = store.create(key(), fake("dit"), about)
    store.refuse(built, "dit differs: latents agrees to 3.0 dB")
    (found,) = store.all_sets()
    assert found.diff(key()) == ["verify has refused it: dit differs: latents agrees to 3.0 dB"]
    stale = store.find(key(), Path("/b"))
    assert isinstance(stale, store.Stale)
    assert "3.0 dB" in stale.lines()[0]
    again = store.create(key(), fake("dit", b"better"), about)
    assert again.path("dit").read_bytes() == b"better"
    assert store.find(key(), Path("/b")) == again
    assert again.digest != built.digest


def test_sets_with_the_plug_in_inside_lie_beside_the_others(cache):
    about = {"bundle": "x", "source": "/b"}
    plain = store.create(key(), fake("dit"), about)
    embedded = store.create(key(flags={"workspace_mib": 1, "plugin_library": "abc"}), fake("dit"), about)
    assert plain.folder != embedded.folder
    assert (plain.embedded, embedded.embedded) == (False, True)
    assert len(store.all_sets()) == 2


def test_clean_removes_only_engine_sets(cache):
    about = {"bundle": "x", "source": "/b"}
    kept = store.create(key(), fake("dit"), about)
    gone = store.create(key(version="1.6"), fake("dit"), about)
    stranger = store.root() / "notes"
    stranger.mkdir()
    (stranger / "mine.txt").write_text("mine")
    killed = store.root() / f".{kept.folder.name}.part"
    killed.mkdir()
    (killed / "dit.plan").write_bytes(b"half")
    removed = store.clean(keep=lambda found: found.key.version == "1.7")
    assert set(removed) == {gone.folder, killed}
    assert kept.folder.is_dir()
    assert (stranger / "mine.txt").is_file()


BUILDER = """
import sys, time
from flashvsr_trt.engines import store
from tests.engine_sets import fake, key
def plans(folder):
    print("building", flush=True)
    yield fake("dit", folder=folder)
    time.sleep(float(sys.argv[1]))
    yield fake("lq_proj", folder=folder)
store.create(key(), plans, {"bundle": "x", "source": "/b"}, on_wait=lambda: print("waiting", flush=True))
print("done", flush=True)
"""


def builder(seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ},
    )


def test_two_builds_at_once_build_once(cache):
    first = builder(2)
    assert first.stdout.readline() == "building\n"
    second = builder(0)
    assert second.communicate(timeout=60)[0] == "waiting\ndone\n"
    assert first.communicate(timeout=60)[0] == "done\n"
    assert len(store.all_sets()) == 1


def test_killed_build_leaves_nothing_that_looks_finished(cache):
    process = builder(60)
    assert process.stdout.readline() == "building\n"
    time.sleep(0.2)  # the first plan is written
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert store.all_sets() == []
    again = builder(0)  # neither the lock nor the leftovers are in its way
    assert again.communicate(timeout=60)[0] == "building\ndone\n"
    assert set(store.all_sets()[0].engines) == {"dit", "lq_proj"}
    assert not [p for p in store.root().iterdir() if p.name.endswith(".part")]
