"""Every tensor that crosses the border of a step graph: name, dtype, symbolic shape, and which state feeds which.

The only place where a tensor name is spelled: export writes graphs by it, the runtime binds by it, the
manifest of a bundle stores it. All tensors are without a batch axis; time comes first.

Symbols of a shape: `H`, `W` canvas in pixels (multiples of 128), `T` frames, `slabs` valid KV slabs, `ring`
slots of the KV ring. A dimension is an integer, a symbol, or symbol/integer.

Types: `f` stands for the bundle's own type (float32, float16 or bfloat16), the others are literal. In bundles of float8
the KV ring is of it: `in_float8`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

Dim = int | str

WINDOW = (2, 8, 8)  # latent frames, token rows, token columns of one attention window
TOKENS_PER_WINDOW = 128
HEAD_DIM = 128
ROPE_PAIRS = (22, 21, 21)  # rotated pairs of a head that follow frame, row and column
LATENT_CHANNELS = 16
FIRST_LATENTS = 6  # latent frames of step 0
STEP_LATENTS = 2  # latent frames of every other step, and of one slab
STEP_FRAMES = 8  # frames that one slab stands for: of one lq_proj call and of one decoder call
LATENT_FRAMES = STEP_FRAMES // STEP_LATENTS  # frames that one latent frame stands for
FIRST_SLABS = FIRST_LATENTS // STEP_LATENTS
LASTING = ("H", "W", "ring")  # symbols of shapes that stay what they are for a whole stream
SHAPING = "size"  # input whose numbers decide shapes, [output height, output width]: libraries read it on the host
LQ_KERNEL_CONTEXT = 2  # frames of temporal context in front of each lq_proj convolution


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output of a step graph."""

    name: str
    dtype: str  # "f", "uint8", "uint16", "int64", "float8e4m3fn", "float16", "float32"
    shape: tuple[Dim, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """One step graph. `state` maps an output to the input that it feeds at the next call."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[tuple[str, str], ...] = ()

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name; KeyError where there is none."""
        for tensor in self.inputs + self.outputs:
            if tensor.name == name:
                return tensor
        raise KeyError(f"graph {self.name} has no tensor {name}")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the networks, read off the weights' shapes."""

    dim: int  # DiT channels, heads * 128
    layers: int
    lq_hidden: tuple[int, int]  # channels after conv1 and after conv2 of the LQ projector
    tc_memory: tuple[tuple[int, int], ...] = ()  # (channels, pixels per cell) of each MemBlock's past
    vae_caches: tuple[tuple[int, int, int], ...] = ()  # (channels, frames, pixels per cell) of each causal cache

    @property
    def heads(self) -> int:
        return self.dim // HEAD_DIM


def evaluate(dim: Dim, symbols: dict[str, int]) -> int:
    """The value of one dimension, e.g. `H/16` with H = 768 is 48. KeyError for an unknown symbol."""
    if isinstance(dim, int):
        return dim
    symbol, _, divisor = dim.partition("/")
    value = symbols[symbol]
    if not divisor:
        return value
    if value % int(divisor):
        raise ValueError(f"{dim} with {symbol} = {value} is not an integer")
    return value // int(divisor)


def evaluate_shape(shape: tuple[Dim, ...], symbols: dict[str, int]) -> tuple[int, ...]:
    return tuple(evaluate(dim, symbols) for dim in shape)


def lasting_dims(graph: Graph, symbols: Mapping[str, int]) -> dict[str, int]:
    """The values of the symbolic dimensions of a graph's inputs that follow from LASTING symbols alone."""
    dims = {dim for tensor in graph.inputs for dim in tensor.shape if isinstance(dim, str)}
    known = {name: symbols[name] for name in LASTING if name in symbols}
    return {dim: evaluate(dim, known) for dim in sorted(dims) if dim.partition("/")[0] in known}


def kv_name(kind: str, layer: int, *, new: bool) -> str:
    """`k_cache.3` is the ring that layer 3 reads, `k_new.3` the slabs it adds; kind is "k" or "v"."""
    return f"{kind}_{'new' if new else 'cache'}.{layer}"


def _lq(frames: Dim) -> Tensor:
    return Tensor(name="lq", dtype="uint8", shape=(frames, "H", "W", 3))


def _latents(frames: int) -> tuple[Dim, ...]:
    return (frames, LATENT_CHANNELS, "H/8", "W/8")


def _cells(per_cell: int) -> tuple[Dim, Dim]:
    return (f"H/{per_cell}", f"W/{per_cell}") if per_cell > 1 else ("H", "W")


def lq_proj_first(sizes: Sizes) -> Graph:
    """v1.1 only: the first frame of a stream fills both caches and gives no tokens."""
    return Graph(name="lq_proj_first", inputs=(_lq(1),), outputs=_lq_caches(sizes, "_new"))


def _lq_caches(sizes: Sizes, suffix: str) -> tuple[Tensor, Tensor]:
    # The context of conv1 is kept as the frames themselves: an eighth of the bytes, and exact.
    return (
        Tensor(name="lq_cache1" + suffix, dtype="uint8", shape=(LQ_KERNEL_CONTEXT, "H", "W", 3)),
        Tensor(
            name="lq_cache2" + suffix,
            dtype="f",
            shape=(LQ_KERNEL_CONTEXT, sizes.lq_hidden[0], "H/16", "W/16"),
        ),
    )


def lq_proj(sizes: Sizes, *, causal: bool) -> Graph:
    """8 LQ frames to the tokens of 2 latent frames; v1.1 (`causal`) carries two caches, v1 nothing."""
    tokens = Tensor(name="lq_tokens", dtype="f", shape=(STEP_LATENTS, "H/16", "W/16", sizes.dim))
    before = _lq_caches(sizes, "") if causal else ()
    after = _lq_caches(sizes, "_new") if causal else ()
    return Graph(
        name="lq_proj",
        inputs=(_lq(STEP_FRAMES), *before),
        outputs=(tokens, *after),
        state=tuple((new.name, old.name) for new, old in zip(after, before, strict=True)),
    )


def dit(sizes: Sizes, *, first: bool) -> Graph:
    """One DiT step: noise and LQ tokens to latents (noise - velocity), and the KV slabs it adds.

    The KV ring is `[ring, window rows, window columns, 128, D]`, keys after RoPE. The graph reads the slots
    listed in `slabs` and attends to them and to its own new slabs, so a new slab may be written straight
    into a slot that is not listed. The rotary tables hold (cos, sin) of each pair, computed by the runtime
    in double from the index, so that no table ends the video.
    """
    frames = FIRST_LATENTS if first else STEP_LATENTS
    slab: tuple[Dim, ...] = ("H/128", "W/128", TOKENS_PER_WINDOW, sizes.dim)
    inputs = [
        Tensor(name="noise", dtype="float16", shape=_latents(frames)),
        Tensor(name="lq_tokens", dtype="f", shape=(frames, "H/16", "W/16", sizes.dim)),
        Tensor(name="rope_frames", dtype="float32", shape=(frames, ROPE_PAIRS[0], 2)),
        Tensor(name="rope_rows", dtype="float32", shape=("H/16", ROPE_PAIRS[1], 2)),
        Tensor(name="rope_columns", dtype="float32", shape=("W/16", ROPE_PAIRS[2], 2)),
        Tensor(name="topk", dtype="int64", shape=()),
    ]
    outputs = [Tensor(name="latents", dtype="f", shape=_latents(frames))]
    if not first:
        inputs.append(Tensor(name="slabs", dtype="int64", shape=("slabs",)))
    for layer in range(sizes.layers):
        for kind in ("k", "v"):
            if not first:
                inputs.append(Tensor(name=kv_name(kind, layer, new=False), dtype="f", shape=("ring", *slab)))
            outputs.append(
                Tensor(name=kv_name(kind, layer, new=True), dtype="f", shape=(frames // STEP_LATENTS, *slab))
            )
    return Graph(name="dit_first" if first else "dit", inputs=tuple(inputs), outputs=tuple(outputs))


def in_float8(graph: Graph) -> Graph:
    """A DiT graph whose KV ring is of float8, in which values are `[ring, window rows, window columns, D, 128]`:
    channel by channel (plugins_trt/spec.py, NormRotate8)."""

    def changed(tensor: Tensor) -> Tensor:
        kind = tensor.name.partition("_")[0]
        if kind not in ("k", "v"):
            return tensor
        *lead, tokens, channels = tensor.shape
        shape = tensor.shape if kind == "k" else (*lead, channels, tokens)
        return replace(tensor, dtype="float8e4m3fn", shape=shape)

    return replace(graph, inputs=tuple(map(changed, graph.inputs)), outputs=tuple(map(changed, graph.outputs)))


def tc_decoder(sizes: Sizes) -> Graph:
    """2 latents and their 8 LQ frames to 8 frames in [-1,1]; the memory is zeros at the start of a stream."""
    before = tuple(
        Tensor(name=f"memory.{i}", dtype="f", shape=(channels, *_cells(per_cell)))
        for i, (channels, per_cell) in enumerate(sizes.tc_memory)
    )
    after = tuple(Tensor(name=t.name.replace("memory", "memory_new"), dtype="f", shape=t.shape) for t in before)
    frames = Tensor(name="frames", dtype="f", shape=(STEP_FRAMES, 3, "H", "W"))
    return Graph(
        name="tc_decoder",
        inputs=(Tensor(name="latents", dtype="f", shape=_latents(STEP_LATENTS)), _lq(STEP_FRAMES), *before),
        outputs=(frames, *after),
        state=tuple((new.name, old.name) for new, old in zip(after, before, strict=True)),
    )


def vae_decoder(sizes: Sizes, *, first: bool) -> Graph:
    """One latent to 4 frames; the first of a stream, which has no past, to 1 frame.

    The caches that `vae_decoder_first` gives are the ones that `vae_decoder` reads next, those of the
    convolutions that the first latent passes by are zeros.
    """
    before, after = (
        tuple(
            Tensor(name=f"{name}.{i}", dtype="f", shape=(frames, channels, *_cells(per_cell)))
            for i, (channels, frames, per_cell) in enumerate(sizes.vae_caches)
        )
        for name in ("cache", "cache_new")
    )
    frames = Tensor(name="frames", dtype="f", shape=(1 if first else LATENT_FRAMES, 3, "H", "W"))
    return Graph(
        name="vae_decoder_first" if first else "vae_decoder",
        inputs=(Tensor(name="latents", dtype="f", shape=_latents(1)), *(() if first else before)),
        outputs=(frames, *after),
        state=() if first else tuple((new.name, old.name) for new, old in zip(after, before, strict=True)),
    )


def post(fix: str, bits: int) -> Graph:
    """Cut to `size` = (height, width), then colour fix against the LQ frames, then unsigned integers.

    Padding is cut away first, so that it does not count in the statistics.

    `fix` is adain, wavelet or none. 8 bits give uint8, trunc(clip((x+1)*127.5, 0, 255)); 16 bits give uint16
    with 32767.5 and 65535.
    """
    return Graph(
        name=f"post_{fix}{bits}",
        inputs=(
            Tensor(name="frames", dtype="f", shape=("T", 3, "H", "W")),
            _lq("T"),
            Tensor(name="size", dtype="int64", shape=(2,)),
        ),
        outputs=(Tensor(name="pixels", dtype=f"uint{bits}", shape=("T", "height", "width", 3)),),
    )


COLOUR_FIXES = ("adain", "wavelet", "none")  # the first is the reference's
BITS = (8, 16)


def graphs(sizes: Sizes, *, causal: bool) -> dict[str, Graph]:
    """All step graphs of a bundle, by name; those of the Wan VAE where the sizes tell of one."""
    chosen = [lq_proj_first(sizes)] if causal else []
    chosen += [
        lq_proj(sizes, causal=causal),
        dit(sizes, first=True),
        dit(sizes, first=False),
        tc_decoder(sizes),
    ]
    if sizes.vae_caches:
        chosen += [vae_decoder(sizes, first=True), vae_decoder(sizes, first=False)]
    chosen += [post(fix, bits) for fix in COLOUR_FIXES for bits in BITS]
    return {graph.name: graph for graph in chosen}
