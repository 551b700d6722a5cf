"""What engines are built for: shapes, GPUs, and the TensorRT that is there."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engine_sets import flavour_without_targets, needs_rtx

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BackendUnavailable, OutOfMemory, UsageError
from flashvsr_trt.configs.tiers import SIZES, load_tier
from flashvsr_trt.engines import targets, trt
from flashvsr_trt.engines.key import graph_names
from flashvsr_trt.engines.profiles import profiles


@pytest.mark.parametrize("tier", SIZES)
def test_profiles_follow_tier_and_contract(seeded_bundle_fp16, tier):
    graphs, chosen = manifests.load(seeded_bundle_fp16).graphs, load_tier(tier)
    height, width = chosen.tile
    (dit,) = profiles(graphs["dit"], chosen)
    assert dit["noise"].min == (2, 16, 16, 16)
    assert dit["noise"].max == (2, 16, height // 8, width // 8)
    assert dit["k_cache.0"].min[0] == 3
    assert dit["k_cache.0"].max == (4, height // 128, width // 128, 128, 128)
    assert (dit["slabs"].min, dit["slabs"].max) == ((1,), (3,))
    assert dit["topk"].max == ()
    (first,) = profiles(graphs["dit_first"], chosen)
    assert first["noise"].max == (6, 16, height // 8, width // 8)
    (decoder,) = profiles(graphs["tc_decoder"], chosen)
    assert decoder["lq"].max == (8, *chosen.decoder_tile, 3)
    one_tile, whole = profiles(graphs["post_adain8"], chosen)
    assert one_tile["lq"].max[0] == 8
    assert whole["lq"].max == (1, 4096, 4096, 3)
    for graph in graphs.values():
        for ranges in profiles(graph, chosen):
            for r in ranges.values():
                assert all(a <= b <= c for a, b, c in zip(r.min, r.opt, r.max, strict=True))


@needs_rtx
def test_targets_of_rtx():
    flavour = trt.load("tensorrt_rtx")
    assert targets.parse_targets(None, flavour) == ("sm86", "sm89", "sm120")
    assert targets.parse_targets("sm120, SM_86,sm86", flavour) == ("sm86", "sm120")
    for text, message in (("sm90", "sm90.*H100"), ("sm77", "sm77"), ("", "''"), (",", "','")):
        with pytest.raises(UsageError, match=message):
            targets.parse_targets(text, flavour)


def test_data_centre_flavour_builds_for_its_own_gpu_only(monkeypatch):
    flavour = flavour_without_targets()
    monkeypatch.setattr(targets, "this_gpu", lambda: targets.exact_name(90, "NVIDIA H200 (141GB)"))
    assert targets.parse_targets(None, flavour) == ("sm90-nvidia-h200-141gb",)
    with pytest.raises(UsageError, match="only tensorrt_rtx builds for others"):
        targets.parse_targets("sm89", flavour)
    assert targets.serves(("sm86", "sm89"), 89, "NVIDIA RTX 4090")
    assert targets.serves(("sm90-nvidia-h200",), 90, "NVIDIA H200")
    assert not targets.serves(("sm90-nvidia-h200",), 90, "NVIDIA H100")


@pytest.mark.parametrize(
    ("target", "precision", "weights", "message"),
    [
        ("sm86", "fp16", "fp8", r"sm86 \(RTX 30\) has no FP8"),
        ("sm80", "bf16", "fp8", r"sm80 \(A100\) has no FP8"),
        ("sm75", "bf16", "bundle", r"sm75 \(RTX 20\) has no bfloat16"),
        ("sm89", "fp8", "bundle", "one of FP8"),
        ("sm75", "fp16", "bundle", "no attention kernels for sm75"),
    ],
)
def test_what_a_target_cannot_run_is_refused(target, precision, weights, message):
    with pytest.raises(UsageError, match=message):
        targets.check_targets((target,), precision=precision, weights=weights)


def test_what_targets_can_run():
    targets.check_targets(("sm80", "sm86", "sm89", "sm120", "sm121"), precision="bf16", weights="bundle")
    targets.check_targets(("sm89", "sm120"), precision="fp16", weights="fp8")
    targets.check_targets(("sm90-nvidia-h200",), precision="bf16", weights="fp8")


def test_graphs_of_a_set(seeded_bundle_fp16):
    manifest = manifests.load(seeded_bundle_fp16)
    with_vae = replace(manifest, graphs=manifest.graphs | {"vae_decoder": None, "vae_decoder_first": None})
    assert "vae_decoder" not in graph_names(with_vae, "tc_decoder")
    assert "tc_decoder" not in graph_names(with_vae, "vae_decoder")
    assert "vae_decoder_first" in graph_names(with_vae, "vae_decoder")


def test_unknown_or_missing_flavour_says_how_to_install(monkeypatch):
    trt.load.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match="no TensorRT is installed") as caught:
        trt.load()
    assert "flashvsr-trt[rtx]" in caught.value.todo
    trt.load.cache_clear()


def test_library_gets_its_unversioned_name(tmp_path):
    (tmp_path / "libtensorrt_rtx.so.1").write_bytes(b"")
    trt.link_library(tmp_path)
    trt.link_library(tmp_path)  # once more changes nothing
    assert os.readlink(tmp_path / "libtensorrt_rtx.so") == "libtensorrt_rtx.so.1"


def test_read_only_installation_is_told(tmp_path, monkeypatch):
    (tmp_path / "libtensorrt_rtx.so.1").write_bytes(b"")

    def refused(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "symlink_to", refused)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with pytest.raises(BackendUnavailable, match="cannot be written") as caught:
        trt.link_library(tmp_path)
    assert "LD_LIBRARY_PATH" in caught.value.todo
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "libtensorrt_rtx.so").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{elsewhere}")
    trt.link_library(tmp_path)  # cured from outside: no error


def test_log_keeps_the_last_errors():
    flavour = flavour_without_targets()
    seen = []
    with flavour.log.listening(lambda severity, message: seen.append(severity)):
        flavour.log.take("VERBOSE", "nothing")
        flavour.log.take("ERROR", "IBuilder: Cannot compile\nfor target(s) sm86")
        flavour.log.take("ERROR", "--- End node ---")
        flavour.log.take("ERROR", "[checkMacros.cpp::catchCudaError::250] driver version is insufficient")
        error = flavour.failure("dit cannot be built")
    assert seen == ["VERBOSE", "ERROR", "ERROR", "ERROR"]
    assert str(error).startswith("dit cannot be built: IBuilder: Cannot compile for target(s) sm86")
    flavour.log.take("ERROR", "CUDA out of memory")
    assert isinstance(flavour.failure("x"), OutOfMemory)
    with flavour.log.listening(lambda severity, message: None):
        assert "does not say why" in str(flavour.failure("x"))


@needs_rtx
def test_installed_flavours():
    assert "tensorrt_rtx" in trt.installed()
