"""manifest.json of a bundle: what the runtime needs to know, and all it needs to know.

A bundle is a folder: step graphs (`<graph>.onnx`), weight files they share, `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flashvsr_trt.configs.contract import COLOUR_FIXES, Graph, Sizes, Tensor
from flashvsr_trt.configs.errors import BundleError

SCHEMA = 1
FILE_NAME = "manifest.json"
# What "f" of the contract stands for. In fp8 the DiT's matrix products, attention and KV ring and
# the LQ projector's convolutions have 8 bits, the rest 16.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float16"}
PRECISIONS = tuple(DTYPES)
VERSIONS = ("v1", "v1.1")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a bundle, relative to it."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    model: str  # e.g. "flashvsr", "demo", "seeded"
    about: str  # one line for the user: what these weights are
    model_version: str  # v1 or v1.1
    precision: str  # fp32, fp16, bf16 or fp8: DTYPES
    local_range: int  # baked into the attention nodes
    op_abi: int
    sizes: Sizes
    graphs: dict[str, Graph]
    files: dict[str, File]
    weights: dict[str, str] = field(default_factory=dict)  # source file name -> sha256
    meaningful: bool = True  # False: random weights, the picture content means nothing
    colour_fix: str = COLOUR_FIXES[0]  # what suits these weights: taken where none is asked for
    schema: int = SCHEMA

    @property
    def causal(self) -> bool:
        """Whether the LQ projector carries caches (v1.1)."""
        return self.model_version != "v1"

    @property
    def decoders(self) -> tuple[str, ...]:
        return tuple(name for name in ("tc_decoder", "vae_decoder") if name in self.graphs)

    def dtype(self, tensor: Tensor) -> str:
        """The literal element type of a tensor of this bundle, e.g. float16."""
        return DTYPES[self.precision] if tensor.dtype == "f" else tensor.dtype

    def digest(self) -> str:
        """SHA-256 over everything the manifest says, the files' hashes included: the identity of the bundle."""
        return hashlib.sha256(dumps(self).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dumps(manifest: Manifest) -> str:
    """As the file is written. The usual colour fix is left out: a bundle from before there was one keeps its digest."""
    told = asdict(manifest)
    if manifest.colour_fix == COLOUR_FIXES[0]:
        del told["colour_fix"]
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def save(manifest: Manifest, folder: Path) -> None:
    """Writes manifest.json, atomically: a bundle without it is not a bundle."""
    temporary = folder / f".{FILE_NAME}.part"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(dumps(manifest))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE_NAME)


def load(folder: Path, *, verify: str = "size") -> Manifest:
    """The manifest of a bundle folder.

    Args:
        folder: the bundle.
        verify: "size" compares the files' sizes, "hash" also their SHA-256 (reads every byte).

    Raises:
        BundleError: no bundle, unreadable, another schema version, a file missing or changed.
    """
    path = folder / FILE_NAME
    redo = "export the bundle again, or name another with --bundle"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data["schema"]
    except FileNotFoundError:
        raise BundleError(f"{folder} holds no {FILE_NAME}", expected="a bundle folder", todo=redo) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}", expected="the JSON that export writes", todo=redo
        ) from error
    if schema != SCHEMA:
        raise BundleError(f"{path} has schema version {schema}", expected=f"version {SCHEMA}", todo=redo)
    try:
        manifest = _parse(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{path} is not a manifest: {type(error).__name__}: {error}",
            expected=f"schema {SCHEMA}",
            todo=redo,
        ) from error
    for name, file in manifest.files.items():
        _check_file(folder / name, file, hashed=verify == "hash", todo=redo)
    return manifest


def _check_file(path: Path, file: File, *, hashed: bool, todo: str) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing", expected=f"{file.bytes} bytes", todo=todo)
    size = path.stat().st_size
    if size != file.bytes:
        raise BundleError(f"{path} has {size} bytes", expected=f"{file.bytes} bytes", todo=todo)
    if hashed and (seen := sha256_of(path)) != file.sha256:
        raise BundleError(f"{path} has SHA-256 {seen}", expected=file.sha256, todo=todo)


def _parse(data: dict[str, Any]) -> Manifest:
    data = dict(data)
    sizes = dict(data.pop("sizes"))
    for key in ("lq_hidden", "tc_memory", "vae_caches"):
        sizes[key] = tuple(tuple(v) if isinstance(v, list) else v for v in sizes[key])
    manifest = Manifest(
        sizes=Sizes(**sizes),
        graphs={name: _graph(graph) for name, graph in data.pop("graphs").items()},
        files={_inside(name): File(**file) for name, file in data.pop("files").items()},
        **data,
    )
    for value, allowed in (
        (manifest.precision, PRECISIONS),
        (manifest.model_version, VERSIONS),
        (manifest.colour_fix, COLOUR_FIXES),
    ):
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
    return manifest


def _inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file {name!r} lies outside the bundle")
    return name


def _graph(data: dict[str, Any]) -> Graph:
    def tensors(key: str) -> tuple[Tensor, ...]:
        return tuple(Tensor(name=t["name"], dtype=t["dtype"], shape=tuple(t["shape"])) for t in data[key])

    state = tuple((new, old) for new, old in data["state"])
    return Graph(name=data["name"], inputs=tensors("inputs"), outputs=tensors("outputs"), state=state)
