"""Tensor names and shapes of the public FlashVSR checkpoints, and the sizes read off them.

One owner for three readers: the loader checks files against these tables, the seeded weights are drawn from
them, and the networks are built to the sizes. Every size comes from a shape, never from a file or key name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from flashvsr_trt.configs.contract import HEAD_DIM, LATENT_CHANNELS
from flashvsr_trt.configs.errors import WeightsError

State = Mapping[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]

LQ_UNSHUFFLE = 16  # pixels of a token's side
LQ_FEATURES = 3 * LQ_UNSHUFFLE**2
TC_CONDITION = 3 * 4 * 8 * 8  # 4 LQ frames of 8x8 pixels beside each latent cell
TC_STAGES = ((5, 1), (11, 2), (17, 2))  # first MemBlock's index and frames out per frame in, per stage
VAE_STAGE_BLOCKS = 3
VAE_CONTEXT = 2  # frames that a causal convolution remembers


def _shape(state: State, name: str, what: str) -> tuple[int, ...]:
    if name not in state:
        raise WeightsError(f"{what}: no tensor {name}", expected="a checkpoint in the official layout")
    return tuple(state[name].shape)


def _count(state: State, prefix: str) -> int:
    """How many numbers n there are in names `prefix`n.…"""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


@dataclass(frozen=True, kw_only=True)
class DitSizes:
    """Sizes of the DiT: `dim` channels, `layers` blocks, `ffn` hidden, `text` and `frequencies` input widths."""

    dim: int
    layers: int
    ffn: int
    text: int
    frequencies: int

    @staticmethod
    def of(state: State) -> DitSizes:
        """WeightsError where a tensor that tells a size is missing or heads are not 128 wide."""
        what = "DiT"
        dim, frequencies = _shape(state, "time_embedding.0.weight", what)
        if dim % HEAD_DIM:
            raise WeightsError(f"{what}: {dim} channels", expected=f"a multiple of the head width {HEAD_DIM}")
        return DitSizes(
            dim=dim,
            layers=_count(state, "blocks."),
            ffn=_shape(state, "blocks.0.ffn.0.weight", what)[0],
            text=_shape(state, "text_embedding.0.weight", what)[1],
            frequencies=frequencies,
        )

    @property
    def heads(self) -> int:
        return self.dim // HEAD_DIM

    def shapes(self) -> Shapes:
        dim = self.dim
        out: Shapes = {
            "patch_embedding.weight": (dim, LATENT_CHANNELS, 1, 2, 2),
            "patch_embedding.bias": (dim,),
            **_linear("text_embedding.0", dim, self.text),
            **_linear("text_embedding.2", dim, dim),
            **_linear("time_embedding.0", dim, self.frequencies),
            **_linear("time_embedding.2", dim, dim),
            **_linear("time_projection.1", 6 * dim, dim),
            "head.modulation": (1, 2, dim),
            **_linear("head.head", 4 * LATENT_CHANNELS, dim),
        }
        for layer in range(self.layers):
            block = f"blocks.{layer}"
            out[f"{block}.modulation"] = (1, 6, dim)
            for attention in ("self_attn", "cross_attn"):
                for part in ("q", "k", "v", "o"):
                    out |= _linear(f"{block}.{attention}.{part}", dim, dim)
                for part in ("norm_q", "norm_k"):
                    out[f"{block}.{attention}.{part}.weight"] = (dim,)
            out |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
            out |= _linear(f"{block}.ffn.0", self.ffn, dim)
            out |= _linear(f"{block}.ffn.2", dim, self.ffn)
        return out


@dataclass(frozen=True, kw_only=True)
class LqSizes:
    """Sizes of the LQ projector: channels after conv1 and conv2, and the DiT's width."""

    hidden: tuple[int, int]
    dim: int

    @staticmethod
    def of(state: State) -> LqSizes:
        what = "LQ projector"
        hidden = (_shape(state, "conv1.weight", what)[0], _shape(state, "conv2.weight", what)[0])
        return LqSizes(hidden=hidden, dim=_shape(state, "linear_layers.0.weight", what)[0])

    def shapes(self) -> Shapes:
        one, two = self.hidden
        return {
            "conv1.weight": (one, LQ_FEATURES, 4, 3, 3),
            "conv1.bias": (one,),
            "norm1.gamma": (one, 1, 1, 1),
            "conv2.weight": (two, one, 4, 3, 3),
            "conv2.bias": (two,),
            "norm2.gamma": (two, 1, 1, 1),
            **_linear("linear_layers.0", self.dim, two),
        }


@dataclass(frozen=True, kw_only=True)
class TcSizes:
    """Sizes of TCDecoder: channels of its four resolutions, from an eighth of the picture to all of it."""

    channels: tuple[int, int, int, int]

    @staticmethod
    def of(state: State) -> TcSizes:
        names = ("decoder.1.weight", "decoder.10.weight", "decoder.16.weight", "decoder.22.weight")
        one, two, three, four = (_shape(state, name, "TCDecoder")[0] for name in names)
        return TcSizes(channels=(one, two, three, four))

    def shapes(self) -> Shapes:
        first = self.channels[0]
        out: Shapes = {
            "decoder.1.weight": (first, TC_CONDITION + LATENT_CHANNELS, 3, 3),
            "decoder.1.bias": (first,),
            "decoder.3.weight": (first, first, 3, 3),
        }
        for (index, growth), wide, narrow in zip(TC_STAGES, self.channels[:3], self.channels[1:], strict=True):
            for block in range(index, index + 3):
                for conv, fan_in in ((0, 2 * wide), (2, wide), (4, wide)):
                    out[f"decoder.{block}.conv.{conv}.weight"] = (wide, fan_in, 3, 3)
                    out[f"decoder.{block}.conv.{conv}.bias"] = (wide,)
            out[f"decoder.{index + 4}.conv.weight"] = (growth * wide, wide, 1, 1)
            out[f"decoder.{index + 5}.weight"] = (narrow, wide, 3, 3)
        last = self.channels[3]
        out["decoder.24.weight"] = (last, last, 3, 3)
        out |= {"decoder.26.weight": (3, last, 3, 3), "decoder.26.bias": (3,)}
        return out

    def memory(self) -> tuple[tuple[int, int], ...]:
        """(channels, pixels per cell) of each MemBlock's past, as `contract.Sizes.tc_memory`."""
        return tuple((c, cell) for c, cell in zip(self.channels[:3], (8, 4, 2), strict=True) for _ in range(3))


@dataclass(frozen=True, kw_only=True)
class VaeSizes:
    """Sizes of the Wan 2.1 VAE decoder: channels of its four resolutions, coarse to fine."""

    channels: tuple[int, int, int, int]

    @staticmethod
    def of(state: State) -> VaeSizes:
        stride = VAE_STAGE_BLOCKS + 1
        names = [f"decoder.upsamples.{stage * stride}.residual.6.weight" for stage in range(4)]
        one, two, three, four = (_shape(state, name, "Wan VAE")[0] for name in names)
        return VaeSizes(channels=(one, two, three, four))

    def blocks(self) -> dict[str, tuple[int, int]]:
        """Input and output channels of each residual block, in the order of the data."""
        first = self.channels[0]
        out = {"decoder.middle.0": (first, first), "decoder.middle.2": (first, first)}
        width = first
        for stage, channels in enumerate(self.channels):
            for block in range(VAE_STAGE_BLOCKS):
                out[f"decoder.upsamples.{stage * (VAE_STAGE_BLOCKS + 1) + block}"] = (width, channels)
                width = channels
            width = channels // 2
        return out

    def shapes(self) -> Shapes:
        first, last = self.channels[0], self.channels[3]
        out: Shapes = {
            **_conv("conv2", LATENT_CHANNELS, LATENT_CHANNELS, (1, 1, 1)),
            **_conv("decoder.conv1", LATENT_CHANNELS, first, (3, 3, 3)),
            "decoder.middle.1.norm.gamma": (first, 1, 1),
            **_conv("decoder.middle.1.to_qkv", first, 3 * first, (1, 1)),
            **_conv("decoder.middle.1.proj", first, first, (1, 1)),
            "decoder.head.0.gamma": (last, 1, 1, 1),
            **_conv("decoder.head.2", last, 3, (3, 3, 3)),
        }
        for name, (width, channels) in self.blocks().items():
            out[f"{name}.residual.0.gamma"] = (width, 1, 1, 1)
            out |= _conv(f"{name}.residual.2", width, channels, (3, 3, 3))
            out[f"{name}.residual.3.gamma"] = (channels, 1, 1, 1)
            out |= _conv(f"{name}.residual.6", channels, channels, (3, 3, 3))
            if width != channels:
                out |= _conv(f"{name}.shortcut", width, channels, (1, 1, 1))
        for stage, channels in enumerate(self.channels[:3]):
            name = f"decoder.upsamples.{stage * (VAE_STAGE_BLOCKS + 1) + VAE_STAGE_BLOCKS}"
            out |= _conv(f"{name}.resample.1", channels, channels // 2, (3, 3))
            if stage < 2:
                out |= _conv(f"{name}.time_conv", channels, 2 * channels, (3, 1, 1))
        return out

    def caches(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, frames, pixels per cell) of each causal convolution's cache, as `contract.Sizes.vae_caches`,
        in the order of the data; a residual block's first convolution remembers its input's channels."""
        blocks = list(self.blocks().values())
        spec = [(LATENT_CHANNELS, 8)] + [(channels, 8) for block in blocks[:2] for channels in block]
        for stage, width in enumerate(self.channels):
            cell = 8 >> stage
            first = 2 + stage * VAE_STAGE_BLOCKS
            spec += [(c, cell) for block in blocks[first : first + VAE_STAGE_BLOCKS] for c in block]
            if stage < 2:
                spec.append((width, cell))  # time_conv
        spec.append((self.channels[3], 1))
        return tuple((channels, VAE_CONTEXT, cell) for channels, cell in spec)


def _conv(name: str, fan_in: int, fan_out: int, kernel: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": (fan_out, fan_in, *kernel), f"{name}.bias": (fan_out,)}
