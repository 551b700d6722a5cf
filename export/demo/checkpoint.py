"""Files of the demo model: its weights, and the state of a training that can go on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flashvsr_trt.configs.errors import WeightsError
from flashvsr_trt.export.demo.networks import NAMES, Networks


def save_weights(path: Path, networks: Networks) -> None:
    """All tensors as one fp16 safetensors file, under names such as `dit.head.weight`."""
    tensors = {f"{network}.{name}": value for network in NAMES for name, value in networks[network].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items()}, path)


def load_weights(path: Path) -> Networks:
    """What `save_weights` wrote, or what a bundle holds, in fp32."""
    if path.is_dir():
        from flashvsr_trt.export.demo.stored import stored  # the one reader that needs onnx_ir

        return stored(path)[0]
    if not path.is_file():
        raise WeightsError(f"no file {path}", expected="the demo model's weights, or a bundle")
    networks: dict[str, dict[str, torch.Tensor]] = {name: {} for name in NAMES}
    for key, value in load_file(path).items():
        network, _, name = key.partition(".")
        if network not in networks:
            raise WeightsError(f"{path} has a tensor {key}", expected=" or ".join(f"{n}.…" for n in NAMES))
        networks[network][name] = value.float()
    return networks


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    part.replace(path)


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    return torch.load(path, map_location=device, weights_only=False)


def write_curve(path: Path, settings: Any, curve: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"settings": dataclasses.asdict(settings), "curve": curve}, indent=1) + "\n")
