"""BlockSparseAttention as a TensorRT plug-in in Python: needs no compiler and no headers.

The classes are made for one TensorRT module (`tensorrt_rtx` or `tensorrt`, whose plug-in interfaces are the same), so
that neither is imported here. What the op computes: plugins_trt.spec. Building an engine runs none of its kernels, so
it needs no GPU; `enqueue` launches kernels that were compiled ahead of time, and allocates nothing.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashvsr_trt.configs.contract import HEAD_DIM, TOKENS_PER_WINDOW
from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError
from flashvsr_trt.plugins_trt import attention_op
from flashvsr_trt.plugins_trt.attention_op import Problem
from flashvsr_trt.plugins_trt.kernels.driver import Driver, Kernel, load_kernels
from flashvsr_trt.plugins_trt.spec import BLOCK_SPARSE_ATTENTION, DOMAIN, OPSET, Op

LOG = logging.getLogger("flashvsr_trt.plugin")
VERSION = str(OPSET)
_OP = BLOCK_SPARSE_ATTENTION
_INPUTS = [name for name, _ in _OP.inputs]
_POINTERS = [*_INPUTS, *(name for name, _ in _OP.outputs)]

Kernels = Callable[[str], dict[str, Kernel]]


def attributes(op: Op, fields: Any) -> dict[str, int]:
    """The attributes of a node, from the parser or from a plan, checked against the op's.

    Raises:
        FlashVSRError: one is missing, or is not a whole number above 0.
    """
    found = {field.name: int(np.asarray(field.data).reshape(-1)[0]) for field in fields if field.name in op.attributes}
    wrong = [name for name in op.attributes if found.get(name, 0) < 1]
    if wrong:
        raise FlashVSRError(
            f"{op.name}: {wrong[0]} is {found.get(wrong[0], 'missing')}", expected="a whole number above 0"
        )
    return found


def problem(shapes: Mapping[str, Sequence[int]], heads: int, local_range: int) -> Problem:
    """The sizes of one call from the shapes of its inputs.

    Raises:
        FlashVSRError: shapes that contradict each other.
    """
    slabs, rows, columns, tokens, dim = shapes["q"]
    if (tokens, dim) != (TOKENS_PER_WINDOW, heads * HEAD_DIM):
        raise FlashVSRError(
            f"{_OP.name}: q is {list(shapes['q'])}",
            expected=f"[slabs, rows, columns, {TOKENS_PER_WINDOW}, {heads * HEAD_DIM}] for {heads} heads",
        )
    cached, ring = shapes["slabs"][0], shapes["k_cache"][0]
    if cached > ring:
        raise FlashVSRError(f"{_OP.name}: {cached} slabs are listed", expected=f"at most {ring}, the slots of the ring")
    return Problem(slabs=slabs, cached_slabs=cached, rows=rows, columns=columns, heads=heads, local_range=local_range)


class LoadedKernels:
    """The kernels of a folder, loaded once for each type; may be shared by threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._loaded: dict[str, dict[str, Kernel]] = {}

    def __call__(self, element: str) -> dict[str, Kernel]:
        with self._lock:
            if element not in self._loaded:
                self._loaded[element] = load_kernels(self._folder, element, Driver())
            return self._loaded[element]


def _no_kernels(element: str) -> dict[str, Kernel]:
    raise BackendUnavailable(f"no kernels were named to run {_OP.name} with", todo="make kernels")


_kernels: Kernels = _no_kernels


def register(trt: Any, kernels: Path | Kernels | None = None) -> None:
    """Makes the op known to a TensorRT module, once a process; before parsing, and before loading a plan.

    Args:
        trt: tensorrt_rtx or tensorrt.
        kernels: folder of compiled kernels, or what gives them by element type. Building needs none.
    """
    global _kernels
    if kernels is not None:
        _kernels = LoadedKernels(kernels) if isinstance(kernels, Path) else kernels
    _register(trt)


def find(trt: Any) -> Any:
    """The creator that this process knows for the op, in Python or in C++; None without one."""
    return trt.get_plugin_registry().get_creator(_OP.name, VERSION, DOMAIN)


@functools.cache
def _register(trt: Any) -> Any:
    creator = _creator(trt)
    if find(trt) is None and not trt.get_plugin_registry().register_creator(creator, DOMAIN):
        raise BackendUnavailable(f"{trt.__name__} refuses the plug-in {DOMAIN}::{_OP.name} version {VERSION}")
    return creator  # TensorRT does not keep it alive


def _logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """TensorRT turns what a plug-in raises into a failure of its own and drops the words: they are logged here."""

    @functools.wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            LOG.error("%s.%s: %s", _OP.name, function.__name__, error)
            raise

    return guarded


def _creator(trt: Any) -> Any:
    plugin = _plugin(trt)

    class Creator(trt.IPluginCreatorV3One):
        """Makes plug-ins from a node's attributes, or from a plan's."""

        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = _OP.name, VERSION, DOMAIN
            nothing = np.array([], dtype=np.int64)
            self.field_names = trt.PluginFieldCollection(
                [trt.PluginField(name, nothing, trt.PluginFieldType.INT64) for name in _OP.attributes]
            )

        @_logged
        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return plugin(attributes(_OP, fields))

    return Creator()


def _plugin(trt: Any) -> type:
    elements = {trt.DataType.HALF: "float16", trt.DataType.BF16: "bfloat16"}
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class BlockSparseAttentionPlugin(*bases):  # type: ignore[misc]
        """One node. A context works on its own clone, so no state is shared between threads but the kernels."""

        def __init__(self, chosen: dict[str, int]) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = _OP.name, VERSION, DOMAIN
            self.num_outputs = len(_OP.outputs)
            self.chosen = chosen

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            copy = BlockSparseAttentionPlugin(self.chosen)
            copy.__dict__.update(self.__dict__)
            return copy

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection(
                [
                    trt.PluginField(name, np.array([value], np.int64), trt.PluginFieldType.INT64)
                    for name, value in self.chosen.items()
                ]
            )

        # build

        @_logged
        def get_output_data_types(self, types: Sequence[Any]) -> list[Any]:
            return [types[0]]

        @_logged
        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            out = trt.DimsExprs(len(inputs[0]))
            for axis in range(len(inputs[0])):
                out[axis] = inputs[0][axis]
            return [out]

        @_logged
        def supports_format_combination(self, position: int, tensors: Sequence[Any], inputs: int) -> bool:
            desc = tensors[position].desc
            if desc.format != trt.TensorFormat.LINEAR:
                return False
            if position in (_INPUTS.index("slabs"), _INPUTS.index("topk")):
                return bool(desc.type == trt.DataType.INT64)
            return desc.type in elements and desc.type == tensors[0].desc.type

        @_logged
        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            return None

        @_logged
        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            largest = {name: list(tensor.max) for name, tensor in zip(_INPUTS, inputs, strict=True)}
            return attention_op.workspace(problem(largest, **self.chosen))["bytes"]

        # run

        @_logged
        def set_tactic(self, tactic: int) -> None:
            return None

        @_logged
        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            shapes = {name: list(tensor.dims) for name, tensor in zip(_INPUTS, inputs, strict=True)}
            self.problem = problem(shapes, **self.chosen)
            self.kernels = _kernels(elements[inputs[0].type])

        @_logged
        def enqueue(
            self,
            input_desc: Sequence[Any],
            output_desc: Sequence[Any],
            inputs: Sequence[int],
            outputs: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            tensors = dict(zip(_POINTERS, [*inputs, *outputs], strict=True))
            attention_op.enqueue(self.kernels, self.problem, tensors, workspace, stream)

    return BlockSparseAttentionPlugin
