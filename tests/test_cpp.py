"""libflashvsr: built with CMake, compared part by part with the Python runtime, and used as strangers would use it.

Skipped, with the reason, where CMake or a compiler is missing or the headers of ONNX Runtime cannot be had.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flashvsr_trt.configs import cpp_header, schedule
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.canvas import to_canvas
from flashvsr_trt.runtime.noise import noise
from flashvsr_trt.runtime.ring import KvRing
from flashvsr_trt.runtime.rope import rotary_table
from flashvsr_trt.runtime.upscaler import Options, Parameters, upscale
from flashvsr_trt.runtime.video.colour import RgbReader, RgbWriter
from flashvsr_trt.runtime.video.frames import ColourTags

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "cpp"
ORT_LIBRARY = next(iter((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*")), None)
COMMAND_LINE = (sys.executable, "-c", "from flashvsr_trt.runtime.cli import main; main()")
RGB24, RGB48, NV12, P010 = range(4)
LEFT, CENTRE, TOP_LEFT = range(3)


def _run(*command: str | Path, data: bytes = b"", check: bool = True) -> subprocess.CompletedProcess:
    environment = os.environ | {"FLASHVSR_ORT_LIBRARY": str(ORT_LIBRARY)}
    done = subprocess.run([str(c) for c in command], input=data, capture_output=True, env=environment, timeout=500)
    if check and done.returncode:
        pytest.fail(f"{command} ended with {done.returncode}:\n{done.stderr.decode()}\n{done.stdout.decode()[-4000:]}")
    return done


def _build(folder: Path, *options: str, targets: tuple[str, ...] = ("all",)) -> Path:
    """Configures and builds; a build folder of an earlier run is brought up to date."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if ORT_LIBRARY is None:
        pytest.skip("this onnxruntime wheel holds no libonnxruntime.so")
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    if not (folder / "CMakeCache.txt").is_file():
        options = (*generator, *options)
    said = _run("cmake", "-S", ROOT / "runtime" / "cpp", "-B", folder, "-DFLASHVSR_TESTS=ON", *options)
    if "skipped: no " in said.stdout.decode():
        pytest.skip("; ".join(line for line in said.stdout.decode().splitlines() if "flashvsr:" in line))
    _run("cmake", "--build", folder, "--parallel", "2", "--target", *targets)
    return folder


@pytest.fixture(scope="session")
def build(pytestconfig: pytest.Config) -> Path:
    folder = pytestconfig.cache.mkdir("cpp") / "release"  # type: ignore[union-attr]
    return _build(folder, "-DCMAKE_BUILD_TYPE=Release", "-DFLASHVSR_WARNINGS_AS_ERRORS=ON")


@pytest.fixture(scope="session")
def sanitized(build: Path, pytestconfig: pytest.Config) -> Path:
    folder = pytestconfig.cache.mkdir("cpp") / "sanitized"  # type: ignore[union-attr]
    headers = [
        f"-D{line.split(':')[0]}={line.split('=')[1]}"
        for line in (build / "CMakeCache.txt").read_text().splitlines()
        if line.startswith(("ORT_INCLUDE_DIR", "JSON_INCLUDE_DIR"))
    ]
    options = ("-DCMAKE_BUILD_TYPE=Debug", "-DFLASHVSR_SANITIZE=ON", "-DFLASHVSR_EXAMPLES=OFF", *headers)
    return _build(folder, *options, targets=("border", "mutate"))


class Inside:
    """Parts of the library by name; see tests/cpp/inside.cpp."""

    def __init__(self, build: Path) -> None:
        self._program = build / "tests" / "inside"

    def __call__(self, *arguments: object, data: bytes = b"", dtype: type = np.uint8) -> np.ndarray:
        return np.frombuffer(_run(self._program, *map(str, arguments), data=data).stdout, dtype)

    def text(self, *arguments: object) -> str:
        return _run(self._program, *map(str, arguments)).stdout.decode()


@pytest.fixture(scope="session")
def inside(build: Path) -> Inside:
    return Inside(build)


# Parts, against the Python runtime


def test_generated_header_is_current(build):
    assert (build / "generated" / "flashvsr_contract.hpp").read_text() == cpp_header.render()


def test_schedule_table(inside):
    inside("schedule", ROOT / "tests" / "data" / "schedule.json")


@pytest.mark.parametrize("kv_ratio", [1, 2, 2.9, 3, 4, 6.5])
def test_ring_takes_the_same_slots(inside, kv_ratio):
    ring, expected = KvRing(kv_ratio), ""
    for step in range(30):
        ring.commit(ring.begin(3 if step == 0 else 1))
        expected += "".join(f"{slot} " for slot in ring.valid) + "\n"
    assert inside.text("ring", kv_ratio, 30) == expected


def test_defaults_are_those_of_python(inside):
    got, options = json.loads(inside.text("defaults")), Options()
    for name in ("scale", "segment_steps", "bits"):
        assert got[name] == getattr(options, name)
    for name in ("sparse_ratio", "kv_ratio", "seed"):
        assert got[name] == getattr(options.parameters, name)
    # The first of each enumeration: long, adain, pad.
    assert (options.variant, options.colour_fix, options.fit) == ("long", "adain", "pad")
    assert got["variant"] == got["colour_fix"] == got["fit"] == 0


def test_philox_known_answer(inside):
    """Random123's known-answer test for philox4x32-10 on the digits of pi."""
    counter_and_key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    expected = (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert tuple(map(int, inside.text("philox", *counter_and_key).split())) == expected


@pytest.mark.parametrize(
    ("seed", "begin", "end", "height", "width"),
    [(0, 0, 6, 96, 176), (2**64 - 1, 6, 8, 17, 3), (12345, 2**33, 2**33 + 2, 5, 9), (7, 1_000_000, 1_000_002, 64, 64)],
)
def test_noise_is_the_same(inside, seed, begin, end, height, width):
    got = inside("noise", seed, begin, end, height, width, dtype=np.float16)
    np.testing.assert_array_equal(got, noise(seed, range(begin, end), height, width).ravel())


def test_float16_is_rounded_once(inside):
    rng = np.random.default_rng(0)
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = np.sort(every[np.isfinite(every)].astype(np.float64))
    halfway = (every[1:] + every[:-1]) / 2
    values = np.concatenate(
        [
            every,
            halfway,
            np.nextafter(halfway, np.inf),
            np.nextafter(halfway, -np.inf),
            rng.normal(size=100_000),
            rng.normal(size=10_000) * 1e-7,
            [65519.999, 65520.0, 1e300, -1e300, np.inf, -np.inf, 0.0, -0.0],
        ]
    )
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    got = inside("half", data=values.tobytes(), dtype=np.uint16)
    np.testing.assert_array_equal(got, expected.view(np.uint16))


@pytest.mark.parametrize(("begin", "end", "pairs"), [(0, 240, 21), (0, 6, 22), (1_000_000, 1_000_400, 22)])
def test_rotary_tables_are_the_same(inside, begin, end, pairs):
    got = inside("rope", begin, end, pairs, dtype=np.float32)
    # Equal, but for a library of mathematics that rounds the last bit of a double otherwise: one float32 step then.
    np.testing.assert_allclose(got, rotary_table(range(begin, end), pairs).ravel(), rtol=0, atol=6e-8)


def _horizontal_first(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    for size in ((width, picture.shape[0]), (width, height)):
        picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    return picture


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_canvas_is_pillows_to_the_byte(inside, data):
    side = st.integers(1, 90)
    height, width = data.draw(side), data.draw(side)
    crop = data.draw(st.booleans())
    out = st.integers(128, 300) if crop else st.integers(1, 300)
    output = (height, width) if data.draw(st.integers(0, 9)) == 0 and not crop else (data.draw(out), data.draw(out))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    if data.draw(st.booleans()):
        picture = (picture > 127).astype(np.uint8) * 255  # overshoots on both sides
    canvas = schedule.canvas(height, width, output=output, fit="crop" if crop else "pad")
    got = inside("canvas", height, width, *output, int(crop), data=picture.tobytes())
    # Where a side shrinks, Pillow 13 begins with the pass that costs less; earlier ones always with the horizontal.
    resized = _horizontal_first(picture, *output)
    unscaled = schedule.canvas(*output, output=output, fit="crop" if crop else "pad")
    np.testing.assert_array_equal(got.reshape(canvas.height, canvas.width, 3), to_canvas(resized, unscaled))
    if output[0] >= height and output[1] >= width:
        np.testing.assert_array_equal(
            resized, to_canvas(picture, replace(canvas, height=output[0], width=output[1], offset=(0, 0)))
        )


def test_canvas_of_usual_scales(inside):
    rng = np.random.default_rng(5)
    for (height, width), scale in (((144, 176), 4), ((360, 640), 3), ((272, 640), 1.5)):
        picture = np.asarray(
            Image.fromarray(rng.integers(0, 256, (height // 3, width // 3, 3), np.uint8)).resize((width, height))
        )
        canvas = schedule.canvas(height, width, output=schedule.scaled(height, width, scale))
        got = inside("canvas", height, width, *canvas.output, 0, data=picture.tobytes())
        np.testing.assert_array_equal(got.reshape(canvas.height, canvas.width, 3), to_canvas(picture, canvas))


# Colours

_WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def _coding(fmt: int, full: bool) -> tuple[float, float, float, float, int]:
    """Black, range of luma, middle, range of chroma, largest."""
    unit, largest = (4, 1023) if fmt == P010 else (1, 255)
    return (
        (0, largest, 128 * unit, largest, largest) if full else (16 * unit, 219 * unit, 128 * unit, 224 * unit, largest)
    )


def _upsampled(chroma: np.ndarray, shape: tuple[int, int], location: int) -> np.ndarray:
    """Linear interpolation at the place of each luma sample, edges repeated, in float64."""
    for axis, centred in ((0, location != TOP_LEFT), (1, location == CENTRE)):
        count = chroma.shape[axis]
        position = np.arange(shape[axis]) / 2 - (0.25 if centred else 0)
        low = np.floor(position).astype(int)
        weight = (position - low).reshape((-1, 1) if axis == 0 else (1, -1))
        first, second = (np.take(chroma, np.clip(low + i, 0, count - 1), axis) for i in (0, 1))
        chroma = first * (1 - weight) + second * weight
    return chroma


def _exact_rgb(luma, u, v, fmt, matrix, full, location):
    black, luma_range, middle, chroma_range, _ = _coding(fmt, full)
    red, blue = _WEIGHTS[matrix]
    grey = (luma - black) / luma_range
    u, v = ((_upsampled(c.astype(float), luma.shape, location) - middle) / chroma_range for c in (u, v))
    r, b = grey + 2 * (1 - red) * v, grey + 2 * (1 - blue) * u
    g = (grey - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack((r, g, b), -1), 0, 1) * 255


@pytest.mark.parametrize("fmt", [NV12, P010])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize(("full", "location"), [(False, LEFT), (True, CENTRE), (False, TOP_LEFT)])
def test_yuv_to_rgb_is_the_definition(inside, fmt, matrix, full, location):
    rng = np.random.default_rng(fmt * 100 + matrix)
    height, width = 13, 21
    dtype, shift = (np.uint16, 6) if fmt == P010 else (np.uint8, 0)
    largest = _coding(fmt, full)[-1]
    luma = rng.integers(0, largest + 1, (height, width))
    u, v = rng.integers(0, largest + 1, (2, 7, 11))
    data = (luma << shift).astype(dtype).tobytes() + (np.stack((u, v), -1) << shift).astype(dtype).tobytes()
    got = inside("decode", fmt, matrix, int(full), location, height, width, data=data).reshape(height, width, 3)
    exact = _exact_rgb(luma, u, v, fmt, matrix, full, location)
    assert np.abs(got - exact).max() <= 0.501  # the nearest byte; 0.001 for float32


@pytest.mark.parametrize(("fmt", "bits"), [(NV12, 8), (P010, 8), (NV12, 16), (P010, 16)])
@pytest.mark.parametrize("location", [LEFT, CENTRE, TOP_LEFT])
def test_rgb_to_yuv_is_the_definition(inside, fmt, bits, location):
    rng = np.random.default_rng(bits + fmt)
    height, width, matrix = 13, 21, 6
    red, blue = _WEIGHTS[matrix]
    rgb = rng.integers(0, 2**bits, (height, width, 3))
    pixels = rgb.astype(np.uint16 if bits == 16 else np.uint8).tobytes()
    planes = inside("encode", fmt, matrix, 0, location, height, width, bits, data=pixels)
    planes = planes.view(np.uint16) >> 6 if fmt == P010 else planes
    black, luma_range, middle, chroma_range, _ = _coding(fmt, False)
    unit = rgb / (2**bits - 1)
    grey = unit @ (red, 1 - red - blue, blue)
    assert np.abs(planes[: height * width].reshape(height, width) - black - luma_range * grey).max() <= 0.501
    u, v = (unit[..., 2] - grey) / (2 - 2 * blue), (unit[..., 0] - grey) / (2 - 2 * red)
    chroma = np.moveaxis(planes[height * width :].reshape(7, 11, 2).astype(float), -1, 0)
    for got, exact in zip(chroma, (u, v), strict=True):
        padded = np.pad(exact, 1, mode="edge")
        padded = np.pad(padded, ((0, 1), (0, 1)), mode="edge")  # odd sizes: one more for the last sample
        for axis, centred in ((0, location != TOP_LEFT), (1, location == CENTRE)):
            n = got.shape[axis]
            taps = [np.take(padded, np.arange(n) * 2 + i, axis) for i in range(3)]
            weights = (0, 0.5, 0.5) if centred else (0.25, 0.5, 0.25)
            padded = sum(w * tap for w, tap in zip(weights, taps, strict=True))
        assert np.abs(got - middle - chroma_range * padded).max() <= 0.501


@pytest.mark.parametrize("matrix", [1, 6])
def test_planar_444_is_the_command_lines(inside, matrix):
    """The numbers of FFmpeg's scaler with limited range, so that y4m files can be compared byte for byte."""
    rng = np.random.default_rng(matrix)
    planes = rng.integers(0, 256, (3, 512, 1024), np.uint8)
    tags = ColourTags(2, 2, matrix, False)
    expected = RgbReader(tags)(VideoFrame.from_ndarray(planes, format="yuv444p"))
    got = inside("planar444", 1, int(matrix == 1), 0, data=planes.tobytes()).reshape(expected.shape)
    # Where blue would be more than twice white the scaler wraps to black; ours stays at white.
    luma, u, _ = planes.astype(np.int64)
    blue = (luma - 16) * 255 / 219 + (u - 128) * 255 / 224 * 2 * (1 - _WEIGHTS[matrix][1])
    shown = blue < 511
    np.testing.assert_array_equal(got[shown], expected[shown])
    rgb = rng.integers(0, 256, (512, 1024, 3), np.uint8)
    encoded = RgbWriter("yuv444p", tags)(rgb).to_ndarray()
    np.testing.assert_array_equal(inside("planar444", 0, int(matrix == 1), 0, data=rgb.tobytes()), encoded.ravel())


# The whole, against the Python runtime


def _moving_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """A smooth picture that a window moves over."""
    rng = np.random.default_rng(9)
    small = Image.fromarray(rng.integers(0, 256, (height // 4 + 8, width // 4 + 8, 3), np.uint8))
    picture = np.asarray(small.resize((width + count, height + count), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(picture[i : i + height, i // 2 : i // 2 + width]) for i in range(count)]


def test_embed_gives_the_python_runtimes_bytes(build, seeded_bundle):
    frames = _moving_frames(30, 40, 36)
    options = Options(scale=3.5, parameters=Parameters(local_range=11))
    expected = b"".join(
        f.tobytes() for f in upscale(frames, bundle=seeded_bundle, backend=open_backend("cpu"), options=options)
    )
    done = _run(build / "embed", seeded_bundle, 36, 40, 3.5, data=b"".join(f.tobytes() for f in frames))
    assert done.stdout == expected


def test_v1_bundle_gives_the_python_runtimes_bytes(build, seeded_bundle_v1):
    frames = _moving_frames(22, 20, 30)
    expected = b"".join(f.tobytes() for f in upscale(frames, bundle=seeded_bundle_v1, backend=open_backend("cpu")))
    done = _run(build / "embed", seeded_bundle_v1, 30, 20, data=b"".join(f.tobytes() for f in frames))
    assert done.stdout == expected


def _write_y4m(path: Path, planes: list[np.ndarray], colour: str) -> None:
    _, height, width = planes[0].shape
    header = f"YUV4MPEG2 W{width} H{height} F24000:1001 Ip A1:1 C{colour}\n".encode()
    path.write_bytes(header + b"".join(b"FRAME\n" + p.tobytes() for p in planes))


def _read_y4m(data: bytes) -> list[bytes]:
    return data.split(b"\n", 1)[1].split(b"FRAME\n")[1:]


def test_y4m_filter_gives_the_command_lines_bytes(build, seeded_bundle, tmp_path):
    tags = ColourTags(2, 2, 6, False)
    planes = [RgbWriter("yuv444p", tags)(f).to_ndarray() for f in _moving_frames(27, 32, 48)]
    source, target = tmp_path / "in.y4m", tmp_path / "out.y4m"
    _write_y4m(source, planes, "444")
    _run(
        *COMMAND_LINE,
        "run",
        source,
        "-o",
        target,
        "-s",
        "2",
        "--bundle",
        seeded_bundle,
    )
    done = _run(build / "flashvsr_y4m", seeded_bundle, "--scale", "2", data=source.read_bytes())
    assert b"W96 H64" in done.stdout[:80]
    got, expected = _read_y4m(done.stdout), _read_y4m(target.read_bytes())
    assert len(got) == len(expected) == 27
    assert got == expected


def test_y4m_filter_of_420(build, seeded_bundle):
    width, height, count = 19, 11, 3
    rng = np.random.default_rng(2)
    frames = [rng.integers(16, 236, 19 * 11 + 2 * 10 * 6, np.uint8).tobytes() for _ in range(count)]
    header = f"YUV4MPEG2 W{width} H{height} F{Fraction(25)}:1 C420mpeg2\n".encode()
    data = header + b"".join(b"FRAME\n" + f for f in frames)
    done = _run(build / "flashvsr_y4m", seeded_bundle, data=data)
    out = _read_y4m(done.stdout)
    assert done.stdout.startswith(b"YUV4MPEG2 W76 H44 C420mpeg2 F25:1\n")
    assert [len(f) for f in out] == [76 * 44 * 3 // 2] * count
    for bad in (b"", b"RIFF", data[:40], data[:-1], data.replace(b"420mpeg2", b"422"), data.replace(b"W19", b"W0")):
        refused = _run(build / "flashvsr_y4m", seeded_bundle, data=bad, check=False)
        assert refused.returncode == 1
        assert b"y4m" in refused.stderr or b"frame" in refused.stderr


# The border


def test_header_is_c(build, tmp_path):
    flags = ("-std=c11", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "runtime" / "cpp" / "include")
    _run("cc", *flags, "-c", TESTS / "header.c", "-o", tmp_path / "header.o")


def test_library_shows_the_interface_only(build):
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    symbols = _run("nm", "-D", "--defined-only", build / "libflashvsr.so").stdout.decode().split()[2::3]
    header = (ROOT / "runtime" / "cpp" / "include" / "flashvsr.h").read_text()
    names = set(re.findall(r"^FLASHVSR_API [\w ]+\*?(flashvsr_\w+)\(", header, re.MULTILINE))
    assert set(symbols) == names


@pytest.mark.parametrize("mode", ["arguments", "stream", "threads", "memory"])
def test_border(build, seeded_bundle, mode):
    _run(build / "tests" / "border", seeded_bundle, ORT_LIBRARY, mode)


def test_20_cycles_hold_no_more_memory(build, seeded_bundle):
    heap = [int(x) for x in _run(build / "tests" / "border", seeded_bundle, ORT_LIBRARY, "cycles").stdout.split()]
    assert len(heap) == 20
    # One leaked stream would be megabytes; ONNX Runtime's own caches move by some kilobytes.
    assert heap[-1] - heap[4] < 500_000


def test_a_strangers_project_builds(build, tmp_path):
    prefix, consumer = tmp_path / "prefix", tmp_path / "consumer"
    _run("cmake", "--install", build, "--prefix", prefix)
    _run("cmake", "-S", TESTS / "consumer", "-B", consumer, f"-DCMAKE_PREFIX_PATH={prefix}")
    _run("cmake", "--build", consumer)
    assert b"flashvsr 0." in _run(consumer / "consumer_c").stdout
    assert b"FLASHVSR_ERROR_BUNDLE" in _run(consumer / "consumer_cpp").stdout
    if shutil.which("pkg-config") is None:
        return
    (found,) = prefix.rglob("flashvsr.pc")
    flags = _run("pkg-config", "--cflags", "--libs", found).stdout.decode().split()
    _run("cc", TESTS / "consumer" / "main.c", "-o", tmp_path / "by_pkg_config", *flags)


# Sanitizers and mutations


@pytest.mark.parametrize("mode", ["arguments", "stream", "threads", "memory"])
def test_border_under_sanitizers(sanitized, seeded_bundle, mode):
    """Address, undefined behaviour and leaks; ONNX Runtime itself is not instrumented."""
    _run(sanitized / "tests" / "border", seeded_bundle, ORT_LIBRARY, mode)


def _corpus(folder: Path, inside: Inside, bundle: Path) -> list[Path]:
    """A manifest, and the structs of the border behind the letter that says which."""
    options = np.zeros(20, np.int64)
    files = {"manifest": (bundle / "manifest.json").read_bytes()}
    files |= {f"{letter!r}": letter + options.tobytes() for letter in (b"o", b"i", b"m")}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def test_mutated_input_never_crashes(sanitized, inside, seeded_bundle, tmp_path):
    files = _corpus(tmp_path, inside, seeded_bundle)
    done = _run(sanitized / "tests" / "mutate", 2000, 1, *files)
    assert done.stdout == b"2000 rounds\n"


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
        ({"invented": 1}, "invented"),
    ],
)
def test_damaged_manifests_are_refused(build, seeded_bundle, tmp_path, change, said):
    manifest = json.loads((seeded_bundle / "manifest.json").read_text()) | {"files": {}} | change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    done = _run(build / "embed", tmp_path, 8, 8, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"FLASHVSR_ERROR_BUNDLE")
    assert said in done.stderr.decode()


def test_a_changed_file_is_refused(build, seeded_bundle, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(seeded_bundle, bundle)
    with open(bundle / "dit.bin", "ab") as file:
        file.write(b"0")
    done = _run(build / "embed", bundle, 8, 8, check=False)
    assert done.returncode == 1
    assert b"dit.bin has" in done.stderr
