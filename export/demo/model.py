"""The demo model in training: the step networks over a whole batch of clips, every time step in one pass.

The layers, their weights and their order are those of the step modules; only the loop over time differs. Equal
to streaming step by step, up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import FIRST_LATENTS, HEAD_DIM, ROPE_PAIRS, STEP_LATENTS, TOKENS_PER_WINDOW
from flashvsr_trt.configs.schedule import LOOK_AHEAD, Parameters, cached_slabs
from flashvsr_trt.export import lq_proj, tc_decoder
from flashvsr_trt.export.attention import block_mask
from flashvsr_trt.export.demo import networks as nets
from flashvsr_trt.export.demo.networks import NAMES, Networks
from flashvsr_trt.export.layouts import LQ_FEATURES, TC_STAGES
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.tc_decoder import MemBlock, TcDecoder, TGrow

PARAMETERS = Parameters()  # what a run uses by default


class LqProjClips(LqProj):
    """`LqProj` v1.1 on whole clips: uint8 [B, 8n+1, H, W, 3] to tokens [B, 2n, h, w, D]."""

    def forward(self, lq: Tensor) -> Tensor:  # type: ignore[override]
        batch, frames = lq.shape[:2]
        # Frame 0 stands for itself and for the context in front of it, so that pairs are (0,0), (1,2), (3,4) ...
        lq = torch.cat([lq[:, :1], lq], dim=1)
        x = lq_proj.unshuffle(lq.flatten(0, 1), self.linear.weight.dtype)  # [B*(8n+2), 768, h, w]
        height, width = x.shape[2:]
        x = x.reshape(batch, frames // 2 + 1, 2 * LQ_FEATURES, height, width)
        x = torch.cat([x[:, :1], x], dim=1)  # the first call of a stream sees frame 0 in every tap
        hidden = self.conv1(_neighbours(x))  # [B*(4n+1), C, h, w]
        hidden = hidden.reshape(batch, frames // 2 + 1, -1, height, width)
        hidden = torch.cat([hidden[:, :1], hidden], dim=1)
        pairs = hidden.reshape(batch, frames // 4 + 1, -1, height, width)
        y = self.conv2(_neighbours(pairs))  # [B*2n, C, h, w]
        return self.linear(y.permute(0, 2, 3, 1)).unflatten(0, (batch, -1))  # [B, 2n, h, w, D]


def _neighbours(x: Tensor) -> Tensor:
    """[B, K, C, h, w] to [B*(K-1), 2 C, h, w]: each with its successor."""
    return torch.cat([x[:, :-1], x[:, 1:]], dim=2).flatten(0, 1)


class TcDecoderClips(TcDecoder):
    """`TcDecoder` on whole streams: latents [B, L, 16, H/8, W/8] and LQ uint8 [B, 4 L - 3, H, W, 3] to frames
    [B, 4 L - 3, 3, H, W]."""

    def forward(self, latents: Tensor, lq: Tensor) -> Tensor:  # type: ignore[override]
        batch = latents.shape[0]
        lq = torch.cat([lq[:, :1].expand(-1, 3, -1, -1, -1), lq], dim=1)
        condition = tc_decoder.condition(lq.flatten(0, 1), latents.dtype)  # [B*L, 768, H/8, W/8]
        x = torch.cat([condition, latents.flatten(0, 1)], dim=1).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.decoder["1"](torch.tanh(x / 3) * 3))
        x = F.relu(self.decoder["3"](x))
        for index, _ in TC_STAGES:
            for block in range(index, index + 3):
                x = _remember(cast(MemBlock, self.decoder[str(block)]), x, batch)
            x = _grow(cast(TGrow, self.decoder[str(index + 4)]), x)
            x = self.decoder[str(index + 5)](F.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.decoder["26"](F.relu(self.decoder["24"](F.relu(x))))
        return (x.float() * 2 - 1).unflatten(0, (batch, -1))[:, 3:]


def _remember(block: MemBlock, x: Tensor, batch: int) -> Tensor:
    """A MemBlock over all time steps. Its first convolution acts on present and past separately: the past's part
    is that of the present, one step later."""
    first, *others = block.conv
    channels = x.shape[1]
    weight, bias = cast(Tensor, first.weight), cast(Tensor, first.bias)
    weight = torch.cat([weight[:, :channels], weight[:, channels:]])
    y = F.conv2d(x, weight, padding=1).permute(0, 2, 3, 1)  # [B*T, h, w, 2 C], contiguous in channels_last
    present, past = y.unflatten(0, (batch, -1)).split(channels, dim=-1)
    past = F.pad(past[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    hidden = (present + past + bias.to(present.dtype)).flatten(0, 1).permute(0, 3, 1, 2)
    for layer in others:
        hidden = layer(hidden)
    return F.relu(hidden + x)


def _grow(layer: TGrow, x: Tensor) -> Tensor:
    """TGrow, its result in channels_last."""
    y = F.conv2d(x, layer.conv.weight).permute(0, 2, 3, 1)  # [N, h, w, g C]
    y = y.unflatten(-1, (layer.growth, -1)).movedim(3, 1).flatten(0, 1)  # [N g, h, w, C]
    return y.contiguous().permute(0, 3, 1, 2)


def attend_clips(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slabs: Tensor,
    topk: Tensor,
    *,
    local_range: int,
    heads: int,
) -> Tensor:
    """`attention.attend` for a batch: q, k, v [B*n, rows, columns, 128, D], caches [B, m, rows, columns, 128, D],
    every slab of them valid."""
    batch = k_cache.shape[0]
    queries, keys, values = (x.unflatten(0, (batch, -1)) for x in (q, k, v))
    keys, values = torch.cat([k_cache, keys], dim=1), torch.cat([v_cache, values], dim=1)
    with torch.no_grad():
        select = functools.partial(block_mask, local_range=local_range, heads=heads)
        blocks = torch.vmap(select, in_dims=(0, 0, None))(queries, keys, topk)
        blocks = blocks.flatten(2, 3)  # [B, heads, n*windows, key windows]
        tokens = blocks.repeat_interleave(TOKENS_PER_WINDOW, -1).repeat_interleave(TOKENS_PER_WINDOW, -2)
    out = F.scaled_dot_product_attention(_heads(queries), _heads(keys), _heads(values), attn_mask=tokens)
    return out.transpose(1, 2).reshape(q.shape)


def _heads(x: Tensor) -> Tensor:
    batch, dim = x.shape[0], x.shape[-1]
    return x.reshape(batch, -1, dim // HEAD_DIM, HEAD_DIM).transpose(1, 2)  # [B, heads, tokens, 128]


def rotary(positions: Tensor, pairs: int) -> Tensor:
    """(cos, sin) of the rotary angles of each position: [n] to fp32 [n, pairs, 2]; frequency 10000^(-j/pairs)."""
    frequency = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
    angle = positions.double()[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


class DemoModel(nn.Module):
    """Noise and LQ clips to high-resolution clips. The prompt's keys and values are no parameters: they stay.

    Args:
        networks: copied.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        own = {name: {key: value.float().clone() for key, value in networks[name].items()} for name in NAMES}
        self.lq_proj = nets.lq_proj(own["lq_proj"], LqProjClips)
        self.dit = nets.dit(own["dit"], attend=attend_clips)
        self.tc_decoder = nets.tc_decoder(own["tc_decoder"], TcDecoderClips)
        self.requires_grad_(True)

    def networks(self) -> dict[str, dict[str, Tensor]]:
        """The tensors, detached."""
        return {name: {k: v.detach() for k, v in getattr(self, name).state_dict().items()} for name in NAMES}

    def forward(self, noise: Tensor, lq: Tensor, steps: Sequence[int] = (FIRST_LATENTS, STEP_LATENTS)) -> Tensor:
        """One stream per clip.

        Args:
            noise: [B, L, 16, H/8, W/8], L = sum(steps).
            lq: uint8 [B, 4 L + 1, H, W, 3].
            steps: latent frames of each DiT step, even; a product stream has 6, then 2 each.

        Returns: fp32 frames [B, 4 L - 3, 3, H, W] in [-1, 1], before any colour fix.
        """
        latents = self.latents(noise, self.lq_proj(lq), steps)
        return self.tc_decoder(latents, lq[:, : lq.shape[1] - LOOK_AHEAD])

    def latents(self, noise: Tensor, tokens: Tensor, steps: Sequence[int]) -> Tensor:
        """The DiT over a stream: fp32 [B, L, 16, H/8, W/8]."""
        batch, _, height, width = tokens.shape[:4]
        device = noise.device
        rows, columns = (
            rotary(torch.arange(n, device=device), p) for n, p in zip((height, width), ROPE_PAIRS[1:], strict=True)
        )
        # Filled on the device: a copy from the host could not be recorded in a CUDA graph.
        kept = torch.full((), schedule.topk(16 * height, 16 * width, PARAMETERS.sparse_ratio), device=device)
        empty = tokens.new_zeros(batch, 0, height // 8, width // 8, TOKENS_PER_WINDOW, tokens.shape[-1])
        caches = [empty] * (2 * len(self.dit.blocks))
        slabs = torch.zeros(0, dtype=torch.int64, device=device)
        out, begin = [], 0
        for frames in steps:
            part = slice(begin, begin + frames)
            begin += frames
            table = rotary(torch.arange(part.start, part.stop, device=device), ROPE_PAIRS[0]).repeat(batch, 1, 1)
            # The batch is folded into the frames: everything but the attention is per frame or per window.
            latents, *new = self.dit(
                noise[:, part].flatten(0, 1),
                tokens[:, part].flatten(0, 1),
                table,
                rows,
                columns,
                kept,
                slabs,
                *caches,
            )
            out.append(latents.float().unflatten(0, (batch, -1)))
            caches = [_keep(old, k.unflatten(0, (batch, -1))) for old, k in zip(caches, new, strict=True)]
        return torch.cat(out, dim=1)


def _keep(cache: Tensor, new: Tensor) -> Tensor:
    """The slabs that the next step attends to, beside its own."""
    slabs = torch.cat([cache, new], dim=1)
    return slabs[:, slabs.shape[1] - cached_slabs(slabs.shape[1], PARAMETERS.kv_ratio) :]
