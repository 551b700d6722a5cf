"""States of a step graph are written as soon as they are known, so that what they are made of can be given back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import evaluate_shape

SYMBOLS = {"H": 128, "W": 128, "ring": 4, "slabs": 3, "T": 8}


@pytest.mark.parametrize("graph", ["lq_proj", "tc_decoder", "vae_decoder_first", "vae_decoder"])
def test_states_come_early(full_bundle, tmp_path, graph):
    order = executed(full_bundle, graph, tmp_path)
    model = onnx.load(full_bundle / f"{graph}.onnx", load_external_data=False)
    first, *states = manifests.load(full_bundle).graphs[graph].outputs
    made_by = {output: node.name for node in model.graph.node for output in node.output}
    places = [order.index(made_by[state.name]) for state in states]
    assert places == sorted(places)  # in the order in which the network comes by them
    assert places[-1] < order.index(made_by[first.name])
    # Nothing but what the state is made of is computed between two of them: each comes right behind its source.
    sources = {node.name: [made_by[name] for name in node.input if name in made_by] for node in model.graph.node}
    for state, place in zip(states, places, strict=True):
        needed = sources[made_by[state.name]]
        assert not needed or place - max(order.index(name) for name in needed) == 1, state.name


def executed(bundle, graph: str, folder) -> list[str]:
    """Names of the nodes in the order in which ONNX Runtime computes them."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = ort.InferenceSession(str(bundle / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])
    manifest = manifests.load(bundle)
    feed = {
        tensor.name: np.zeros(evaluate_shape(tensor.shape, SYMBOLS), manifest.dtype(tensor))
        for tensor in manifest.graphs[graph].inputs
    }
    session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return [event["name"].removesuffix("_kernel_time") for event in sorted(nodes, key=lambda event: event["ts"])]
