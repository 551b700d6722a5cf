"""The demo model's networks as the tensors of their step modules: what is trained, stored and exported.

Not the official checkpoints' layout: modulation, gates, norm affines and the prompt are folded in, as in a bundle,
so a bundle holds all that a training needs to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, device, float32

from flashvsr_trt.configs.contract import Sizes
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.export import dit_weights
from flashvsr_trt.export import lq_proj as lq_projs
from flashvsr_trt.export.attention import Attend, block_sparse_attention
from flashvsr_trt.export.dit import Dit
from flashvsr_trt.export.fused import PLAIN, Ops
from flashvsr_trt.export.layouts import DitSizes, LqSizes, State, TcSizes
from flashvsr_trt.export.lq_proj import LqProj
from flashvsr_trt.export.tc_decoder import TcDecoder
from flashvsr_trt.export.trainable import assigned

VERSION = "v1.1"  # of the model: a projector with state
NAMES = ("lq_proj", "dit", "tc_decoder")
Networks = Mapping[str, State]  # by NAMES

Lq = TypeVar("Lq", bound=LqProj)
Tc = TypeVar("Tc", bound=TcDecoder)


def of_official(lq_proj: State, dit: State, tc_decoder: State, prompt: Tensor) -> dict[str, dict[str, Tensor]]:
    """From official checkpoints and the prompt's embedding [1, tokens, text width]; fp32."""
    return {
        "lq_proj": lq_projs.prepare(lq_proj, causal=True, dtype=float32),
        "dit": dit_weights.prepare(dit, prompt, folded=True),
        "tc_decoder": dict(tc_decoder),
    }


def lq_proj(state: State, kind: type[Lq]) -> Lq:
    """The projector v1.1 with these tensors, shared, frozen. The same holds for the two below."""
    hidden = (len(state["conv1.conv.bias"]), len(state["conv2.conv.bias"]))
    with device("meta"):
        module = kind(LqSizes(hidden=hidden, dim=len(state["linear.bias"])), causal=True)
    return assigned(module, state)


def dit(
    state: State,
    *,
    attend: Attend = block_sparse_attention,
    local_range: int = Parameters().local_range,
    ops: Ops = PLAIN,
) -> Dit:
    """`ops`: of a prompt whose length the fused attention does not take, or plain."""
    sizes = DitSizes(
        dim=len(state["patch_embedding.bias"]),
        layers=sum(name.endswith(".ffn_in.bias") for name in state),
        ffn=len(state["blocks.0.ffn_in.bias"]),
        text=0,  # this and the next are widths of what is folded away
        frequencies=0,
    )
    tokens = state["blocks.0.cross_attn.k"].shape[1]
    with device("meta"):
        module = Dit(sizes, tokens, folded=True, local_range=local_range, attend=attend, ops=ops)
    return assigned(module, state)


def tc_decoder(state: State, kind: type[Tc]) -> Tc:
    with device("meta"):
        module = kind(TcSizes.of(state))
    return assigned(module, state)


def sizes(networks: Networks) -> Sizes:
    projector, network = networks["lq_proj"], networks["dit"]
    return Sizes(
        dim=len(network["patch_embedding.bias"]),
        layers=sum(name.endswith(".ffn_in.bias") for name in network),
        lq_hidden=(len(projector["conv1.conv.bias"]), len(projector["conv2.conv.bias"])),
        tc_memory=TcSizes.of(networks["tc_decoder"]).memory(),
    )
