"""Trains the demo model: `python -m flashvsr_trt.export.demo.train`, after `...demo.images` made the images.

Seeded, and resumable to the bit on one machine: run the same command again. `--seconds` ends a call early with
everything saved, so a long training can be cut into several calls. Writes into `--out`:

    state.pt            everything needed to go on
    weights.safetensors the averaged weights in fp16, what is shipped
    curve.json          settings, loss and validation gains
    sample.png          bicubic, result, truth of the validation images
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashvsr_trt.export.demo import checkpoint, initial
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.config import Stage, Training
from flashvsr_trt.export.demo.images import load
from flashvsr_trt.export.demo.loss import loss
from flashvsr_trt.export.demo.model import DemoModel
from flashvsr_trt.export.demo.validate import Validation
from flashvsr_trt.export.pixels import to_unit

Images = Mapping[str, np.ndarray]


class Trainer:
    """A training: model, its running average, optimiser, data and random state.

    `start` are the networks' weights and the prompt's embedding to begin with; by default the structured initial
    ones.
    """

    def __init__(
        self,
        settings: Training,
        images: Images,
        device: torch.device,
        start: tuple[Mapping[str, Mapping[str, Tensor]], Tensor] | None = None,
    ) -> None:
        self.settings, self.device = settings, device
        self.autocast = torch.bfloat16 if device.type == "cuda" else None
        official, context = start or initial.weights(settings.sizes, settings.seed)
        self.model = DemoModel(official, context).to(device)
        self.average = DemoModel(official, context).to(device).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            _groups(self.model, settings), betas=(0.9, 0.99), fused=device.type == "cuda"
        )
        self.makers = {
            side: ClipMaker(images, (side, side), seed=settings.seed, device=device)
            for side in sorted({stage.side for stage in settings.stages})
        }
        self.iteration = 0
        self.seconds = 0.0
        self.curve: list[dict[str, Any]] = []

    def rate(self) -> float:
        """Warm-up, then a cosine down to a hundredth."""
        s = self.settings
        warm = min(1.0, (self.iteration + 1) / s.warmup)
        progress = min(1.0, self.iteration / s.iterations)
        return s.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def step(self) -> Tensor:
        """One iteration; the loss, detached."""
        stage = self.settings.stage(self.iteration / self.settings.iterations)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate() * group["share"]
        value = self._loss(stage)
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        _centre_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        # The average starts as a plain mean, so that the initial weights do not linger in it.
        keep = min(self.settings.average, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
        self.iteration += 1
        return value.detach()

    def _loss(self, stage: Stage) -> Tensor:
        latents = sum(stage.steps)
        maker = self.makers[stage.side]
        clips = maker.make(stage.batch, 4 * latents + 1, degraded=self.settings.degraded)
        noise = torch.randn(
            (stage.batch, latents, 16, stage.side // 8, stage.side // 8),
            generator=maker.generator,
            device=self.device,
        )
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            result = self.model(noise, clips.lq, stage.steps)
        truth = to_unit(clips.truth[:, : result.shape[1]]).permute(0, 1, 4, 2, 3)  # [B, T, 3, H, W]
        s = self.settings
        return loss(result, truth, gradient_weight=s.gradient_weight, temporal_weight=s.temporal_weight)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "makers": {side: maker.state_dict() for side, maker in self.makers.items()},
            "iteration": self.iteration,
            "seconds": self.seconds,
            "curve": self.curve,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        for side, maker in self.makers.items():
            maker.load_state_dict(state["makers"][side])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.curve = list(state["curve"])


def _groups(model: DemoModel, settings: Training) -> list[dict[str, Any]]:
    """Parameter groups by fan-in.

    Adam moves every weight by about the rate, all in step at first, so an output moves by rate x fan-in: with
    one rate for all, the wide layers would throw the initial weights away in a few iterations. Biases, norms
    and modulations do not decay: gates and offsets have no reason to be small.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        matrix = _is_matrix(parameter)
        fan_in = parameter[0].numel() if matrix else 1
        key = (min(1.0, settings.full_rate_fan_in / fan_in), settings.weight_decay if matrix else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "share": share, "weight_decay": decay, "lr": settings.rate * share}
        for (share, decay), params in groups.items()
    ]


def _centre_gradients(model: DemoModel) -> None:
    """Takes the mean off each filter's gradient (Yong et al. 2020, gradient centralization).

    Behind ReLU all inputs are positive, so a common shift of a filter's weights moves its output most, which is
    what its bias is for; left in, that one direction sets off oscillations at any useful rate.
    """
    for parameter in model.parameters():
        if _is_matrix(parameter) and parameter.grad is not None:
            grad = parameter.grad
            grad -= grad.mean(dim=tuple(range(1, grad.ndim)), keepdim=True)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and parameter.shape[0] > 1 and parameter[0].numel() > 1


def train(trainer: Trainer, validation: Validation, out: Path, *, seconds: float, every: int) -> bool:
    """Runs until the settings' iterations are done (True) or `seconds` are over (False); saves in both cases."""
    out.mkdir(parents=True, exist_ok=True)
    begin, before = time.monotonic(), trainer.seconds
    losses: list[Tensor] = []
    total = trainer.settings.iterations
    while trainer.iteration < total and time.monotonic() - begin < seconds:
        losses.append(trainer.step())
        if trainer.iteration % every == 0 or trainer.iteration == total:
            mean = float(torch.stack(losses).mean())  # waits for the device
            losses.clear()
            trainer.seconds = before + time.monotonic() - begin
            _report(trainer, validation, mean)
    trainer.seconds = before + time.monotonic() - begin
    _save(trainer, validation, out)
    return trainer.iteration >= total


def _report(trainer: Trainer, validation: Validation, mean: float) -> None:
    point = {
        "iteration": trainer.iteration,
        "seconds": round(trainer.seconds, 1),
        "loss": round(mean, 5),
        "rate": round(trainer.rate(), 7),
        **{k: round(v, 4) for k, v in validation(trainer.average, trainer.autocast).items()},
    }
    trainer.curve.append(point)
    print(" ".join(f"{key}={value}" for key, value in point.items()), flush=True)


def _save(trainer: Trainer, validation: Validation, out: Path) -> None:
    checkpoint.save_state(out / "state.pt", trainer.state_dict())
    checkpoint.save_weights(out / "weights.safetensors", trainer.average.official(), trainer.average.context)
    checkpoint.write_curve(out / "curve.json", trainer.settings, trainer.curve)
    validation.picture(trainer.average, out / "sample.png", trainer.autocast)


def main() -> None:
    args = _arguments()
    device = torch.device(args.device)
    chosen = {"seed": args.seed, "iterations": args.iterations, "rate": args.rate}
    settings = dataclasses.replace(Training(), **{k: v for k, v in chosen.items() if v is not None})
    start = checkpoint.load_weights(args.start) if args.start else None
    trainer = Trainer(settings, load(args.images, "train"), device, start)
    if (args.out / "state.pt").is_file():
        trainer.load_state_dict(checkpoint.load_state(args.out / "state.pt", device))
        print(f"resumed at iteration {trainer.iteration}", flush=True)
    if args.compile:
        for name in ("tc", "lq"):
            getattr(trainer.model, name).compile()
    validation = Validation(load(args.images, "validation"), 256, device)
    print(dataclasses.asdict(settings), flush=True)
    done = train(trainer, validation, args.out, seconds=args.seconds, every=args.every)
    print("finished" if done else f"stopped at iteration {trainer.iteration}: run again to go on", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("build/demo/images.zip"))
    parser.add_argument("--out", type=Path, default=Path("build/demo/run"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--iterations", type=int, help="of the whole training, over all calls")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of this call")
    parser.add_argument("--every", type=int, default=500, help="iterations between validations")
    parser.add_argument("--start", type=Path, help="weights.safetensors to begin with instead of the initial ones")
    parser.add_argument("--compile", action="store_true", help="torch.compile the convolutional networks")
    return parser.parse_args()


if __name__ == "__main__":
    main()
