"""`run` on engines: found for the GPU, the plan of the tier applied, the same frames as on the CPU. The driver and
TensorRT are the fakes of test_backend_trt."""

from __future__ import annotations

import pytest
from test_backend_trt import run  # noqa: F401

from flashvsr_trt.runtime.backends import choice

BEFORE = """
import hashlib, json
from dataclasses import replace
from pathlib import Path
from click.testing import CliRunner
from flashvsr_trt.engines import sets, store
from flashvsr_trt.engines.build import Plan
from flashvsr_trt.runtime.commands.run import run as command
from flashvsr_trt.runtime.jobs import Job, plan
from flashvsr_trt.runtime.identity import Described
fake = flavour()
module.trt.load = lambda name=None: fake
module.trt.installed = lambda: ["tensorrt_rtx"]
folder = Path(sys.argv[2])

def build(tier):
    made = engine_set(bundle, tier)
    wanted = sets.Wanted(bundle=bundle.folder, manifest=bundle.manifest, tier=tier, variant="long", flavour=fake,
                         targets=("sm90",))
    def plans(part):
        for name in bundle.manifest.graphs:
            data = made.path(name).read_bytes()
            (part / (name + ".plan")).write_bytes(data)
            yield Plan(graph=name, file=name + ".plan", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data),
                       seconds=0.0, weights=1 << 20, activations=1 << 28, layers=1, plugins=0)
    return store.create(wanted.key(), plans, {"bundle": "x", "source": str(bundle.folder)}, rebuild=True)

def upscaled(name, *flags):
    report = folder / "report.json"
    flags = ["tests/data/clip.mp4", "--bundle", sys.argv[1], "--frames", "26", "--target", "96x54", "--codec", "ffv1",
             "-o", str(folder / name), "-y", "--no-audio", "--report", str(report), *flags]
    done = CliRunner().invoke(command, flags, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output

def frames(name):
    import av
    with av.open(str(folder / name)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]
"""


def test_run_takes_the_engines_of_its_bundle(run, seeded_bundle_fp16, tmp_path):  # noqa: F811
    body = """
build(load_tier(8))
for name, flags in (("cpu.mkv", ("--device", "cpu")), ("trt.mkv", ("--device", "tensorrt")), ("auto.mkv", ()),
                    ("tiny.mkv", ("-m", "tiny", "--tier", "8"))):
    upscaled(name, *flags)
one = frames("cpu.mkv")
for name in ("trt.mkv", "auto.mkv", "tiny.mkv"):
    assert all(np.array_equal(a, b) for a, b in zip(one, frames(name), strict=True)), name
print(EVENTS["run"] > 0)
"""
    assert run(BEFORE + body, seeded_bundle_fp16, tmp_path).split() == ["True"]


def test_plan_of_the_tier_is_applied(run, seeded_bundle_fp16, tmp_path):  # noqa: F811
    body = """
from flashvsr_trt.configs.schedule import Parameters
tier = replace(load_tier(8), tile=(384, 384), decoder_tile=(512, 512))
module.load_tier = lambda name: tier
build(tier)
backend = module.open_tensorrt(bundle, tier=8)
device = Described.of(backend)
parameters = Parameters(local_range=bundle.manifest.local_range)
job = Job(source="tests/data/clip.mp4", output=str(folder / "x.mkv"), options=Options(parameters=parameters))
planned = plan(job, bundle, device)
print(planned.options.tiling.dit, planned.options.tiling.decoder, planned.device.peak <= tier.budget)
planned.close()
try:
    plan(replace(job, auto_tile=False), bundle, device)
except Exception as error:
    print("without tiles" in str(error))
"""
    assert run(BEFORE + body, seeded_bundle_fp16, tmp_path).splitlines() == ["(384, 384) (384, 384) True", "True"]


@pytest.mark.parametrize("device", choice.DEVICES)
def test_devices_are_named_in_the_help(device):
    from click.testing import CliRunner

    from flashvsr_trt.runtime.commands.run import run as command

    assert device in CliRunner().invoke(command, ["--help"]).output
