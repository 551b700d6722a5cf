"""Trains the demo model: `python -m flashvsr_trt.export.demo.train`, after `...demo.images` made the images.

Seeded and resumable: run the same command again. `--seconds` ends a call early with everything saved, so a long
training can be cut into several calls. A training of `--iterations` gives the same bits however it is cut, on one
machine. One of `--minutes` ends on time on any machine, its learning rate at 0; `--finish` ends it with this call:

    ... --minutes 18 --seconds 540, then ... --minutes 18 --seconds 540 --finish

`--tail 1` fine-tunes the decoder alone, as the last training of the shipped model did, `--tail 15` its end.
docs/demo-model.md has the model's history.

Writes into `--out`:

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
from pathlib import Path

import torch
from torch import Tensor

from flashvsr_trt.configs.errors import FlashVSRError, UsageError
from flashvsr_trt.export.demo import checkpoint
from flashvsr_trt.export.demo.batches import USES
from flashvsr_trt.export.demo.config import FINE, Training
from flashvsr_trt.export.demo.images import load
from flashvsr_trt.export.demo.trainer import Trainer
from flashvsr_trt.export.demo.validate import Validation

SAVING = 20.0  # seconds at the end of a call: the last validation, the files


def train(trainer: Trainer, validation: Validation, out: Path, *, seconds: float, every: int) -> bool:
    """Runs until the training is over (True) or `seconds` are (False); saves in both cases.

    Raises:
        FlashVSRError: the loss is no longer a number; nothing is saved over what was.
    """
    out.mkdir(parents=True, exist_ok=True)
    begin, first = time.monotonic(), trainer.iteration
    losses: list[Tensor] = []
    while trainer.progress() < 1 and time.monotonic() - begin < seconds:
        losses.append(trainer.step())
        if trainer.iteration % every == 0:
            _report(trainer, validation, losses)
    if losses:
        _report(trainer, validation, losses)
    pace = (trainer.iteration - first) / max(time.monotonic() - begin, 1e-9)
    print(f"{pace:.2f} iterations a second", flush=True)
    _save(trainer, validation, out)
    return trainer.progress() >= 1


def _report(trainer: Trainer, validation: Validation, losses: list[Tensor]) -> None:
    """A point of the curve; empties `losses`."""
    mean = float(torch.stack(losses).mean())  # waits for the device
    losses.clear()
    if not math.isfinite(mean):
        raise FlashVSRError(f"the loss is {mean} near iteration {trainer.iteration}", todo="go on with a lower --rate")
    point = {
        "iteration": trainer.iteration,
        "seconds": round(trainer.seconds, 1),
        "loss": round(mean, 5),
        "rate": round(trainer.rate(), 7),
        **{k: round(v, 4) for k, v in validation(trainer.average).items()},
    }
    trainer.curve.append(point)
    print(" ".join(f"{key}={value}" for key, value in point.items()), flush=True)


def _save(trainer: Trainer, validation: Validation, out: Path) -> None:
    checkpoint.save_state(out / "state.pt", trainer.state_dict())
    checkpoint.save_weights(out / "weights.safetensors", trainer.average.networks())
    checkpoint.write_curve(out / "curve.json", trainer.settings, trainer.curve)
    validation.picture(trainer.average, out / "sample.png")


def main() -> None:
    begin = time.monotonic()
    args = _arguments()
    device = torch.device(args.device)
    # Shapes are fixed: the time for trying out convolution algorithms is well spent.
    torch.backends.cudnn.benchmark = True
    # TF32, not bfloat16: pixels pass through the decoder with an offset, and 8 bits of mantissa round them to a level.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    settings = _settings(args)
    start = checkpoint.load_weights(args.start) if args.start else None
    images = load(args.images, "train")
    trainer = Trainer(settings, images, device, start, graph=not args.no_graph, workers=args.workers)
    if (args.out / "state.pt").is_file():
        trainer.load_state_dict(checkpoint.load_state(args.out / "state.pt", device))
        print(f"resumed at iteration {trainer.iteration}, {trainer.progress():.0%}", flush=True)
    if args.compile:
        for name in ("tc_decoder", "lq_proj"):
            getattr(trainer.model, name).compile(dynamic=False)
    validation = Validation(load(args.images, "validation"), 256, device)
    left = args.seconds - SAVING - (time.monotonic() - begin)
    if args.finish:
        trainer.end_in(left)
    print(dataclasses.asdict(trainer.settings), flush=True)
    done = train(trainer, validation, args.out, seconds=left, every=args.every)
    print("finished" if done else f"stopped at {trainer.progress():.1%}: run again to go on", flush=True)


def _settings(args: argparse.Namespace) -> Training:
    if args.uses and not args.workers:
        raise UsageError("--uses alone", expected="--workers, whose batches are used again")
    if args.finish and not (args.minutes and math.isfinite(args.seconds)):
        raise UsageError("--finish alone", expected="--minutes, of the whole training, and --seconds, of this call")
    chosen = {
        "seed": args.seed,
        "iterations": args.iterations,
        "seconds": args.minutes and 60 * args.minutes,
        "rate": args.rate,
        "degraded": args.degraded,
        "tail": args.tail,
        "uses": args.uses,
        "alike": args.alike or None,
        "stages": None if args.tail is None else FINE,
    }
    settings = dataclasses.replace(Training(), **{k: v for k, v in chosen.items() if v is not None})
    named = {"psnr": args.psnr, "temporal": args.temporal, "coarse": args.coarse}
    weights = {k: v for k, v in named.items() if v is not None}
    settings = dataclasses.replace(settings, loss=dataclasses.replace(settings.loss, **weights))
    sizes = {k: v for k, v in (("batch", args.batch), ("side", args.side)) if v is not None}
    return dataclasses.replace(settings, stages=tuple(dataclasses.replace(s, **sizes) for s in settings.stages))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("build/demo/images.zip"))
    parser.add_argument("--out", type=Path, default=Path("build/demo/run"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--degraded", type=float, help="share of degraded clips")
    parser.add_argument("--psnr", type=float, help="weight of the PSNR in the loss")
    parser.add_argument("--temporal", type=float, help="weight of changes in time in the loss")
    parser.add_argument("--coarse", type=float, help="weight of means over cells of pixels in the loss")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="make batches by N processes, on the CPU")
    parser.add_argument("--uses", type=int, choices=range(1, USES + 1), help="of each batch, turned; with --workers")
    parser.add_argument("--tail", type=int, metavar="LAYER", help="train only the decoder's layers from this one on")
    parser.add_argument("--batch", type=int, help="clips of an iteration, in all stages")
    parser.add_argument("--side", type=int, help="of the clips, in pixels, a multiple of 128, in all stages")
    parser.add_argument("--alike", action="store_true", help="every clip of a batch pulls equally")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--iterations", type=int, help="of the whole training, over all calls")
    length.add_argument("--minutes", type=float, help="of the whole training, over all calls")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of this call")
    parser.add_argument("--finish", action="store_true", help="end the training with this call, annealed")
    parser.add_argument("--every", type=int, default=500, help="iterations between validations")
    parser.add_argument(
        "--start", type=Path, help="weights.safetensors or bundle to begin with instead of initial weights"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the convolutional networks")
    parser.add_argument("--no-graph", action="store_true", help="launch every kernel by itself instead of CUDA graphs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
