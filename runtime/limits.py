"""How near a run came to what the machine can do: rates of the graphs beside that of a plain matrix product."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.plugins_trt.locations import kernels_folder
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.flops import step_flops
from flashvsr_trt.runtime.matrix_rate import matrix_rate

LOG = logging.getLogger("flashvsr_trt.limits")


def limits(bundle: Bundle, backend: Backend, facts: dict[str, Any]) -> dict[str, Any]:
    """What the step computes, at which rate, and the machine's own rate of a matrix product beside it.

    Args:
        facts: of the run: `ms_per_step` by graph (None: it had no steady state), `canvas` as (width, height), `tiles`,
            `sparse_ratio`.
    """
    if facts["ms_per_step"] is None or facts["tiles"] is not None:
        return {"matrix_tflops": None, "graphs": {}, "attention": None}
    (width, height), dtype = facts["canvas"], manifests.DTYPES[bundle.manifest.precision]
    ceiling = matrix_rate(backend, dtype)
    if not backend.asynchronous and dtype != "float32":  # a CPU multiplies 16 bits faster by widening them
        ceiling = max(ceiling, matrix_rate(backend, "float32"))
    parameters = Parameters(sparse_ratio=facts["sparse_ratio"], local_range=bundle.manifest.local_range)
    graphs = {}
    for name, flop in step_flops(bundle.manifest, height, width, parameters).items():
        graphs[name] = {"tflop": round(flop / 1e12, 4), "limit_ms": round(1000 * flop / ceiling, 4)}
        if milliseconds := facts["ms_per_step"].get(name):
            rate = 1000 * flop / milliseconds
            graphs[name] |= {"tflops": round(rate / 1e12, 3), "of_matrix": round(rate / ceiling, 4)}
    own = attention_apart(backend, (height, width), bundle, facts["sparse_ratio"])
    return {"matrix_tflops": round(ceiling / 1e12, 3), "graphs": graphs, "attention": own}


def attention_apart(backend: Backend, canvas: tuple[int, int], bundle: Bundle, ratio: float) -> dict[str, float] | None:
    """One layer's selection and attention by the project's kernels, in ms; None where they do not run or cannot be
    timed apart (that takes torch)."""
    precision = bundle.manifest.precision
    if not backend.asynchronous or precision == "fp32" or find_spec("torch") is None:
        return None
    from flashvsr_trt.plugins_trt import bench_attention
    from flashvsr_trt.plugins_trt.kernels.driver import Driver, load_kernels

    try:
        element = manifests.DTYPES[precision]
        kernels = load_kernels(kernels_folder(), element, Driver())
    except FlashVSRError as error:
        LOG.warning("attention is not timed apart: %s", error.came)
        return None
    heads, eighth = bundle.manifest.sizes.heads, precision == "fp8"
    return bench_attention.measure(kernels, *canvas, element, ratio, heads, eighth=eighth)
