"""A DiT checkpoint's tensors to those of `dit.Dit`: constants computed, modulation folded, q, k, v as one.

Source: FlashVSR (paper 2510.12747) on the Wan 2.1 DiT. Everything here is differentiable, so the same code
serves export (once, folded) and training (at each step, unfolded).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr_trt.configs.contract import HEAD_DIM
from flashvsr_trt.export.layouts import DitSizes, State
from flashvsr_trt.export.norms import rms_norm

TIME_STEP = 1000.0


def prepare(official: State, context: Tensor, *, folded: bool, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of `Dit`: GEMM weights in `dtype`, norms and modulation in fp32.

    Args:
        official: tensors under their checkpoint names.
        context: the prompt's embedding [1, tokens, text width].
    """
    sizes = DitSizes.of(official)
    t, t6 = _time(official, sizes)
    text = _text(official, context)
    linears = _Linears(official, dtype, folded)
    out = {
        "patch_embedding.weight": official["patch_embedding.weight"].reshape(sizes.dim, -1).to(dtype),
        "patch_embedding.bias": official["patch_embedding.bias"].to(dtype),
    }
    for layer in range(sizes.layers):
        out |= _block(official, layer, t6, text, linears)
    shift, scale = (official["head.modulation"].float()[0] + t).unbind(0)
    return out | linears.after_norm("head", ("head.head",), "norm", (1 + scale, shift))


def _block(official: State, layer: int, t6: Tensor, text: Tensor, linears: _Linears) -> dict[str, Tensor]:
    """The tensors of one block."""
    old, new = f"blocks.{layer}", f"blocks.{layer}"
    shift1, scale1, gate1, shift2, scale2, gate2 = (official[f"{old}.modulation"].float()[0] + t6).unbind(0)
    affine = (official[f"{old}.norm3.weight"].float(), official[f"{old}.norm3.bias"].float())
    qkv = tuple(f"{old}.self_attn.{part}" for part in "qkv")
    keys, values = _prompt_keys(official, f"{old}.cross_attn", text)
    gemm = linears.dtype
    return {
        **linears.after_norm(f"{new}.self_attn.qkv", qkv, f"{new}.norm1", (1 + scale1, shift1)),
        **linears.gated(f"{new}.self_attn.o", f"{old}.self_attn.o", f"{new}.gate1", gate1),
        f"{new}.self_attn.norm_q": official[f"{old}.self_attn.norm_q.weight"].float(),
        f"{new}.self_attn.norm_k": official[f"{old}.self_attn.norm_k.weight"].float(),
        **linears.after_norm(f"{new}.cross_attn.q", (f"{old}.cross_attn.q",), f"{new}.norm3", affine),
        f"{new}.cross_attn.norm_q": official[f"{old}.cross_attn.norm_q.weight"].float(),
        f"{new}.cross_attn.k": keys.to(gemm),
        f"{new}.cross_attn.v": values.to(gemm),
        f"{new}.cross_attn.o.weight": official[f"{old}.cross_attn.o.weight"].to(gemm),
        f"{new}.cross_attn.o.bias": official[f"{old}.cross_attn.o.bias"].to(gemm),
        **linears.after_norm(f"{new}.ffn_in", (f"{old}.ffn.0",), f"{new}.norm2", (1 + scale2, shift2)),
        **linears.gated(f"{new}.ffn_out", f"{old}.ffn.2", f"{new}.gate2", gate2),
    }


class _Linears:
    """Linear layers beside a norm or a gate: folded into each other, or side by side."""

    def __init__(self, official: State, dtype: torch.dtype, folded: bool) -> None:
        self.official, self.dtype, self.folded = official, dtype, folded

    def after_norm(
        self, name: str, sources: tuple[str, ...], norm: str, affine: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """The Linear of stacked `sources` behind LN(x) * scale + shift."""
        scale, shift = affine
        weight = torch.cat([self.official[f"{source}.weight"] for source in sources]).float()
        bias = torch.cat([self.official[f"{source}.bias"] for source in sources]).float()
        if self.folded:
            weight, bias = weight * scale, bias + weight @ shift
        out = {f"{name}.weight": weight.to(self.dtype), f"{name}.bias": bias.to(self.dtype)}
        return out if self.folded else out | {f"{norm}.scale": scale, f"{norm}.shift": shift}

    def gated(self, name: str, source: str, gate_name: str, gate: Tensor) -> dict[str, Tensor]:
        """gate * Linear(x)."""
        weight, bias = self.official[f"{source}.weight"], self.official[f"{source}.bias"]
        if self.folded:
            weight, bias = weight.float() * gate[:, None], bias.float() * gate
        out = {f"{name}.weight": weight.to(self.dtype), f"{name}.bias": bias.to(self.dtype)}
        return out if self.folded else out | {f"{gate_name}.gate": gate}


def _linear(official: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, official[f"{name}.weight"].float(), official[f"{name}.bias"].float())


def _time(official: State, sizes: DitSizes) -> tuple[Tensor, Tensor]:
    """Time embedding t [D] and its projection t6 [6, D] at time step 1000."""
    half = sizes.frequencies // 2
    index = torch.arange(half, dtype=torch.float64, device=official["time_embedding.0.weight"].device)
    angle = TIME_STEP * 10000.0 ** (-index / half)
    embedding = torch.cat([angle.cos(), angle.sin()]).float()
    t = _linear(official, "time_embedding.2", F.silu(_linear(official, "time_embedding.0", embedding)))
    return t, _linear(official, "time_projection.1", F.silu(t)).reshape(6, sizes.dim)


def _text(official: State, context: Tensor) -> Tensor:
    """The prompt [1, tokens, text width] to [tokens, D]."""
    hidden = F.gelu(_linear(official, "text_embedding.0", context[0].float()), approximate="tanh")
    return _linear(official, "text_embedding.2", hidden)


def _prompt_keys(official: State, attention: str, text: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (RMS-normalised over all channels) and values of the prompt, each [heads, tokens, 128]."""
    k = rms_norm(_linear(official, f"{attention}.k", text), official[f"{attention}.norm_k.weight"].float())
    v = _linear(official, f"{attention}.v", text)
    return _by_head(k), _by_head(v)


def _by_head(x: Tensor) -> Tensor:
    tokens, dim = x.shape
    return x.reshape(tokens, dim // HEAD_DIM, HEAD_DIM).transpose(0, 1).contiguous()  # [heads, tokens, 128]
