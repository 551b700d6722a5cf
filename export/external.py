"""Weight files shared by the graphs of a bundle: each tensor is stored once, whoever uses it.

Two graphs that hold the same numbers (the DiT of step 0 and of the later steps) name the same bytes of the same
file. The bytes depend on the weights and the order of the graphs alone.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

ALIGNMENT = 4096  # of tensors of a page and more, so that a reader can map them
SMALL_ALIGNMENT = 64
INLINE_BYTES = 1024  # smaller tensors stay in the graph: shapes and axes must be readable without the file


class WeightFiles:
    """The weight files of one bundle folder, written front to back.

    Args:
        folder: where the files go; it must exist.
        storage: None keeps the tensors' type; "fp16" stores float32 as float16 and puts a Cast behind it.
    """

    def __init__(self, folder: Path, *, storage: str | None = None) -> None:
        self._folder, self._storage = folder, storage
        self._files: dict[str, BinaryIO] = {}
        self._places: dict[tuple[str, str], tuple[str, int, int]] = {}

    def externalize(self, model: ir.Model, location: str) -> None:
        """Moves the initializers of `model` into the file `location`, or to where the same bytes already lie.

        Those in float8 go to a file of their own, dit8.bin beside dit.bin: so a file's size tells its numbers.
        """
        for value in list(model.graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= INLINE_BYTES:
                continue
            if self._storage == "fp16" and tensor.dtype == ir.DataType.FLOAT:
                value = _behind_cast(model, value)
                tensor = ir.tensor(tensor.numpy().astype(np.float16), name=value.name)
            eighth = tensor.dtype == ir.DataType.FLOAT8E4M3FN
            file = f"{Path(location).stem}8.bin" if eighth else location
            value.const_value = self._place(tensor, file, value.name)

    def flush(self) -> None:
        """Makes everything readable by name."""
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Forces everything to disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _place(self, tensor: ir.TensorProtocol, location: str, name: str | None) -> ir.ExternalTensor:
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
        key = (str(tensor.dtype), hashlib.sha256(data).hexdigest())
        if key not in self._places:
            self._places[key] = (location, self._append(data, location), data.nbytes)
        place, offset, length = self._places[key]
        return ir.ExternalTensor(place, offset, length, tensor.dtype, shape=tensor.shape, name=name or "")

    def _append(self, data: memoryview, location: str) -> int:
        if location not in self._files:
            self._files[location] = open(self._folder / location, "wb")  # noqa: SIM115 (closed by close)
        file = self._files[location]
        alignment = ALIGNMENT if data.nbytes >= ALIGNMENT else SMALL_ALIGNMENT
        file.write(bytes(-file.tell() % alignment))
        offset = file.tell()
        file.write(data)
        return offset


def _behind_cast(model: ir.Model, value: ir.Value) -> ir.Value:
    """A float16 initializer whose Cast takes the place of `value`. ONNX Runtime folds the Cast at load."""
    graph = model.graph
    stored = ir.Value(name=f"{value.name}.fp16", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
    cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT.value})
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    graph.insert_before(graph[0], cast)
    del graph.initializers[value.name]
    cast.outputs[0].name = value.name
    stored.const_value = ir.tensor(np.zeros(0, np.float16))
    graph.initializers[stored.name] = stored
    return stored


def write_graph(model: ir.Model, path: Path) -> None:
    """Writes a graph whose weights are in files, to the disk itself."""
    with open(path, "wb") as file:
        file.write(ir.serde.serialize_model(model).SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())
