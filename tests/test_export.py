"""What a bundle is on disk: shared weights, valid graphs, the same bytes each time, whole or not at all."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import bundles
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from torch import nn

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import BITS, COLOUR_FIXES, FIRST_LATENTS, Graph, Tensor, evaluate_shape
from flashvsr_trt.configs.errors import BundleError, FlashVSRError, OutputExists, UsageError, WeightsError, WriteError
from flashvsr_trt.export import bundle as bundle_module
from flashvsr_trt.export.bundle import Options, export_bundle
from flashvsr_trt.export.colour import Post
from flashvsr_trt.export.dit import Dit
from flashvsr_trt.export.external import ALIGNMENT, INLINE_BYTES, WeightFiles
from flashvsr_trt.export.folder import LOCK_NAME
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.seeded import random_weights, write
from flashvsr_trt.export.tc_decoder import TcDecoder
from flashvsr_trt.export.to_onnx import Step, to_model
from flashvsr_trt.export.validate import random_inputs, validate
from flashvsr_trt.export.weights import FILES
from flashvsr_trt.plugins_trt.spec import ABI, BLOCK_SPARSE_ATTENTION, DOMAIN
from flashvsr_trt.runtime.commands import export as command

CANVASES = ((128, 128), (256, 384), (640, 384))


@pytest.fixture(scope="module")
def manifest(seeded_bundle) -> manifests.Manifest:
    return manifests.load(seeded_bundle, verify="hash")


@pytest.fixture(scope="module")
def modules() -> dict[str, nn.Module]:
    """The torch modules that the seeded bundle was made from, by graph."""
    weights = random_weights(bundles.TINY, 0)
    lq_proj = LqProj.of(weights.lq_proj, causal=True)
    dit = Dit.of(weights.dit, weights.prompt)
    posts = {f"post_{fix}{bits}": Post(fix, bits) for fix in COLOUR_FIXES for bits in BITS}
    decoder = TcDecoder.of(weights.tc_decoder)
    return {
        "lq_proj_first": lq_proj, "lq_proj": lq_proj, "dit_first": dit, "dit": dit, "tc_decoder": decoder, **posts,
    }  # fmt: skip


@pytest.fixture(scope="module")
def post_model() -> ir.Model:
    weights = random_weights(bundles.TINY, 0)
    graph = bundle_module.graphs(weights.sizes, causal=True)["post_none8"]
    return to_model(Step(graph=graph, module=Post("none", 8), file="post.bin"), "fp32")


@pytest.fixture
def one_network(monkeypatch, post_model):
    """Exports write the graph post_none8 only, traced once: no time instead of half a minute."""

    def networks(weights, options, contract):
        for name in set(contract) - {"post_none8"}:
            del contract[name]
        yield [Step(graph=contract["post_none8"], module=Post("none", 8), file="post.bin")]

    monkeypatch.setattr(bundle_module, "_networks", networks)
    monkeypatch.setattr(bundle_module, "to_model", lambda step, precision: post_model.clone())


def weights():
    return random_weights(bundles.TINY, 0)


def graph_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


# --- what is in it


def test_manifest_describes_the_folder(seeded_bundle, manifest):
    assert {path.name for path in seeded_bundle.iterdir()} == {*manifest.files, manifests.FILE_NAME}
    assert {path.stem for path in graph_files(seeded_bundle)} == set(manifest.graphs)
    assert (manifest.op_abi, manifest.precision, manifest.local_range) == (ABI, "fp32", 11)
    assert manifest.sizes.dim == 128
    assert not manifest.meaningful


def test_graphs_have_the_contracts_tensors(seeded_bundle, manifest):
    types = {"float32": 1, "uint8": 2, "uint16": 4, "int64": 7, "float16": 10}
    for name, graph in manifest.graphs.items():
        model = onnx.load(seeded_bundle / f"{name}.onnx", load_external_data=False)
        for values, tensors in ((model.graph.input, graph.inputs), (model.graph.output, graph.outputs)):
            assert [value.name for value in values] == [tensor.name for tensor in tensors]
            for value, tensor in zip(values, tensors, strict=True):
                assert value.type.tensor_type.elem_type == types[manifest.dtype(tensor)]
                dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
                assert dims == list(tensor.shape)


@pytest.mark.parametrize("name", ["lq_proj_first", "lq_proj", "dit_first", "dit", "tc_decoder"])
@pytest.mark.parametrize("size", CANVASES)
def test_every_canvas(seeded_bundle, manifest, modules, name, size):
    symbols = {"H": size[0], "W": size[1], "ring": 4, "slabs": 3, "T": 3}
    inputs = random_inputs(manifest.graphs[name], "fp32", symbols, seed=1)
    session = ort.InferenceSession(str(seeded_bundle / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    feed = {t.name: x.numpy() for t, x in zip(manifest.graphs[name].inputs, inputs, strict=True)}
    with torch.no_grad():
        wanted = modules[name](*inputs)
    wanted = (wanted,) if isinstance(wanted, torch.Tensor) else wanted
    for got, want, tensor in zip(session.run(None, feed), wanted, manifest.graphs[name].outputs, strict=True):
        assert got.shape == evaluate_shape(tensor.shape, symbols)
        # fp32 sums in another order, of values up to 10
        np.testing.assert_allclose(got.astype(np.float32), want.numpy(), atol=1e-4)


def test_colour_fixes_cut_to_any_size(seeded_bundle, manifest, modules):
    for name in [name for name in manifest.graphs if name.startswith("post")]:
        session = ort.InferenceSession(str(seeded_bundle / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        frames, lq, _ = random_inputs(manifest.graphs[name], "fp32", {"H": 128, "W": 256, "T": 1}, seed=2)
        for size in ((1, 1), (17, 31), (128, 256)):
            got = session.run(None, {"frames": frames.numpy(), "lq": lq.numpy(), "size": np.array(size)})[0]
            wanted = modules[name](frames, lq, torch.tensor(size)).numpy()
            assert got.shape == wanted.shape == (1, *size, 3)
            assert np.abs(got.astype(int) - wanted).max() <= 1  # truncation falls either way within rounding


def test_weights_are_stored_once(seeded_bundle):
    """dit_first and dit name the same bytes; no weight is inside a graph; no tensor lies there twice."""
    places: dict[str, set[tuple[str, int]]] = {}
    for path in graph_files(seeded_bundle):
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            entry = {item.key: item.value for item in tensor.external_data}
            if not entry:
                assert len(tensor.raw_data) <= INLINE_BYTES
                continue
            offset, length = int(entry["offset"]), int(entry["length"])
            assert offset % (ALIGNMENT if length >= ALIGNMENT else 64) == 0
            places.setdefault(path.stem, set()).add((entry["location"], offset))
    assert places["dit"] == places["dit_first"]
    dim, ffn, text = 128, 128, 8
    numbers = 4 * dim * dim + 2 * dim * dim + 2 * dim * ffn + 2 * text * dim + 2 * 64 * dim
    assert (seeded_bundle / "dit.bin").stat().st_size < 4 * numbers * 1.25 + 40 * ALIGNMENT // 2


def test_graphs_are_small_and_clean(seeded_bundle):
    for path in graph_files(seeded_bundle):
        model = onnx.load(path, load_external_data=False)
        assert path.stat().st_size < 60_000
        weights = {tensor.name for tensor in model.graph.initializer}
        assert {value.name for value in model.graph.value_info} <= weights
        used = {name for node in model.graph.node for name in node.input}
        assert weights <= used
        assert not any(node.op_type in ("Identity", "Dropout", "Constant") for node in model.graph.node)
        props = {item.key: item.value for item in model.metadata_props}
        assert props["flashvsr.op_abi"] == str(ABI)


def test_attention_is_one_node_with_a_body(seeded_bundle):
    for name in ("dit_first", "dit"):
        model = onnx.load(seeded_bundle / f"{name}.onnx", load_external_data=False)
        nodes = [node for node in model.graph.node if node.domain == DOMAIN]
        assert [node.op_type for node in nodes] == [BLOCK_SPARSE_ATTENTION.name]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
        assert attributes == {
            "heads": 1, "local_range": 11, "plugin_namespace": DOMAIN.encode(), "plugin_version": b"1",
        }  # fmt: skip
        assert {f.name for f in model.functions} == {BLOCK_SPARSE_ATTENTION.name, "BlockMask"}
        assert not any(node.op_type == "TopK" for node in model.graph.node)


# --- precisions


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits(tmp_path, precision):
    model = weights()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    module = Dit.of(model.dit, model.prompt, dtype=dtype)
    graph = bundle_module.graphs(model.sizes, causal=True)["dit_first"]
    step = Step(graph=graph, module=module, file="w.bin")
    path = written(step, tmp_path, precision)
    result = validate(step, path, precision)
    assert result.checked == (precision == "fp16")
    nodes = onnx.load(path, load_external_data=False)
    softmax = [node for node in nodes.graph.node if node.op_type == "Softmax"]
    casts = {node.output[0]: node.attribute[0].i for node in nodes.graph.node if node.op_type == "Cast"}
    assert [casts[node.input[0]] for node in softmax] == [onnx.TensorProto.FLOAT]


def written(step: Step, folder: Path, precision: str, storage: str | None = None) -> Path:
    files = WeightFiles(folder, storage=storage)
    model = to_model(step, precision)
    files.externalize(model, step.file)
    files.close()
    path = folder / f"{step.graph.name}.onnx"
    path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    return path


def test_half_storage_is_half_the_size_and_exact(tmp_path):
    model = weights()
    module = LqProj.of(model.lq_proj, causal=False)
    bundle_module._round(module)
    graph = bundle_module.graphs(model.sizes, causal=False)["lq_proj"]
    step = Step(graph=graph, module=module, file="w.bin")
    sizes = {}
    for storage in (None, "fp16"):
        folder = tmp_path / str(storage)
        folder.mkdir()
        path = written(step, folder, "fp32", storage)
        assert validate(step, path, "fp32").error < 2e-5
        sizes[storage] = (folder / "w.bin").stat().st_size
    assert sizes["fp16"] < 0.55 * sizes[None]


def test_validation_finds_a_wrong_weight(seeded_bundle, manifest, modules, tmp_path):
    shutil.copytree(seeded_bundle, tmp_path / "b")
    data = bytearray((tmp_path / "b/tc_decoder.bin").read_bytes())
    data[1000:1400] = np.full(100, 3.0, np.float32).tobytes()
    (tmp_path / "b/tc_decoder.bin").write_bytes(data)
    step = Step(graph=manifest.graphs["tc_decoder"], module=modules["tc_decoder"], file="tc_decoder.bin")
    with pytest.raises(FlashVSRError, match="differs from the torch module"):
        validate(step, tmp_path / "b/tc_decoder.onnx", "fp32")


# --- whole or not at all


def test_same_bytes_each_time(tmp_path, modules, manifest):
    step = Step(graph=manifest.graphs["lq_proj_first"], module=modules["lq_proj_first"], file="w.bin")
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        path = written(step, tmp_path / name, "fp32")
        contents.append((path.read_bytes(), (tmp_path / name / "w.bin").read_bytes()))
    assert contents[0] == contents[1]


@pytest.mark.usefixtures("one_network")
def test_existing_target(tmp_path):
    out = tmp_path / "bundle"
    first = export_bundle(weights(), out, bundles.SEEDED)
    with pytest.raises(OutputExists, match="exists"):
        export_bundle(weights(), out, bundles.SEEDED)
    anew = dataclasses.replace(bundles.SEEDED, about="anew", colour_fix="none")
    second = export_bundle(weights(), out, anew, overwrite=True)
    loaded = manifests.load(out, verify="hash")
    assert (loaded.about, loaded.colour_fix) == ("anew", "none")
    assert first.files == second.files
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(BundleError, match="not a bundle"):
        export_bundle(weights(), tmp_path, bundles.SEEDED, overwrite=True)


@pytest.mark.usefixtures("one_network")
def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "_write", full)
    with pytest.raises(WriteError, match="No space left"):
        export_bundle(weights(), tmp_path / "bundle", bundles.SEEDED)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("one_network")
def test_failure_keeps_the_old_bundle(tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    digest = export_bundle(weights(), out, bundles.SEEDED).digest()
    monkeypatch.setattr(manifests, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export_bundle(weights(), out, bundles.SEEDED, overwrite=True)
    assert manifests.load(out, verify="hash").digest() == digest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("one_network")
def test_killed_export_does_not_stand_in_the_way(tmp_path):
    part = tmp_path / ".bundle.part"
    part.mkdir()
    (part / "dit.bin").write_bytes(b"half")
    export_bundle(weights(), tmp_path / "bundle", bundles.SEEDED)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert not (tmp_path / "bundle/dit.bin").exists()


def test_two_exports_to_one_folder(tmp_path):
    part = tmp_path / ".bundle.part"
    part.mkdir()
    with FileLock(part / LOCK_NAME), pytest.raises(BundleError, match="another export"):
        export_bundle(weights(), tmp_path / "bundle", bundles.SEEDED)
    assert part.exists()  # the other export's


@pytest.mark.parametrize(
    "choices", [{"precision": "fp8"}, {"local_range": 0}, {"precision": "fp16", "storage": "fp16"}]
)
def test_wrong_options(choices):
    with pytest.raises(UsageError):
        Options(**choices)


# --- command line


def cli(*arguments: str):
    return CliRunner().invoke(command.export, list(arguments))


@pytest.mark.usefixtures("one_network")
def test_command_writes_a_bundle(tmp_path):
    out = tmp_path / "bundle"
    arguments = ("--random-weights", "--size", "small", "--seed", "3", "--precision", "fp32", "-o", str(out))
    assert cli(*arguments).exit_code == 0
    manifest = manifests.load(out, verify="hash")
    assert (manifest.model, manifest.model_version, manifest.meaningful) == ("seeded", "v1.1", False)
    assert "seed 3" in manifest.about
    assert isinstance(cli(*arguments).exception, OutputExists)


@pytest.mark.usefixtures("one_network")
def test_command_takes_the_official_layout(tmp_path):
    write(weights(), tmp_path / "w")
    result = cli("--weights", str(tmp_path / "w"), "-o", str(tmp_path / "bundle"), "--precision", "fp32")
    assert result.exit_code == 0, result.exception
    manifest = manifests.load(tmp_path / "bundle")
    assert set(manifest.weights) == set(FILES)
    assert manifest.weights[FILES[0]] == manifests.sha256_of(tmp_path / "w" / FILES[0])


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--weights", "x", "--random-weights"),
        ("--weights", "x", "--seed", "1"),
        ("--weights", "x", "--size", "small"),
        ("--random-weights", "--half-storage"),
    ],
)
def test_flags_that_cannot_be_honoured(tmp_path, arguments):
    result = cli(*arguments, "-o", str(tmp_path / "bundle"))
    assert isinstance(result.exception, UsageError)
    assert not list(tmp_path.iterdir())


def test_missing_weights_are_named(tmp_path):
    (tmp_path / "w").mkdir()
    result = cli("--weights", str(tmp_path / "w"), "-o", str(tmp_path / "bundle"))
    assert isinstance(result.exception, WeightsError)
    assert FILES[0] in str(result.exception)


# --- tracing


def test_example_graph_of_the_contract_is_split_once_per_axis():
    """A graph without token axes is traced with free H and W; the others with two roots."""
    from flashvsr_trt.export.canvas_axes import CanvasAxes

    frames = Tensor(name="x", dtype="f", shape=(FIRST_LATENTS, "H", "W"))
    tokens = Tensor(name="y", dtype="f", shape=("H/16", "W/16"))
    assert CanvasAxes.of(Graph(name="g", inputs=(frames,), outputs=(frames,))).roots == ()
    axes = CanvasAxes.of(Graph(name="g", inputs=(frames, tokens), outputs=(tokens,)))
    assert [(root.symbol, root.index, root.factor) for root in axes.roots] == [("H", 1, 8), ("W", 1, 8)]
    example = (torch.zeros(6, 256, 384), torch.arange(16 * 24).reshape(16, 24))
    split = axes.split(example)
    assert split[1].shape == (2, 8, 3, 8)
    assert torch.equal(axes.join(split)[1], example[1])
