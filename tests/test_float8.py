"""FP8 bundles: from a fused bundle and a clip, run by their function bodies on the CPU."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from counts import FIGURES
from onnx import TensorProto, numpy_helper

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.errors import BundleError, OutputExists, UsageError
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.export import bundle as bundles
from flashvsr_trt.export.demo.reexport import reexport
from flashvsr_trt.export.demo.ship import FOLDER
from flashvsr_trt.export.float8 import EIGHTHS, GRAPHS, PROJECTOR, to_float8
from flashvsr_trt.export.float8_parts import LARGEST
from flashvsr_trt.export.layouts import LqSizes
from flashvsr_trt.export.seeded import CONFIGS, random_weights
from flashvsr_trt.plugins_trt.spec import DOMAIN
from flashvsr_trt.runtime import Options, estimate, open_backend, upscale
from flashvsr_trt.runtime.backends.base import ITEM_BYTES
from flashvsr_trt.runtime.commands import export as export_module
from flashvsr_trt.runtime.commands.calibrate import Watching, calibrate, from_clip, largest_inputs
from flashvsr_trt.runtime.flops import LINEAR, step_flops

CLIP = Path(__file__).parent / "data" / "clip.mp4"
FRAMES = 25
PRODUCTS_PER_LAYER = 6  # q, k and v as one; o; q and o of the prompt's attention; two of the feed-forward
SMALL = replace(CONFIGS["small"], lq=LqSizes(hidden=(128, 128), dim=256))  # as wide as its kernel wants it
LEAST_PSNR = 38.0  # dB, of the frames against those of fp16


@pytest.fixture(scope="module")
def fp16(tmp_path_factory):
    """The small seeded network, its projector a little wider, as a fused bundle."""
    folder = tmp_path_factory.mktemp("fp16") / "bundle"
    options = bundles.Options(fused=True, model="seeded", about="random", meaningful=False, check=False)
    bundles.export_bundle(random_weights(SMALL, 0), folder, options)
    return folder


def pictures(height: int = 32, width: int = 32, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return [np.roll(noise, index, axis=1).astype(np.uint8) for index in range(FRAMES)]


@pytest.fixture(scope="module")
def largest(fp16):
    return largest_inputs(fp16, pictures())


@pytest.fixture(scope="module")
def fp8(fp16, largest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp8") / "bundle"
    to_float8(fp16, folder, largest, about="calibrated by the test")
    return folder


def frames_of(bundle: Path) -> np.ndarray:
    return np.stack(list(upscale(pictures(seed=1), bundle=bundle, backend=open_backend("cpu"))))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Of the worst frame."""
    error = ((one.astype(np.float64) - other) ** 2).mean(axis=(1, 2, 3))
    return float(10 * np.log10(255**2 / error.max()))


def noted(name: str, eighth: np.ndarray, plain: np.ndarray) -> float:
    value = psnr(eighth, plain)
    FIGURES.append(f"FP8 against fp16, {name}: {value:.1f} dB, the worst of {len(plain)} frames")
    return value


def test_frames_are_those_of_fp16(fp16, fp8):
    assert noted("small random model", frames_of(fp8), frames_of(fp16)) > LEAST_PSNR


def test_frames_of_the_demo_model_are_those_of_fp16(tmp_path):
    reexport(FOLDER, tmp_path / "fp16", fused=True, check=False)
    to_float8(tmp_path / "fp16", tmp_path / "fp8", largest_inputs(tmp_path / "fp16", pictures()), about="")
    plain, fused, eighth = (frames_of(folder) for folder in (FOLDER, tmp_path / "fp16", tmp_path / "fp8"))
    assert noted("model in the package", eighth, fused) > LEAST_PSNR
    assert psnr(fused, plain) > LEAST_PSNR


def test_calibration_sees_every_product(fp16, largest):
    products = [node for node in onnx.load(fp16 / "dit.onnx").graph.node if node.op_type in EIGHTHS]
    assert len(products) == PRODUCTS_PER_LAYER * manifests.load(fp16).sizes.layers
    operands = {f"{kind}.{layer}" for kind in "qkv" for layer in range(manifests.load(fp16).sizes.layers)}
    convolutions = {f"module.conv{number}.conv.weight" for number in (1, 2)}
    assert set(largest) == {node.input[1] for node in products} | operands | convolutions
    assert largest["module.conv1.conv.weight"] <= 1  # pixels
    assert all(0 < value < 1e3 for value in largest.values())


def test_calibration_is_of_all_frames(fp16, largest):
    """Noise has larger hidden values in the projector than grey, and values in a layer: frames beside
    it hide none."""
    grey = [np.full((32, 32, 3), 128, np.uint8)] * FRAMES
    quiet, last, first = (largest_inputs(fp16, frames) for frames in (grey, grey + pictures(), pictures() + grey))
    for name in ("module.conv2.conv.weight", "v.1"):
        assert largest[name] > 1.1 * quiet[name]
        assert first[name] >= largest[name]
        assert last[name] > quiet[name]


def test_watching_changes_no_frame(fp16):
    backend = Watching()
    parameters = Parameters(local_range=manifests.load(fp16).local_range)
    assert parameters == Parameters()
    watched = np.stack(list(upscale(pictures(seed=1), bundle=fp16, backend=backend)))
    np.testing.assert_array_equal(watched, frames_of(fp16))
    assert backend.largest


def test_weights_and_scales(fp16, fp8, largest):
    """Rounded by hand: the largest number of a weight becomes 448, that of its input too."""
    before, after = (onnx.load(folder / "dit.onnx") for folder in (fp16, fp8))
    full, eighth = ({t.name: t for t in model.graph.initializer} for model in (before, after))
    products = [node for node in after.graph.node if node.op_type in EIGHTHS.values()]
    assert {node.domain for node in products} == {DOMAIN}
    for node in products:
        name = node.input[1].removesuffix(".float8")
        weight = numpy_helper.to_array(full[name]).astype(np.float32)
        scales = numpy_helper.to_array(eighth[node.input[3]])
        assert scales.shape == (3 if node.op_type == "LinearGelu8" else 2, 4)
        assert (scales[:2] == scales[:2, :1]).all()
        of_x, of_weight = scales[:2, 0]
        assert of_weight == np.float32(np.abs(weight).max() / LARGEST)
        assert of_x == np.float32(largest[name] / LARGEST)
        assert eighth[node.input[1]].data_type == TensorProto.FLOAT8E4M3FN
        stored = numpy_helper.to_array(eighth[node.input[1]]).view(np.uint8)
        expected = (weight / of_weight).clip(-LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("graph", GRAPHS)
def test_attention_and_its_ring(fp8, largest, graph):
    """Whose scales are those of the largest query, key and value; the manifest has the ring's type and shape."""
    model, manifest = onnx.load(fp8 / f"{graph}.onnx"), manifests.load(fp8)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.startswith("qkv.")}
    for layer in range(manifest.sizes.layers):
        expected = [np.float32(largest[f"{kind}.{layer}"] / LARGEST) for kind in "qkv"]
        np.testing.assert_array_equal(scales[f"qkv.{layer}.scales"], expected)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["NormRotate8"] == kinds["BlockSparseAttention8"] == manifest.sizes.layers
    assert not {"NormRotate", "BlockSparseAttention"} & set(kinds)
    tensors = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
    wanted = [
        t for t in (*manifest.graphs[graph].inputs, *manifest.graphs[graph].outputs) if t.name[:2] in ("k_", "v_")
    ]
    assert len(wanted) == manifest.sizes.layers * (2 if graph == "dit_first" else 4)
    for tensor in wanted:
        assert tensors[tensor.name].elem_type == TensorProto.FLOAT8E4M3FN
        assert manifest.dtype(tensor) == "float8e4m3fn"
        shape = [dim.dim_param or dim.dim_value for dim in tensors[tensor.name].shape.dim]
        assert tuple(shape) == tensor.shape
        assert tensor.shape[-2:] == ((128, 256) if tensor.name[0] == "k" else (256, 128))


@pytest.mark.parametrize("graph", PROJECTOR)
def test_convolutions_of_the_projector(fp16, fp8, largest, graph):
    """Rounded by hand; the largest pixel is known."""
    before, after = (onnx.load(folder / f"{graph}.onnx") for folder in (fp16, fp8))
    full, eighth = (
        {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.dims} for model in (before, after)
    )
    makers = {node.output[0]: node for node in after.graph.node}
    convolutions = [node for node in after.graph.node if node.op_type == "ConvolveInner8"]
    assert len(convolutions) == (1 if graph == "lq_proj_first" else 2)
    assert not [node for node in after.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        name = node.input[1].removesuffix(".float8")
        weight = full[name].astype(np.float32).transpose(0, 2, 3, 1)
        seen = 1.0 if "conv1" in name else largest[name]
        of_x, of_weight = eighth[node.input[3]]
        assert (of_x, of_weight) == (np.float32(seen / LARGEST), np.float32(np.abs(weight).max() / LARGEST))
        rounding = makers[node.input[0]]
        assert rounding.op_type == "ToFloat8"
        assert eighth[rounding.input[1]].tolist() == [of_x]
        expected = (weight / of_weight).clip(-LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
        np.testing.assert_array_equal(eighth[node.input[1]].view(np.uint8), expected.view(np.uint8))


def test_a_projector_that_no_kernel_takes_stays_as_it_is(tmp_path):
    """The same nodes and numbers."""
    options = bundles.Options(fused=True, model="seeded", about="", meaningful=False, check=False)
    bundles.export_bundle(random_weights(CONFIGS["small"], 0), tmp_path / "fp16", options)
    to_float8(tmp_path / "fp16", tmp_path / "fp8", largest_inputs(tmp_path / "fp16", pictures()), about="")
    before, after = (onnx.load(tmp_path / name / "lq_proj.onnx").graph for name in ("fp16", "fp8"))
    assert [node.op_type for node in before.node] == [node.op_type for node in after.node]
    numbers = [{t.name: numpy_helper.to_array(t).tobytes() for t in graph.initializer} for graph in (before, after)]
    assert numbers[0] == numbers[1]


def test_ring_has_half_the_size(fp16, fp8):
    of16, of8 = (
        sum(
            prod(t.shape[-2:]) * ITEM_BYTES[manifest.dtype(t)]
            for t in manifest.graphs["dit"].inputs
            if "cache" in t.name
        )
        for manifest in map(manifests.load, (fp16, fp8))
    )
    assert of8 * 2 == of16


@pytest.mark.parametrize("graph", GRAPHS)
def test_who_rounds_the_inputs(fp8, largest, graph):
    """Layer norms and the GELU themselves; the attentions' results are rounded by nodes of their own."""
    model, layers = onnx.load(fp8 / f"{graph}.onnx"), manifests.load(fp8).sizes.layers
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    seen = Counter()
    for node in model.graph.node:
        if node.op_type not in EIGHTHS.values():
            continue
        maker, name = makers[node.input[0]], node.input[1].removesuffix(".float8")
        unit = np.float32(largest[name] / LARGEST)
        if maker.op_type == "LinearGelu8":
            assert constants[maker.input[3]][2].tolist() == [np.float32(1 / unit), unit, unit, unit]
        else:
            assert constants[maker.input[1]].tolist() == [unit]
        seen[maker.op_type] += 1
    assert seen == {"LayerNorm8": 3 * layers, "LinearGelu8": layers, "ToFloat8": 2 * layers}


def test_both_graphs_share_the_weights(fp8):
    files = manifests.load(fp8, verify="hash").files
    weights = [onnx.load(fp8 / f"{name}.onnx", load_external_data=False).graph.initializer for name in GRAPHS]
    places = [{t.name: str(t.external_data) for t in graph if t.name.endswith(".float8")} for graph in weights]
    assert places[0] == places[1]
    assert sum(np.prod(t.dims) for t in weights[0] if t.name.endswith(".float8")) <= files["dit8.bin"].bytes


def test_work_is_counted_alike(fp16, fp8):
    """A weight of 8 bits multiplies as often as one of 16."""
    of16, of8 = (step_flops(manifests.load(f), 768, 1408, Parameters())[LINEAR] for f in (fp16, fp8))
    assert of8 == pytest.approx(of16, rel=0.02)  # alignment, and biases of products


def test_host_memory_counts_every_weight(fp8):
    """Those of 8 bits as float32, to which ONNX Runtime widens them on a CPU."""
    manifest = manifests.load(fp8)
    used = {name: file.bytes for name, file in manifest.files.items() if name[:3] in ("dit", "lq_", "tc_")}
    weights = {name: size * (4 if "8.bin" in name else 1) for name, size in used.items() if name.endswith(".bin")}
    assert {"lq_proj8.bin", "dit8.bin"} <= set(weights)
    assert estimate.memory(manifest, schedule.canvas(64, 64, output=(256, 256)), Options()).weights == sum(
        weights.values()
    )


def test_what_is_refused(fp16, fp8, largest, seeded_bundle_fp16, tmp_path):
    with pytest.raises(BundleError, match="is of fp8"):
        to_float8(fp8, tmp_path / "out", largest, about="")
    with pytest.raises(BundleError, match="not calibrated"):
        to_float8(fp16, tmp_path / "out", {}, about="")
    with pytest.raises(BundleError, match="no fused products"):
        largest_inputs(seeded_bundle_fp16, pictures())
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / manifests.FILE_NAME).write_text(json.dumps({}))
    with pytest.raises(OutputExists):
        to_float8(fp16, tmp_path / "out", largest, about="")
    with pytest.raises(OutputExists):
        from_clip(fp16, "/nowhere.mp4", tmp_path / "out")
    with pytest.raises(UsageError, match=r"clip.mp4 has only 5 frames"):
        from_clip(fp16, str(CLIP), tmp_path / "new", frames=5)
    with pytest.raises(BundleError, match="is of fp8"):
        from_clip(fp8, "/nowhere.mp4", tmp_path / "new")


def test_command(fp16, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(calibrate, [str(fp16), str(CLIP), "-o", str(out), "--frames", str(FRAMES), "-s", "1"])
    assert done.exit_code == 0, done.output
    manifest = manifests.load(out, verify="hash")
    assert manifest.precision == "fp8"
    assert manifest.about.endswith("calibrated on 25 frames of clip.mp4")


def test_export_in_one_go(fp16, tmp_path, monkeypatch):
    """The export itself is other tests' matter: here it is the bundle that was exported before."""
    asked: dict[str, object] = {}

    def write(output: Path, flags: dict[str, object], *, overwrite: bool, shown: str) -> None:
        asked.update(flags)
        shutil.copytree(fp16, output)

    monkeypatch.setattr(export_module, "_write", write)
    arguments = ["--random-weights", "--precision", "fp8", "-o", str(tmp_path / "new" / "out")]
    done = CliRunner().invoke(export_module.export, [*arguments, "--calibration", str(CLIP)])
    assert done.exit_code == 0, done.output
    assert (asked["precision"], asked["fused"]) == ("fp16", True)
    assert manifests.load(tmp_path / "new" / "out").precision == "fp8"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    for wrong in (arguments, ["--random-weights", "-o", str(tmp_path / "other"), "--calibration", str(CLIP)]):
        with pytest.raises(UsageError, match="belong together"):
            CliRunner().invoke(export_module.export, wrong, catch_exceptions=False)
