"""In place of the networks: gives the LQ frames back, so that pictures, counts and sizes can be followed through."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.contract import Sizes, graphs
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.runtime.bundle import Bundle


class StandIn:
    """Networks that change nothing. `fail_at` is the step whose decode raises, `pause` the seconds a step takes."""

    fail_at: int | None = None
    error: BaseException = RuntimeError("the networks broke")
    pause = 0.0

    def __init__(self, bundle, backend, settings):
        self.settings, self.backend = settings, backend

    def reset(self):
        self.step = 0

    def denoise(self, step, lq):
        self.step += 1
        return np.full((1,), step)

    def decode(self, step, latents, lq):
        if step == self.fail_at:
            raise self.error
        if self.pause:
            time.sleep(self.pause)
        if self.backend is not None:
            self.backend.seconds["tc_decoder"] += self.pause
        height, width = self.settings.canvas.output
        pixels = lq[:, :height, :width]
        return pixels.copy() if self.settings.bits == 8 else pixels.astype(np.uint16) * 257

    def keep(self, latents):
        return latents.copy()

    restore = keep

    def save_state(self, host):
        host.arrays["position"] = np.asarray(self.step)

    def load_state(self, host):
        self.step = int(host.arrays["position"])

    def release_denoise(self):
        pass

    def release_decode(self):
        pass


class NoBackend:
    """A back end that nothing is run on."""

    name = "stand-in"
    asynchronous = False

    def __init__(self):
        self.seconds = Counter()
        self.load_seconds = 0.0
        self.transfers = {}

    def device_memory(self):
        return None

    def describe(self):
        return "stand-in"

    def host_array(self, shape, dtype):
        return np.empty(shape, dtype)


def manifest(**changes) -> Manifest:
    sizes = Sizes(dim=128, layers=1, lq_hidden=(8, 8), tc_memory=((4, 8),))
    values = {
        "model": "stand-in",
        "about": "gives its input back",
        "model_version": "v1.1",
        "precision": "fp32",
        "local_range": 11,
        "op_abi": 1,
        "sizes": sizes,
        "graphs": graphs(sizes, causal=True),
        "files": {},
    }
    return Manifest(**{**values, **changes})


def bundle(folder: Path, **changes) -> Bundle:
    """A bundle on disk that opens, with a manifest and no graphs."""
    folder.mkdir(parents=True, exist_ok=True)
    manifests.save(manifest(**changes), folder)
    return Bundle(folder, manifest(**changes))
