"""libflashvsr as a whole: its programs give the Python runtime's bytes, and refuse what is damaged."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import bundles
import numpy as np
import pytest
from cpp_programs import ROOT, call, moving_frames

from flashvsr_trt.export.bundle import export_bundle
from flashvsr_trt.export.float8 import to_float8
from flashvsr_trt.export.seeded import random_weights
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.commands.calibrate import largest_inputs
from flashvsr_trt.runtime.upscaler import Options, Parameters, upscale
from flashvsr_trt.runtime.video.colour import RgbWriter
from flashvsr_trt.runtime.video.frames import ColourTags

pytest_plugins = ("cpp_fixtures",)

COMMAND_LINE = (sys.executable, "-c", "from flashvsr_trt.runtime.cli import main; main()")
CLIP = ROOT / "tests" / "data" / "clip.mp4"
DEMO = ROOT / "runtime" / "demo"


def write_y4m(path: Path, planes: list[np.ndarray], colour: str) -> None:
    _, height, width = planes[0].shape
    header = f"YUV4MPEG2 W{width} H{height} F24000:1001 Ip A1:1 C{colour}\n".encode()
    path.write_bytes(header + b"".join(b"FRAME\n" + p.tobytes() for p in planes))


def read_y4m(data: bytes) -> list[bytes]:
    return data.split(b"\n", 1)[1].split(b"FRAME\n")[1:]


def both_programs(build: Path, bundle: Path, source: Path, *flags: str) -> tuple[list[bytes], list[bytes]]:
    """Frames of flashvsr_y4m and of flashvsr-trt run, for the same flags."""
    target = source.with_name("out.y4m")
    call(*COMMAND_LINE, "run", source, "-o", target, "--bundle", bundle, "--device", "cpu", *flags)
    done = call(build / "flashvsr_y4m", bundle, *flags, data=source.read_bytes())
    return read_y4m(done.stdout), read_y4m(target.read_bytes())


@pytest.fixture
def moving_y4m(tmp_path: Path) -> Path:
    """31 frames of 48x32."""
    writer = RgbWriter("yuv444p", ColourTags(2, 2, 6, False))
    write_y4m(tmp_path / "in.y4m", [writer(f).to_ndarray() for f in moving_frames(31, 32, 48)], "444")
    return tmp_path / "in.y4m"


def test_demo_model_gives_the_command_lines_bytes_on_a_real_clip(build, tmp_path):
    with av.open(CLIP) as clip:
        frames = [
            frame.reformat(format="yuv444p").to_ndarray()
            for _, frame in zip(range(30), clip.decode(video=0), strict=False)
        ]
    write_y4m(tmp_path / "in.y4m", frames, "444")
    got, expected = both_programs(build, DEMO, tmp_path / "in.y4m", "--scale", "2")
    assert len(got) == 30
    assert got == expected


@pytest.mark.parametrize("variant", ["long", "tiny"])
def test_variants_give_the_command_lines_bytes(build, seeded_bundle, moving_y4m, variant):
    got, expected = both_programs(build, seeded_bundle, moving_y4m, "--scale", "2", "--variant", variant)
    assert [len(frame) for frame in got] == [96 * 64 * 3] * 31
    assert got == expected


def test_full_gives_the_command_lines_bytes(build, full_bundle, moving_y4m):
    got, expected = both_programs(build, full_bundle, moving_y4m, "--variant", "full", "--scale", "2")
    assert len(got) == 31
    assert got == expected


def test_fp16_gives_the_command_lines_bytes(build, seeded_bundle_fp16, moving_y4m):
    got, expected = both_programs(build, seeded_bundle_fp16, moving_y4m, "--seed", "18446744073709551615")
    assert len(got) == 31
    assert got == expected


def test_colour_fix_is_the_bundles(build, seeded_bundle, moving_y4m, tmp_path):
    """What suits the weights, in both programs; asking for it by name is the same."""
    bundle = tmp_path / "bundle"
    shutil.copytree(seeded_bundle, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"colour_fix": "none"}))
    got, expected = both_programs(build, bundle, moving_y4m, "--scale", "2")
    named = moving_y4m.with_name("named.y4m")
    flags = ("--scale", "2", "--colour-fix", "none", "--device", "cpu")
    call(*COMMAND_LINE, "run", moving_y4m, "-o", named, "--bundle", seeded_bundle, *flags)
    adain = call(build / "flashvsr_y4m", seeded_bundle, "--scale", "2", data=moving_y4m.read_bytes())
    assert got == expected == read_y4m(named.read_bytes())
    assert got != read_y4m(adain.stdout)


def test_fp8_gives_the_command_lines_bytes(build, moving_y4m, tmp_path):
    """The KV ring is of float8."""
    options = replace(bundles.SEEDED, precision="fp16", fused=True)
    export_bundle(random_weights(bundles.TINY, 0), tmp_path / "fp16", options)
    largest = largest_inputs(tmp_path / "fp16", moving_frames(25, 32, 48), scale=2)
    to_float8(tmp_path / "fp16", tmp_path / "fp8", largest, about="")
    got, expected = both_programs(build, tmp_path / "fp8", moving_y4m, "--scale", "2")
    assert len(got) == 31
    assert got == expected


def test_embed_gives_the_python_runtimes_bytes(build, seeded_bundle):
    frames = moving_frames(30, 40, 36)
    options = Options(scale=3.5, parameters=Parameters(local_range=11))
    expected = b"".join(
        f.tobytes() for f in upscale(frames, bundle=seeded_bundle, backend=open_backend("cpu"), options=options)
    )
    done = call(build / "embed", seeded_bundle, 36, 40, 3.5, data=b"".join(f.tobytes() for f in frames))
    assert done.stdout == expected


def test_v1_bundle_gives_the_python_runtimes_bytes(build, seeded_bundle_v1):
    frames = moving_frames(22, 20, 30)
    expected = b"".join(f.tobytes() for f in upscale(frames, bundle=seeded_bundle_v1, backend=open_backend("cpu")))
    done = call(build / "embed", seeded_bundle_v1, 30, 20, data=b"".join(f.tobytes() for f in frames))
    assert done.stdout == expected


def test_y4m_filter_of_420(build, seeded_bundle):
    width, height, count = 19, 11, 3
    rng = np.random.default_rng(2)
    frames = [rng.integers(16, 236, 19 * 11 + 2 * 10 * 6, np.uint8).tobytes() for _ in range(count)]
    header = f"YUV4MPEG2 W{width} H{height} F{Fraction(25)}:1 C420mpeg2\n".encode()
    data = header + b"".join(b"FRAME\n" + f for f in frames)
    done = call(build / "flashvsr_y4m", seeded_bundle, data=data)
    out = read_y4m(done.stdout)
    assert done.stdout.startswith(b"YUV4MPEG2 W76 H44 C420mpeg2 F25:1\n")
    assert [len(f) for f in out] == [76 * 44 * 3 // 2] * count
    for bad in (b"", b"RIFF", data[:40], data[:-1], data.replace(b"420mpeg2", b"422"), data.replace(b"W19", b"W0")):
        refused = call(build / "flashvsr_y4m", seeded_bundle, data=bad, check=False)
        assert refused.returncode == 1
        assert b"y4m" in refused.stderr or b"frame" in refused.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 99}, "schema version 99"),
        ({"schema": "1"}, "schema"),
        ({"precision": "int4"}, "int4"),
        ({"model_version": "v9"}, "v9"),
        ({"files": {"../outside": {"bytes": 1, "sha256": ""}}}, "outside"),
        ({"files": {"missing.onnx": {"bytes": 1, "sha256": ""}}}, "is missing"),
        ({"graphs": {}}, ""),
        ({"colour_fix": "sepia"}, "sepia"),
        ({"invented": 1}, "invented"),
    ],
)
def test_damaged_manifests_are_refused(build, seeded_bundle, tmp_path, change, said):
    manifest = json.loads((seeded_bundle / "manifest.json").read_text()) | {"files": {}} | change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    done = call(build / "embed", tmp_path, 8, 8, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"FLASHVSR_ERROR_BUNDLE")
    assert said in done.stderr.decode()


def test_a_changed_file_is_refused(build, seeded_bundle, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(seeded_bundle, bundle)
    with open(bundle / "dit.bin", "ab") as file:
        file.write(b"0")
    done = call(build / "embed", bundle, 8, 8, check=False)
    assert done.returncode == 1
    assert b"dit.bin has" in done.stderr
