"""BlockSparseAttention's function body, run by ONNX Runtime, against numpy in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from flashvsr_trt.export import onnx_ops
from flashvsr_trt.plugins_trt.spec import ABI, BLOCK_SPARSE_ATTENTION, DOMAIN, OPSET

HEADS = 2
DIM = HEADS * 128
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}
Arrays = dict[str, np.ndarray]


def model(local_range: int, dtype: type, *, only_mask: bool = False) -> onnx.ModelProto:
    """A graph of one node of the domain, with its body."""

    def tensor(name: str, slabs: str) -> onnx.ValueInfoProto:
        shape = [slabs, "rows", "columns", 128, DIM]
        return helper.make_tensor_value_info(name, TYPES[dtype], shape)

    topk = helper.make_tensor_value_info("topk", TensorProto.INT64, [])
    if only_mask:
        node = helper.make_node("BlockMask", ["q", "k", "topk"], ["mask"], domain=DOMAIN, local_range=local_range)
        inputs = [tensor("q", "s"), tensor("k", "n"), topk]
        output = helper.make_tensor_value_info("mask", TensorProto.BOOL, [HEADS, "queries", "keys"])
    else:
        names = [name for name, _ in BLOCK_SPARSE_ATTENTION.inputs]
        attributes = {"heads": HEADS, "local_range": local_range, **onnx_ops.PLUGIN}
        node = helper.make_node(BLOCK_SPARSE_ATTENTION.name, names, ["out"], domain=DOMAIN, **attributes)
        slabs = helper.make_tensor_value_info("slabs", TensorProto.INT64, ["m"])
        inputs = [
            *(tensor(n, "s") for n in "qkv"),
            tensor("k_cache", "r"),
            tensor("v_cache", "r"),
            slabs,
            topk,
        ]
        output = tensor("out", "s")
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OPSET)]
    graph = helper.make_graph([node], "op", inputs, [output])
    made = helper.make_model(graph, functions=onnx_ops.functions(), opset_imports=imports, ir_version=10)
    onnx.checker.check_model(made)
    return made


@pytest.fixture(scope="module")
def session() -> Callable[..., ort.InferenceSession]:
    """Sessions by (local range, type, mask only), made once each."""
    made: dict[tuple[int, type, bool], ort.InferenceSession] = {}

    def get(local_range: int, dtype: type = np.float32, *, only_mask: bool = False) -> ort.InferenceSession:
        key = (local_range, dtype, only_mask)
        if key not in made:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            content = model(local_range, dtype, only_mask=only_mask).SerializeToString()
            made[key] = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return made[key]

    return get


def inputs(shape: tuple[int, int, int], cached: int, topk: int, dtype: type = np.float32, seed: int = 0) -> Arrays:
    """Random inputs of [slabs, rows, columns]; tokens of a window share an offset, so that window means differ."""
    random = np.random.default_rng(seed)
    ring = cached + 1

    def tensor(slabs: int) -> np.ndarray:
        tokens = random.standard_normal((slabs, *shape[1:], 128, DIM))
        return (tokens + random.standard_normal((slabs, *shape[1:], 1, DIM))).astype(dtype)

    return {
        **{name: tensor(shape[0]) for name in "qkv"},
        "k_cache": tensor(ring),
        "v_cache": tensor(ring),
        "slabs": random.permutation(ring)[:cached].astype(np.int64),
        "topk": np.array(topk),
    }


def by_head(x: np.ndarray) -> np.ndarray:
    """[slabs, rows, columns, 128, D] to [heads, windows, 128, 128] in double."""
    return x.astype(np.float64).reshape(-1, 128, HEADS, 128).transpose(2, 0, 1, 3)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def expected_mask(feed: Arrays, local_range: int) -> np.ndarray:
    """bool [heads, query windows, key windows], window by window from the definition."""
    slabs, rows, columns = feed["q"].shape[:3]
    windows = rows * columns
    q = by_head(feed["q"]).mean(axis=2)
    k = by_head(np.concatenate([feed["k_cache"][feed["slabs"]], feed["k"]])).mean(axis=2)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(128)
    begin = local_range // 2
    for i in range(scores.shape[1]):
        for j in range(scores.shape[2]):
            row, column = divmod(i % windows, columns)
            key_row, key_column = divmod(j % windows, columns)
            inside = row - begin <= key_row < row - begin + local_range
            if not (inside and column - begin <= key_column < column - begin + local_range):
                scores[:, i, j] = -np.inf
    share = softmax(scores)
    mask = np.zeros(share.shape, bool)
    for head in range(HEADS):
        for slab in range(slabs):
            part = share[head, slab * windows : (slab + 1) * windows]
            ranked = np.sort(part.ravel())[::-1]
            mask[head, slab * windows : (slab + 1) * windows] = part > ranked[min(int(feed["topk"]), part.size - 1)]
    return mask


def expected(feed: Arrays, local_range: int) -> np.ndarray:
    """The op's output: dense attention of each query window over its kept key windows."""
    mask = expected_mask(feed, local_range)
    q = by_head(feed["q"])
    k = by_head(np.concatenate([feed["k_cache"][feed["slabs"]], feed["k"]]))
    v = by_head(np.concatenate([feed["v_cache"][feed["slabs"]], feed["v"]]))
    out = np.zeros_like(q)
    for head, window in np.argwhere(mask.any(axis=-1)):
        keys = k[head, mask[head, window]].reshape(-1, 128)
        out[head, window] = softmax(q[head, window] @ keys.T / np.sqrt(128)) @ v[head, mask[head, window]].reshape(
            -1, 128
        )
    return out.transpose(1, 2, 0, 3).reshape(feed["q"].shape)


# float32 sums of up to 2,000 terms of order one; float16 inputs and output are rounded to 1e-3 of values up to 4.
TOLERANCES = {np.float32: 2e-5, np.float16: 4e-3}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("shape", "cached", "topk", "local_range"),
    [
        ((3, 2, 3), 0, 20, 11),  # step 0: nothing cached
        ((1, 2, 3), 2, 10, 11),
        ((1, 3, 5), 3, 40, 3),
        ((1, 3, 5), 2, 40, 4),  # even: one more behind than ahead
        ((1, 2, 2), 2, 3, 1),  # only itself, in every slab
        ((1, 1, 1), 3, 100, 11),  # top-k at its cap: all but the smallest
        ((1, 3, 5), 3, 2, 11),  # most query windows keep nothing
    ],
)
def test_attention(session, dtype, shape, cached, topk, local_range):
    feed = inputs(shape, cached, topk, dtype)
    got = session(local_range, dtype).run(None, feed)[0]
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected(feed, local_range), atol=TOLERANCES[dtype])


def test_nothing_kept_gives_zeros(session):
    feed = inputs((1, 2, 2), 1, topk=0)  # above the largest there is nothing
    assert not session(11).run(None, feed)[0].any()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slabs=st.integers(1, 3),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    cached=st.integers(0, 3),
    topk=st.integers(0, 400),
    local_range=st.sampled_from([1, 2, 3, 4, 5, 11]),
    seed=st.integers(0, 1000),
)
def test_mask(session, slabs, rows, columns, cached, topk, local_range, seed):
    feed = inputs((slabs, rows, columns), cached, topk, seed=seed)
    keys = np.concatenate([feed["k_cache"][feed["slabs"]], feed["k"]])
    got = session(local_range, only_mask=True).run(None, {"q": feed["q"], "k": keys, "topk": feed["topk"]})[0]
    wanted = expected_mask(feed, local_range)
    assert got.shape == wanted.shape
    # Two scores that tie within rounding may swap at the threshold: at most one pair a head and slab.
    assert (got != wanted).sum() <= 2 * HEADS * slabs * (wanted.size > 1000)


def test_order_of_slabs_does_not_matter(session):
    feed = inputs((1, 2, 3), 3, 30)
    turned = feed | {"slabs": feed["slabs"][::-1].copy()}
    run = session(11).run
    # The sums run in another order.
    np.testing.assert_allclose(run(None, feed)[0], run(None, turned)[0], atol=2e-6)


def test_unlisted_slots_are_not_read(session):
    feed = inputs((1, 2, 3), 2, 30)
    unused = ({0, 1, 2} - set(feed["slabs"].tolist())).pop()
    wanted = session(11).run(None, feed)[0]
    for name in ("k_cache", "v_cache"):
        feed[name][unused] = np.nan
    np.testing.assert_array_equal(session(11).run(None, feed)[0], wanted)


def test_functions_declare_what_the_specification_says():
    attention = next(f for f in onnx_ops.functions() if f.name == BLOCK_SPARSE_ATTENTION.name)
    assert list(attention.input) == [name for name, _ in BLOCK_SPARSE_ATTENTION.inputs]
    assert list(attention.output) == [name for name, _ in BLOCK_SPARSE_ATTENTION.outputs]
    assert set(attention.attribute) == {*BLOCK_SPARSE_ATTENTION.attributes, *onnx_ops.PLUGIN}
    assert ABI == 1
