"""Floating-point operations of one steady step (8 frames), by part: what its networks must do, whoever runs them.

A product and its addition count as two. Counted are matrix products and convolutions as the graphs of an export
state them (TGrow before the upsampling); norms, activations, rotation and the colour fix move bytes, they do not
compute. Ways to need fewer operations for the same numbers show as a higher rate.
"""

from __future__ import annotations

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import (
    FIRST_SLABS,
    HEAD_DIM,
    LATENT_CHANNELS,
    LATENT_FRAMES,
    STEP_LATENTS,
    TOKENS_PER_WINDOW,
    Sizes,
)
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import Parameters

LINEAR, ATTENTION = "dit.linear", "dit.attention"  # parts of the graph dit
_KERNEL = 9  # taps of a 3x3 convolution
_LQ_TAPS = 4 * _KERNEL
_LQ_FEATURES = 3 * 16 * 16
_TC_CONDITION = 3 * LATENT_FRAMES * 8 * 8
_TC_GROWTH = (1, 2, 2)  # frames out per frame in, of the three stages


def step_flops(manifest: Manifest, height: int, width: int, parameters: Parameters) -> dict[str, float]:
    """Operations of one steady step on a canvas of `height` x `width`, by graph; those of `dit` also by part.

    The DiT's linear part is left out where the weights' size does not tell their number: in float32 bundles, which
    may be stored in halves.
    """
    sizes = manifest.sizes
    flops = {
        "lq_proj": _lq_proj(sizes, height, width),
        ATTENTION: _attention(sizes, height, width, parameters),
    }
    if len(sizes.tc_memory) == 3 * len(_TC_GROWTH):
        flops["tc_decoder"] = _tc_decoder(sizes, height, width)
    if manifest.precision != "fp32" and "dit.bin" in manifest.files:
        tokens = STEP_LATENTS * (height // 16) * (width // 16)
        # Each number of the files multiplies each token once: weights, and the prompt's keys and values.
        eighths = manifest.files["dit8.bin"].bytes if "dit8.bin" in manifest.files else 0
        flops[LINEAR] = 2.0 * tokens * (manifest.files["dit.bin"].bytes // 2 + eighths)
        flops["dit"] = flops[LINEAR] + flops[ATTENTION]
    return flops


def kept_blocks(height: int, width: int, parameters: Parameters) -> tuple[int, int]:
    """Pairs of query and key window that a head attends to in a steady step, and how many there are."""
    windows = (height // schedule.GRID) * (width // schedule.GRID)
    cached = schedule.cached_slabs(FIRST_SLABS, parameters.kv_ratio)
    for _ in range(FIRST_SLABS + int(parameters.kv_ratio)):  # until it has settled
        cached = schedule.cached_slabs(cached + 1, parameters.kv_ratio)
    pairs = windows * windows * (cached + 1)
    return min(schedule.topk(height, width, parameters.sparse_ratio), pairs - 1), pairs


def _attention(sizes: Sizes, height: int, width: int, parameters: Parameters) -> float:
    kept, _ = kept_blocks(height, width, parameters)
    return 4.0 * TOKENS_PER_WINDOW**2 * HEAD_DIM * kept * sizes.heads * sizes.layers


def _lq_proj(sizes: Sizes, height: int, width: int) -> float:
    """conv1 gives 4 images a step and conv2 2, of one pixel a token; the last layer is linear."""
    pixels, (one, two) = (height // 16) * (width // 16), sizes.lq_hidden
    first = 2 * STEP_LATENTS * _LQ_FEATURES * one * _LQ_TAPS
    second = STEP_LATENTS * (one * two * _LQ_TAPS + two * sizes.dim)
    return 2.0 * pixels * (first + second)


def _tc_decoder(sizes: Sizes, height: int, width: int) -> float:
    """The last stage has as many channels as the third, as in both published versions."""
    channels = [sizes.tc_memory[block][0] for block in (0, 3, 6)]
    channels.append(channels[-1])
    pixels, frames = (height // 8) * (width // 8), STEP_LATENTS
    total = _KERNEL * frames * pixels * channels[0] * (_TC_CONDITION + LATENT_CHANNELS + channels[0])
    for growth, wide, narrow in zip(_TC_GROWTH, channels[:3], channels[1:], strict=True):
        total += frames * pixels * wide * wide * (3 * 4 * _KERNEL + growth)  # MemBlocks, TGrow
        frames, pixels = frames * growth, 4 * pixels
        total += _KERNEL * frames * pixels * wide * narrow
    return 2.0 * (total + _KERNEL * frames * pixels * channels[3] * (channels[3] + 3))
