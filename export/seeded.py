"""Seeded random weights in the official layout, for tests, benchmarks and the demonstration of an export.

Activations stay of order one through all layers, so 16-bit types neither overflow nor lose the picture; the
picture content means nothing.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from flashvsr_trt.export.layouts import DitSizes, LqSizes, Shapes, TcSizes, VaeSizes
from flashvsr_trt.export.weights import (
    DIT_FILE,
    LQ_FILE,
    PROMPT_FILE,
    TC_FILE,
    VAE_FILES,
    Weights,
    write_note,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a model; `vae` None leaves the VAE out."""

    dit: DitSizes
    lq: LqSizes
    tc: TcSizes
    vae: VaeSizes | None
    prompt_tokens: int


SMALL = Config(
    dit=DitSizes(dim=256, layers=2, ffn=512, text=64, frequencies=64),
    lq=LqSizes(hidden=(32, 48), dim=256),
    tc=TcSizes(channels=(32, 16, 16, 16)),
    vae=VaeSizes(channels=(32, 32, 16, 8)),
    prompt_tokens=32,
)
REAL = Config(
    dit=DitSizes(dim=1536, layers=30, ffn=8960, text=4096, frequencies=256),
    lq=LqSizes(hidden=(2048, 3072), dim=1536),
    tc=TcSizes(channels=(512, 256, 128, 128)),
    vae=VaeSizes(channels=(384, 384, 192, 96)),
    prompt_tokens=512,
)
CONFIGS = {"small": SMALL, "real": REAL}

# Gain of a weight by the end of its name: the variance that it gives to the output for inputs of variance 1.
GAINS = {
    "time_projection.1.weight": 0.1,  # modulations of about 0.2
    "head.head.weight": 0.25,
    "conv.0.weight": 2.0,  # a ReLU follows
    "conv.2.weight": 2.0,
    "conv.4.weight": 0.1,  # a MemBlock's last: a small change to its input
    "decoder.24.weight": 2.0,
    "decoder.26.weight": 1.0,
    "residual.6.weight": 0.1,
    "head.2.weight": 0.25,
}
OFFSETS = {"decoder.26.bias": 0.5}  # TCDecoder's output is in [0, 1]
NORM_ENDS = ("gamma", "norm_q.weight", "norm_k.weight", "norm3.weight")


def random_weights(config: Config, seed: int, *, version: str = "v1.1", dtype: torch.dtype = torch.float16) -> Weights:
    """A model with random weights, as `weights.load` would return it; 2 bytes a parameter in fp16.

    Each tensor is drawn from a generator keyed by the seed and its own name, so a model with more layers has
    the first ones in common.
    """

    def state(file: str, shapes: Shapes) -> dict[str, Tensor]:
        return {name: _tensor(f"{file}/{name}", shape, seed, dtype) for name, shape in shapes.items()}

    prompt_shape = (1, config.prompt_tokens, config.dit.text)
    return Weights(
        version=version,
        dit=state(DIT_FILE, config.dit.shapes()),
        lq_proj=state(LQ_FILE, config.lq.shapes()),
        tc_decoder=state(TC_FILE, config.tc.shapes()),
        prompt=_normal(PROMPT_FILE, prompt_shape, seed, dtype),
        vae=state(VAE_FILES[0], config.vae.shapes()) if config.vae else None,
    )


def write(weights: Weights, folder: Path) -> None:
    """Writes the official files and the note that says the version."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights.dit, folder / DIT_FILE)
    torch.save(weights.lq_proj, folder / LQ_FILE)
    torch.save(weights.tc_decoder, folder / TC_FILE)
    torch.save(weights.prompt, folder / PROMPT_FILE)
    if weights.vae:
        torch.save(weights.vae, folder / VAE_FILES[0])
    write_note(folder, weights.version)


def _normal(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    # The CPU generator takes 32 bits of a seed, so both keys go into one hash.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    return torch.empty(shape, dtype=dtype).normal_(generator=generator)  # in place: no fp32 copy


def _tensor(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    x = _normal(name, shape, seed, dtype)
    if name.endswith(NORM_ENDS):
        return x.mul_(0.1).add_(1)
    if name.endswith("modulation"):
        return x.mul_(shape[-1] ** -0.5)
    if name.endswith("bias"):
        return x.mul_(0.02).add_(_by_end(OFFSETS, name, 0.0))
    fan_in = math.prod(shape[1:])
    return x.mul_(math.sqrt(_by_end(GAINS, name, 1.0) / fan_in))


def _by_end(table: dict[str, float], name: str, default: float) -> float:
    return next((value for end, value in table.items() if name.endswith(end)), default)
