"""Files of the demo model: its weights as shipped, and the state of a training that can go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flashvsr_trt.configs.errors import WeightsError

NETWORKS = ("dit", "lq", "tc")
CONTEXT = "context"


def save_weights(path: Path, official: Mapping[str, Mapping[str, Tensor]], context: Tensor) -> None:
    """The three checkpoints and the prompt's embedding as one fp16 safetensors file, names `dit.<official>` ..."""
    tensors = {f"{net}.{name}": value for net in NETWORKS for name, value in official[net].items()}
    tensors[CONTEXT] = context
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items()}, path)


def load_weights(path: Path) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
    """What `save_weights` wrote, in fp32: ({`dit`, `lq`, `tc`} each under official names, prompt's embedding)."""
    if not path.is_file():
        raise WeightsError(f"no file {path}", expected="the demo model's weights")
    official: dict[str, dict[str, Tensor]] = {net: {} for net in NETWORKS}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118  (not a mapping)
            net, _, name = key.partition(".")
            if net != CONTEXT:
                official[net][name] = file.get_tensor(key).float()
        context = file.get_tensor(CONTEXT).float()
    return official, context


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(path)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    return torch.load(path, map_location=device, weights_only=False)


def write_curve(path: Path, settings: Any, curve: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"settings": dataclasses.asdict(settings), "curve": curve}, indent=1) + "\n")
