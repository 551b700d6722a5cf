"""The curve of a training: gain over bicubic on the validation images, as the product would show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashvsr_trt.export.colour import fix_colour, to_pixels
from flashvsr_trt.export.demo import metrics
from flashvsr_trt.export.demo.clips import ClipMaker, Clips
from flashvsr_trt.export.demo.config import COLOUR_FIX
from flashvsr_trt.export.demo.model import DemoModel

STEPS = (6, 2)
FRAMES = 4 * sum(STEPS) + 1
SEED = 20_000
SET_SEEDS = {"clean": 0.0, "degraded": 1.0}  # share of degraded clips


class Validation:
    """Fixed clips of the validation images, two per image and set."""

    def __init__(self, images: Mapping[str, np.ndarray], side: int, device: torch.device) -> None:
        self.sets: dict[str, list[Clips]] = {}
        for name, share in SET_SEEDS.items():
            self.sets[name] = []
            for number, (image, pixels) in enumerate(sorted(images.items())):
                maker = ClipMaker({image: pixels}, (side, side), seed=SEED + number, device=device)
                self.sets[name].append(maker.make(0, 2, FRAMES, degraded=share))
        self.device = device

    def __call__(self, model: DemoModel) -> dict[str, float]:
        """Mean gains, e.g. `clean_psnr` in dB and `clean_ssim`, and `clean_flicker` relative to bicubic's; `still`
        is the mean change, in 8-bit levels, from frame to frame of a result whose input does not change."""
        out: dict[str, float] = {}
        for name, batches in self.sets.items():
            rows = torch.tensor([self._gain(model, clips) for clips in batches])
            psnr, ssim, flicker = rows.mean(dim=0).tolist()
            out |= {f"{name}_psnr": psnr, f"{name}_ssim": ssim, f"{name}_flicker": flicker}
        changes = [self._change(model, clips.lq[:1]) for clips in self.sets["clean"]]
        return out | {"still": sum(changes) / len(changes)}

    def _change(self, model: DemoModel, lq: Tensor) -> float:
        result = run(model, lq[:, :1].expand_as(lq), STEPS)
        return float(metrics.flicker(result, result[:, :1].expand_as(result)).mean())

    def _gain(self, model: DemoModel, clips: Clips) -> list[float]:
        result = run(model, clips.lq, STEPS)
        frames = result.shape[1]
        truth, bicubic = clips.truth[:, :frames], clips.lq[:, :frames]
        return [
            float(metrics.psnr(result, truth).mean() - metrics.psnr(bicubic, truth).mean()),
            float(metrics.ssim(result, truth).mean() - metrics.ssim(bicubic, truth).mean()),
            float(metrics.flicker(result, truth).mean() / metrics.flicker(bicubic, truth).mean()),
        ]

    def picture(self, model: DemoModel, path: Path) -> None:
        """Bicubic, result and truth side by side, a row per clip, the middle frame."""
        rows = []
        for batches in self.sets.values():
            for clips in batches:
                result = run(model, clips.lq, STEPS)
                frame = result.shape[1] // 2
                rows.append(torch.cat([clips.lq[0, frame], result[0, frame], clips.truth[0, frame]], dim=1))
        half = len(rows) // 2
        Image.fromarray(torch.cat([torch.cat(rows[:half]), torch.cat(rows[half:])], dim=1).cpu().numpy()).save(path)


@torch.no_grad()
def run(
    model: DemoModel,
    lq: Tensor,
    steps: Sequence[int],
    cut: tuple[int, int] | None = None,
    fix: str = COLOUR_FIX,
) -> Tensor:
    """uint8 LQ clips [B, 4 L + 1, H, W, 3] to results uint8 [B, 4 L - 3, H, W, 3], colours fixed by `fix`.

    `cut` (height, width) takes the canvas's padding off before the colour fix, as the product does.
    """
    batch, _, height, width, _ = lq.shape
    generator = torch.Generator(lq.device).manual_seed(SEED)
    noise = torch.randn(batch, sum(steps), 16, height // 8, width // 8, generator=generator, device=lq.device)
    frames = model(noise, lq, steps)
    rows, columns = cut or (height, width)
    fixed = [
        to_pixels(fix_colour(clip[..., :rows, :columns], reference[: len(clip), :rows, :columns], fix), 8)
        for clip, reference in zip(frames, lq, strict=True)
    ]
    return torch.stack(fixed)
