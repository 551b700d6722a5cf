"""The ops of the domain `flashvsr`: names, inputs, attributes. Every stub, body, plug-in and kernel follows this.

`BlockSparseAttention`: selection and attention in one, since a TopK of thousands is not buildable in
TensorRT (limit 3840). Keys and values are the ring slots listed in `slabs`, then the step's own slabs.

1. q and k (after RMSNorm and RoPE) are averaged over each 128-token window; S = q.k/sqrt(128), -inf where the
   key window lies outside the local range (rows r - R//2 .. r - R//2 + R - 1, columns alike; same for every
   slab); P = softmax over all key windows.
2. Per head and query slab, P is flattened to n numbers; (i, j) is kept iff P > the (min(topk, n-1)+1)-th largest.
3. Exact attention over the kept 128x128 blocks, scale 1/sqrt(128); a query window with no kept block gives 0.
"""

from __future__ import annotations

from dataclasses import dataclass

DOMAIN = "flashvsr"
OPSET = 1
ABI = 1  # raised whenever an op's inputs, attributes or meaning change


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op. Inputs are (name, element type), "T" being float32, float16 or bfloat16; attributes are int64."""

    name: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    attributes: tuple[str, ...]


# q, k, v: [query slabs, window rows, window columns, 128, heads * 128]
# k_cache, v_cache: [ring, window rows, window columns, 128, heads * 128]; slabs: [n], n may be 0
# topk: scalar; out: as q
BLOCK_SPARSE_ATTENTION = Op(
    name="BlockSparseAttention",
    inputs=(
        ("q", "T"),
        ("k", "T"),
        ("v", "T"),
        ("k_cache", "T"),
        ("v_cache", "T"),
        ("slabs", "int64"),
        ("topk", "int64"),
    ),
    outputs=(("out", "T"),),
    attributes=("heads", "local_range"),
)

OPS = (BLOCK_SPARSE_ATTENTION,)
