"""The demo model's data, metrics, initial weights and training loop, at tiny sizes on the CPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flashvsr_trt.configs.errors import FlashVSRError, WeightsError
from flashvsr_trt.configs.schedule import topk
from flashvsr_trt.export import lq_proj, tc_decoder
from flashvsr_trt.export.attention import attend
from flashvsr_trt.export.demo import (
    checkpoint,
    evaluate,
    graphed,
    initial,
    metrics,
)
from flashvsr_trt.export.demo.batches import Batch
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.config import DEMO, TINY, Stage, Training
from flashvsr_trt.export.demo.mean import mean
from flashvsr_trt.export.demo.model import DemoModel, rotary
from flashvsr_trt.export.demo.networks import Networks, of_official
from flashvsr_trt.export.demo.train import train
from flashvsr_trt.export.demo.trainer import Trainer
from flashvsr_trt.export.demo.validate import Validation
from flashvsr_trt.export.dit import Dit

pytest_plugins = ("demo_images",)

CPU = torch.device("cpu")
SMALL = Training(
    sizes=TINY,
    iterations=6,
    warmup=0.5,
    rate=1e-4,
    stages=(Stage(until=1.0, side=128, batch=1, steps=(2,)),),
)


@pytest.fixture(scope="module")
def start() -> Networks:
    return initial.networks(TINY, 0)


# --- the model


def test_the_model_is_small_enough() -> None:
    networks = initial.networks(DEMO, 0)
    assert sum(tensor.numel() for state in networks.values() for tensor in state.values()) * 2 < 16e6  # bytes in fp16


def test_initial_weights_pass_the_picture_through(start: Networks, images: dict[str, np.ndarray]) -> None:
    model = DemoModel(start)
    clips = ClipMaker(images, (128, 128), seed=0, device=CPU).make(0, 1, 9, degraded=0.0)
    with torch.no_grad():
        frames = model(torch.randn(1, 2, 16, 16, 16), clips.lq, (2,))
    pixels = ((frames + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    # Random inner channels keep out of the picture; interpolation is not quite bicubic.
    assert metrics.psnr(pixels[inner], clips.lq[:, :5][inner]).mean() > 30


def test_whole_clips_equal_streaming_step_by_step() -> None:
    """Against the step modules made of the same official weights, every one perturbed so that nothing is zero."""
    generator = torch.Generator().manual_seed(1)
    unperturbed, context = initial.official(TINY, 0)
    official = {
        net: {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in state.items()}
        for net, state in unperturbed.items()
    }
    steps, height, width = (6, 2, 2), 128, 128
    lq = torch.randint(0, 256, (2, 41, height, width, 3), generator=generator, dtype=torch.uint8)
    noise = torch.randn(2, 10, 16, height // 8, width // 8, generator=generator)
    model = DemoModel(of_official(official["lq"], official["dit"], official["tc"], context))
    with torch.no_grad():
        tokens = model.lq_proj(lq)
        latents = model.latents(noise, tokens, steps)
        frames = model.tc_decoder(latents, lq[:, :37])
        for clip in range(2):
            streamed = _stream(official, context, lq[clip], noise[clip])
            # fp32, the same sums in another order; the frames reach tens.
            for ours, theirs, tolerance in zip((tokens, latents, frames), streamed, (1e-5, 1e-4, 2e-3), strict=True):
                assert torch.allclose(ours[clip], theirs, atol=tolerance)


def _stream(
    official: dict[str, dict[str, torch.Tensor]], context: torch.Tensor, lq: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, latents and frames of 41 LQ frames through the step modules: steps of 6, 2 and 2 latents."""
    height, width = lq.shape[1:3]
    projector = lq_proj.LqProj.of(official["lq"], causal=True)
    dit = Dit.of(official["dit"], context, attend=attend)
    decoder = tc_decoder.TcDecoder.of(official["tc"])
    caches, parts = projector(lq[:1]), []
    for i in range(5):
        tokens, *caches = projector(lq[1 + 8 * i : 9 + 8 * i], *caches)
        parts.append(tokens)
    tokens = torch.cat(parts)

    rows, columns = rotary(torch.arange(height // 16), 21), rotary(torch.arange(width // 16), 21)
    kept = torch.tensor(topk(height, width, 2.0))
    ring: list[torch.Tensor] = []
    parts = []
    for begin, end in ((0, 6), (6, 8), (8, 10)):
        table = rotary(torch.arange(begin, end), 22)
        state = (torch.arange(len(ring[0])), *ring) if ring else ()
        latents, *new = dit(noise[begin:end], tokens[begin:end], table, rows, columns, kept, *state)
        # Three slabs stay: kv_ratio 3.
        ring = [torch.cat([a, b])[-3:] for a, b in zip(ring, new, strict=True)] if ring else new
        parts.append(latents)
    latents = torch.cat(parts)

    conditions = torch.cat([lq[:1].expand(3, -1, -1, -1), lq[:37]])
    memory = [torch.zeros(c, height // cell, width // cell) for c, cell in decoder.memory_spec()]
    parts = []
    for i in range(5):
        frames, *memory = decoder(latents[2 * i : 2 * i + 2], conditions[8 * i : 8 * i + 8], *memory)
        parts.append(frames)
    return tokens, latents, torch.cat(parts)[3:]


# --- the training


def test_training_lowers_the_loss(images: dict[str, np.ndarray]) -> None:
    """On one clip, over and over: what is left to chance is only the noise."""
    settings = dataclasses.replace(SMALL, iterations=1000, rate=1e-4, warmup=1e-3, degraded=0.0)
    trainer = Trainer(settings, images, CPU)
    losses = []
    for _ in range(7):
        losses.append(trainer.step().item())
        trainer.iteration = 0
    assert losses[-1] < 0.98 * losses[0]


def test_rate_warms_up_and_ends_at_zero() -> None:
    settings = Training(rate=1.0, warmup=0.1)
    rates = [settings.rate_at(i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.0)
    assert settings.rate_at(1.01) == pytest.approx(0.0)  # the last iteration may start late


def test_a_training_measured_in_seconds_ends_on_time_over_two_calls(images: dict[str, np.ndarray]) -> None:
    now = [100.0]
    trainer = Trainer(dataclasses.replace(SMALL, seconds=100.0), images, CPU, clock=lambda: now[0])
    for _ in range(2):
        now[0] += 20
        trainer.step()
    assert trainer.progress() == pytest.approx(0.4)
    state = trainer.state_dict()
    now[0] += 1000  # between the calls
    resumed = Trainer(dataclasses.replace(SMALL, seconds=100.0), images, CPU, clock=lambda: now[0])
    resumed.load_state_dict(state)
    resumed.end_in(40.0)  # less than was planned
    assert resumed.progress() == pytest.approx(0.5)
    for _ in range(2):
        now[0] += 20
        resumed.step()
    assert resumed.progress() == pytest.approx(1.0)
    assert resumed.rate() == pytest.approx(0.0)


class _DeviceOnly(TorchDispatchMode):
    """Fails on any operation that touches another device than `meta`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            assert not isinstance(leaf, torch.Tensor) or leaf.device.type == "meta", func
        return out


def test_an_iteration_can_be_recorded_as_a_graph(images: dict[str, np.ndarray]) -> None:
    """Nothing in it comes from the host or is read by it: on a device without numbers it runs through."""
    stage = Stage(until=1.0, side=128, batch=2, steps=(6, 2))
    trainer = Trainer(dataclasses.replace(SMALL, stages=(stage,)), images, CPU)
    trainer.model.to("meta")
    pixels = torch.empty(2, 33, 128, 128, 3, dtype=torch.uint8, device="meta")
    batch = Batch(noise=torch.empty(2, 8, 16, 16, 16, device="meta"), lq=pixels, truth=pixels[:, :29])
    with _DeviceOnly():
        trainer._eager(batch, stage)
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())


def test_a_recording_that_computes_something_else_is_refused() -> None:
    weight = torch.nn.Parameter(torch.ones(3))

    def compute(batch: Batch, forget: bool = False) -> torch.Tensor:
        weight.grad = torch.ones(3) if forget else batch.noise
        return batch.noise.sum()

    examples = [Batch(noise=torch.full((3,), v), lq=torch.zeros(1), truth=torch.zeros(1)) for v in (1.0, 2.0)]
    expected = [graphed._result(compute, [weight], example) for example in examples]
    graphed.compare(compute, [weight], examples, expected)
    with pytest.raises(graphed.GraphError, match="batch 1: the gradients"):
        graphed.compare(lambda batch: compute(batch, forget=True), [weight], examples, expected)
    with pytest.raises(graphed.GraphError, match="batch 0: the loss"):
        graphed.compare(lambda batch: compute(batch) * float("nan"), [weight], examples, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_train_like_plain_launches(images: dict[str, np.ndarray]) -> None:
    cuda = torch.device("cuda")
    by_graph, plain = (Trainer(SMALL, images, cuda, graph=graph) for graph in (True, False))
    for _ in range(4):
        assert by_graph.step().item() == pytest.approx(plain.step().item(), rel=0.03)  # sums in any order
    assert isinstance(by_graph._gradients, graphed.Graphed)


def test_resumed_training_gives_the_same_numbers(images: dict[str, np.ndarray], tmp_path: Path) -> None:
    straight = Trainer(SMALL, images, CPU)
    losses = [straight.step().item() for _ in range(4)]
    cut = Trainer(SMALL, images, CPU)
    assert [cut.step().item() for _ in range(2)] == losses[:2]
    checkpoint.save_state(tmp_path / "state.pt", cut.state_dict())
    resumed = Trainer(SMALL, images, CPU)
    resumed.load_state_dict(checkpoint.load_state(tmp_path / "state.pt", CPU))
    assert [resumed.step().item() for _ in range(2)] == losses[2:]


def test_fine_tuning_moves_the_decoders_end_alone(images: dict[str, np.ndarray], start: Networks) -> None:
    trainer = Trainer(dataclasses.replace(SMALL, tail=15), images, CPU, start)
    trainer.step()
    before = DemoModel(start).state_dict()
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[2] for name in moved} == {"15", "16", "17", "18", "19", "21", "22", "24", "26"}
    assert all(name.startswith("tc_decoder.decoder.") for name in moved)


class _NoValidation(Validation):
    def __init__(self) -> None:
        self.sets = {}

    def __call__(self, model: DemoModel) -> dict[str, float]:
        return {"clean_psnr": 0.0}

    def picture(self, model: DemoModel, path: Path) -> None:
        path.touch()


def test_a_call_writes_curve_weights_and_state(images: dict[str, np.ndarray], tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, iterations=3)
    assert not train(Trainer(settings, images, CPU), _NoValidation(), tmp_path / "a", seconds=0.0, every=2)
    trainer = Trainer(settings, images, CPU)
    assert train(trainer, _NoValidation(), tmp_path / "b", seconds=1e9, every=2)
    curve = json.loads((tmp_path / "b" / "curve.json").read_text())
    assert [point["iteration"] for point in curve["curve"]] == [2, 3]
    assert curve["settings"]["iterations"] == 3
    written = checkpoint.load_weights(tmp_path / "b" / "weights.safetensors")["dit"]["head.weight"]
    assert torch.equal(written, trainer.average.dit.head.weight.detach().half().float())
    assert checkpoint.load_state(tmp_path / "b" / "state.pt", CPU)["iteration"] == 3


def test_a_training_that_diverged_stops_and_keeps_what_was_saved(images: dict[str, np.ndarray], tmp_path: Path) -> None:
    trainer = Trainer(SMALL, images, CPU)
    with torch.no_grad():
        trainer.model.dit.head.bias.fill_(float("nan"))
    with pytest.raises(FlashVSRError, match="nan"):
        train(trainer, _NoValidation(), tmp_path, seconds=1e9, every=1)
    assert not list(tmp_path.iterdir())


def test_mean_of_two_trainings(start: Networks) -> None:
    moved = {name: {key: tensor + 2 for key, tensor in state.items()} for name, state in start.items()}
    for share, expected in ((0.5, 1.0), (0.25, 0.5)):
        between = mean(start, moved, share)
        for name, state in start.items():
            for key, tensor in state.items():
                torch.testing.assert_close(between[name][key], tensor.float() + expected)


def test_weights_file_round_trip(start: Networks, tmp_path: Path) -> None:
    checkpoint.save_weights(tmp_path / "w.safetensors", start)
    read = checkpoint.load_weights(tmp_path / "w.safetensors")
    assert read.keys() == start.keys()
    for name, state in start.items():
        assert read[name].keys() == state.keys()
        assert all(torch.equal(read[name][k], v.half().float()) for k, v in state.items())
    with pytest.raises(WeightsError):
        checkpoint.load_weights(tmp_path / "none.safetensors")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="head"):
        checkpoint.load_weights(tmp_path / "other.safetensors")


def test_validation_tells_gains_and_the_change_of_a_still_picture(
    start: Networks, images: dict[str, np.ndarray]
) -> None:
    model = DemoModel(start)
    figures = Validation({"drawn": images["procedural/0"]}, 128, CPU)(model)
    assert figures.keys() == {f"{k}_{m}" for k in ("clean", "degraded") for m in ("psnr", "ssim", "flicker")} | {
        "still"
    }
    assert -6 < figures["clean_psnr"] < 0.5  # the start is nearly bicubic
    assert figures["still"] == 0  # the start copies frame by frame


def test_evaluation_finds_no_gain_in_bicubic(images: dict[str, np.ndarray], tmp_path: Path) -> None:
    truth = np.stack([images["procedural/0"][i : i + 64, :96] for i in range(5)])
    measured = evaluate.measure(evaluate.bicubic, [("a", truth), ("b", truth[1:])], degraded=True)
    assert [row["clip"] for row in measured.rows] == ["a", "b"]
    assert all(row["bicubic_psnr"] == row["result_psnr"] for row in measured.rows)
    assert evaluate.table({"drawn": measured.rows}).count("+0.00 dB") == 1
    evaluate.picture(measured.shown, tmp_path / "x.jpg")
    assert Image.open(tmp_path / "x.jpg").size == (3 * 96, 2 * 64)
