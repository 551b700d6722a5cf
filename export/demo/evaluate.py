"""Measures a demo model against bicubic x4 on images and videos that training never saw.

`python -m flashvsr_trt.export.demo.evaluate build/demo/run/weights.safetensors --videos FOLDER --out build/demo/eval`
writes `table.md`, `table.json` and side-by-side pictures. Clips are pans, zooms and turns over the held-out
images, and the first frames of each video; low-resolution input is their bicubic reduction, clean, or blurred,
noisy and compressed by H.264. The model runs in torch; `tests/data/demo/measure.py` measures a bundle as the
product runs it, in a third of the time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashvsr_trt.configs.contract import COLOUR_FIXES, FIRST_LATENTS, STEP_LATENTS
from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.configs.schedule import GRID, padded_frames, steps
from flashvsr_trt.export.demo import metrics
from flashvsr_trt.export.demo.checkpoint import load_weights
from flashvsr_trt.export.demo.config import COLOUR_FIX
from flashvsr_trt.export.demo.degrade import SCALE, clean, low_quality, low_resolution
from flashvsr_trt.export.demo.images import load
from flashvsr_trt.export.demo.model import DemoModel
from flashvsr_trt.export.demo.motion import Cameras, render
from flashvsr_trt.export.demo.resample import resize, round8
from flashvsr_trt.export.demo.ship import FOLDER
from flashvsr_trt.export.demo.validate import run

Upscale = Callable[[np.ndarray], np.ndarray]  # uint8 [T, h, w, 3] to [T, 4 h, 4 w, 3]

SIZE = (256, 384)
PATCH = 800
FRAMES = 33
SEED = 30_000
BLUR, NOISE, CRF = 1.2, 3.0, 24  # of the degraded set: pixels of the original, 8-bit levels, x264's


def cameras() -> Cameras:
    """Two paths: a slow pan, and a zoom with a turn and some shake."""
    return Cameras(
        scale=torch.tensor([1.0, 1.1]),
        velocity=torch.tensor([[2.3, 0.7], [-0.6, 1.1]]),
        zoom=torch.tensor([1.0, 0.994]),
        turn=torch.tensor([0.0, 0.004]),
        shake=torch.tensor([[0.0, 0.0], [1.5, 1.0]]),
        rate=torch.tensor([[0.3, 0.3], [0.5, 0.37]]),
    )


def image_clips(images: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 [T, H, W, 3]) of each held-out image and camera path."""
    for name, pixels in sorted(images.items()):
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        while min(image.shape[1:]) >= 2 * SIZE[1] + PATCH // 4:
            image = resize(image, image.shape[1] // 2, image.shape[2] // 2)
        rows, columns = (_mirrored(n) for n in image.shape[1:])
        patch = image[:, rows][:, :, columns].float()[None].expand(2, -1, -1, -1)
        for number, clip in enumerate(round8(render(patch, cameras(), FRAMES, SIZE))):
            yield f"{name} {number}", clip.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def _mirrored(size: int) -> Tensor:
    index = (torch.arange(PATCH) + (size - PATCH) // 2) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def video_clips(folder: Path, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """The first frames of each video of a folder, cut to multiples of 8 pixels."""
    for path in sorted(folder.glob("*.mp4")):
        with av.open(str(path)) as container:
            decoded = [f.to_ndarray(format="rgb24") for f, _ in zip(container.decode(video=0), range(frames))]  # noqa: B905
        height, width = (n // 8 * 8 for n in decoded[0].shape[:2])
        yield path.stem, np.stack(decoded)[:, :height, :width]


def reduced(truth: np.ndarray, *, degraded: bool) -> np.ndarray:
    """The low-resolution clip of uint8 [T, H, W, 3]: [T, H/4, W/4, 3]."""
    frames = torch.from_numpy(truth).permute(0, 3, 1, 2)[None]
    how = clean(1)
    if degraded:
        how = dataclasses.replace(
            how, blur=torch.full((1, 2), BLUR), noise=torch.full((1,), NOISE), crf=torch.full((1,), CRF)
        )
    low = low_resolution(frames, how, torch.Generator().manual_seed(SEED))[0]
    return low.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def bicubic(low: np.ndarray) -> np.ndarray:
    return low_quality(torch.from_numpy(low).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def torch_upscale(model: DemoModel, fix: str = COLOUR_FIX) -> Upscale:
    """The product's run in torch, in fp32: canvas and tail padded by repetition, cut back, colours fixed by `fix`."""

    def upscale(low: np.ndarray) -> np.ndarray:
        count, height, width = low.shape[0], SCALE * low.shape[1], SCALE * low.shape[2]
        frames = padded_frames(count)
        pad = ((0, frames - count), (0, -height % GRID), (0, -width % GRID), (0, 0))
        lq = torch.from_numpy(np.pad(bicubic(low), pad, mode="edge"))[None]
        latents = (FIRST_LATENTS, *[STEP_LATENTS] * (steps(frames) - 1))
        return run(model, lq, latents, cut=(height, width), fix=fix)[0, :count].numpy()

    return upscale


@dataclass(frozen=True)
class Measured:
    """Of one set of clips."""

    rows: list[dict[str, object]]  # PSNR, SSIM and flicker of bicubic and result, a row per clip
    shown: list[np.ndarray]  # bicubic, result and truth side by side, the middle frame of each clip


def measure(upscale: Upscale, clips: Iterable[tuple[str, np.ndarray]], *, degraded: bool) -> Measured:
    measured = Measured([], [])
    for name, truth in clips:
        low = reduced(truth, degraded=degraded)
        plain, result = bicubic(low), upscale(low)
        middle = len(truth) // 2
        measured.shown.append(np.concatenate([plain[middle], result[middle], truth[middle]], axis=1))
        row: dict[str, object] = {"clip": name, "degraded": degraded}
        original = torch.from_numpy(truth)
        for kind, pixels in (("bicubic", torch.from_numpy(plain)), ("result", torch.from_numpy(result))):
            row[f"{kind}_psnr"] = metrics.psnr(pixels, original).mean().item()
            row[f"{kind}_ssim"] = metrics.ssim(pixels, original).mean().item()
            row[f"{kind}_flicker"] = metrics.flicker(pixels, original).item()
        measured.rows.append(row)
        print(row, flush=True)
    return measured


def mean(rows: list[dict[str, object]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def table(sets: Mapping[str, list[dict[str, object]]]) -> str:
    """Means per set as a Markdown table."""
    lines = [
        "| set | clips | Y-PSNR bicubic | Y-PSNR demo | gain | SSIM bicubic | SSIM demo | gain | flicker / bicubic's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in sets.items():
        p, q = mean(rows, "bicubic_psnr"), mean(rows, "result_psnr")
        s, t = mean(rows, "bicubic_ssim"), mean(rows, "result_ssim")
        flicker = mean(rows, "result_flicker") / mean(rows, "bicubic_flicker")
        lines.append(
            f"| {name} | {len(rows)} | {p:.2f} | {q:.2f} | {q - p:+.2f} dB | {s:.4f} | {t:.4f} | {t - s:+.4f} "
            f"| {flicker:.2f} |"
        )
    return "\n".join(lines) + "\n"


def picture(shown: list[np.ndarray], path: Path) -> None:
    """The clips below each other, as a JPEG of full colour resolution."""
    width = max(row.shape[1] for row in shown)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in shown]
    Image.fromarray(np.concatenate(rows)).save(path, quality=90, subsampling=0)


def evaluate(upscale: Upscale, args: argparse.Namespace) -> None:
    """Measures `upscale` as `arguments` say, and writes tables and pictures."""
    args.out.mkdir(parents=True, exist_ok=True)
    images = load(args.images, args.split)
    clips = [clip for clip in image_clips(images) if not args.clips or clip[0] in args.clips]
    if not clips:
        raise UsageError(f"no clip {', '.join(args.clips)}", expected=f"an image's name and 0 or 1: {sorted(images)}")
    sets = {}
    for kind, degraded in (("clean", False), ("degraded", True)):
        of_images = measure(upscale, clips, degraded=degraded)
        sets[f"held-out images, {kind}"] = of_images.rows
        picture(of_images.shown, args.out / f"images-{kind}.jpg")
        if args.videos:
            of_videos = measure(upscale, video_clips(args.videos, args.frames), degraded=degraded)
            sets[f"videos, {kind}"] = of_videos.rows
            picture(of_videos.shown, args.out / f"videos-{kind}.jpg")
    (args.out / "table.json").write_text(json.dumps(sets, indent=1) + "\n")
    (args.out / "table.md").write_text(table(sets))
    print(table(sets))


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=FOLDER, help="bundle, or for torch weights.safetensors")
    parser.add_argument("--images", type=Path, default=Path("build/demo/images.zip"))
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="which held-out images")
    parser.add_argument("--clips", nargs="+", help='only these clips of images, such as "skimage/chelsea 0"')
    parser.add_argument("--videos", type=Path, help="folder of .mp4 files, for evaluation only")
    parser.add_argument("--fix", choices=COLOUR_FIXES, help="colour fix [the bundle's; of weights the demo model's]")
    parser.add_argument("--frames", type=int, default=33, help="of each video")
    parser.add_argument("--out", type=Path, default=Path("build/demo/eval"))
    return parser.parse_args()


def main() -> None:
    args = arguments(__doc__)
    evaluate(torch_upscale(DemoModel(load_weights(args.model)), args.fix or COLOUR_FIX), args)


if __name__ == "__main__":
    main()
