"""The golden vectors (tests/data/golden/README.md) and the schedule's numbers, independent of the program."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parent / "data" / "golden"
CASES = ("v1-128x256", "v1.1-256x384")


@dataclass(frozen=True)
class Golden:
    """One case: `info` (its json), tensors by name, weights, and what the networks are fed with."""

    name: str
    root: Path = ROOT
    info: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", json.loads((self.root / f"{self.name}.json").read_text()))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.root / f"{self.name}.safetensors")

    @property
    def causal(self) -> bool:
        return self.info["version"] == "v1.1"

    @property
    def steps(self) -> int:
        return self.info["steps"]

    @property
    def pixel_stride(self) -> int:
        return self.info["sample_stride"]

    @property
    def token_stride(self) -> int:
        return self.info.get("token_stride", 1)

    @cached_property
    def lq(self) -> Tensor:
        """uint8 [padded frames, H, W, 3]: bicubic 4x of the recorded input, the last frame repeated."""
        low = self.tensors["lr_frames"].numpy()
        size = (self.info["width"], self.info["height"])
        frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in low]
        frames += [frames[-1]] * (self.info["padded_frames"] - len(frames))
        return torch.from_numpy(np.stack(frames[: self.info["padded_frames"]]))

    def step_lq(self, step: int) -> Tensor:
        """The LQ frames that a step reads."""
        return self.lq[:25] if step == 0 else self.lq[17 + 8 * step : 25 + 8 * step]

    def step_latents(self, step: int) -> range:
        return range(0, 6) if step == 0 else range(4 + 2 * step, 6 + 2 * step)

    def noise(self, step: int) -> Tensor:
        """fp16 [f, 16, H/8, W/8]"""
        return self.tensors["noise"][0].transpose(0, 1)[list(self.step_latents(step))].contiguous()

    def rope(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(cos, sin) tables of a step's frames, of the token rows and of the token columns."""
        rows, columns = self.info["height"] // 16, self.info["width"] // 16
        return (
            rope_table(self.step_latents(step), 44),
            rope_table(range(rows), 42),
            rope_table(range(columns), 42),
        )

    @property
    def topk(self) -> Tensor:
        """The recorded top-k of a slab."""
        return torch.tensor(self.info["topk_per_slab"][0])

    def weights(self, file: str) -> Any:
        """A weight file as the official loaders would read it, fp16."""
        path = self.root / "weights" / file
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)

    @property
    def dit(self) -> dict[str, Tensor]:
        return self.weights("diffusion_pytorch_model_streaming_dmd.safetensors")

    @property
    def prompt(self) -> Tensor:
        return self.weights("posi_prompt.pth")


def rope_table(positions: range, size: int) -> Tensor:
    """[positions, size/2, 2] fp32: cos and sin of position * 10000^(-2j/size), computed in double."""
    frequency = 10000.0 ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    angle = np.arange(positions.start, positions.stop, dtype=np.float64)[:, None] * frequency[None]
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32))


def error(got: Tensor, expected: Tensor) -> float:
    """The largest absolute difference."""
    return (got.double() - expected.double()).abs().max().item()
