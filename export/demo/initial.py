"""Initial weights: a network that already passes the picture through, so that training starts near bicubic.

Random weights would have to learn first how to carry 768 condition channels through narrow layers and how to
put them back into place. Placing is the hard part: nearest upsampling followed by a 3x3 convolution acts alike
on every cell, so it cannot spread a cell's channels over the pixels below it (a depth-to-space) unless
something tells odd cells from even ones. The DiT can: its head has weights per position in a 2x2 patch. So

- the DiT returns the noise, which cancels in latents = noise - velocity, and a checkerboard of +-1 in the latent
  channels 0 (columns) and 1 (rows);
- the decoder gathers each source pixel back from its 4x4 copies (2x2 source pixels of 4 frames a cell), keeps
  them positive by an offset so that ReLU lets them pass, and after the first upsampling picks one of the 2x2 by
  the checkerboard; two more upsamplings interpolate.

All other channels start random and touch the picture by small weights only. Every weight is trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flashvsr_trt.configs.contract import LATENT_CHANNELS
from flashvsr_trt.export.demo.config import TEXT_TOKENS, ModelSizes
from flashvsr_trt.export.demo.networks import Networks, of_official
from flashvsr_trt.export.layouts import TC_CONDITION, DitSizes, Shapes, TcSizes

State = dict[str, Tensor]

OFFSET = 1.2  # added to values of [-1, 1] so that they survive ReLU
CONSTANT = 4.0  # in the DiT's residual stream: makes the layer norm's divisor the same for every token
CLAMP = 3 * math.tanh(1 / 3)  # what the decoder's clamp makes of 1
GATE = 2.6  # more than any value with its offset: subtracting it closes a ReLU
# Least squares against PIL's bicubic: recovering a source pixel from its four enlarged ones, and enlarging.
GATHER = (-0.08, 0.58, 0.58, -0.08)
SPREAD = (0.2, 0.6, 0.2)
SHARPEN = (-0.05, 1.1, -0.05)

FRAMES, SUB, COLOURS = 4, 2, 3  # of a latent cell: frames, source pixels a side, colours
# Channels of the decoder's levels that have a meaning at the start.
VALUES = FRAMES * SUB * SUB * COLOURS
ODD_X, ODD_Y, ONE = VALUES, VALUES + 1, VALUES + 2  # 1 in odd columns, 1 in odd rows, 1
ABOVE_X, ABOVE_Y = ONE + 1, ONE + 2  # between decoder.1 and .3: the checkerboard's excess over 1
STEP_X, STEP_Y = ONE + 1, ONE + 2  # level 1, before its first block: sign changes of the checkerboard
PIXELS = STEP_Y + 1  # level 1: the 12 values of one source pixel
PHASE_X, PHASE_Y = PIXELS + FRAMES * COLOURS, PIXELS + FRAMES * COLOURS + 1
LEVELS = (ONE + 1, PHASE_Y + 1, 7, 4)  # channels with a meaning, per level
NEEDED = (ABOVE_Y + 1, *LEVELS[1:])
ONE_2, ONE_3 = 6, 3  # the constant's channel in levels 2 and 3


def networks(sizes: ModelSizes, seed: int) -> Networks:
    """The networks to start a training with."""
    state, prompt = official(sizes, seed)
    return of_official(state["lq"], state["dit"], state["tc"], prompt)


def official(sizes: ModelSizes, seed: int) -> tuple[dict[str, State], Tensor]:
    """As checkpoints `dit`, `lq`, `tc` in the official layout, and the prompt's embedding [1, TEXT_TOKENS, text
    width]."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, TEXT_TOKENS, sizes.dit.text, generator=generator)
    state = {name: _random(shapes, generator) for name, shapes in sizes.shapes().items()}
    _dit(state["dit"], sizes.dit)
    state["lq"]["linear_layers.0.weight"] *= 0.1
    _decoder(state["tc"], sizes.tc)
    return state, context


def _random(shapes: Shapes, generator: torch.Generator) -> State:
    """Normal with variance 1/fan-in, norms 1, biases and modulations 0."""
    out = {}
    for name, shape in shapes.items():
        if name.endswith(("bias", "modulation")):
            out[name] = torch.zeros(shape)
        elif "norm" in name:
            out[name] = torch.ones(shape)
        else:
            out[name] = torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
    return out


def _dit(state: State, sizes: DitSizes) -> None:
    patch = 4 * LATENT_CHANNELS
    dim = sizes.dim
    # The noise enters twice with both signs and the constant likewise: their mean is 0, as the layer norm's.
    embed = torch.zeros(dim, patch)
    embed[:patch], embed[patch : 2 * patch] = torch.eye(patch), -torch.eye(patch)
    state["patch_embedding.weight"] = embed.reshape(state["patch_embedding.weight"].shape)
    bias = state["patch_embedding.bias"]
    bias[2 * patch : 3 * patch], bias[3 * patch : 4 * patch] = CONSTANT, -CONSTANT
    divisor = math.sqrt(2 * patch * (1 + CONSTANT**2) / dim)

    head, head_bias = state["head.head.weight"], state["head.head.bias"]
    head.zero_()
    for y in range(2):
        for x in range(2):
            for channel in range(LATENT_CHANNELS):
                row, column = (y * 2 + x) * LATENT_CHANNELS + channel, (channel * 2 + y) * 2 + x
                head[row, column], head[row, patch + column] = divisor / 2, -divisor / 2
            head_bias[(y * 2 + x) * LATENT_CHANNELS] = 1 - 2 * x
            head_bias[(y * 2 + x) * LATENT_CHANNELS + 1] = 1 - 2 * y
    state["time_embedding.2.weight"].zero_()
    for layer in range(sizes.layers):
        block = f"blocks.{layer}"
        state[f"{block}.modulation"][:, 2] = state[f"{block}.modulation"][:, 5] = 1  # the gates
        for name in ("self_attn.o", "cross_attn.o", "ffn.2"):
            state[f"{block}.{name}.weight"] *= 0.02


def _decoder(state: State, sizes: TcSizes) -> None:
    if any(have < need for have, need in zip(sizes.channels, NEEDED, strict=True)):
        raise ValueError(f"decoder channels {sizes.channels}, expected at least {NEEDED}")
    for name in state:
        # ReLU halves the variance; residual branches start small.
        state[name] *= 0.1 * 2**0.5 if name.endswith("conv.4.weight") else 2**0.5
    for level, blocks in enumerate((range(5, 8), range(11, 14), range(17, 20))):
        for block in blocks:
            state[f"decoder.{block}.conv.4.weight"][: LEVELS[level]] = 0
    _gather(state)
    _upsample_first(state)
    _phase(state)
    _pick(state)
    _upsample_second(state)
    _upsample_third(state)


def _value(frame: int, y: int, x: int, colour: int) -> int:
    return ((frame * SUB + y) * SUB + x) * COLOURS + colour


def _values() -> list[tuple[int, int, int, int]]:
    return [(f, y, x, c) for f in range(FRAMES) for y in range(SUB) for x in range(SUB) for c in range(COLOURS)]


def _gather(state: State) -> None:
    """decoder.1 and .3: the 2x2 source pixels of each of the 4 frames, the checkerboard as 0 and 1, a constant."""
    weight, bias = state["decoder.1.weight"], state["decoder.1.bias"]
    weight[: ABOVE_Y + 1] = 0
    taps = torch.tensor(GATHER)
    square = torch.outer(taps, taps) / CLAMP
    for frame, y, x, colour in _values():
        cell = weight[_value(frame, y, x, colour), :TC_CONDITION, 1, 1].reshape(COLOURS, FRAMES, 8, 8)
        cell[colour, frame, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = square
    bias[:VALUES] = OFFSET
    for latent, (odd, above) in enumerate(((ODD_X, ABOVE_X), (ODD_Y, ABOVE_Y))):
        # 2 x + 1/2 of a latent near +-1, cut to 0..1 as the difference of two ReLUs: exact whatever the noise.
        weight[odd, TC_CONDITION + latent, 1, 1] = weight[above, TC_CONDITION + latent, 1, 1] = 2
        bias[odd], bias[above] = 0.5, -0.5
    bias[ONE] = 1
    second = state["decoder.3.weight"]
    _copy(second, {i: i for i in range(LEVELS[0])})
    second[ODD_X, ABOVE_X, 1, 1] = second[ODD_Y, ABOVE_Y, 1, 1] = -1


def _copy(weight: Tensor, sources: dict[int, int], taps: tuple[float, ...] = (0.0, 1.0, 0.0)) -> None:
    """Output channel o = input channel sources[o], filtered by the separable kernel `taps`."""
    line = torch.tensor(taps)
    kernel = torch.outer(line, line) if weight.shape[-1] == 3 else torch.ones(1, 1)
    for out, source in sources.items():
        weight[out] = 0
        weight[out, source] = kernel


def _upsample_first(state: State) -> None:
    """decoder.9 and .10: every cell below has its parent's channels, and where the checkerboard turns."""
    meaning = {i: i for i in range(LEVELS[0])}
    _copy(state["decoder.9.conv.weight"], meaning)
    weight = state["decoder.10.weight"]
    weight[: LEVELS[1]] = 0
    _copy(weight, meaning)
    weight[STEP_X, ODD_X, 1] = torch.tensor([-1.0, 0.0, 1.0])
    weight[STEP_Y, ODD_Y, :, 1] = torch.tensor([-1.0, 0.0, 1.0])


def _phase(state: State) -> None:
    """decoder.11: in which half of its parent a cell lies, as 0 or 1, per axis.

    In an even parent the step is -1 in the first half and +1 in the second, in an odd one the other way round.
    """
    block = "decoder.11.conv"
    first, second, third = (state[f"{block}.{i}.weight"] for i in (0, 2, 4))
    first_bias, second_bias = state[f"{block}.0.bias"], state[f"{block}.2.bias"]
    first[:4] = second[:4] = 0
    for axis, (step, odd, phase) in enumerate(((STEP_X, ODD_X, PHASE_X), (STEP_Y, ODD_Y, PHASE_Y))):
        even_parent, odd_parent = 2 * axis, 2 * axis + 1
        first[even_parent, step, 1, 1], first[even_parent, odd, 1, 1] = 1, -2
        first[odd_parent, step, 1, 1], first[odd_parent, odd, 1, 1] = -1, 2
        first_bias[odd_parent] = -2
        _saturate(second, second_bias, (even_parent, odd_parent), 2 * axis)
        third[phase, 2 * axis, 1, 1], third[phase, 2 * axis + 1, 1, 1] = 1, -1


def _saturate(weight: Tensor, bias: Tensor, sources: tuple[int, ...], out: int) -> None:
    """Output channels `out` and `out` + 1 whose difference, behind ReLU, is the sum of the sources cut to 0..1.

    Exact for sums within 1/4 of 0 or 1. Without it, training would have to keep everything before the choice
    of a phase still to a few thousandths: errors of the phase would be multiplied by GATE.
    """
    weight[out : out + 2] = 0
    for source in sources:
        weight[out : out + 2, source, 1, 1] = 2
    bias[out], bias[out + 1] = -0.5, -1.5


def _pick(state: State) -> None:
    """decoder.12: of its parent's 2x2 source pixels, a cell keeps the one at its own place: 12 values."""
    block = "decoder.12.conv"
    first, second, third = (state[f"{block}.{i}.weight"] for i in (0, 2, 4))
    first_bias, second_bias = state[f"{block}.0.bias"], state[f"{block}.2.bias"]
    _copy(first, {i: i for i in range(VALUES)})
    for axis, phase in enumerate((PHASE_X, PHASE_Y)):
        _saturate(first, first_bias, (phase,), VALUES + 2 * axis)
    second[:VALUES] = 0
    for frame, y, x, colour in _values():
        i = _value(frame, y, x, colour)
        second[i, i, 1, 1] = 1
        for axis, wanted in enumerate((x, y)):
            sign = 1 if wanted else -1
            second[i, VALUES + 2 * axis, 1, 1], second[i, VALUES + 2 * axis + 1, 1, 1] = (
                GATE * sign,
                -GATE * sign,
            )
            second_bias[i] -= GATE * wanted
        third[PIXELS + frame * COLOURS + colour, i, 1, 1] = 1


def _upsample_second(state: State) -> None:
    """decoder.15 and .16: two frames go to each half of time, enlarged by two."""
    weight = state["decoder.15.conv.weight"]
    channels = weight.shape[1]
    pair = 2 * COLOURS
    for group in range(2):
        sources = {i: i for i in range(LEVELS[1])}
        sources |= {PIXELS + i: PIXELS + (group * pair + i) % (2 * pair) for i in range(2 * pair)}
        _copy(weight, {group * channels + out: source for out, source in sources.items()})
    _copy(state["decoder.16.weight"], {i: PIXELS + i for i in range(pair)} | {ONE_2: ONE}, SPREAD)


def _upsample_third(state: State) -> None:
    """decoder.21 to .26: one frame each, enlarged by two; the offset is taken off again."""
    weight = state["decoder.21.conv.weight"]
    channels = weight.shape[1]
    pair = 2 * COLOURS
    for group in range(2):
        sources = {i: (group * COLOURS + i) % pair for i in range(pair)} | {ONE_2: ONE_2}
        _copy(weight, {group * channels + out: source for out, source in sources.items()})
    _copy(state["decoder.22.weight"], {i: i for i in range(COLOURS)} | {ONE_3: ONE_2}, SPREAD)
    _copy(state["decoder.24.weight"], {i: i for i in range(LEVELS[3])}, SHARPEN)
    last = state["decoder.26.weight"]
    last.zero_()
    # The decoder's output is doubled, minus 1.
    for colour in range(COLOURS):
        last[colour, colour, 1, 1], last[colour, ONE_3, 1, 1] = 0.5, -0.5 * OFFSET
    state["decoder.26.bias"][:] = 0.5
