"""The ops of the domain `flashvsr`: names, inputs, attributes. Every stub, body, plug-in and kernel follows this.

`BlockSparseAttention`: selection and attention in one, since a TopK of thousands is not buildable in
TensorRT (limit 3840). Keys and values are the ring slots listed in `slabs`, then the step's own slabs.

1. q and k (after RMSNorm and RoPE) are averaged over each 128-token window; S = q.k/sqrt(128), -inf where the
   key window lies outside the local range (rows r - R//2 .. r - R//2 + R - 1, columns alike; same for every
   slab); P = softmax over all key windows.
2. Per head and query slab, P is flattened to n numbers; (i, j) is kept iff P > the (min(topk, n-1)+1)-th largest.
3. Exact attention over the kept 128x128 blocks, scale 1/sqrt(128); a query window with no kept block gives 0.

The fused ops stand for chains of standard ops whose intermediates need not exist. Only bundles exported for ONNX
Runtime on CUDA hold them (export option `fused`): TensorRT fuses such chains by itself. Sums, roots and exponentials
are in float32, results are rounded once.

- `Linear`: x weight^T + bias over the last axis; `LinearGelu`: its GELU, tanh form; `LinearAdd`: plus `residual`.
- `ToFloat8`: x divided by `unit`, saturated and rounded to float8 (E4M3 without infinities).
- `Linear8`, `LinearGelu8`, `LinearAdd8`: the same as without 8 of x and a weight in float8, which stand for as many of
  the first and the second of `scales`. LinearGelu8 gives float8 itself: its GELU times the third, the inverse of what
  a number of it stands for.
- `NormRotate`: q, k, v = thirds of the last axis of qkv; q and k are divided by their root mean square over that axis
  (eps 1e-6), multiplied by `gain_q`, `gain_k`, and their interleaved pairs turned by the (cos, sin) of `table`.
- `NormRotate8`: the same, each divided by its number of `scales`, saturated and rounded to float8. v is turned: channel
  by channel, of a window's 128 tokens number 16g + 4t + 2b + e is token 16g + 8b + 2t + e (t in 0..3, b and e in 0..1),
  the order in which Hopper's matrix units take them.
- `BlockSparseAttention8`: BlockSparseAttention of what NormRotate8 gives, times `scales`, in the type of `like`.
  Kernels round the weights to float8 too, relative to the row's largest.
- `LayerNorm`: x less its mean, divided by the root of its variance plus 1e-6, over the last axis; `LayerNorm8`: its
  ToFloat8, rounded once.
- `PromptAttention`: q, divided by its root mean square and multiplied by `gain`, attends to all keys k, by head.
- `Convolve`: ReLU of a 3x3 convolution, channels last, zeros outside the picture, plus bias.
- `ConvolvePast`: the same of x beside its own frame one earlier, `past` being what comes before the first.
- `ConvolveAdd`: the same with residual added before the ReLU.
- `ConvolveUp`, with ReLU `ConvolveUpRelu`: a 3x3 convolution without bias behind nearest 2x upsampling, as one of 2x2
  taps for each position of an output pixel in its pair of rows and columns; `growth` frames out of each come from
  consecutive rows of the weight.
- `ConvolveInner8`: a 3x3 convolution of float8 plus bias, for the pixels of x that have all their neighbours; x and the
  weight stand for as many of the first and the second of `scales`.
- `ConvolveColours`: a 3x3 convolution plus bias to three colours, channels last to planes.
- `LastPlanes`: the last frame, channels first.
- `FoldFrames`: four consecutive frames side by side in the channels, for every second frame, the first two of the first
  from `past`; one pixel larger on every side, a copy of its neighbour. `FoldPixels`: the same of bytes in [-1, 1], the
  channels of a frame being (colour, row, column) of a cell of 16x16 pixels, in the type of `like`.
- `NormSilu`: SiLU of x divided by its Euclidean norm, at least 1e-12, times sqrt(C) and `gain`, over the last axis.
- `AdaptColours`, `AdaptColours16`: the first `size` rows and columns of the frames; mean and standard deviation (1e-5
  added to the variance) of each frame and colour become those of lq / 127.5 - 1; truncated to 8 or 16 bits of [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

DOMAIN = "flashvsr"
OPSET = 1
ABI = 1  # raised whenever an op's inputs, attributes or meaning change


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op. Inputs are (name, element type), "T" being float32, float16 or bfloat16; attributes are int64.

    "host int64" lies in host memory: the output's shape follows from its values.
    """

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

# x: [..., K]; weight: [N, K]; bias: [N]; residual, out: [..., N]
_LINEAR = (("x", "T"), ("weight", "T"), ("bias", "T"))
LINEAR = Op(name="Linear", inputs=_LINEAR, outputs=(("out", "T"),), attributes=())
LINEAR_GELU = Op(name="LinearGelu", inputs=_LINEAR, outputs=(("out", "T"),), attributes=())
LINEAR_ADD = Op(name="LinearAdd", inputs=(*_LINEAR, ("residual", "T")), outputs=(("out", "T"),), attributes=())

# x, out: the same shape, a multiple of 16 numbers; unit: [1]
TO_FLOAT8 = Op(name="ToFloat8", inputs=(("x", "T"), ("unit", "float")), outputs=(("out", "float8"),), attributes=())

# x: [..., K]; K and N multiples of 16
# scales: [2, 4], of LinearGelu8 [3, 4], each first in its row, for cuBLASLt wants them 16 bytes apart; the third row
# goes on with what a number of the result stands for, of which its first is the inverse
_LINEAR8 = (("x", "float8"), ("weight", "float8"), ("bias", "T"), ("scales", "float"))
LINEAR8 = Op(name="Linear8", inputs=_LINEAR8, outputs=(("out", "T"),), attributes=())
LINEAR_GELU8 = Op(name="LinearGelu8", inputs=_LINEAR8, outputs=(("out", "float8"),), attributes=())
LINEAR_ADD8 = Op(name="LinearAdd8", inputs=(*_LINEAR8, ("residual", "T")), outputs=(("out", "T"),), attributes=())

# qkv: [slabs, window rows, window columns, 128, 3 * heads * 128]; gains: [heads * 128]
# table: [slabs, window rows, window columns, 128, 1, 64, 2]; q, k, v: a third of qkv each
NORM_ROTATE = Op(
    name="NormRotate",
    inputs=(("qkv", "T"), ("gain_q", "float"), ("gain_k", "float"), ("table", "float")),
    outputs=(("q", "T"), ("k", "T"), ("v", "T")),
    attributes=(),
)

# as above, but v: [slabs, window rows, window columns, heads * 128, 128]
# scales: [3], what a number of q, of k and of v stands for
NORM_ROTATE8 = Op(
    name="NormRotate8",
    inputs=(*NORM_ROTATE.inputs, ("scales", "float")),
    outputs=(("q", "float8"), ("k", "float8"), ("v", "float8")),
    attributes=(),
)
# q, k, k_cache: as of BlockSparseAttention; v, v_cache: their last two axes turned; like: any
BLOCK_SPARSE_ATTENTION8 = Op(
    name="BlockSparseAttention8",
    inputs=(
        *((name, "float8" if kind == "T" else kind) for name, kind in BLOCK_SPARSE_ATTENTION.inputs),
        ("scales", "float"),
        ("like", "T"),
    ),
    outputs=(("out", "T"),),
    attributes=BLOCK_SPARSE_ATTENTION.attributes,
)

# x, out: [..., C]; C a multiple of 8, at most 2048
LAYER_NORM = Op(name="LayerNorm", inputs=(("x", "T"),), outputs=(("out", "T"),), attributes=())
LAYER_NORM8 = Op(name="LayerNorm8", inputs=TO_FLOAT8.inputs, outputs=(("out", "float8"),), attributes=())

# q, out: [slabs, window rows, window columns, 128, heads * 128]; gain: [heads * 128]; k, v: [n * 128, heads * 128]
PROMPT_ATTENTION = Op(
    name="PromptAttention",
    inputs=(("q", "T"), ("gain", "float"), ("k", "T"), ("v", "T")),
    outputs=(("out", "T"),),
    attributes=("heads",),
)

# x: [T, h, w, C]; weight: [N, 3, 3, C]; bias: [N]; residual, out: [T, h, w, N]; C a multiple of 64, N of 128
_CONVOLVE = (("x", "T"), ("weight", "T"), ("bias", "T"))
CONVOLVE = Op(name="Convolve", inputs=_CONVOLVE, outputs=(("out", "T"),), attributes=())
CONVOLVE_ADD = Op(name="ConvolveAdd", inputs=(*_CONVOLVE, ("residual", "T")), outputs=(("out", "T"),), attributes=())
# past: [h, w, C]; weight: [N, 3, 3, 2 C], x's channels first
CONVOLVE_PAST = Op(name="ConvolvePast", inputs=(*_CONVOLVE, ("past", "T")), outputs=(("out", "T"),), attributes=())
# weight: [4, growth * N, 2, 2, C], positions (upper, left), (upper, right), ...; out: [T * growth, 2 h, 2 w, N]
_CONVOLVE_UP = (("x", "T"), ("weight", "T"))
CONVOLVE_UP = Op(name="ConvolveUp", inputs=_CONVOLVE_UP, outputs=(("out", "T"),), attributes=("growth",))
CONVOLVE_UP_RELU = Op(name="ConvolveUpRelu", inputs=_CONVOLVE_UP, outputs=(("out", "T"),), attributes=("growth",))

# x: [T, h + 2, w + 2, C]; weight: [N, 3, 3, C]; bias: [N]; scales: [2]; out: [T, h, w, N]; C and N multiples of 128
CONVOLVE_INNER8 = Op(
    name="ConvolveInner8",
    inputs=(("x", "float8"), ("weight", "float8"), ("bias", "T"), ("scales", "float")),
    outputs=(("out", "T"),),
    attributes=(),
)
# x: [T, h, w, C]; weight: [3, 3, 3, C]; bias: [3]; out: [T, 3, h, w]; C a multiple of 128, at most 256
CONVOLVE_COLOURS = Op(name="ConvolveColours", inputs=_CONVOLVE, outputs=(("out", "T"),), attributes=())

# x: [T, h, w, C]; out: [C, h, w]; C a multiple of 64, h * w even
LAST_PLANES = Op(name="LastPlanes", inputs=(("x", "T"),), outputs=(("out", "T"),), attributes=())

# x: [T, h, w, C]; past: [2, h, w, C]; out: [T / 2, h + 2, w + 2, 4 * C]; C a multiple of 8
FOLD_FRAMES = Op(name="FoldFrames", inputs=(("x", "T"), ("past", "T")), outputs=(("out", "T"),), attributes=())
# frames: [T, 16 h, 16 w, 3]; past: [2, 16 h, 16 w, 3]; like: any; out: [T / 2, h + 2, w + 2, 4 * 768]
FOLD_PIXELS = Op(
    name="FoldPixels",
    inputs=(("frames", "uint8"), ("past", "uint8"), ("like", "T")),
    outputs=(("out", "T"),),
    attributes=(),
)
# x, out: [..., C]; gain: [C]; C a multiple of 8, at most 3072
NORM_SILU = Op(name="NormSilu", inputs=(("x", "T"), ("gain", "float")), outputs=(("out", "T"),), attributes=())

# frames: [T, 3, H, W]; lq: [T, H, W, 3]; size: (height, width); pixels: [T, height, width, 3]
_ADAPT = (("frames", "T"), ("lq", "uint8"), ("size", "host int64"))
ADAPT_COLOURS = Op(name="AdaptColours", inputs=_ADAPT, outputs=(("pixels", "uint8"),), attributes=())
ADAPT_COLOURS_16 = Op(name="AdaptColours16", inputs=_ADAPT, outputs=(("pixels", "uint16"),), attributes=())

FUSED_OPS = (
    LINEAR,
    LINEAR_GELU,
    LINEAR_ADD,
    TO_FLOAT8,
    LINEAR8,
    LINEAR_GELU8,
    LINEAR_ADD8,
    NORM_ROTATE,
    NORM_ROTATE8,
    BLOCK_SPARSE_ATTENTION8,
    LAYER_NORM,
    LAYER_NORM8,
    PROMPT_ATTENTION,
    CONVOLVE,
    CONVOLVE_ADD,
    CONVOLVE_PAST,
    CONVOLVE_UP,
    CONVOLVE_UP_RELU,
    CONVOLVE_INNER8,
    CONVOLVE_COLOURS,
    LAST_PLANES,
    FOLD_FRAMES,
    FOLD_PIXELS,
    NORM_SILU,
    ADAPT_COLOURS,
    ADAPT_COLOURS_16,
)
