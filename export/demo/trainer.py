"""A training in progress: model, running average, optimiser, data and random state, one iteration at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashvsr_trt.export.demo import batches, initial, optimise
from flashvsr_trt.export.demo.batches import Ahead, Batch, Workers
from flashvsr_trt.export.demo.clips import ClipMaker
from flashvsr_trt.export.demo.config import Stage, Training
from flashvsr_trt.export.demo.graphed import Gradients, GraphError, graphed
from flashvsr_trt.export.demo.loss import loss
from flashvsr_trt.export.demo.model import DemoModel
from flashvsr_trt.export.demo.networks import Networks
from flashvsr_trt.export.pixels import to_unit


class Trainer:
    """Args:
    start: the networks to begin with; by default the structured initial ones.
    graph: record each stage's iteration as a CUDA graph; on a CPU it makes no difference.
    workers: processes that make the batches, on the CPU; 0: this one does, on `device`. The numbers of a batch are
        others on a CPU than on a GPU.
    clock: seconds, for trainings that are measured in them.
    """

    def __init__(
        self,
        settings: Training,
        images: Mapping[str, np.ndarray],
        device: torch.device,
        start: Networks | None = None,
        *,
        graph: bool = True,
        workers: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.device, self._workers = settings, device, workers
        self._graph, self._clock = graph and device.type == "cuda", clock
        start = start or initial.networks(settings.sizes, settings.seed)
        self.model = DemoModel(start).to(device)
        if settings.tail is not None:
            _train_tail(self.model, settings.tail)
        self.average = DemoModel(start).to(device).requires_grad_(False)
        self.optimiser = optimise.adamw(self.model, settings)
        self.makers = {
            side: ClipMaker(images, (side, side), seed=settings.seed, device=torch.device("cpu") if workers else device)
            for side in sorted({stage.side for stage in settings.stages})
        }
        self.iteration = 0
        self.seconds = 0.0  # over all calls, from a trainer's making to its last iteration
        self.curve: list[dict[str, Any]] = []
        self._stage: Stage | None = None
        self._since = self._clock()

    def end_in(self, seconds: float) -> None:
        """Lets a training that is measured in seconds end this long from now."""
        self._tick()
        self.settings = dataclasses.replace(self.settings, seconds=self.seconds + seconds)

    def progress(self) -> float:
        """0 at the start of the training, 1 or more at its end."""
        s = self.settings
        return self.iteration / s.iterations if s.seconds is None else self.seconds / s.seconds

    def rate(self) -> float:
        return self.settings.rate_at(self.progress())

    def step(self) -> Tensor:
        """One iteration; the loss, detached."""
        stage = self.settings.stage(self.progress())
        if stage is not self._stage:
            self._enter(stage)
        batch = self._ahead.take(self.iteration)
        value = self._gradients(batch)
        optimise.set_rate(self.optimiser, self.rate())
        self.optimiser.step()
        # The average starts as a plain mean, so that the initial weights do not linger in it.
        keep = min(self.settings.average, (1 + self.iteration) / (10 + self.iteration))
        optimise.follow(self.average, self.model, keep)
        self.iteration += 1
        self._ahead.start(self.iteration)
        self._tick()
        return value

    def _enter(self, stage: Stage) -> None:
        """Sets up a stage's data and computation."""
        maker = self.makers[stage.side]

        def source(number: int) -> Batch:
            return batches.make(maker, number, stage, self.settings.degraded)

        def compute(batch: Batch) -> Tensor:
            return self._eager(batch, stage)

        self._gradients: Gradients = compute
        if self._graph:
            try:
                now, then = (source(number).to(self.device) for number in (self.iteration, self.iteration + 1))
                self._gradients = graphed(compute, list(self.model.parameters()), (now, then))
                print(f"{stage}: CUDA graph recorded and checked", flush=True)
            except GraphError as error:
                print(f"WARNING: {stage} runs without a CUDA graph, slower: {error}", flush=True)
        self._stage, self._ahead = stage, self._made_ahead(source)

    def _made_ahead(self, source: Callable[[int], Batch]) -> Ahead | Workers:
        if self._workers:
            return Workers(source, self.iteration, self.device, self._workers, self.settings.uses)
        return Ahead(source, self.device)

    def _eager(self, batch: Batch, stage: Stage) -> Tensor:
        for parameter in self.model.parameters():
            parameter.grad = None
        result = self.model(batch.noise, batch.lq, stage.steps)
        if self.settings.alike:
            result.register_hook(_alike)
        truth, bicubic = (
            to_unit(pixels[:, : result.shape[1]]).permute(0, 1, 4, 2, 3)  # [B, T, 3, H, W]
            for pixels in (batch.truth, batch.lq)
        )
        value = loss(result, truth, bicubic, self.settings.loss)
        value.backward()
        optimise.tame_gradients(self.model.parameters(), self.settings.clip_norm)
        return value.detach()

    def _tick(self) -> None:
        now = self._clock()
        self.seconds += now - self._since
        self._since = now

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "curve": self.curve,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.curve = list(state["curve"])


def _alike(gradient: Tensor) -> Tensor:
    """The gradient of a batch of results, each clip's scaled to the same norm."""
    norms = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient * (norms.mean() / norms)[:, None, None, None, None]


def _train_tail(model: DemoModel, first: int) -> None:
    """Freezes all but the decoder's layers from `first` on. Gradients stop there: most of the backward is saved."""
    model.requires_grad_(False)
    for index, layer in model.tc_decoder.decoder.items():  # keyed by the checkpoint's indices
        layer.requires_grad_(int(index) >= first)
