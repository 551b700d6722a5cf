"""Plans built for real by tensorrt_rtx where it is installed; it needs no GPU to build."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace

import pytest
from engine_sets import build, needs_rtx, wanted_of

from flashvsr_trt.configs.errors import BundleError, FlashVSRError, UsageError, WriteError
from flashvsr_trt.configs.tiers import FP8, SIZES, load_tier
from flashvsr_trt.engines import build as building
from flashvsr_trt.engines import prepare as preparing
from flashvsr_trt.engines import sets, store, targets
from flashvsr_trt.engines.build import StepModel, build_graph


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
@pytest.mark.parametrize("tier", [8, 12, 48])
def test_every_tier_builds_the_wan_decoder(cache, full_bundle, tier):
    """The graphs that variant full has of its own; 16, 24 and 48 build them alike."""
    alike = {(load_tier(size).decoder_tile, load_tier(size).workspace_mib) for size in (16, 24, 48)}
    assert len(alike) == 1
    wanted = wanted_of(full_bundle, tier, "full")
    sets.check(wanted)
    height, width = wanted.tier.decoder_tile
    for name in ("vae_decoder_first", "vae_decoder"):
        plan = build(wanted, name)
        assert plan.plugins == 0
        assert plan.activations > height * width


@needs_rtx
def test_bundle_without_the_wan_decoder_is_refused(seeded_bundle_fp16):
    wanted = replace(wanted_of(seeded_bundle_fp16), variant="full")
    with pytest.raises(BundleError, match="has no vae_decoder") as caught:
        sets.check(wanted)
    assert "--vae" in caught.value.todo


@needs_rtx
def test_plug_in_layer_is_in_the_engine(seeded_bundle_fp16):
    wanted = wanted_of(seeded_bundle_fp16, target="sm89")
    messages: list[str] = []
    with wanted.flavour.log.listening(lambda severity, message: messages.append(message)):
        build(wanted, "dit")
    log = "\n".join(messages)
    assert "Successfully created plugin: BlockSparseAttention" in log
    layers = log[log.rindex("Layers:") :]  # the engine's own list, at the end of a verbose build
    assert "node_block_sparse_attention" in layers or "PluginV3" in layers, layers[-3000:]


@needs_rtx
def test_fp32_bundle_builds_with_the_attention_in_fp16(cache, seeded_bundle):
    wanted = wanted_of(seeded_bundle, target="sm86")
    plan = build(wanted, "dit")
    assert plan.plugins == 1
    model = preparing.prepare(seeded_bundle / "dit.onnx", "fp32")
    node = next(n for n in model.graph.node if n.op_type == "BlockSparseAttention")
    half = [name for name in node.input if name.endswith(".float16")]
    assert len(half) == 5


@needs_rtx
@pytest.mark.parametrize("size", FP8)
def test_fp8_tiers_build_where_the_target_has_it(cache, seeded_bundle_fp16, size):
    wanted = wanted_of(seeded_bundle_fp16, f"{size}-fp8")
    assert wanted.targets == ("sm89", "sm120")
    eighth, plain = (build(one, "dit") for one in (wanted, wanted_of(seeded_bundle_fp16, size, target="sm89,sm120")))
    assert eighth.plugins == 1
    assert eighth.weights < 0.7 * plain.weights
    with pytest.raises(UsageError, match=r"sm86 \(RTX 30\) has no FP8"):
        sets.ensure(replace(wanted, targets=("sm86", "sm89")), lambda line: None)


@needs_rtx
def test_graph_that_does_not_parse_is_told_with_tensorrts_words(tmp_path, seeded_bundle_fp16):
    import onnx

    wanted = wanted_of(seeded_bundle_fp16)
    model = onnx.load(seeded_bundle_fp16 / "post_none8.onnx", load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOp"
    path = tmp_path / "post_none8.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="NoSuchOp"):
        build(replace(wanted, bundle=tmp_path), "post_none8")
    path.write_bytes(b"no onnx at all")
    with pytest.raises(BundleError, match="no ONNX file"):
        build(replace(wanted, bundle=tmp_path), "post_none8")


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
        build(replace(wanted_of(seeded_bundle_fp16), bundle=tmp_path), "dit")


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


@needs_rtx
def test_weights_that_are_streamed_build(cache, seeded_bundle_fp16):
    wanted = wanted_of(seeded_bundle_fp16, target="sm89")
    streamed = replace(wanted, tier=replace(wanted.tier, weight_streaming_mib=64))
    messages: list[str] = []
    with wanted.flavour.log.listening(lambda severity, message: messages.append(message)):
        assert build(streamed, "dit").bytes > 0
    assert any("streaming" in message.lower() for message in messages)
    assert streamed.key().diff(wanted.key())


@needs_rtx
def test_runtime_tells_what_is_wrong_with_a_plan(cache, seeded_bundle_fp16):
    """As far as deserialising goes without a driver: a whole plan fails for want of one, others for what they are."""
    wanted = wanted_of(seeded_bundle_fp16, target="sm89")
    folder = cache / "plans"
    folder.mkdir(parents=True)
    graph = wanted.manifest.graphs["post_none8"]
    model = StepModel(seeded_bundle_fp16 / "post_none8.onnx", graph, "fp16")
    path = folder / build_graph(wanted.flavour, model, wanted.settings, folder, lambda line: None).file
    runtime = wanted.flavour.module.Runtime(wanted.flavour.log.logger)

    def told(data: bytes) -> str:
        (folder / "x").write_bytes(data)
        with (
            wanted.flavour.log.listening(lambda severity, message: None),
            open(folder / "x", "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,  # as the back end does
        ):
            if runtime.deserialize_cuda_engine(mapped) is not None:
                return ""
        return str(wanted.flavour.failure("it does not load"))

    assert "Serialization assertion" in told(path.read_bytes()[:1000])
    assert "incompatible serialization version" in told(b"x" * 5000)
    whole = told(path.read_bytes())
    assert not whole or "CUDA driver version" in whole or "cannot run on this GPU" in whole
