"""Times the convolution kernels on this GPU, layer by layer, beside cuDNN's, and compares them with float32: those of
the TCDecoder, and in float8 those of the LQ projector.

    python -m flashvsr_trt.plugins_trt.bench_convolve KERNELS [--canvas 768x1408] [--json FILE]

Needs torch. One step of 8 frames of the official sizes; random inputs, several sets in turn so that no cache holds
them. TFLOP/s count what the kernel computes: behind upsampling four taps, not nine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashvsr_trt.plugins_trt.bench_timing import median_ms
from flashvsr_trt.plugins_trt.kernels.driver import Driver, Kernel, load_kernels

if TYPE_CHECKING:
    from torch import Tensor

TILE, OUTPUTS = 16, 128  # of a tile: pixels a side, outputs; see csrc/kernels/convolve_sizes.hpp
WINDOW = (18, 18, 1)  # box of x behind the channels: pixels, lines, frames
CHANNELS = {False: 64, True: 128}  # of a box; in float8 or not
REPEATS, SETS = 20, 3
# ||out - ref|| / ||ref||: rounding of the result alone is 2.5e-4 in float16; sums of float8 keep about 13 bits.
WRONG = {False: 1e-3, True: 4e-2}
UNITS = (1 / 64, 1 / 64)  # what numbers of float8 stand for


@dataclass(frozen=True, kw_only=True)
class Layer:
    """`count` convolutions of a step, each of `frames` frames at 1 / `reduced` of the canvas."""

    name: str
    count: int
    frames: int
    reduced: int
    channels: int
    outputs: int
    sources: int = 1
    growth: int = 1
    side: int = 3
    adds: bool = False
    eighth: bool = False  # in float8, of x one pixel larger on every side, without ReLU

    @property
    def phases(self) -> int:
        return 4 if self.side == 2 else 1


def _blocks(level: int, frames: int, reduced: int, channels: int) -> tuple[Layer, ...]:
    size: dict[str, Any] = dict(count=3, frames=frames, reduced=reduced, channels=channels, outputs=channels)
    return (
        Layer(name=f"blocks {level}, past", sources=2, **size),
        Layer(name=f"blocks {level}, middle", **size),
        Layer(name=f"blocks {level}, add", adds=True, **size),
    )


DECODER = (
    Layer(name="first", count=1, frames=2, reduced=8, channels=832, outputs=512),
    Layer(name="second", count=1, frames=2, reduced=8, channels=512, outputs=512),
    *_blocks(0, 2, 8, 512),
    Layer(name="up 0", count=1, frames=2, reduced=8, channels=512, outputs=256, side=2),
    *_blocks(1, 2, 4, 256),
    Layer(name="up 1", count=1, frames=2, reduced=4, channels=256, outputs=128, growth=2, side=2),
    *_blocks(2, 4, 2, 128),
    Layer(name="up 2", count=4, frames=1, reduced=2, channels=128, outputs=128, growth=2, side=2),
    Layer(name="third", count=4, frames=2, reduced=1, channels=128, outputs=128),
)
PROJECTOR = (
    Layer(name="projector 1", count=1, frames=4, reduced=16, channels=4 * 768, outputs=2048, eighth=True),
    Layer(name="projector 2", count=1, frames=2, reduced=16, channels=4 * 2048, outputs=3072, eighth=True),
)


@dataclass(frozen=True)
class Case:
    """A layer's tensors: x [T, h, w, C], past [h, w, C], weight [phases * growth * N, side, side, sources * C]."""

    layer: Layer
    x: Tensor
    past: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    scales: Tensor
    out: Tensor

    @staticmethod
    def draw(layer: Layer, height: int, width: int, dtype: Any) -> Case:
        import torch

        height, width = height // layer.reduced, width // layer.reduced
        border, scale = (2 if layer.eighth else 0), (2 if layer.side == 2 else 1)
        inputs = layer.sources * layer.channels
        rows = layer.phases * layer.growth * layer.outputs

        def random(*shape: int, size: float = 1.0) -> Tensor:
            x = torch.randn(shape, device="cuda") * size
            return (x / UNITS[0]).clamp(-448, 448).to(torch.float8_e4m3fn) if layer.eighth else x.to(dtype)

        out_shape = (layer.frames * layer.growth, height * scale, width * scale, layer.outputs)
        return Case(
            layer,
            x=random(layer.frames, height + border, width + border, layer.channels),
            past=random(height, width, layer.channels),
            weight=random(rows, layer.side, layer.side, inputs, size=(inputs * layer.side**2) ** -0.5),
            bias=torch.randn(layer.outputs, device="cuda").to(dtype),
            residual=random(*out_shape) if layer.adds else None,
            scales=torch.tensor(UNITS, device="cuda"),
            out=torch.full(out_shape, float("nan"), dtype=dtype, device="cuda"),
        )

    def flop(self) -> float:
        frames, height, width, outputs = self.out.shape
        taps = self.weight[0].numel()
        return 2.0 * frames * height * width * outputs * taps

    def launch(self, kernel: Kernel, element: str, stream: int) -> None:
        layer = self.layer
        frames, lines, pixels, channels = self.x.shape
        rows, taps = self.weight.shape[0], self.weight[0].numel()
        across = CHANNELS[layer.eighth]
        kind = "uint8" if layer.eighth else element
        tensor_map = kernel.driver.tensor_map
        border = 2 if layer.eighth else 0
        height, width = lines - border, pixels - border
        tiles = frames * -(-height // TILE) * -(-width // TILE) * (rows // OUTPUTS)
        arguments: dict[str, Any] = dict(
            x=tensor_map(self.x.data_ptr(), kind, (channels, pixels, lines, frames), (across, *WINDOW)),
            weight=tensor_map(self.weight.data_ptr(), kind, (taps, rows), (across, OUTPUTS)),
            bias=self.bias.data_ptr() if layer.side == 3 else 0,
            out=self.out.data_ptr(),
            frames=frames,
            height=height,
            width=width,
            channels=channels,
            outputs=layer.outputs,
        )
        if layer.eighth:
            arguments["scales"] = self.scales.data_ptr()
        else:
            past = tensor_map(self.past.data_ptr(), kind, (channels, pixels, lines, 1), (across, *WINDOW))
            residual = 0 if self.residual is None else self.residual.data_ptr()
            arguments |= dict(past=past, residual=residual, sources=layer.sources, growth=layer.growth)
            arguments |= dict(side=layer.side, relu=1)
        kernel.launch((tiles, 1, 1), stream, **arguments)

    def expected(self, dtype: Any) -> Tensor:
        """By torch, in `dtype`."""
        import torch
        import torch.nn.functional as F

        x = self.x
        if self.layer.sources == 2:
            x = torch.cat([x, torch.cat([self.past[None], x[:-1]])], dim=3)
        x, weight, bias = (
            x.to(dtype).permute(0, 3, 1, 2),
            self.weight.to(dtype).permute(0, 3, 1, 2),
            self.bias.to(dtype),
        )
        if self.layer.eighth:
            return F.conv2d(x * UNITS[0], weight * UNITS[1], bias).permute(0, 2, 3, 1)
        if self.layer.side == 3:
            out = F.conv2d(x, weight, bias, padding=1).permute(0, 2, 3, 1)
            return F.relu(out if self.residual is None else out + self.residual)
        parts = [
            F.conv2d(F.pad(x, (1 - column, column, 1 - row, row)), kernel)
            for (row, column), kernel in zip(((0, 0), (0, 1), (1, 0), (1, 1)), weight.chunk(4), strict=True)
        ]
        out = torch.stack(parts, dim=-1).unflatten(-1, (2, 2)).unflatten(1, (self.layer.growth, -1))
        return F.relu(out.permute(0, 1, 3, 5, 4, 6, 2).reshape(self.out.shape))


def measure(kernel: Kernel, layer: Layer, height: int, width: int, element: str) -> dict[str, float]:
    """Milliseconds and TFLOP/s of one launch, cuDNN's milliseconds (channels last, benchmarked), and the error.

    Raises:
        SystemExit: the result is wrong.
    """
    import torch

    dtype = getattr(torch, element)
    stream = torch.cuda.current_stream().cuda_stream
    cases = [Case.draw(layer, height, width, dtype) for _ in range(SETS)]
    cases[0].launch(kernel, element, stream)
    reference = cases[0].expected(torch.float32)
    error = float((cases[0].out.float() - reference).norm() / reference.norm())
    if not error < WRONG[layer.eighth] * (8 if element == "bfloat16" else 1):
        raise SystemExit(f"{layer.name}, {element}: off by {error:.1e} of float32")
    del reference
    ms = median_ms([partial(case.launch, kernel, element, stream) for case in cases], REPEATS)
    library_ms = median_ms([partial(case.expected, dtype) for case in cases], REPEATS)
    return {"ms": ms, "tflops": cases[0].flop() / ms / 1e9, "cudnn_and_layout_ms": library_ms, "error": error}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", type=Path)
    parser.add_argument("--canvas", default="768x1408", help="HEIGHTxWIDTH")
    parser.add_argument("--element", default="float16", choices=("float16", "bfloat16"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    height, width = map(int, arguments.canvas.split("x"))
    torch.zeros(1, device="cuda")
    kernels = load_kernels(arguments.kernels, arguments.element, Driver())
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "canvas": arguments.canvas}
    for kernel, layers in (("convolve", DECODER), ("convolve8", PROJECTOR)):
        total = 0.0
        for layer in layers:
            figures = measure(kernels[kernel], layer, height, width, arguments.element)
            report[layer.name] = figures | {"count": layer.count}
            total += layer.count * figures["ms"]
            shown = {key: round(value, 4) for key, value in figures.items()}
            print(f"{layer.count} x {layer.name:<18}", shown, flush=True)
        print(f"{kernel}, a step's: {total:.2f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
