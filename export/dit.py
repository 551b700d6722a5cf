"""The DiT as a step: noise and LQ tokens to latents, KV slabs in and out.

Source: FlashVSR (paper 2510.12747) on the Wan 2.1 DiT. The time step is always 1000 and the prompt always the
shipped one, so time embedding, text embedding, modulation and the keys and values of the cross attention are
constants, computed in `dit_weights.prepare`. Tokens are put into window order once, on the way in: everything
between is per token or per window.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flashvsr_trt.configs.contract import HEAD_DIM, LATENT_CHANNELS, TOKENS_PER_WINDOW, WINDOW
from flashvsr_trt.export.attention import Attend, attend, block_sparse_attention
from flashvsr_trt.export.dit_weights import prepare
from flashvsr_trt.export.fused import PLAIN, Ops, for_prompt
from flashvsr_trt.export.layouts import DitSizes, State
from flashvsr_trt.export.trainable import Trainable, assigned


def to_windows(x: Tensor) -> Tensor:
    """[f, h, w, C] to [f/2, h/8, w/8, 128, C]: windows row-major, tokens frame, row, column inside."""
    frames, height, width, channels = x.shape
    t, y, z = WINDOW
    x = x.reshape(frames // t, t, height // y, y, width // z, z, channels)
    x = x.permute(0, 2, 4, 1, 3, 5, 6)
    return x.reshape(frames // t, height // y, width // z, TOKENS_PER_WINDOW, channels)


def from_windows(x: Tensor) -> Tensor:
    """The inverse of `to_windows`."""
    slabs, rows, columns, _, channels = x.shape
    t, y, z = WINDOW
    x = x.reshape(slabs, rows, columns, t, y, z, channels)
    x = x.permute(0, 3, 1, 4, 2, 5, 6)
    return x.reshape(slabs * t, rows * y, columns * z, channels)


def to_patches(z: Tensor) -> Tensor:
    """Latents [f, 16, 2 h, 2 w] to patches [f, h, w, 16*2*2], in the order of patch_embedding's weight."""
    frames, channels, height, width = z.shape
    z = z.reshape(frames, channels, height // 2, 2, width // 2, 2)
    z = z.permute(0, 2, 4, 1, 3, 5)
    return z.reshape(frames, height // 2, width // 2, channels * 4)  # [f, h, w, (c y x)]


def from_patches(v: Tensor) -> Tensor:
    """The head's output [f, h, w, 2*2*16] to latents [f, 16, 2 h, 2 w]; its channels are (y x c)."""
    frames, height, width, _ = v.shape
    v = v.reshape(frames, height, width, 2, 2, LATENT_CHANNELS)
    v = v.permute(0, 5, 1, 3, 2, 4)
    return v.reshape(frames, LATENT_CHANNELS, height * 2, width * 2)  # [f, 16, 2 h, 2 w]


def rope_table(frames: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(cos, sin) per frame, row and column to per token: fp32 [n, rows, columns, 128, 1, 64, 2]."""
    f, h, w = frames.shape[0], rows.shape[0], columns.shape[0]
    parts = (
        frames.reshape(f, 1, 1, -1).expand(f, h, w, -1),
        rows.reshape(1, h, 1, -1).expand(f, h, w, -1),
        columns.reshape(1, 1, w, -1).expand(f, h, w, -1),
    )
    table = to_windows(torch.cat(parts, dim=-1))  # [n, rows, columns, 128, 64*2]
    slabs, r, c, tokens, _ = table.shape
    return table.reshape(slabs, r, c, tokens, 1, HEAD_DIM // 2, 2)


class Norm(nn.Module):
    """Layer norm in fp32, returned in x's dtype; `scale` and `shift` only in the unfolded network."""

    scale: Tensor
    shift: Tensor

    def __init__(self, dim: int, *, folded: bool, ops: Ops = PLAIN) -> None:
        super().__init__()
        self.folded, self.ops = folded, ops
        if not folded:
            self.register_buffer("scale", torch.empty(dim))
            self.register_buffer("shift", torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ops.layer_norm(x)
        if not self.folded:
            y = y * self.scale + self.shift
        return y.to(x.dtype)


class Gate(nn.Module):
    """x + gate * linear(y) in the unfolded network; in the folded one the Linear holds the gate."""

    gate: Tensor

    def __init__(self, dim: int, *, folded: bool, ops: Ops) -> None:
        super().__init__()
        self.folded, self.ops = folded, ops
        if not folded:
            self.register_buffer("gate", torch.empty(dim))

    def forward(self, x: Tensor, y: Tensor, linear: nn.Linear) -> Tensor:
        if self.folded:
            return self.ops.linear_add(y, linear.weight, linear.bias, x)
        return x + (self.ops.linear(y, linear.weight, linear.bias) * self.gate).to(x.dtype)


class SelfAttention(nn.Module):
    """Up to its last Linear, `o`, which the block adds together with the residual."""

    def __init__(self, dim: int, *, local_range: int, attend: Attend, ops: Ops) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.Parameter(torch.empty(dim))
        self.norm_k = nn.Parameter(torch.empty(dim))
        self.dim, self.local_range, self.attend, self.ops = dim, local_range, attend, ops

    def forward(self, x: Tensor, table: Tensor, topk: Tensor, cache: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x [n, rows, columns, 128, D], cache (slabs, k_cache, v_cache) or () in step 0; also k and v."""
        qkv = self.ops.linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v = self.ops.norm_rotate(qkv, self.norm_q, self.norm_k, table)
        nothing = torch.zeros(0, dtype=torch.int64, device=x.device)
        slabs, k_cache, v_cache = cache or (nothing, k, v)
        y = self.attend(
            q, k, v, k_cache, v_cache, slabs, topk, local_range=self.local_range, heads=self.dim // HEAD_DIM
        )
        return y, k, v


class CrossAttention(nn.Module):
    """Attention to the prompt, whose keys and values are constants, [heads, text tokens, 128] or [text tokens, D]."""

    k: Tensor
    v: Tensor

    def __init__(self, dim: int, text_tokens: int, ops: Ops) -> None:
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.Parameter(torch.empty(dim))
        shape = (dim // HEAD_DIM, text_tokens, HEAD_DIM) if ops.by_head else (text_tokens, dim)
        self.register_buffer("k", torch.empty(shape))
        self.register_buffer("v", torch.empty(shape))
        self.heads, self.ops = dim // HEAD_DIM, ops

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        q = self.ops.linear(x, self.q.weight, self.q.bias)
        y = self.ops.prompt_attention(q, self.norm_q, self.k, self.v, heads=self.heads)
        return self.ops.linear_add(y, self.o.weight, self.o.bias, residual)


class Block(nn.Module):
    def __init__(
        self, sizes: DitSizes, text_tokens: int, *, folded: bool, local_range: int, attend: Attend, ops: Ops
    ) -> None:
        super().__init__()
        self.norm1 = Norm(sizes.dim, folded=folded, ops=ops)
        self.self_attn = SelfAttention(sizes.dim, local_range=local_range, attend=attend, ops=ops)
        self.gate1 = Gate(sizes.dim, folded=folded, ops=ops)
        self.norm3 = Norm(sizes.dim, folded=folded, ops=ops)
        self.cross_attn = CrossAttention(sizes.dim, text_tokens, ops)
        self.norm2 = Norm(sizes.dim, folded=folded, ops=ops)
        self.ffn_in = nn.Linear(sizes.dim, sizes.ffn)
        self.ffn_out = nn.Linear(sizes.ffn, sizes.dim)
        self.gate2 = Gate(sizes.dim, folded=folded, ops=ops)
        self.ops = ops

    def forward(self, x: Tensor, table: Tensor, topk: Tensor, cache: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, k, v = self.self_attn(self.norm1(x), table, topk, cache)
        x = self.gate1(x, y, self.self_attn.o)
        x = self.cross_attn(self.norm3(x), x)
        y = self.ops.linear_gelu(self.norm2(x), self.ffn_in.weight, self.ffn_in.bias)
        return self.gate2(x, y, self.ffn_out), k, v


class Dit(nn.Module):
    """One DiT step, inputs and outputs in the order of `contract.dit`.

    `folded` holds modulation, gates and norm affines in the neighbouring Linear layers: equal in real
    arithmetic, six passes over the tokens per block fewer.
    """

    def __init__(
        self,
        sizes: DitSizes,
        text_tokens: int,
        *,
        folded: bool,
        local_range: int,
        attend: Attend,
        ops: Ops = PLAIN,
    ) -> None:
        super().__init__()
        ops = for_prompt(ops, text_tokens)
        self.patch_embedding = nn.Linear(4 * LATENT_CHANNELS, sizes.dim)
        self.blocks = nn.ModuleList(
            Block(sizes, text_tokens, folded=folded, local_range=local_range, attend=attend, ops=ops)
            for _ in range(sizes.layers)
        )
        self.norm = Norm(sizes.dim, folded=folded)
        self.head = nn.Linear(sizes.dim, 4 * LATENT_CHANNELS)

    @staticmethod
    def of(
        official: State,
        context: Tensor,
        *,
        folded: bool = True,
        local_range: int = 11,
        dtype: torch.dtype = torch.float32,
        attend: Attend = block_sparse_attention,
        ops: Ops = PLAIN,
    ) -> Dit:
        """The exportable module with a checkpoint's weights; `context` is the prompt [1, tokens, text]."""
        tokens = context.shape[1]
        with torch.device("meta"):
            module = Dit(DitSizes.of(official), tokens, folded=folded, local_range=local_range, attend=attend, ops=ops)
        with torch.no_grad():
            state = prepare(official, context, folded=folded, dtype=dtype)
            if not for_prompt(ops, tokens).by_head:
                state |= {name: _one_row(x) for name, x in state.items() if name.endswith(("attn.k", "attn.v"))}
            return assigned(module, state)

    def forward(
        self,
        noise: Tensor,
        lq_tokens: Tensor,
        rope_frames: Tensor,
        rope_rows: Tensor,
        rope_columns: Tensor,
        topk: Tensor,
        slabs: Tensor | None = None,
        *caches: Tensor,
    ) -> tuple[Tensor, ...]:
        """`caches` are k_cache.0, v_cache.0, k_cache.1, ...; without `slabs` and `caches` it is step 0."""
        dtype = self.head.weight.dtype
        table = rope_table(rope_frames, rope_rows, rope_columns)
        x = self.patch_embedding(to_windows(to_patches(noise.to(dtype)))) + to_windows(lq_tokens)
        new: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            cache = () if slabs is None else (slabs, caches[2 * layer], caches[2 * layer + 1])
            x, k, v = block(x, table, topk, cache)
            new += [k, v]
        velocity = from_patches(from_windows(self.head(self.norm(x))))
        return (noise.float() - velocity.float()).to(dtype), *new


def _one_row(x: Tensor) -> Tensor:
    """The prompt's keys or values [heads, tokens, 128] to [tokens, heads * 128]."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def trainable(official: Mapping[str, Tensor], context: Tensor, *, local_range: int = 11) -> Trainable:
    """`Dit` unfolded with the checkpoint's tensors as fp32 parameters, time and text embedding included."""
    step = Dit.of(official, context, folded=False, local_range=local_range, attend=attend)
    # A copy of the prompt moves with the parameters' device: it is data, not a parameter.
    return Trainable(
        official,
        step,
        lambda state: prepare(state, context.to(state["head.head.weight"].device), folded=False),
    )
