"""The attention plug-in in Python: what TensorRT asks it at build and at run time, without a GPU."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError
from flashvsr_trt.plugins_trt import attention_op, python_plugin
from flashvsr_trt.plugins_trt.attention_op import Problem

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed; pip install 'flashvsr-trt[rtx]'")

SHAPES = {
    "q": (1, 4, 6, 128, 256),
    "k": (1, 4, 6, 128, 256),
    "v": (1, 4, 6, 128, 256),
    "k_cache": (4, 4, 6, 128, 256),
    "v_cache": (4, 4, 6, 128, 256),
    "slabs": (3,),
    "topk": (),
}
PROBLEM = Problem(slabs=1, cached_slabs=3, rows=4, columns=6, heads=2, local_range=11)


def fields(**values):
    return trt.PluginFieldCollection(
        [trt.PluginField(name, np.array([v], np.int64), trt.PluginFieldType.INT64) for name, v in values.items()]
    )


@pytest.fixture
def creator():
    from flashvsr_trt.engines.trt import load

    load("tensorrt_rtx")
    python_plugin.register(trt)
    return trt.get_plugin_registry().get_creator("BlockSparseAttention", "1", "flashvsr")


@pytest.fixture
def plugin(creator):
    return creator.create_plugin("node", fields(heads=2, local_range=11), trt.TensorRTPhase.BUILD)


def build_descs(kinds=None):
    kinds = kinds or {}
    return [
        SimpleNamespace(
            desc=SimpleNamespace(
                type=kinds.get(name, trt.DataType.INT64 if name in ("slabs", "topk") else trt.DataType.HALF),
                format=trt.TensorFormat.LINEAR,
            ),
            max=shape,
        )
        for name, shape in (*SHAPES.items(), ("out", SHAPES["q"]))
    ]


def test_registered_once(creator):
    before = len(trt.get_plugin_registry().all_creators)
    python_plugin.register(trt)
    assert len(trt.get_plugin_registry().all_creators) == before
    assert [field.name for field in creator.field_names] == ["heads", "local_range"]


def test_attributes_survive_the_plan(creator, plugin):
    stored = plugin.get_fields_to_serialize()
    again = creator.create_plugin("node", stored, trt.TensorRTPhase.RUNTIME)
    assert again.chosen == {"heads": 2, "local_range": 11}
    # The parser gives ONNX's int attributes in 32 or 64 bits, by version.
    narrow = SimpleNamespace(name="heads", data=np.array([2], np.int32))
    wide = SimpleNamespace(name="local_range", data=np.array([11], np.int64))
    other = SimpleNamespace(name="plugin_version", data=np.array([49], np.int8))
    assert python_plugin.attributes(python_plugin.BLOCK_SPARSE_ATTENTION, [narrow, wide, other]) == again.chosen


@pytest.mark.parametrize("values", [{"heads": 2}, {"heads": 0, "local_range": 11}, {"local_range": 11}])
def test_wrong_attributes_are_refused_and_logged(creator, values, caplog):
    with (
        caplog.at_level(logging.ERROR, "flashvsr_trt.plugin"),
        pytest.raises(FlashVSRError, match="whole number above 0"),
    ):
        creator.create_plugin("node", fields(**values), trt.TensorRTPhase.BUILD)
    assert "create_plugin" in caplog.text


def test_types(plugin):
    """16-bit floats, all the same, row-major; the integers in 64 bits."""
    supports = plugin.supports_format_combination
    names = [*SHAPES, "out"]
    for kind in (trt.DataType.HALF, trt.DataType.BF16):
        descs = build_descs(dict.fromkeys(["q", "k", "v", "k_cache", "v_cache", "out"], kind))
        assert all(supports(position, descs, 7) for position in range(8))
    assert not supports(0, build_descs({"q": trt.DataType.FLOAT}), 7)
    assert not supports(names.index("k_cache"), build_descs({"k_cache": trt.DataType.BF16}), 7)
    assert not supports(names.index("slabs"), build_descs({"slabs": trt.DataType.INT32}), 7)
    descs = build_descs()
    descs[2].desc.format = trt.TensorFormat.CHW16
    assert not supports(2, descs, 7)


def test_workspace_is_that_of_the_largest_shapes(plugin):
    assert plugin.get_workspace_size(build_descs()[:7], build_descs()[7:]) == attention_op.workspace(PROBLEM)["bytes"]


class RecordingKernel:
    def __init__(self, calls, name):
        self.calls, self.name = calls, name

    def launch(self, grid, stream, **arguments):
        self.calls.append((self.name, grid, stream, arguments))


def run(plugin, cached: int):
    """What a context does: own copy, shapes, enqueue; gives the launches."""
    calls = []
    elements = []

    def kernels(element):
        elements.append(element)
        return {name: RecordingKernel(calls, name) for name in ("window_means", "block_sparse_attention")}

    python_plugin.register(trt, kernels)
    shapes = SHAPES | {"slabs": (cached,)}
    descs = [
        SimpleNamespace(dims=shape, type=trt.DataType.INT64 if name in ("slabs", "topk") else trt.DataType.BF16)
        for name, shape in shapes.items()
    ]
    context = plugin.attach_to_context(None)
    context.on_shape_change(descs, [])
    context.enqueue(descs, [], [100, 101, 102, 103, 104, 105, 106], [107], 4096, 77)
    assert elements == ["bfloat16"]
    return calls


def test_enqueue_hands_pointers_to_the_kernels(plugin):
    (means, attention) = run(plugin, 3)
    assert (means[0], attention[0]) == ("window_means", "block_sparse_attention")
    for _, _, stream, arguments in (means, attention):
        assert stream == 77
        assert [arguments[name] for name in (*SHAPES, "out")] == [100, 101, 102, 103, 104, 105, 106, 107]
        assert arguments["cached"] == 3 * 24
        assert arguments["q_means"] == 4096
    assert attention[1][:2] == (2, 24)  # heads, query windows


def test_step_without_cached_slabs(plugin):
    (_, attention) = run(plugin, 0)
    assert attention[3]["cached"] == 0
    assert attention[3]["k_windows"] == 24


def test_contexts_share_nothing_but_the_kernels(plugin):
    one, other = plugin.attach_to_context(None), plugin.attach_to_context(None)
    one.problem = "mine"
    assert not hasattr(other, "problem")


def test_impossible_shapes_are_refused():
    with pytest.raises(FlashVSRError, match=r"5 slabs are listed"):
        python_plugin.problem(SHAPES | {"slabs": (5,)}, 2, 11)
    with pytest.raises(FlashVSRError, match=r"for 3 heads"):
        python_plugin.problem(SHAPES, 3, 11)


def test_missing_kernels_are_told(tmp_path, plugin, monkeypatch):
    monkeypatch.setattr(python_plugin, "_kernels", python_plugin._no_kernels)
    with pytest.raises(BackendUnavailable, match="no kernels") as caught:
        plugin.on_shape_change([SimpleNamespace(dims=shape, type=trt.DataType.HALF) for shape in SHAPES.values()], [])
    assert caught.value.todo == "make kernels"
