"""The TensorRT back end without a GPU: a fake driver whose device memory is host memory, and a TensorRT whose engines
are ONNX Runtime's, on the graphs as TensorRT gets them. What is real: names, addresses, shapes, profiles, the ring,
the state, scratch memory, the plug-in's registration. What is not: TensorRT deserialising and running a plan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")

PROGRAM = """
import sys
import numpy as np
from tests.fake_tensorrt import flavour, engine_set, EVENTS
from flashvsr_trt.configs.tiers import load_tier
from flashvsr_trt.runtime.backends import tensorrt as module
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
from flashvsr_trt.runtime.bundle import open_bundle
from flashvsr_trt.runtime.upscaler import Options, upscale
bundle = open_bundle(sys.argv[1])
{body}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Python with the fake driver; gives what it prints."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).parent / "fake_cuda/libcuda.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", folder / "libcuda.so.1", source], check=True)

    def run(body, *arguments):
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "FLASHVSR_TRT_CACHE": str(folder / "cache"),
        }
        command = [sys.executable, "-c", PROGRAM.format(body=body), *map(str, arguments)]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=root)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_same_frames_as_the_cpu(run, seeded_bundle_fp16):
    """A stream of 5 steps, so that every slot of the ring is written over."""
    body = """
frames = np.random.default_rng(0).integers(0, 256, (54, 32, 48, 3), dtype=np.uint8)
for variant, bits in (("long", 8), ("tiny", 16)):
    options = Options(variant=variant, bits=bits, segment_steps=2)
    trt = module.TensorRt(engine_set(bundle, load_tier(8)), flavour(), load_tier(8))
    ours = list(upscale(iter(frames), bundle=sys.argv[1], backend=trt, options=options))
    theirs = list(upscale(iter(frames), bundle=sys.argv[1], backend=OrtCpu(1), options=options))
    assert len(ours) == len(theirs) == 54
    for index, (a, b) in enumerate(zip(ours, theirs)):
        assert a.dtype == b.dtype and np.array_equal(a, b), (variant, index)
    assert set(trt.seconds) >= {"lq_proj", "dit", "dit_first", "tc_decoder"}
    assert trt._scratch is None  # given back with the last graph
print("same", EVENTS["profile"])
from flashvsr_trt.configs.cache import cache_root
print(sorted(path.name.split(".")[-2] for path in (cache_root() / "runtime").iterdir() if path.name.startswith("tmp")))
"""
    said = run(body, seeded_bundle_fp16).splitlines()
    assert said[0].startswith("same")
    # What TensorRT compiled for this GPU is on disk, by graph.
    assert {"dit", "dit_first", "lq_proj", "lq_proj_first", "post_adain8", "post_adain16", "tc_decoder"} == {
        name.strip(" '") for name in said[1].strip("[]").split(",")
    }


def test_options_of_a_context(run, seeded_bundle_fp16):
    """CUDA graphs where they are asked for; a useless runtime cache is replaced; a plan with the plug-in inside may run
    its code, and the one in Python is not registered beside it."""
    body = """
from dataclasses import replace
from flashvsr_trt.configs.cache import cache_root
made = engine_set(bundle, load_tier(8))
graph = bundle.manifest.graphs["post_none8"]
for asked in (False, True):
    fake = flavour()
    loaded = module.TensorRt(made, fake, load_tier(8), cuda_graphs=asked).load(bundle.graph_path("post_none8"), graph)
    print(fake.module.config.cuda_graph_strategy)
    del loaded
(path,) = (cache_root() / "runtime").glob(made.folder.name + ".post_none8.bin")
path.write_bytes(b"of another version")
loaded = module.TensorRt(made, fake, load_tier(8)).load(bundle.graph_path("post_none8"), graph)
del loaded
print(path.read_bytes())
fake = flavour()
inside = replace(made, key=replace(made.key, flags={**made.key.flags, "plugin_library": "abc"}))
module.TensorRt(inside, fake, load_tier(8)).load(bundle.graph_path("post_none8"), graph)
print(fake.module.registry.creator, fake.module.engine_host_code_allowed)
"""
    assert run(body, seeded_bundle_fp16).splitlines() == ["None", "1", "b'cache'", "None True"]


def test_failures_carry_tensorrts_words(run, seeded_bundle_fp16):
    body = """
from flashvsr_trt.configs.errors import FlashVSRError, BundleError, OutOfMemory
fake = flavour()
trt = module.TensorRt(engine_set(bundle, load_tier(8)), fake, load_tier(8))
graph = bundle.manifest.graphs["post_none8"]
for failure, said, kind in (("deserialize", "Version tag does not match", FlashVSRError),
                            ("context", "CUDA out of memory", OutOfMemory), ("names", "", BundleError)):
    fake.module.fail, fake.module.said = failure, said
    try:
        trt.load(bundle.graph_path("post_none8"), graph)
    except kind as error:
        assert said in str(error), error
        print(failure)
fake.module.fail, fake.module.said = "execute", "an illegal memory access was encountered"
from flashvsr_trt.runtime.verify import check_graphs
try:
    list(check_graphs(bundle, OrtCpu(1), trt, min_psnr=40))
except FlashVSRError as error:
    assert "illegal memory access" in str(error), error
    print("execute")
"""
    assert run(body, seeded_bundle_fp16).split() == ["deserialize", "context", "names", "execute"]


def test_verify_names_the_graph_that_differs(run, seeded_bundle_fp16):
    body = """
from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime.verify import check_graphs
fake = flavour()
trt = module.TensorRt(engine_set(bundle, load_tier(8)), fake, load_tier(8))
print(len(list(check_graphs(bundle, OrtCpu(1), trt, min_psnr=60))))
for spoil, word in (("nan", "not finite"), ("black", "constant"), ("noise", "agrees to")):
    fake.module.spoil = ("tc_decoder", spoil)
    try:
        list(check_graphs(bundle, OrtCpu(1), trt, min_psnr=60))
    except FlashVSRError as error:
        assert "tc_decoder" in str(error) and word in str(error), error
        print(spoil)
"""
    assert run(body, seeded_bundle_fp16).split() == ["11", "nan", "black", "noise"]


def test_verify_compares_a_clip_with_stored_frames(run, seeded_bundle_fp16):
    """Graphs, then frames; a set that fails is refused, one that could not be run is not."""
    body = """
import numpy as np
from flashvsr_trt.configs.errors import BackendUnavailable, FlashVSRError, OutOfMemory
from flashvsr_trt.engines import sets, store
from flashvsr_trt.runtime.commands import engines as command
from flashvsr_trt.runtime.stored_frames import check_frames, stored
fake = flavour()
made = engine_set(bundle, load_tier(8))
trt = module.TensorRt(made, fake, load_tier(8))
wanted = sets.Wanted(bundle=bundle.folder, manifest=bundle.manifest, tier=load_tier(8), variant="tiny", flavour=fake,
                     targets=("sm90",))
command.compute(wanted, trt, bundle, 60)
frames = stored(bundle, "tiny")
assert frames.shape == (37, 120, 240, 3) and frames.std() > 5
assert np.array_equal(frames, stored(bundle, "long"))
assert check_frames(bundle, "long", trt, frames, min_psnr=60) == float("inf")
for spoil, word in (("black", "is of one colour"), ("noise", "agrees to")):
    fake.module.spoil = ("tc_decoder", spoil)
    try:
        check_frames(bundle, "tiny", module.TensorRt(made, fake, load_tier(8)), frames, min_psnr=40)
    except FlashVSRError as error:
        assert word in str(error), error
        print(spoil)
(made.folder / store.FILE_NAME).write_text("{}")
for error in (OutOfMemory("x"), BackendUnavailable("x"), FlashVSRError("dit differs")):
    try:
        with command._refusing(made):
            raise error
    except type(error):
        print("refused" in (made.folder / store.FILE_NAME).read_text())
"""
    said = run(body, seeded_bundle_fp16)
    assert said.split() == ["black", "noise", "False", "False", "True"], said


def test_engines_of_another_gpu_are_refused_before_work(run, seeded_bundle_fp16):
    body = """
from flashvsr_trt.configs.errors import BackendUnavailable
try:
    module.TensorRt(engine_set(bundle, load_tier(8), ("sm120",)), flavour(), load_tier(8))
except BackendUnavailable as error:
    print(error.came)
"""
    assert "the engines are for sm120" in run(body, seeded_bundle_fp16)


def test_set_for_this_gpu_is_found_among_others(run, seeded_bundle_fp16):
    body = """
from dataclasses import replace
from flashvsr_trt.configs.errors import BackendUnavailable
from flashvsr_trt.engines import sets, store
from tests.engine_sets import fake as plan
fake = flavour()
module.trt.load = lambda name=None: fake
module.trt.installed = lambda: ["tensorrt_rtx"]
wanted = sets.Wanted(bundle=bundle.folder, manifest=bundle.manifest, tier=load_tier(8), variant="long", flavour=fake,
                     targets=("sm86", "sm90"))
try:
    module.open_tensorrt(bundle, tier=8)
except BackendUnavailable as error:
    print("engines build" in error.todo)
store.create(wanted.key(), plan("dit"), {"bundle": "x", "source": str(bundle.folder)})
print(module.open_tensorrt(bundle, tier=8).engines.key.targets)
store.create(replace(wanted, tier=load_tier(12)).key(), plan("dit"), {"bundle": "x", "source": "x"})
print([module.open_tensorrt(bundle, tier=tier).tier.name for tier in (None, 8)])  # the largest that the card takes
try:
    module.open_tensorrt(bundle, tier=16)
except BackendUnavailable as error:
    print("tier 16gb" in error.came)
"""
    assert run(body, seeded_bundle_fp16).splitlines() == ["True", "('sm86', 'sm90')", "['12gb', '8gb']", "True"]


def test_this_gpu(run, seeded_bundle_fp16):
    assert run("from flashvsr_trt.engines.targets import this_gpu\nprint(this_gpu())", seeded_bundle_fp16).startswith(
        "sm90-"
    )
