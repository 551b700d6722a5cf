"""The official weight files: found by name, loaded without running code, checked name by name and shape by shape.

What can be told from the files: their layout, every size, a broken download, a tensor of the wrong shape. What
cannot: v1 from v1.1. The two have the same names and shapes and differ only in numbers, and the LQ projector of
the wrong version runs without complaint and gives a worse picture. So the version comes from the caller, from
the note that a download leaves in the folder (`NOTE`), or from the folder's official name, in this order; the
note also holds each file's hash, by which a file of the other version is found out.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flashvsr_trt.configs.contract import Sizes
from flashvsr_trt.configs.errors import WeightsError
from flashvsr_trt.configs.manifest import VERSIONS, sha256_of
from flashvsr_trt.export.layouts import DitSizes, LqSizes, Shapes, State, TcSizes, VaeSizes

DIT_FILE = "diffusion_pytorch_model_streaming_dmd.safetensors"
LQ_FILE = "LQ_proj_in.ckpt"
TC_FILE = "TCDecoder.ckpt"
PROMPT_FILE = "posi_prompt.pth"
FILES = (DIT_FILE, LQ_FILE, TC_FILE, PROMPT_FILE)
# The VAE is the same in every program that runs Wan 2.1; these are the names it goes by.
VAE_FILES = (
    "Wan2.1_VAE.pth",
    "Wan2.1_VAE.safetensors",
    "Wan2_1_VAE_bf16.safetensors",
    "Wan2_1_VAE_fp32.safetensors",
    "wan_2.1_vae.safetensors",
)
VAE_VARIABLE = "FLASHVSR_TRT_VAE"  # a VAE file, or a folder that holds one, at any depth up to VAE_DEPTH
VAE_DEPTH = 3
NOTE = "flashvsr.json"  # {"version": "v1.1", "files": {name: sha256}}
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which trainers put a state dict
PREFIXES = ("module.", "model.", "vae.", "first_stage_model.")
# Parts of a checkpoint that upscaling does not use, by file.
UNUSED = {TC_FILE: ("encoder.",), "VAE": ("encoder.", "conv1.")}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """All tensors of one model under their official names, in the files' types."""

    version: str  # v1 or v1.1
    dit: dict[str, Tensor]
    lq_proj: dict[str, Tensor]
    tc_decoder: dict[str, Tensor]
    prompt: Tensor  # [1, tokens, text width]
    vae: dict[str, Tensor] | None = None  # decoder and conv2 of the Wan VAE

    @property
    def causal(self) -> bool:
        """Whether the LQ projector carries caches."""
        return self.version != "v1"

    @property
    def sizes(self) -> Sizes:
        dit = DitSizes.of(self.dit)
        return Sizes(
            dim=dit.dim,
            layers=dit.layers,
            lq_hidden=LqSizes.of(self.lq_proj).hidden,
            tc_memory=TcSizes.of(self.tc_decoder).memory(),
            vae_caches=VaeSizes.of(self.vae).caches() if self.vae else (),
        )


def load(folder: Path, *, version: str | None = None, vae: Path | None = None, verify: bool = True) -> Weights:
    """The model in `folder`.

    Args:
        version: v1 or v1.1; None takes it from the folder's note or name.
        vae: the Wan VAE, a file or a folder; None looks at $FLASHVSR_TRT_VAE, then in `folder`, and leaves the
            VAE out where there is none.
        verify: compare the files' hashes with the note, where there is one.

    Raises: WeightsError: a file missing, unreadable or of another layout; the version unknown or contradicted.
    """
    folder = Path(folder)
    _require_files(folder)
    version = find_version(folder, version)
    if verify:
        check_hashes(folder)
    dit = _checked(folder / DIT_FILE, DitSizes)
    lq_proj = _checked(folder / LQ_FILE, LqSizes)
    tc_decoder = _checked(folder / TC_FILE, TcSizes)
    prompt = _prompt(folder / PROMPT_FILE)
    sizes = DitSizes.of(dit)
    if (dim := LqSizes.of(lq_proj).dim) != sizes.dim:
        raise WeightsError(
            f"{folder / LQ_FILE} gives tokens of {dim} channels", expected=f"{sizes.dim}, as in {DIT_FILE}"
        )
    if prompt.shape[2] != sizes.text:
        raise WeightsError(
            f"{folder / PROMPT_FILE} is {prompt.shape[2]} wide", expected=f"{sizes.text}, as in {DIT_FILE}"
        )
    vae_file = find_vae(folder, vae)
    return Weights(
        version=version,
        dit=dit,
        lq_proj=lq_proj,
        tc_decoder=tc_decoder,
        prompt=prompt,
        vae=load_vae(vae_file) if vae_file else None,
    )


def load_vae(path: Path) -> dict[str, Tensor]:
    """Decoder and conv2 of a Wan 2.1 VAE file."""
    return _checked(path, VaeSizes, unused=UNUSED["VAE"])


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder", expected=f"a folder with {', '.join(FILES)}")
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise WeightsError(
            f"{folder} has no {', '.join(missing)}",
            expected=f"a folder with {', '.join(FILES)}",
            todo="run `flashvsr-trt weights download`, or give the folder that holds the official files",
        )


def read_note(folder: Path) -> dict[str, Any]:
    """The folder's note, {} where there is none."""
    path = folder / NOTE
    if not path.is_file():
        return {}
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", todo="download the weights again") from error
    if not isinstance(note, dict) or note.get("version") not in VERSIONS or not isinstance(note.get("files"), dict):
        raise WeightsError(f"{path} is not a note of this program", expected="version and files")
    return note


def write_note(folder: Path, version: str) -> None:
    """Records version and hashes of the files in `folder`."""
    files = {name: sha256_of(folder / name) for name in FILES if (folder / name).is_file()}
    (folder / NOTE).write_text(json.dumps({"version": version, "files": files}, indent=1) + "\n")


def check_hashes(folder: Path) -> None:
    """Compares the files with the note; WeightsError names the one that is not what was downloaded."""
    note = read_note(folder)
    for name, expected in note.get("files", {}).items():
        if (folder / name).is_file() and (found := sha256_of(folder / name)) != expected:
            raise WeightsError(
                f"{folder / name} has SHA-256 {found}",
                expected=f"{expected}, that of {note['version']}",
                todo="the file is damaged or of another version: download it again",
            )


def find_version(folder: Path, version: str | None = None) -> str:
    """v1 or v1.1 of a folder; see the module's text."""
    if version is not None and version not in VERSIONS:
        raise WeightsError(f"version {version}", expected=" or ".join(VERSIONS))
    told = read_note(folder).get("version") or _version_by_name(folder)
    if version and told and version != told:
        raise WeightsError(
            f"{folder} holds {told}",
            expected=f"{version}, as asked for",
            todo="give the folder of that version",
        )
    if found := version or told:
        return str(found)
    raise WeightsError(
        f"the version of {folder} is unknown: v1 and v1.1 have the same tensor names and shapes",
        expected=f"a {NOTE} in it, or a folder named FlashVSR (v1) or FlashVSR-v1.1",
        todo="say the version, v1 or v1.1",
    )


def _version_by_name(folder: Path) -> str | None:
    match = re.fullmatch(r"flashvsr(?:[-_]?v?(1(?:\.[01])?))?", folder.resolve().name.lower())
    if not match:
        return None
    return "v1.1" if match[1] == "1.1" else "v1"


def find_vae(folder: Path, vae: Path | None = None) -> Path | None:
    """The Wan VAE file: from the argument, the variable, or the model's folder; None where nobody asked."""
    asked = vae or os.environ.get(VAE_VARIABLE)
    place = Path(asked) if asked else folder
    if asked and place.is_file():
        return place
    depth = VAE_DEPTH if asked else 0
    for level in range(depth + 1):
        for name in VAE_FILES:
            if found := sorted(place.glob("*/" * level + name)):
                return found[0]
    if asked:
        raise WeightsError(
            f"no Wan 2.1 VAE in {place}",
            expected=f"a file, or a folder with one of {', '.join(VAE_FILES)} up to {VAE_DEPTH} levels down",
            todo=f"check the flag or ${VAE_VARIABLE}",
        )
    return None


class _SizesOf(Protocol):
    """DitSizes and its like, as classes."""

    def of(self, state: State) -> Any: ...


def _checked(path: Path, sizes: _SizesOf, *, unused: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors of a file that the network needs; strict about everything else."""
    unused += UNUSED.get(path.name, ())
    state = {name: tensor for name, tensor in _state(path).items() if not name.startswith(unused or ("\0",))}
    try:
        shapes: Shapes = sizes.of(state).shapes()
    except WeightsError as error:
        raise WeightsError(f"{path}: {error.came}", expected=error.expected, todo=error.todo) from error
    except ValueError as error:  # a size taken from a tensor of the wrong rank
        raise WeightsError(f"{path}: a tensor that tells a size has the wrong rank") from error
    _compare(path, state, shapes)
    return state


def _compare(path: Path, state: State, shapes: Shapes) -> None:
    missing, unexpected = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    wrong = [
        f"{name} is {tuple(state[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    integer = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    groups = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("wrong shape", wrong),
        ("not float", integer),
    )
    if found := [f"{len(names)} {what} ({_some(names)})" for what, names in groups if names]:
        raise WeightsError(
            f"{path} is not in the official layout: {'; '.join(found)}",
            expected=f"{len(shapes)} tensors as in the official file",
            todo="check that the file is the official one and complete",
        )


def _some(names: list[str], most: int = 3) -> str:
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _prompt(path: Path) -> Tensor:
    prompt = _read(path)
    if not isinstance(prompt, Tensor) or prompt.dim() != 3 or prompt.shape[0] != 1:
        what = f"shape {tuple(prompt.shape)}" if isinstance(prompt, Tensor) else f"a {type(prompt).__name__}"
        raise WeightsError(f"{path} holds {what}", expected="one tensor [1, tokens, text width]")
    return prompt


def _state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, out of a trainer's wrapper and without a common prefix."""
    content = _read(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict", expected="tensors by name")
    for prefix in PREFIXES:
        if content and all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return dict(content)


def _read(path: Path) -> Any:
    """A file's content, never running code from it."""
    todo = "download it again"
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the file", todo="fetch it with `git lfs pull`")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} cannot be read: {reason}", expected="a whole, official file", todo=todo) from error
