"""Engine sets, built for real by tensorrt_rtx where it is installed; it needs no GPU to build."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import (
    BackendUnavailable,
    BundleError,
    FlashVSRError,
    OutOfMemory,
    UsageError,
    WriteError,
)
from flashvsr_trt.configs.tiers import SIZES, load_tier
from flashvsr_trt.engines import build as building
from flashvsr_trt.engines import prepare as preparing
from flashvsr_trt.engines import sets, store, targets, trt
from flashvsr_trt.engines.build import Plan, StepModel, build_graph
from flashvsr_trt.engines.key import EngineKey, graph_names
from flashvsr_trt.engines.profiles import profiles

try:
    import tensorrt_rtx
except (ImportError, OSError) as error:
    tensorrt_rtx = None
    MISSING = f"tensorrt_rtx is not installed ({error}); pip install 'flashvsr-trt[rtx]'"
else:
    MISSING = ""
needs_rtx = pytest.mark.skipif(tensorrt_rtx is None, reason=MISSING)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wanted_of(bundle: Path, tier: int = 8, variant: str = "tiny", target: str | None = None) -> sets.Wanted:
    flavour = trt.load("tensorrt_rtx")
    return sets.Wanted(
        bundle=bundle,
        manifest=manifests.load(bundle),
        tier=load_tier(tier),
        variant=variant,
        flavour=flavour,
        targets=targets.parse_targets(target, flavour),
    )


# Building


@needs_rtx
@pytest.mark.parametrize("tier", SIZES)
def test_every_tier_builds_and_serves_both_variants(cache, seeded_bundle_fp16, tier):
    wanted = wanted_of(seeded_bundle_fp16, tier)
    lines = []
    built = sets.ensure(wanted, lines.append)
    assert built.key.targets == targets.DEFAULT
    assert set(built.engines) == {name for name in wanted.manifest.graphs if not name.startswith("vae")}
    for name, engine in built.engines.items():
        assert engine.plugins == (1 if name.startswith("dit") else 0), name
        assert built.path(name).stat().st_size == engine.bytes
        assert engine.bytes > engine.weights >= 0
        assert any(line.startswith(f"{name}: plan of") for line in lines)
    # Scratch memory of the projector follows its largest picture: a profile that was not applied would not.
    height, width = wanted.tier.tile
    assert built.engines["lq_proj"].activations > 8 * height * width
    # The other variant with the same decoder finds the same set, and nothing is built again.
    assert sets.find(replace(wanted, variant="long")).folder == built.folder
    assert store.open_set(built.folder, hashed=True) == built


@needs_rtx
def test_plug_in_layer_is_in_the_engine(seeded_bundle_fp16):
    wanted = wanted_of(seeded_bundle_fp16, target="sm89")
    messages: list[str] = []
    with wanted.flavour.log.listening(lambda severity, message: messages.append(message)):
        _build(wanted, "dit")
    log = "\n".join(messages)
    assert "Successfully created plugin: BlockSparseAttention" in log
    layers = log[log.rindex("Layers:") :]  # the engine's own list, at the end of a verbose build
    assert "node_block_sparse_attention" in layers or "PluginV3" in layers, layers[-3000:]


def _build(wanted: sets.Wanted, name: str) -> Plan:
    model = StepModel(wanted.bundle / f"{name}.onnx", wanted.manifest.graphs[name], wanted.manifest.precision)
    with tempfile.TemporaryDirectory() as folder:
        plan = build_graph(wanted.flavour, model, wanted.settings, Path(folder), lambda line: None)
        data = (Path(folder) / plan.file).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (plan.bytes, plan.sha256)
    return plan


@needs_rtx
def test_fp32_bundle_builds_with_the_attention_in_fp16(cache, seeded_bundle):
    wanted = wanted_of(seeded_bundle, target="sm86")
    plan = _build(wanted, "dit")
    assert plan.plugins == 1
    model = preparing.prepare(seeded_bundle / "dit.onnx", "fp32")
    node = next(n for n in model.graph.node if n.op_type == "BlockSparseAttention")
    half = [name for name in node.input if name.endswith(".float16")]
    assert len(half) == 5


@needs_rtx
def test_fp8_weights(cache, seeded_bundle_fp16):
    wanted = wanted_of(seeded_bundle_fp16, target="sm89,sm120")
    small = replace(wanted, tier=replace(wanted.tier, weights="fp8"))
    assert _build(small, "dit").weights < 0.7 * _build(wanted, "dit").weights
    with pytest.raises(UsageError, match=r"sm86 \(RTX 30\) has no FP8"):
        sets.ensure(replace(small, targets=("sm86", "sm89")), lambda line: None)


def test_fp8_weights_are_the_weights(seeded_bundle_fp16):
    """To within FP8's rounding: 3 bits of mantissa, so 1/16 of a number, or 2^-10 of its column's largest; where a
    whole column is next to nothing, the least number of fp16."""
    import onnx
    from onnx import numpy_helper

    path = seeded_bundle_fp16 / "dit.onnx"
    model = preparing.prepare(path, "fp16", weights="fp8")
    arrays = {t.name: t for t in model.graph.initializer}
    before = {t.name: t for t in onnx.load(path, load_external_data=False).graph.initializer}
    steps = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(steps) == 6  # q, k and v in one, o, cross q and o, two of the MLP
    for node in steps:
        name = node.input[0].removesuffix(".fp8")
        assert name not in arrays
        full = numpy_helper.to_array(before[name], base_dir=str(seeded_bundle_fp16)).astype(np.float32)
        eighth = numpy_helper.to_array(arrays[node.input[0]]).astype(np.float32)
        scale = numpy_helper.to_array(arrays[node.input[1]]).astype(np.float32)
        error = np.abs(eighth * scale - full)
        allowed = np.maximum(np.abs(full) / 16, np.abs(full).max(axis=0) * 2**-10) * 1.01
        assert (error <= np.maximum(allowed, 2**-24)).all()


@needs_rtx
def test_graph_that_does_not_parse_is_told_with_tensorrts_words(tmp_path, seeded_bundle_fp16):
    import onnx

    wanted = wanted_of(seeded_bundle_fp16)
    model = onnx.load(seeded_bundle_fp16 / "post_none8.onnx", load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOp"
    path = tmp_path / "post_none8.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="NoSuchOp"):
        _build(replace(wanted, bundle=tmp_path), "post_none8")
    path.write_bytes(b"no onnx at all")
    with pytest.raises(BundleError, match="no ONNX file"):
        _build(replace(wanted, bundle=tmp_path), "post_none8")


@needs_rtx
def test_node_that_names_no_plug_in_is_refused(tmp_path, seeded_bundle_fp16):
    import onnx

    for path in seeded_bundle_fp16.iterdir():
        (tmp_path / path.name).symlink_to(path)
    model = onnx.load(seeded_bundle_fp16 / "dit.onnx", load_external_data=False)
    node = next(n for n in model.graph.node if n.op_type == "BlockSparseAttention")
    kept = [a for a in node.attribute if a.name != "plugin_namespace"]
    del node.attribute[:]
    node.attribute.extend(kept)
    (tmp_path / "dit.onnx").unlink()
    (tmp_path / "dit.onnx").write_bytes(model.SerializeToString())
    # TensorRT would take the function body, whose TopK it cannot build, or find the body too large: either way an error
    # that speaks of plug-ins or of that node.
    with pytest.raises(FlashVSRError, match=r"0 of 1 nodes|cannot take"):
        _build(replace(wanted_of(seeded_bundle_fp16), bundle=tmp_path), "dit")


@pytest.mark.parametrize(
    "name", ["lq_proj_first", "lq_proj", "post_adain8", "post_adain16", "post_wavelet16", "tc_decoder"]
)
def test_prepared_graph_gives_the_same_bits(tmp_path, seeded_bundle_fp16, name):
    """Against the graph as exported, on ONNX Runtime: what `prepare` changes is exact."""
    import onnxruntime as ort

    graph = manifests.load(seeded_bundle_fp16).graphs[name]
    for path in seeded_bundle_fp16.glob("*.bin"):  # ONNX Runtime does not follow links out of the folder
        shutil.copy(path, tmp_path)
    prepared = tmp_path / f"{name}.onnx"
    prepared.write_bytes(preparing.prepare(seeded_bundle_fp16 / f"{name}.onnx", "fp16").SerializeToString())
    sides = {"H": 128, "W": 256, "T": 3, "ring": 4, "slabs": 3}
    random = np.random.default_rng(0)

    def draw(tensor):
        if tensor.name == "size":
            return np.array([120, 250])
        shape = preparing_shape(tensor.shape, sides)
        if tensor.dtype == "uint8":
            return random.integers(0, 256, shape, dtype=np.uint8)
        return random.standard_normal(shape).astype(np.float16)

    feed = {tensor.name: draw(tensor) for tensor in graph.inputs}
    before, after = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)
        for path in (seeded_bundle_fp16 / f"{name}.onnx", prepared)
    )
    for tensor, one, other in zip(graph.outputs, before, after, strict=True):
        if tensor.dtype == "uint16":
            assert other.dtype == np.uint8
            other = other.view("<u2")[..., 0]
        np.testing.assert_array_equal(one, other, err_msg=tensor.name)


def preparing_shape(shape, sides):
    """A symbolic shape, read independently of the contract's own reader."""
    parts = [str(dim).partition("/") for dim in shape]
    return tuple(sides[name] // int(by or 1) if name in sides else int(name) for name, _, by in parts)


# Profiles


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


# Targets


def flavour_without_targets() -> trt.Flavour:
    class Module:
        __name__, __version__ = "tensorrt", "10.13"

        class IBuilderConfig:
            pass

        class ILogger:
            pass

    return trt.Flavour("tensorrt", Module, trt.Log(Module))


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


# Key and store; the plans here are a few bytes


def fake(graph: str, data: bytes = b"plan", folder: Path | None = None):
    """What builds a plan of those bytes; with a folder, the plan."""
    if folder is None:
        return lambda part: [fake(graph, data, part)]
    (folder / f"{graph}.plan").write_bytes(data)
    return Plan(
        graph=graph,
        file=f"{graph}.plan",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        seconds=1.0,
        weights=2,
        activations=3,
        layers=4,
        plugins=0,
    )


def key(**changes) -> EngineKey:
    values = {
        "bundle": "b" * 64,
        "decoder": "tc_decoder",
        "plugin": "p" * 64,
        "tier": "8gb",
        "tier_values": "t" * 64,
        "profiles": {"dit": [{"noise": [[1], [2], [3]]}]},
        "flags": {"workspace_mib": 1},
        "flavour": "tensorrt_rtx",
        "version": "1.7",
        "targets": ("sm86", "sm89"),
    }
    return EngineKey(**{**values, **changes})


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
from tests.test_engines import fake, key
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


@needs_rtx
def test_full_disk_is_told(cache, monkeypatch, seeded_bundle_fp16):
    """Also inside TensorRT, which takes a failed write for a finished plan."""
    wanted = wanted_of(seeded_bundle_fp16, target="sm89")
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")

    def to_full_disk(path, mode):
        return open("/dev/full", mode, buffering=0)

    monkeypatch.setattr(building, "open", to_full_disk, raising=False)
    with pytest.raises(WriteError, match="No space left"):
        sets.ensure(wanted, lambda line: None)
    assert store.all_sets() == []


def test_graphs_of_a_set(seeded_bundle_fp16):
    manifest = manifests.load(seeded_bundle_fp16)
    with_vae = replace(manifest, graphs=manifest.graphs | {"vae_decoder": None, "vae_decoder_first": None})
    assert "vae_decoder" not in graph_names(with_vae, "tc_decoder")
    assert "tc_decoder" not in graph_names(with_vae, "vae_decoder")
    assert "vae_decoder_first" in graph_names(with_vae, "vae_decoder")


# Loading TensorRT


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
        error = flavour.failure("dit cannot be built")
    assert seen == ["VERBOSE", "ERROR", "ERROR"]
    assert str(error).startswith("dit cannot be built: IBuilder: Cannot compile for target(s) sm86")
    flavour.log.take("ERROR", "CUDA out of memory")
    assert isinstance(flavour.failure("x"), OutOfMemory)
    with flavour.log.listening(lambda severity, message: None):
        assert "does not say why" in str(flavour.failure("x"))


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
    shutil.rmtree(built.folder)
