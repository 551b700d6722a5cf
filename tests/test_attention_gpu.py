"""The attention kernels on a GPU, against a dense reference in float64 that shares no code with them.

Kernels come from FLASHVSR_TRT_KERNELS (a folder that `make kernels` wrote) or are compiled first.
"""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from flashvsr_trt.plugins_trt.attention_op import Problem, enqueue, workspace  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# 128 numbers of a row are summed in the tensor's type inside the matrix units: 2^-11 and 2^-8 relative each
TOLERANCE = {"float16": 2e-3, "bfloat16": 1e-2}
WEIGHTS8 = 0.03  # of weights rounded to float8


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    from flashvsr_trt.plugins_trt.kernels.build import build
    from flashvsr_trt.plugins_trt.kernels.driver import IMPLEMENTATIONS, Driver, load_kernels

    torch.cuda.init()
    torch.zeros(1, device="cuda")  # makes the context that the driver calls work in
    driver = Driver()
    folder = os.environ.get("FLASHVSR_TRT_KERNELS")
    if folder is None:
        folder = tmp_path_factory.mktemp("kernels")
        build(folder, (driver.compute_capability() // 10 * 10,))
    return {
        (implementation, element): load_kernels(Path(folder), element, driver, ("triton", implementation))
        for implementation in IMPLEMENTATIONS
        for element in TYPES
    }


def reference_scores(q, keys, heads, local_range):
    """Step 1 in float64, with explicit loops over window pairs for the local range: [heads, q windows, k windows]."""
    slabs, rows, columns = q.shape[:3]
    q_means = q.double().mean(3).reshape(-1, heads, 128)
    k_means = keys.double().mean(3).reshape(-1, heads, 128)
    scores = torch.einsum("qhd,khd->hqk", q_means, k_means) / 128**0.5
    index = torch.arange(rows * columns, device=q.device)
    r, c = index // columns, index % columns
    dr, dc = r[None] - r[:, None] + local_range // 2, c[None] - c[:, None] + local_range // 2
    inside = (dr >= 0) & (dr < local_range) & (dc >= 0) & (dc < local_range)
    inside = inside.repeat(slabs, keys.shape[0])
    return torch.where(inside, scores, -torch.inf).softmax(-1)


def reference_kept(scores, slabs, topk):
    heads, q_windows, k_windows = scores.shape
    flat = scores.reshape(heads, slabs, -1)
    count = flat.shape[-1]
    threshold = flat.sort(-1, descending=True).values[..., min(topk, count - 1)]
    return (flat > threshold[..., None]).reshape(heads, q_windows, k_windows), threshold


def reference_attention(q, keys, values, kept, heads):
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    qs = q.double().reshape(-1, 128, heads, 128)
    ks, vs = (x.double().reshape(-1, 128, heads, 128) for x in (keys, values))
    flat = out.reshape(-1, 128, heads, 128)
    for head in range(heads):
        for window in range(qs.shape[0]):
            chosen = kept[head, window].nonzero()[:, 0]
            if len(chosen):
                k, v = ks[chosen, :, head].reshape(-1, 128), vs[chosen, :, head].reshape(-1, 128)
                flat[window, :, head] = (qs[window, :, head] @ k.T / 128**0.5).softmax(-1) @ v
    return out


def run(kernels, problem, tensors, topk, dtype):
    """Output, of type `dtype`, and the kept blocks [heads, q windows, k windows] that the kernels chose. All memory is
    poisoned before."""
    layout = workspace(problem)
    scratch = torch.full((layout["bytes"],), 0xFF, dtype=torch.uint8, device="cuda")
    out = torch.full(tensors["q"].shape, torch.nan, dtype=dtype, device="cuda")
    tensors = tensors | {"topk": torch.tensor(topk, device="cuda"), "out": out}
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    enqueue(kernels, problem, pointers, scratch.data_ptr(), torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    pairs = (problem.heads, problem.q_windows, problem.k_windows)

    def view(name, dtype, *shape):
        size = 4 * torch.tensor(shape).prod().item()
        return scratch[layout[name] :][:size].view(dtype).reshape(shape)

    lists, counts = view("lists", torch.int32, *pairs), view("counts", torch.int32, *pairs[:2])
    kept = torch.zeros(pairs, dtype=torch.bool, device="cuda")
    listed = torch.arange(pairs[2], device="cuda") < counts[..., None]
    kept[listed.nonzero()[:, 0], listed.nonzero()[:, 1], lists[listed].long()] = True
    assert (kept.sum(-1) == counts).all(), "a window is listed twice"
    return out, kept


CASES = {
    "first step": dict(slabs=3, cached_slabs=0),
    "steady": dict(slabs=1, cached_slabs=3),
    "two cached": dict(slabs=1, cached_slabs=2, rows=3, columns=5),
    "kv 5": dict(slabs=1, cached_slabs=5, rows=2, columns=3),
    "one window": dict(slabs=1, cached_slabs=2, rows=1, columns=1),
    "even range": dict(slabs=1, cached_slabs=3, local_range=4),
    "own window only": dict(slabs=1, cached_slabs=3, local_range=1),
    "more items than multiprocessors": dict(slabs=1, cached_slabs=1, rows=6, columns=7, heads=5),
}
INPUTS = ("random", "large", "ties", "one hot")


def make(problem, dtype, kind, seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    ring = problem.cached_slabs + 1
    shape = (problem.rows, problem.columns, 128, problem.dim)

    def draw(count):
        x = torch.randn((count, *shape), generator=generator, device="cuda")
        if kind == "large":
            x = x * 40
        if kind == "ties":
            x = x[:, :1, :1].expand_as(x).contiguous()
        # window means of random tokens are near 0, and all scores alike: give each window a mean
        if kind == "random":
            x = x + torch.randn((count, *shape[:2], 1, shape[3]), generator=generator, device="cuda")
        if kind == "one hot":
            x = x * (torch.rand((count, *shape[:2], 1, 1), generator=generator, device="cuda") > 0.8) * 10
        return x.to(dtype)

    slabs = torch.randperm(ring, generator=generator, device="cuda")[: problem.cached_slabs].contiguous()
    return {
        "q": draw(problem.slabs),
        "k": draw(problem.slabs),
        "v": draw(problem.slabs),
        "k_cache": draw(ring),
        "v_cache": draw(ring),
        "slabs": slabs if problem.cached_slabs else torch.zeros(1, dtype=torch.int64, device="cuda"),
    }


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("implementation", ["triton", "cuda"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", INPUTS)
def test_against_float64(kernels, element, implementation, case, kind):
    chosen = kernels[implementation, element]
    if implementation == "cuda" and all(kernel.entry["implementation"] == "triton" for kernel in chosen.values()):
        pytest.skip("no CUDA kernel for this GPU, or built without nvcc")
    sizes = dict(rows=4, columns=6, heads=3, local_range=3) | CASES[case]
    problem = Problem(**sizes)
    tensors = make(problem, TYPES[element], kind, seed=len(case) + len(kind))
    check(chosen, problem, tensors, tensors, TYPES[element], TOLERANCE[element])


def turned(values):
    """[slabs, rows, columns, 128, dim] to [..., dim, 128], number 16g + 4t + 2b + e being token 16g + 8b + 2t + e."""
    place = torch.arange(128, device="cuda")
    token = place // 16 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2
    return values[..., token, :].transpose(-1, -2).contiguous()


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs a GPU with float8"
)
@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("implementation", ["triton", "cuda"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["random", "large", "one hot"])
def test_float8_against_float64(kernels, element, implementation, case, kind):
    chosen = dict(kernels["cuda", element])
    if "window_means8" not in chosen:
        pytest.skip("built without nvcc")
    name = "block_sparse_attention8"
    if implementation == "cuda" and chosen[name].entry["implementation"] == "triton":
        pytest.skip("no CUDA kernel for this GPU")
    chosen[name] = kernels[implementation, element][name]
    sizes = dict(rows=4, columns=6, heads=3, local_range=3) | CASES[case]
    problem = Problem(**sizes)
    wide = make(problem, torch.float32, kind, seed=len(case) + len(kind))
    exact, tensors = {"slabs": wide["slabs"]}, {"slabs": wide["slabs"]}
    units = {kind: wide[kind].abs().max().clamp(min=1e-3) / 448 for kind in "qkv"}
    for tensor in ("q", "k", "v", "k_cache", "v_cache"):
        unit = units[tensor[0]]
        eighth = (wide[tensor] / unit).clamp(-448, 448).to(torch.float8_e4m3fn)
        exact[tensor] = eighth.double() * unit
        bits = eighth.view(torch.uint8)
        tensors[tensor] = turned(bits) if tensor[0] == "v" else bits
    tensors["scales"] = torch.stack(list(units.values()))
    check(chosen, problem, tensors, exact, TYPES[element], TOLERANCE[element] + WEIGHTS8)


def check(kernels, problem, tensors, exact, dtype, tolerance):
    """Runs `tensors`, which stand for the numbers of `exact`, at various top-k."""
    cached = exact["slabs"][: problem.cached_slabs]
    keys = torch.cat([exact["k_cache"][cached], exact["k"]])
    values = torch.cat([exact["v_cache"][cached], exact["v"]])
    scores = reference_scores(exact["q"], keys, problem.heads, problem.local_range)
    count = problem.win * problem.k_windows
    for topk in sorted({0, 1, count // 10, count // 2, count - 1, count * 3}):
        out, kept = run(kernels, problem, tensors, topk, dtype)
        wanted, threshold = reference_kept(scores, problem.slabs, topk)
        margin = (scores.reshape(problem.heads, problem.slabs, -1) - threshold[..., None]).abs().reshape(scores.shape)
        # a block may differ only where its score ties with the threshold within float32's rounding
        assert not ((kept != wanted) & (margin > 1e-5 * scores + 1e-9)).any()
        assert torch.isfinite(out).all()
        expected = reference_attention(exact["q"], keys, values, kept, problem.heads)
        error = (out.double() - expected).norm() / expected.norm().clamp(min=1e-30)
        assert error < tolerance, f"topk {topk}: relative error {error:.2e}"
        nothing = ~kept.any(-1).T.reshape(-1, problem.heads)
        per_head = out.reshape(problem.q_windows, 128, problem.heads, 128).abs().amax((1, 3))
        assert (per_head[nothing] == 0).all(), "a query window with no kept block must give 0"
