"""Which back end a run takes: engines of its bundle where there are some for this GPU, else what is there."""

from __future__ import annotations

import logging

from flashvsr_trt.configs.errors import FlashVSRError, UsageError
from flashvsr_trt.configs.tiers import GIB, load_tier
from flashvsr_trt.engines.key import DECODERS
from flashvsr_trt.runtime import backends
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle

DEVICES = (*backends.DEVICES, "tensorrt")
LOG = logging.getLogger("flashvsr_trt.backends")


def open_for(
    device: str,
    *,
    bundle: str | None = None,
    variant: str = "long",
    tier: str | None = None,
    cuda_graphs: bool = False,
    threads: int | None = None,
) -> Backend:
    """Opens a device to run a bundle on.

    Args:
        device: of DEVICES; "tensorrt" wants engines, "auto" takes them where there are some.
        bundle: folder; None: the packaged one.
        variant: that will be run.
        tier: of the engines; None: the largest that fits. Without engines its memory is what runs are planned for.
        cuda_graphs: replay each engine as a whole, where TensorRT offers it.
        threads: CPU threads inside one operator.

    Raises:
        BackendUnavailable: the device cannot be used; with the reasons.
        UsageError: a tier for a device without memory of its own.
    """
    backends.check_device(device, DEVICES)
    opened = open_bundle(bundle)
    if device == "tensorrt":
        return _tensorrt(opened, variant, tier, cuda_graphs)
    if device == "auto" and has_engines(opened, variant):
        try:
            return _tensorrt(opened, variant, tier, cuda_graphs)
        except FlashVSRError as error:
            LOG.warning("the engines of this bundle are not used: %s", error.came)
    backend = backends.open_backend(device, threads=threads)
    plan_for(tier, backend)
    return backend


def plan_for(tier: str | None, backend: Backend) -> None:
    """Lets runs on a back end without engines be planned for a card of that tier; None: for what is free.

    Raises:
        UsageError: no such tier, or the back end computes in host memory.
    """
    if tier is None:
        return
    if backend.device_memory() is None:
        raise UsageError(f"--tier {tier} on {backend.describe()}", expected="a GPU", todo="leave --tier away")
    backend.plan_within(load_tier(tier).memory_gib * GIB)


def has_engines(bundle: Bundle, variant: str) -> bool:
    """Whether any engines of this bundle are on this machine, for whatever GPU."""
    try:
        from flashvsr_trt.engines import store
    except ImportError:  # without the packages of the extras there are none
        return False
    wanted = (bundle.manifest.digest(), DECODERS[variant])
    return any((found.key.bundle, found.key.decoder) == wanted for found in store.all_sets())


def _tensorrt(bundle: Bundle, variant: str, tier: str | None, cuda_graphs: bool) -> Backend:
    from flashvsr_trt.runtime.backends.tensorrt import open_tensorrt  # the extras may be missing

    return open_tensorrt(bundle, variant=variant, tier=tier, cuda_graphs=cuda_graphs)
