"""BlockSparseAttention on a GPU: workspace and the order of its kernels. No allocation at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flashvsr_trt.configs.contract import HEAD_DIM, TOKENS_PER_WINDOW
from flashvsr_trt.plugins_trt.kernels.driver import Kernel

STAGES = (  # the kernels, in launch order
    "window_means",
    "window_scores",
    "group_scores",
    "select_threshold",
    "list_kept",
    "select_windows",
    "block_sparse_attention",
)
EIGHTHS = {"window_means": "window_means8", "block_sparse_attention": "block_sparse_attention8"}  # of float8
_ALIGN = 256
_MEANS_BLOCK = 128  # channels of one program of window_means, see kernels.build
_SCORES_GROUP = 4  # query windows of one block of group_scores, see csrc/kernels/selection.cu


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Sizes of one call: query slabs, cached slabs, windows of a slab as rows x columns, heads, local range."""

    slabs: int
    cached_slabs: int
    rows: int
    columns: int
    heads: int
    local_range: int

    @property
    def win(self) -> int:
        return self.rows * self.columns

    @property
    def dim(self) -> int:
        return self.heads * HEAD_DIM

    @property
    def q_windows(self) -> int:
        return self.slabs * self.win

    @property
    def k_windows(self) -> int:
        return (self.slabs + self.cached_slabs) * self.win

    @property
    def items(self) -> int:
        """Pairs of head and query window."""
        return self.heads * self.q_windows

    @property
    def tokens(self) -> int:
        """Query tokens."""
        return self.q_windows * TOKENS_PER_WINDOW


def workspace(problem: Problem) -> dict[str, int]:
    """Offset in bytes of every intermediate, and their end under "bytes"."""
    pairs = problem.heads * problem.q_windows * problem.k_windows
    sizes = {
        "q_means": 4 * problem.q_windows * problem.dim,
        "k_means": 4 * problem.k_windows * problem.dim,
        "scores": 4 * pairs,
        "thresholds": 4 * problem.heads * problem.slabs,
        "lists": 4 * pairs,
        "counts": 4 * problem.items,
        "order": 4 * problem.items,
        "ticket": 4,
        "finished": 4,
    }
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += -(-size // _ALIGN) * _ALIGN
    return offsets | {"bytes": end}


def enqueue(
    kernels: Mapping[str, Kernel], problem: Problem, tensors: Mapping[str, int], workspace_pointer: int, stream: int
) -> None:
    """Launches selection and attention.

    Args:
        kernels: what `load_kernels` gave for the tensors' type (or a part of them, to time it).
        problem: sizes.
        tensors: device addresses of the op's inputs and of `out`, by the names of plugins_trt.spec; with `scales`
            it is BlockSparseAttention8.
        workspace_pointer: `workspace(problem)["bytes"]` bytes, 256-byte aligned.
        stream: CUDA stream handle.
    """
    scratch = {name: workspace_pointer + offset for name, offset in workspace(problem).items() if name != "bytes"}
    sizes = {
        "q_windows": problem.q_windows,
        "k_windows": problem.k_windows,
        "cached": problem.cached_slabs * problem.win,
        "win": problem.win,
        "rows": problem.rows,
        "columns": problem.columns,
        "dim": problem.dim,
        "local_range": problem.local_range,
        "count": problem.win * problem.k_windows,
        "items": problem.items,
    }
    if not problem.cached_slabs:  # an empty ring may have no address, and a tensor map needs one
        tensors = {**tensors, "k_cache": tensors["k"], "v_cache": tensors["v"]}
    grids = (
        (problem.q_windows + problem.k_windows, problem.dim // _MEANS_BLOCK, 1),
        (problem.q_windows, problem.heads, 1),
        (-(-problem.q_windows // _SCORES_GROUP), problem.heads, 1),
        (problem.heads * problem.slabs, 1, 1),
        (problem.q_windows, problem.heads, 1),
        (problem.heads * problem.slabs, 1, 1),
        (problem.heads, problem.q_windows, 1),
    )
    for stage, grid in zip(STAGES, grids, strict=True):
        name = EIGHTHS.get(stage, stage) if "scales" in tensors else stage
        if name in kernels:
            kernels[name].launch(grid, stream, **tensors, **scratch, **sizes)
