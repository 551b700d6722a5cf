"""The exported graphs on ONNX Runtime, CPU, against the golden recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import bundles
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from golden import CASES, Golden
from onnx import helper

from flashvsr_trt.configs.contract import COLOUR_FIXES, graphs
from flashvsr_trt.export.bundle import Options
from flashvsr_trt.export.dit import Dit
from flashvsr_trt.export.external import WeightFiles
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.to_onnx import Step, to_model
from flashvsr_trt.export.validate import random_inputs
from flashvsr_trt.export.weights import DIT_FILE, LQ_FILE, PROMPT_FILE, TC_FILE, Weights
from flashvsr_trt.plugins_trt.spec import DOMAIN

TOKENS = 1e-5  # fp32 against fp32; below 1e-6 is seen
FLIPPED = 1e-3  # blocks whose scores tie within rounding
FRAMES = 5e-4  # of which 2e-4 is the fp16 of the recording, for values within [-1, 1]
HALF_ULP = 2**-11  # fp16 rounding of the recording where raw values are larger than 1
FOLDED = 1e-5
STEP_16 = 1 / 32767.5  # of a 16-bit pixel

Arrays = dict[str, np.ndarray]


def golden_weights(version: str = "v1.1") -> Weights:
    case = Golden(CASES[1])
    dit, lq_proj, tc, prompt = (case.weights(name) for name in (DIT_FILE, LQ_FILE, TC_FILE, PROMPT_FILE))
    return Weights(version=version, dit=dit, lq_proj=lq_proj, tc_decoder=tc, prompt=prompt)


@pytest.fixture(scope="module")
def bundle(pytestconfig) -> Path:
    """The golden weights, unfolded, v1.1, local range of the v1.1 case."""
    reach = Golden(CASES[1]).info["local_range"]
    options = Options(precision="fp32", model="golden", fold=False, local_range=reach, check=False)
    return bundles.cached(pytestconfig, "golden", golden_weights, options)


@pytest.fixture(scope="module")
def lq_proj_v1(tmp_path_factory) -> Path:
    """The v1 projector alone: it is all that sets a v1 bundle apart."""
    weights, folder = golden_weights("v1"), tmp_path_factory.mktemp("v1")
    graph = graphs(weights.sizes, causal=False)["lq_proj"]
    return exported(Step(graph=graph, module=LqProj.of(weights.lq_proj, causal=False), file="w.bin"), folder)


def exported(step: Step, folder: Path) -> Path:
    """One graph in fp32."""
    model, files = to_model(step, "fp32"), WeightFiles(folder)
    files.externalize(model, step.file)
    files.close()
    path = folder / f"{step.graph.name}.onnx"
    path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    return path


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(graph: ort.InferenceSession, feed: Arrays) -> Arrays:
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, feed), strict=True))


def with_masks(path: Path, local_range: int) -> Path:
    """A copy of a DiT graph, beside it, with another local range and each layer's block mask as an output."""
    model = onnx.load(path, load_external_data=False)
    for layer, node in enumerate([node for node in model.graph.node if node.domain == DOMAIN]):
        next(a for a in node.attribute if a.name == "local_range").i = local_range
        q, k, _, k_cache, _, slabs, topk = node.input
        model.graph.node.extend(
            [
                helper.make_node("Gather", [k_cache, slabs], [f"cached.{layer}"]),
                helper.make_node("Concat", [f"cached.{layer}", k], [f"keys.{layer}"], axis=0),
                helper.make_node(
                    "BlockMask",
                    [q, f"keys.{layer}", topk],
                    [f"mask.{layer}"],
                    domain=DOMAIN,
                    local_range=local_range,
                ),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info(f"mask.{layer}", onnx.TensorProto.BOOL, None))
    out = path.with_name(f"{path.stem}.masks{local_range}.onnx")
    onnx.save(model, out)
    return out


@dataclass
class Stream:
    tokens: list[np.ndarray] = field(default_factory=list)
    masks: list[list[np.ndarray]] = field(default_factory=list)
    latents: list[np.ndarray] = field(default_factory=list)


def project(golden: Golden, bundle: Path, lq_proj_v1: Path, stream: Stream) -> None:
    graph, caches = session(bundle / "lq_proj.onnx" if golden.causal else lq_proj_v1), {}
    lq = golden.lq.numpy()
    if golden.causal:
        first = run(session(bundle / "lq_proj_first.onnx"), {"lq": lq[:1]})
        caches = {name.removesuffix("_new"): value for name, value in first.items()}
    groups = []
    for begin in range(1, len(lq), 8):
        out = run(graph, {"lq": lq[begin : begin + 8], **caches})
        groups.append(out.pop("lq_tokens"))
        caches = {name.removesuffix("_new"): value for name, value in out.items()}
    stream.tokens = [np.concatenate(groups[:3]), *groups[3:]]


def denoise(golden: Golden, first: Path, later: Path, stream: Stream) -> None:
    """All steps, the ring's slots filled in turn and listed out of order."""
    layers, kept, ring = golden.info["dit"]["num_layers"], int(golden.info["kv_ratio"]), {}
    later_graph, valid = session(later), []
    for step in range(golden.steps):
        rope = dict(zip(("rope_frames", "rope_rows", "rope_columns"), golden.rope(step), strict=True))
        feed = {"noise": golden.noise(step), "topk": golden.topk, **rope}
        feed = {name: value.numpy() for name, value in feed.items()} | {"lq_tokens": stream.tokens[step]}
        if step == 0:
            out = run(session(first), feed)
        else:
            out = run(later_graph, feed | ring | {"slabs": np.array(valid[::-1])})
        for name in [n for n in out if "_new" in n]:
            cache = name.replace("_new", "_cache")
            ring[cache] = np.concatenate([ring[cache], out[name]]) if step else out[name]
        valid = list(range(len(ring["k_cache.0"])))[-kept:] if step else list(range(3))[-kept:]
        stream.latents.append(out["latents"])
        stream.masks.append([out[f"mask.{layer}"] for layer in range(layers) if f"mask.{layer}" in out])


@pytest.fixture(scope="module", params=CASES)
def golden(request) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module")
def stream(golden, bundle, lq_proj_v1) -> Stream:
    stream, reach = Stream(), golden.info["local_range"]
    project(golden, bundle, lq_proj_v1, stream)
    paths = [with_masks(bundle / f"{name}.onnx", reach) for name in ("dit_first", "dit")]
    try:
        denoise(golden, *paths, stream)
    finally:
        for path in paths:
            path.unlink()
    return stream


def test_lq_tokens(golden, stream):
    for step, tokens in enumerate(stream.tokens):
        got = tokens.reshape(1, -1, tokens.shape[-1])[:, :: golden.token_stride]
        np.testing.assert_allclose(got, golden.tensors[f"lq_tokens.{step}"], atol=TOKENS, rtol=0)


def test_block_masks(golden, stream):
    for step, masks in enumerate(stream.masks):
        assert len(masks) == golden.info["dit"]["num_layers"]
        for layer, mask in enumerate(masks):
            expected = sorted_slabs(golden, step, golden.tensors[f"block_mask.{step}.{layer}"].numpy().astype(bool))
            assert (mask.reshape(expected.shape) != expected).mean() <= FLIPPED


def sorted_slabs(golden: Golden, step: int, mask: np.ndarray) -> np.ndarray:
    """The recorded mask with its cached slabs in the order in which `denoise` lists them: newest first."""
    if step == 0:
        return mask
    windows = golden.info["height"] // 128 * (golden.info["width"] // 128)
    slabs = mask.reshape(*mask.shape[:-1], -1, windows)
    newest = slabs.shape[-2] - 1
    order = [*reversed(range(newest)), newest]
    return slabs[..., order, :].reshape(mask.shape)


def test_latents(golden, stream):
    for step, latents in enumerate(stream.latents):
        expected = golden.tensors[f"latents.{step}"][0].transpose(0, 1).numpy()
        np.testing.assert_allclose(latents, expected, atol=TOKENS, rtol=0)


def test_frames(golden, stream, bundle):
    raw, lq = decode(golden, bundle, np.concatenate(stream.latents))
    stride, size = golden.pixel_stride, np.array([golden.info["height"], golden.info["width"]])
    for fix in COLOUR_FIXES:
        expected = golden.tensors[f"frames.tiny.{'raw' if fix == 'none' else fix}"].float().numpy()
        if fix == "none":
            frames, slack = raw, HALF_ULP * np.maximum(np.abs(expected) - 1, 0)
        else:
            feed = {"frames": raw, "lq": lq, "size": size}
            pixels = session(bundle / f"post_{fix}16.onnx").run(None, feed)[0]
            frames, slack = (pixels * STEP_16 - 1).transpose(0, 3, 1, 2), STEP_16  # truncated to 16 bits
        got = frames.transpose(1, 0, 2, 3)[:, :, ::stride, ::stride]
        assert np.max(np.abs(got - expected) - slack) < FRAMES
    pixels = session(bundle / "post_adain8.onnx").run(None, {"frames": raw, "lq": lq, "size": size})[0]
    mean = pixels.astype(np.float64).mean(axis=(1, 2))
    # A pixel in thousands is truncated the other way.
    np.testing.assert_allclose(mean, golden.tensors["frames.tiny.uint8_mean"], atol=1e-3, rtol=0)


def decode(golden: Golden, bundle: Path, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raw frames and the LQ frames of the same indices."""
    graph, lq = session(bundle / "tc_decoder.onnx"), golden.lq.numpy()[:-4]
    size = {"H": golden.info["height"], "W": golden.info["width"]}
    condition, out = np.concatenate([lq[:1].repeat(3, axis=0), lq]), []
    memory = {
        tensor.name: np.zeros([eval_dim(dim, size) for dim in tensor.shape], np.float32)
        for tensor in graph.get_inputs()
        if tensor.name.startswith("memory")
    }
    for i in range(len(latents) // 2):
        result = run(graph, {"latents": latents[2 * i :][:2], "lq": condition[8 * i :][:8], **memory})
        out.append(result.pop("frames"))
        memory = {name.replace("_new", ""): value for name, value in result.items()}
    return np.concatenate(out)[3:], lq


def eval_dim(dim: int | str, size: dict[str, int]) -> int:
    """A dimension as the file spells it, e.g. H/8."""
    if isinstance(dim, int):
        return dim
    symbol, _, divisor = dim.partition("/")
    return size[symbol] // int(divisor or 1)


def test_folded_equals_unfolded(bundle, tmp_path):
    """Modulation, gates and norm affines inside the Linear layers: the same latents and slabs."""
    weights, reach = golden_weights(), Golden(CASES[1]).info["local_range"]
    graph = graphs(weights.sizes, causal=True)["dit"]
    module = Dit.of(weights.dit, weights.prompt, folded=True, local_range=reach)
    folded = exported(Step(graph=graph, module=module, file="w.bin"), tmp_path)
    inputs = random_inputs(graph, "fp32", {"H": 256, "W": 384, "ring": 4, "slabs": 3}, seed=3)
    feed = {tensor.name: value.numpy() for tensor, value in zip(graph.inputs, inputs, strict=True)}
    plain = run(session(bundle / "dit.onnx"), feed)
    for name, got in run(session(folded), feed).items():
        np.testing.assert_allclose(got, plain[name], atol=FOLDED, rtol=FOLDED)
