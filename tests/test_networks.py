"""The torch networks against the golden recording, and their properties where the recording is silent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from golden import CASES, Golden, error, rope_table
from torch import Tensor

from flashvsr_trt.configs import contract, schedule
from flashvsr_trt.export import attention, dit, lq_proj, seeded, tc_decoder
from flashvsr_trt.export.colour import fix_colour, to_pixels

# fp32 against fp32. The recording is 2e-6 from float64; sums of 18,432 products are 4e-6 from it with AVX-512's
# kernels, 1.7e-5 with AVX2's, which add in longer chains.
TOKENS = 4e-5
FLIPPED = 1e-3  # blocks whose scores tie within rounding
FRAMES = 2e-4  # besides the recording's rounding to fp16; 5e-5 is seen


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@dataclass
class Stream:
    """A whole stream through LQ projector, DiT and TCDecoder."""

    tokens: list[Tensor] = field(default_factory=list)
    masks: list[list[Tensor]] = field(default_factory=list)
    slabs: list[int] = field(default_factory=list)
    latents: list[Tensor] = field(default_factory=list)
    frames: Tensor = field(default_factory=lambda: torch.zeros(0))


def _tokens(golden: Golden) -> list[Tensor]:
    project = lq_proj.LqProj.of(golden.weights("LQ_proj_in.ckpt"), causal=golden.causal)
    caches = project(golden.lq[:1]) if golden.causal else ()
    out = []
    for step in range(golden.steps):
        frames = golden.step_lq(step)
        groups = []
        for group in frames[len(frames) % 8 :].split(8):
            result = project(group, *caches)
            tokens, *caches = result if golden.causal else (result,)
            groups.append(tokens)
        out.append(torch.cat(groups))
    return out


def _denoise(golden: Golden, stream: Stream, *, folded: bool) -> None:
    """Fills masks, slabs and latents, with the caches kept as plain lists, newest last."""

    def recording(q, k, v, k_cache, v_cache, slabs, topk, **options):
        keys = torch.cat([k_cache[slabs], k])
        stream.masks[-1].append(attention.block_mask(q, keys, topk, **options))
        return attention.attend(q, k, v, k_cache, v_cache, slabs, topk, **options)

    reach = golden.info["local_range"]
    network = dit.Dit.of(golden.dit, golden.prompt, folded=folded, local_range=reach, attend=recording)
    cache: list[Tensor] = []
    for step in range(golden.steps):
        stream.masks.append([])
        state = (torch.arange(len(cache[0])), *cache) if cache else ()
        latents, *new = network(golden.noise(step), stream.tokens[step], *golden.rope(step), golden.topk, *state)
        cache = [torch.cat(pair) for pair in zip(cache, new, strict=True)] if cache else new
        if len(cache[0]) > int(golden.info["kv_ratio"]):
            cache = [slabs[1:] for slabs in cache]
        stream.slabs.append(len(cache[0]))
        stream.latents.append(latents)


def _decode(golden: Golden, latents: Tensor) -> Tensor:
    network = tc_decoder.TcDecoder.of(golden.weights("TCDecoder.ckpt"))
    height, width = golden.info["height"], golden.info["width"]
    memory = [torch.zeros(c, height // cell, width // cell) for c, cell in network.memory_spec()]
    lq = torch.cat([golden.lq[:1]] * 3 + [golden.lq[:-4]])
    out = []
    for pair, condition in zip(latents.split(2), lq.split(8), strict=True):
        frames, *memory = network(pair, condition, *memory)
        out.append(frames)
    return torch.cat(out)[3:]


@cache
def _stream(name: str) -> Stream:
    with torch.no_grad():
        golden, stream = Golden(name), Stream()
        stream.tokens = _tokens(golden)
        _denoise(golden, stream, folded=False)
        stream.frames = _decode(golden, torch.cat(stream.latents))
        return stream


@pytest.fixture(params=CASES)
def golden(request) -> Golden:
    return Golden(request.param)


# --- parity with the recording


def test_input_is_the_recorded_one(golden):
    assert torch.equal(golden.lq[:, ::8, ::8], golden.tensors["lq_sample"])
    assert torch.equal(golden.prompt.float(), golden.tensors["prompt_context"])
    info = golden.info
    assert golden.topk == schedule.topk(info["height"], info["width"], info["sparse_ratio"])


def test_lq_tokens(golden):
    for step, tokens in enumerate(_stream(golden.name).tokens):
        got = tokens.reshape(1, -1, tokens.shape[-1])[:, :: golden.token_stride]
        assert error(got, golden.tensors[f"lq_tokens.{step}"]) < TOKENS


def test_block_masks(golden):
    for step, masks in enumerate(_stream(golden.name).masks):
        for layer, mask in enumerate(masks):
            expected = golden.tensors[f"block_mask.{step}.{layer}"].bool()
            assert (mask.reshape(expected.shape) != expected).float().mean() <= FLIPPED


def test_latents_and_cache(golden):
    windows = golden.info["height"] // 128 * (golden.info["width"] // 128)
    stream = _stream(golden.name)
    for step, latents in enumerate(stream.latents):
        assert error(latents.transpose(0, 1)[None], golden.tensors[f"latents.{step}"]) < TOKENS
        assert golden.tensors[f"cache_windows.{step}"].tolist() == [stream.slabs[step] * windows] * 2


@pytest.mark.parametrize("fix", contract.COLOUR_FIXES)
def test_frames(golden, fix):
    stride = golden.pixel_stride
    expected = golden.tensors[f"frames.tiny.{'raw' if fix == 'none' else fix}"].float()
    frames = fix_colour(_stream(golden.name).frames, golden.lq[:-4], fix)
    difference = (frames.transpose(0, 1)[:, :, ::stride, ::stride] - expected).abs()
    half_ulp = 2.0 ** (torch.frexp(expected).exponent - 12)
    assert (difference - half_ulp).max() < FRAMES


def test_pixel_means(golden):
    pixels = to_pixels(fix_colour(_stream(golden.name).frames, golden.lq[:-4], "adain"), 8)
    # 2e-4 is seen: one pixel in 5000 truncated the other way.
    assert error(pixels.float().mean(dim=(1, 2)), golden.tensors["frames.tiny.uint8_mean"]) < 1e-3


def test_folded_equals_unfolded(golden):
    stream = Stream(tokens=_stream(golden.name).tokens)
    _denoise(golden, stream, folded=True)
    for got, expected in zip(stream.latents, _stream(golden.name).latents, strict=True):
        assert error(got, expected) < 1e-5


# --- streaming: step by step equals the whole clip at once


def test_causal_projector_equals_conv3d_over_the_clip():
    """v1.1: the two convolutions over a whole clip, the first frame replicated in front, once."""
    golden = Golden("v1.1-256x384")
    weights = {name: w.float() for name, w in golden.weights("LQ_proj_in.ckpt").items()}
    clip = torch.cat([golden.lq[:1]] * 3 + [golden.lq[:17]]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    b, c, f, height, width = clip.shape
    x = clip.reshape(b, c, f, height // 16, 16, width // 16, 16).permute(0, 1, 4, 6, 2, 3, 5)
    x = x.reshape(b, c * 256, f, height // 16, width // 16)
    for i in (1, 2):
        x = F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate")
        x = F.conv3d(x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride=(2, 1, 1))
        x = F.silu(F.normalize(x, dim=1) * x.shape[1] ** 0.5 * weights[f"norm{i}.gamma"])
    # The first call is made of 4 copies of frame 0 and gives an output that is thrown away.
    expected = F.linear(
        x[0, :, 1:].permute(1, 2, 3, 0), weights["linear_layers.0.weight"], weights["linear_layers.0.bias"]
    )
    assert error(_stream(golden.name).tokens[0][:4], expected) < TOKENS


@pytest.mark.parametrize("causal", [True, False])
def test_projector_state_is_all_that_matters(causal):
    """A v1 call depends on its own frames only; a v1.1 call on the caches besides."""
    project = lq_proj.LqProj.of(seeded.random_weights(seeded.SMALL, 1).lq_proj, causal=causal)
    clip = torch.randint(0, 256, (17, 128, 128, 3), dtype=torch.uint8)
    other = clip.clone()
    other[:9] = 255 - other[:9]

    def last(frames: Tensor) -> Tensor:
        if not causal:
            project(frames[1:9])
            return project(frames[9:])
        _, *caches = project(frames[1:9], *project(frames[:1]))
        return project(frames[9:], *caches)[0]

    assert torch.equal(last(clip), last(other)) != causal


def test_decoder_in_one_batch_equals_frame_by_frame():
    """TCDecoder's layers one time step at a time, TGrow behind the upsampling as in the reference."""
    weights = seeded.random_weights(seeded.SMALL, 3).tc_decoder
    network = tc_decoder.TcDecoder.of(weights)
    latents, lq = torch.randn(4, 16, 16, 16), torch.randint(0, 256, (16, 128, 128, 3), dtype=torch.uint8)
    memory = [torch.zeros(c, 128 // p, 128 // p) for c, p in network.memory_spec()]
    first, *memory = network(latents[:2], lq[:8], *memory)
    second, *_ = network(latents[2:], lq[8:], *memory)
    assert error(torch.cat([first, second]), _plain_decoder(weights, latents, lq)) < 1e-5


def _plain_decoder(weights: dict[str, Tensor], latents: Tensor, lq: Tensor) -> Tensor:
    w = {name: tensor.float() for name, tensor in weights.items()}

    def conv(name: str, x: Tensor) -> Tensor:
        weight = w[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, w.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    past: dict[int, Tensor] = {}

    def run(x: Tensor, stage: int) -> list[Tensor]:
        if stage == 3:
            return [conv("26", F.relu(conv("24", F.relu(x)))) * 2 - 1]
        index = (5, 11, 17)[stage]
        for block in range(index, index + 3):
            both = torch.cat([x, past.get(block, torch.zeros_like(x))], dim=1)
            past[block] = x
            y = F.relu(conv(f"{block}.conv.0", both))
            x = F.relu(conv(f"{block}.conv.4", F.relu(conv(f"{block}.conv.2", y))) + x)
        x = conv(f"{index + 4}.conv", x.repeat_interleave(2, -1).repeat_interleave(2, -2))
        grown = x.split(weights[f"decoder.{index + 5}.weight"].shape[1], dim=1)
        return [frame for part in grown for frame in run(conv(str(index + 5), part), stage + 1)]

    frames = []
    for i, latent in enumerate(latents):
        x = lq[4 * i : 4 * i + 4].permute(3, 0, 1, 2) / 127.5 - 1  # [3, 4, H, W]
        c, f, height, width = x.shape
        x = x.reshape(c, f, height // 8, 8, width // 8, 8).permute(0, 1, 3, 5, 2, 4)
        x = torch.cat([x.reshape(c * f * 64, height // 8, width // 8), latent])[None]
        x = F.relu(conv("3", F.relu(conv("1", torch.tanh(x / 3) * 3))))
        frames += run(x, 0)
    return torch.cat(frames)


def test_order_and_place_of_slabs_do_not_matter():
    """A ring with stale slots, in any order, gives what a plain cache gives."""
    weights = seeded.random_weights(seeded.SMALL, 2)
    network = dit.Dit.of(weights.dit, weights.prompt)
    inputs = _dit_inputs(2, rows=1, columns=2)
    plain = torch.randn(4, 3, 1, 2, 128, 256)
    ring = torch.full((4, 5, 1, 2, 128, 256), 1e4)
    place = torch.tensor([4, 0, 2])
    ring[:, place] = plain
    order = torch.tensor([2, 0, 1])
    expected = network(*inputs, torch.arange(3), *plain)
    got = network(*inputs, place[order], *ring)
    for a, b in zip(got, expected, strict=True):
        assert error(a, b) < 1e-5


def _dit_inputs(frames: int, *, rows: int, columns: int) -> tuple[Tensor, ...]:
    noise = torch.randn(frames, 16, 16 * rows, 16 * columns).half()
    tokens = torch.randn(frames, 8 * rows, 8 * columns, 256)
    tables = (
        rope_table(range(frames), 44),
        rope_table(range(8 * rows), 42),
        rope_table(range(8 * columns), 42),
    )
    return noise, tokens, *tables, torch.tensor(3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_stay_near(dtype):
    """Through 30 layers, 16-bit GEMMs against fp32, and the types of the contract at the border."""
    config = replace(seeded.SMALL, dit=replace(seeded.SMALL.dit, layers=30))
    weights = seeded.random_weights(config, 0)
    noise, tokens, *rest = _dit_inputs(6, rows=1, columns=1)
    exact, *_ = dit.Dit.of(weights.dit, weights.prompt)(noise, tokens.to(dtype).float(), *rest)
    latents, *new = dit.Dit.of(weights.dit, weights.prompt, dtype=dtype)(noise, tokens.to(dtype), *rest)
    assert {latents.dtype, *(t.dtype for t in new)} == {dtype}
    assert exact.std() > 0.5
    # bfloat16 has 8 bits: 2^-9 of values to 5, and the residual stream rounds 90 times.
    assert (latents.float() - exact).square().mean().sqrt() < {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[dtype]


# --- the step modules follow the contract, and train


def test_outputs_have_the_contracts_shapes():
    weights = seeded.random_weights(seeded.SMALL, 0)
    symbols = {"H": 128, "W": 256, "ring": 3, "slabs": 2}
    project, network = (
        lq_proj.LqProj.of(weights.lq_proj, causal=True),
        dit.Dit.of(weights.dit, weights.prompt),
    )
    modules = {
        "lq_proj_first": project,
        "lq_proj": project,
        "dit_first": network,
        "dit": network,
        "tc_decoder": tc_decoder.TcDecoder.of(weights.tc_decoder),
    }
    for name, module in modules.items():
        graph = contract.graphs(weights.sizes, causal=True)[name]
        results = module(*(_zeros(tensor, symbols) for tensor in graph.inputs))
        for tensor, result in zip(graph.outputs, results, strict=True):
            assert tuple(result.shape) == contract.evaluate_shape(tensor.shape, symbols), tensor.name
            assert str(result.dtype) == f"torch.{tensor.dtype.replace('f', 'float32', tensor.dtype == 'f')}"


def _zeros(tensor: contract.Tensor, symbols: dict[str, int]) -> Tensor:
    dtype = torch.float32 if tensor.dtype == "f" else getattr(torch, tensor.dtype)
    return torch.zeros(contract.evaluate_shape(tensor.shape, symbols), dtype=dtype)


def test_gradients_reach_every_official_tensor():
    weights = seeded.random_weights(seeded.SMALL, 0)
    project = lq_proj.trainable(weights.lq_proj, causal=True)
    network = dit.trainable(weights.dit, weights.prompt)
    decoder = tc_decoder.trainable(weights.tc_decoder)
    lq = torch.randint(0, 256, (9, 128, 256, 3), dtype=torch.uint8)
    noise, _, *rest = _dit_inputs(2, rows=1, columns=2)  # one window alone would have no kept block
    with torch.enable_grad():
        tokens, *_ = project(lq[1:9], *project(lq[:1]))
        latents, *_ = network(noise, tokens, *rest)
        memory = [torch.zeros(c, 128 // p, 256 // p) for c, p in weights.sizes.tc_memory]
        frames, *_ = decoder(latents, lq[1:9], *memory)
        frames.square().mean().backward()
    for module, official in (
        (project, weights.lq_proj),
        (network, weights.dit),
        (decoder, weights.tc_decoder),
    ):
        assert module.tensors().keys() == official.keys()
        for name, tensor in module.tensors().items():
            assert tensor.grad is not None, name
            assert tensor.grad.isfinite().all(), name
            assert tensor.grad.any(), name


def test_trainable_is_the_exported_network():
    weights = seeded.random_weights(seeded.SMALL, 0)
    inputs = _dit_inputs(6, rows=1, columns=2)
    exported = dit.Dit.of(weights.dit, weights.prompt)(*inputs)
    trained = dit.trainable(weights.dit, weights.prompt)(*inputs)
    for a, b in zip(exported, trained, strict=True):
        assert error(a, b) < 1e-5
