"""Variant full: the Wan VAE decoder against the golden recording, in torch, in ONNX Runtime and through the runtime."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from golden import CASES, Golden

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import evaluate_shape, graphs
from flashvsr_trt.configs.manifest import File, sha256_of
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.export.colour import fix_colour
from flashvsr_trt.export.external import WeightFiles
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.to_onnx import Step, to_model
from flashvsr_trt.export.vae_decoder import VaeDecoder, rowwise_attention
from flashvsr_trt.export.weights import LQ_FILE
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.upscaler import Options, Upscaler

FRAMES = 5e-4  # of which 2e-4 is the fp16 of the recording, for values within [-1, 1]
HALF_ULP = 2**-11  # fp16 rounding of the recording where raw values are larger than 1
STEP_16 = 1 / 32767.5  # of a 16-bit pixel, truncated
REACH = 3  # of the bundle


@pytest.fixture(scope="module")
def v11(full_bundle) -> Bundle:
    return open_bundle(full_bundle)


@pytest.fixture(scope="module")
def v1(v11, tmp_path_factory) -> Bundle:
    """The same as v1: the projector is all that sets the two apart."""
    folder, manifest, name = tmp_path_factory.mktemp("v1"), v11.manifest, "lq_proj"
    for file in v11.folder.iterdir():
        if not file.name.startswith((name, manifests.FILE_NAME)):
            os.link(file, folder / file.name)
    graph = graphs(manifest.sizes, causal=False)[name]
    module = LqProj.of(Golden(CASES[0]).weights(LQ_FILE), causal=False)
    model = to_model(Step(graph=graph, module=module, file=f"{name}.bin"), "fp32")
    files = WeightFiles(folder)
    files.externalize(model, f"{name}.bin")
    files.close()
    (folder / f"{name}.onnx").write_bytes(ir.serde.serialize_model(model).SerializeToString())
    listed = {path.name: File(sha256=sha256_of(path), bytes=path.stat().st_size) for path in folder.iterdir()}
    left = {key: value for key, value in manifest.graphs.items() if not key.startswith(name)}
    manifests.save(replace(manifest, model_version="v1", graphs=left | {name: graph}, files=listed), folder)
    return open_bundle(folder)


@pytest.fixture(params=CASES)
def golden(request) -> Golden:
    return Golden(request.param)


def latents_of(golden: Golden) -> torch.Tensor:
    """The recorded latents, all steps, [f, 16, H/8, W/8]."""
    steps = [golden.tensors[f"latents.{step}"][0].transpose(0, 1) for step in range(golden.steps)]
    return torch.cat(steps).contiguous()


def check_raw(frames: torch.Tensor, golden: Golden) -> None:
    stride = golden.pixel_stride
    for fix, name in (("none", "raw"), ("adain", "adain")):
        expected = golden.tensors[f"frames.full.{name}"].float()
        got = fix_colour(frames, golden.lq[: len(frames)], fix).transpose(0, 1)[:, :, ::stride, ::stride]
        assert got.shape == expected.shape
        assert ((got - expected).abs() - HALF_ULP * (expected.abs() - 1).clamp_min(0)).max() < FRAMES


@torch.no_grad()
def test_torch(golden):
    network, caches, out = VaeDecoder.of(golden.weights("Wan2.1_VAE.pth")), [], []
    for latent in latents_of(golden):
        frames, *caches = network(latent[None], *caches)
        out.append(frames)
    check_raw(torch.cat(out), golden)


def test_onnx(golden, v11):
    """Both step graphs, the state handed on by hand."""
    first, later = (
        ort.InferenceSession(v11.graph_path(name), providers=["CPUExecutionProvider"])
        for name in ("vae_decoder_first", "vae_decoder")
    )
    symbols = {"H": golden.info["height"], "W": golden.info["width"]}
    graph, caches, out = v11.manifest.graphs["vae_decoder"], {}, []
    for latent in latents_of(golden).numpy():
        session = later if caches else first
        names = [output.name for output in session.get_outputs()]
        result = dict(zip(names, session.run(names, {"latents": latent[None], **caches}), strict=True))
        out.append(result["frames"])
        caches = {before: result[after] for after, before in graph.state}
    for before, cache in caches.items():
        assert cache.shape == evaluate_shape(graph.tensor(before).shape, symbols)
    check_raw(torch.from_numpy(np.concatenate(out)), golden)


def upscale(golden: Golden, bundle: Bundle, **options) -> np.ndarray:
    """A whole case, in the reference's frame count and crop, with the recorded noise."""
    recorded = golden.tensors["noise"][0].transpose(0, 1).numpy()
    ratios = {name: golden.info[name] for name in ("sparse_ratio", "kv_ratio")}
    chosen = Options(
        variant="full",
        bits=16,
        fit="crop",
        reference_count=True,
        noise=lambda frames, rows, columns: recorded[frames.start : frames.stop],
        parameters=Parameters(local_range=REACH, **ratios),
        **options,
    )
    frames = golden.tensors["lr_frames"].numpy()
    upscaler = Upscaler(bundle, OrtCpu(), *frames.shape[1:3], chosen)
    out = [pixels for frame in frames for pixels in upscaler.push(upscaler.prepare(frame))]
    return np.stack(out + upscaler.flush())


@pytest.mark.parametrize("version", ["v1", "v11"])
def test_runtime(version, request):
    golden = Golden(CASES[0] if version == "v1" else CASES[1])
    pixels, stride = upscale(golden, request.getfixturevalue(version)), golden.pixel_stride
    expected = golden.tensors["frames.full.adain"].float().numpy()
    got = (pixels * STEP_16 - 1).transpose(3, 0, 1, 2)[:, :, ::stride, ::stride]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() - STEP_16 < FRAMES


def test_phases_change_nothing(v1):
    golden = Golden(CASES[0])
    assert np.array_equal(upscale(golden, v1), upscale(golden, v1, phases=True, segment_steps=1))


def test_attention_row_by_row_is_attention():
    q, k, v = torch.randn(5, 7, 16), torch.randn(16, 35), torch.randn(35, 16)
    expected = torch.softmax(q.reshape(35, 16) @ k, -1) @ v
    assert (rowwise_attention(q, k, v).reshape(35, 16) - expected).abs().max() < 1e-5


def test_memory_does_not_grow(v1):
    """What the runtime allocates, it allocates before the first frame."""

    class Counting(OrtCpu):
        allocated = 0

        def allocate(self, shape: tuple[int, ...], dtype: str):
            self.allocated += 1
            return super().allocate(shape, dtype)

    backend = Counting(1)
    options = Options(variant="full", parameters=Parameters(local_range=REACH))
    upscaler, before = Upscaler(v1, backend, 32, 32, options), backend.allocated
    given = 0
    for index in range(61):
        frame = np.full((32, 32, 3), index, np.uint8)
        given += len(upscaler.push(upscaler.prepare(frame)))
        assert len(upscaler._conditions) + len(upscaler._waiting) <= 25 + 25
    assert given == 21 + 8 * 4
    assert backend.allocated == before


def test_graphs_are_in_the_folder(v11):
    assert v11.manifest.decoders == ("tc_decoder", "vae_decoder")
    assert {Path(f"{name}.onnx").name for name in v11.manifest.graphs} <= set(v11.manifest.files)
