"""Every kernel that is compiled ahead of time: its source, arguments, launch and architectures."""

from __future__ import annotations

from dataclasses import dataclass

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
WITH_FLOAT8 = (89, 90, 100, 120)
ELEMENTS = {"float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How one kernel is compiled. `arguments` are in the order of the launch; "T" is the tensors' type.

    Pointers are 16-byte aligned and `dim` is a multiple of 128: told to the compiler, which vectorises by it.
    """

    module: str
    name: str
    arguments: tuple[tuple[str, str], ...]
    constants: dict[str, int]
    warps: int
    stages: int = 3
    architectures: tuple[int, ...] = ARCHITECTURES

    @property
    def typed(self) -> bool:
        return any(kind == "*T" for _, kind in self.arguments)


def _arguments(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, _, kind in (part.partition(":") for part in text.split()))


KERNELS = (
    Kernel(
        module="selection",
        name="window_means",
        arguments=_arguments(
            "q:*T k:*T k_cache:*T slabs:*i64 q_means:*fp32 k_means:*fp32 q_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        constants={"BLOCK": 128},
        warps=4,
    ),
    Kernel(
        module="selection",
        name="window_scores",
        arguments=_arguments(
            "q_means:*fp32 k_means:*fp32 scores:*fp32 q_windows:i32 k_windows:i32 rows:i32 columns:i32 dim:i32"
            " local_range:i32"
        ),
        constants={"BLOCK": 64},
        warps=4,
    ),
    Kernel(
        module="selection",
        name="select_threshold",
        arguments=_arguments("scores:*fp32 thresholds:*fp32 topk:*i64 count:i32"),
        constants={"BLOCK": 4096},
        warps=16,
    ),
    Kernel(
        module="selection",
        name="list_kept",
        arguments=_arguments(
            "scores:*fp32 thresholds:*fp32 lists:*i32 counts:*i32 q_windows:i32 k_windows:i32 win:i32"
        ),
        constants={"BLOCK": 256},
        warps=2,
    ),
    Kernel(
        module="attention",
        name="block_sparse_attention",
        arguments=_arguments(
            "q:*T k:*T v:*T k_cache:*T v_cache:*T slabs:*i64 lists:*i32 counts:*i32 out:*T"
            " q_windows:i32 k_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        constants={"BLOCK_N": 64},
        warps=8,
        stages=2,
    ),
    Kernel(
        module="attention",
        name="block_sparse_attention8",
        arguments=_arguments(
            "q:*fp8e4nv k:*fp8e4nv v:*fp8e4nv k_cache:*fp8e4nv v_cache:*fp8e4nv slabs:*i64 lists:*i32 counts:*i32"
            " scales:*fp32 out:*T q_windows:i32 k_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        constants={"BLOCK_N": 128},
        warps=8,
        stages=2,
        architectures=WITH_FLOAT8,
    ),
)


@dataclass(frozen=True, kw_only=True)
class CudaKernel:
    """How one CUDA kernel is compiled: `source` defines `name`, or `name`_`element` where it is typed.

    Kinds of arguments that are tensor maps, passed by value: "tile", of [tokens, dim] numbers, box [128 tokens, 64
    channels], 128-byte swizzle; "tile8", the same of bytes, box [128 tokens, 128 channels]; "turned8", of
    [windows * dim, 128] bytes, box [128 channels, 128 tokens]; "map", one that the launcher makes.
    persistent: the product of the grid is its number of items, and it is launched on that many blocks or as many as
    the device has multiprocessors, whichever is fewer. replaces: kernels that it makes superfluous.
    """

    source: str
    name: str
    arguments: tuple[tuple[str, str], ...]
    threads: int
    architectures: tuple[int, ...] = ARCHITECTURES
    shared_bytes: int = 0  # dynamic; the source checks that it suffices
    persistent: bool = False
    replaces: tuple[str, ...] = ()

    @property
    def typed(self) -> bool:
        return any(kind in ("*T", "tile") for _, kind in self.arguments)


_CONVOLUTION_BYTES = 216_232  # 1024 to align, two windows of 41 KiB, eight weights of 16 KiB, barriers

CUDA_KERNELS = (
    CudaKernel(
        source="selection.cu",
        name="window_means",
        arguments=_arguments(
            "q:*T k:*T k_cache:*T slabs:*i64 q_means:*fp32 k_means:*fp32 ticket:*i32 finished:*i32"
            " q_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        threads=128,
    ),
    CudaKernel(
        source="selection.cu",
        name="window_means8",
        arguments=_arguments(
            "q:*u8 k:*u8 k_cache:*u8 slabs:*i64 scales:*fp32 q_means:*fp32 k_means:*fp32 ticket:*i32 finished:*i32"
            " q_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        threads=128,
    ),
    CudaKernel(
        source="selection.cu",
        name="group_scores",
        arguments=_arguments(
            "q_means:*fp32 k_means:*fp32 scores:*fp32 q_windows:i32 k_windows:i32 rows:i32 columns:i32 dim:i32"
            " local_range:i32"
        ),
        threads=512,
        replaces=("window_scores",),
    ),
    CudaKernel(
        source="selection.cu",
        name="select_windows",
        arguments=_arguments(
            "scores:*fp32 topk:*i64 lists:*i32 counts:*i32 order:*i32 finished:*i32 items:i32 k_windows:i32 win:i32"
        ),
        threads=1024,
        replaces=("select_threshold", "list_kept"),
    ),
    CudaKernel(
        source="fused.cu",
        name="norm_rotate",
        arguments=_arguments("qkv:*T gain_q:*fp32 gain_k:*fp32 table:*fp32 q:*T k:*T v:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fused.cu",
        name="norm_rows",
        arguments=_arguments("x:*T gain:*fp32 out:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fused.cu",
        name="layer_norm",
        arguments=_arguments("x:*T out:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="float8.cu",
        name="to_float8",
        arguments=_arguments("x:*T unit:*fp32 out:*u8 vectors:i32"),
        threads=256,
    ),
    CudaKernel(
        source="float8.cu",
        name="layer_norm8",
        arguments=_arguments("x:*T unit:*fp32 out:*u8 tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="float8.cu",
        name="norm_rotate8",
        arguments=_arguments(
            "qkv:*T gain_q:*fp32 gain_k:*fp32 table:*fp32 scales:*fp32 q:*u8 k:*u8 tokens:i32 dim:i32"
        ),
        threads=256,
    ),
    CudaKernel(
        source="float8.cu",
        name="turn_values8",
        arguments=_arguments("qkv:*T scales:*fp32 v:*u8 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fused.cu",
        name="list_all",
        arguments=_arguments("lists:*i32 counts:*i32 order:*i32 ticket:*i32 k_windows:i32"),
        threads=32,
    ),
    CudaKernel(
        source="fused.cu",
        name="norm_silu",
        arguments=_arguments("x:*T gain:*fp32 out:*T tokens:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fold.cu",
        name="fold_frames",
        arguments=_arguments("x:*T past:*T out:*T results:i32 height:i32 width:i32 dim:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fold.cu",
        name="fold_pixels",
        arguments=_arguments("frames:*u8 past:*u8 out:*T results:i32 height:i32 width:i32"),
        threads=256,
    ),
    CudaKernel(
        source="fold.cu",
        name="last_planes",
        arguments=_arguments("x:*u16 out:*u16 pixels:i32 channels:i32"),
        threads=256,
    ),
    CudaKernel(
        source="colours.cu",
        name="convolve_colours",
        arguments=_arguments("x:*T weight:*T bias:*T out:*T height:i32 width:i32 channels:i32"),
        threads=256,
        shared_bytes=74_160,  # weights of 256 channels, 27 sums for each of 512 pixels
    ),
    CudaKernel(
        source="adain.cu",
        name="colour_statistics",
        arguments=_arguments("frames:*T lq:*u8 sums:*fp64 height:i32 width:i32 rows:i32 columns:i32 parts:i32"),
        threads=256,
    ),
    CudaKernel(
        source="adain.cu",
        name="adapt_colours",
        arguments=_arguments("frames:*T sums:*fp64 pixels:*u8 height:i32 width:i32 rows:i32 columns:i32 parts:i32"),
        threads=256,
    ),
    CudaKernel(
        source="adain.cu",
        name="adapt_colours16",
        arguments=_arguments("frames:*T sums:*fp64 pixels:*u16 height:i32 width:i32 rows:i32 columns:i32 parts:i32"),
        threads=256,
    ),
    CudaKernel(
        source="convolve_sm90.cu",
        name="convolve",
        architectures=(90,),
        arguments=_arguments(
            "x:map past:map weight:map bias:*T residual:*T out:*T frames:i32 height:i32 width:i32 channels:i32"
            " sources:i32 outputs:i32 growth:i32 side:i32 relu:i32"
        ),
        threads=384,
        shared_bytes=_CONVOLUTION_BYTES,
        persistent=True,
    ),
    CudaKernel(
        source="convolve8_sm90.cu",
        name="convolve8",
        architectures=(90,),
        arguments=_arguments(
            "x:map weight:map scales:*fp32 bias:*T out:*T frames:i32 height:i32 width:i32 channels:i32 outputs:i32"
        ),
        threads=384,
        shared_bytes=_CONVOLUTION_BYTES,
        persistent=True,
    ),
    CudaKernel(
        source="attention_sm90.cu",
        name="block_sparse_attention",
        architectures=(90,),
        arguments=_arguments(
            "q:tile k:tile v:tile k_cache:tile v_cache:tile slabs:*i64 lists:*i32 counts:*i32 order:*i32 ticket:*i32"
            " out:*T items:i32 q_windows:i32 k_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        threads=384,
        shared_bytes=165_120,  # 1024 to align, five tiles of 32 KiB, barriers
        persistent=True,
    ),
    CudaKernel(
        source="attention8_sm90.cu",
        name="block_sparse_attention8",
        architectures=(90,),
        arguments=_arguments(
            "q:tile8 k:tile8 v:turned8 k_cache:tile8 v_cache:turned8 slabs:*i64 lists:*i32 counts:*i32 order:*i32"
            " ticket:*i32 scales:*fp32 out:*T items:i32 q_windows:i32 k_windows:i32 cached:i32 win:i32 dim:i32"
        ),
        threads=384,
        shared_bytes=148_736,  # 1024 to align, nine tiles of 16 KiB, barriers
        persistent=True,
    ),
)
