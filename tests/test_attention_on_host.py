"""The attention kernels for Hopper, compiled by a C++ compiler and run on the host, against numpy in double."""

from __future__ import annotations

import ctypes
import shutil

import ml_dtypes
import numpy as np
import pytest
from on_host import HERE, NEEDS, compiled, normalised, pointers, stored, wide

from flashvsr_trt.plugins_trt.kernels import build

pytestmark = NEEDS

HEADS, WIN, SLABS, RING = 2, 3, 1, 4  # windows of a slab; slabs of queries; slots of the ring
DIM = 128 * HEADS
LISTED = np.array([2, 0], np.int64)
Q_WINDOWS, CACHED = SLABS * WIN, len(LISTED) * WIN
K_WINDOWS = CACHED + Q_WINDOWS
TOLERANCES = {"float16": 1e-3, "bfloat16": 8e-3}  # ||out - ref|| / ||ref||
WEIGHTS8 = 0.03  # of weights rounded to 4 bits


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    sources = [build.SOURCES / name for name in ("attention.cuh", "attention_sm90.cu", "attention8_sm90.cu")]
    for path in (*sources, HERE / "fake_cuda/host_hopper/hopper.cuh"):
        shutil.copy(path, folder)  # so that the kernels include the host's instructions, not Hopper's
    return compiled("attention", folder, folder)


def drawn(random: np.random.Generator, sharpness: float) -> dict[str, np.ndarray]:
    """[windows, 128, dim] each; scores of about `sharpness`. Keys grow along the lists, so that maxima rise."""
    sizes = {"q": Q_WINDOWS, "k": Q_WINDOWS, "v": Q_WINDOWS, "k_cache": RING * WIN, "v_cache": RING * WIN}
    tensors = {name: random.standard_normal((count, 128, DIM)) for name, count in sizes.items()}
    tensors["q"] *= sharpness
    for name in ("k_cache", "k"):
        tensors[name] *= np.linspace(0.3, 1, len(tensors[name]))[:, None, None]
    tensors["k_cache"] *= 0.5  # listed before the step's own
    return tensors


def chosen(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists, counts and order of items: none, one, all and some key windows."""
    counts = np.array([0, 1, K_WINDOWS, 4, 2, 5][: HEADS * Q_WINDOWS], np.int32)
    lists = np.full((len(counts), K_WINDOWS), 10**6, np.int32)  # what is not listed is not read
    for row, count in zip(lists, counts, strict=True):
        row[:count] = np.sort(random.permutation(K_WINDOWS)[:count])
    return lists, counts, random.permutation(len(counts)).astype(np.int32)


def expected(tensors: dict[str, np.ndarray], lists: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[q windows, 128, dim] of exact attention."""
    kept = np.concatenate([np.arange(WIN) + WIN * slot for slot in LISTED])
    keys, values = (np.concatenate([tensors[f"{kind}_cache"][kept], tensors[kind]]) for kind in "kv")
    out = np.zeros((Q_WINDOWS, 128, DIM))
    for item, (row, count) in enumerate(zip(lists, counts, strict=True)):
        head, window = divmod(item, Q_WINDOWS)
        channels = slice(128 * head, 128 * head + 128)
        if count == 0:
            continue
        of_item = (x[row[:count], :, channels].reshape(-1, 128) for x in (keys, values))
        own_keys, own_values = of_item
        scores = tensors["q"][window, :, channels] @ own_keys.T / np.sqrt(128)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[window, :, channels] = weights @ own_values / weights.sum(axis=1, keepdims=True)
    return out


def run(attention, name, arrays, lists, counts, order, *more) -> np.ndarray:
    out = np.full((Q_WINDOWS, 128, DIM), 0x7FFF, np.uint16)
    sizes = (ctypes.c_int * 7)(len(counts), Q_WINDOWS, K_WINDOWS, CACHED, WIN, DIM, RING * WIN)
    given = pointers(
        *(arrays[name] for name in ("q", "k", "v", "k_cache", "v_cache")), LISTED, lists, counts, order, out
    )
    getattr(attention, name)(*given, sizes, *pointers(*more))
    element = name.rpartition("_")[2]
    return wide(out.view(np.float16) if element == "float16" else out, element)


def off(out: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(("element", "sharpness"), [("float16", 1.0), ("bfloat16", 6.0)])
def test_attention(attention, element, sharpness):
    random = np.random.default_rng(1)
    tensors, (lists, counts, order) = drawn(random, sharpness), chosen(random)
    arrays = {name: stored(x, element) for name, x in tensors.items()}
    out = run(attention, f"run_attention_{element}", arrays, lists, counts, order)
    reference = expected({name: wide(x, element) for name, x in arrays.items()}, lists, counts)
    assert (out[0, :, :128] == 0).all()  # no window kept
    assert off(out, reference) < TOLERANCES[element]


def turned(values: np.ndarray) -> np.ndarray:
    """[windows, 128, dim] to [windows, dim, 128], number 16g + 4t + 2b + e being token 16g + 8b + 2t + e."""
    order = [16 * g + 8 * b + 2 * t + e for g in range(8) for t in range(4) for b in range(2) for e in range(2)]
    return np.ascontiguousarray(values[:, order].transpose(0, 2, 1))


@pytest.mark.parametrize(("element", "sharpness"), [("float16", 1.0), ("float16", 20.0), ("bfloat16", 6.0)])
def test_attention_in_float8(attention, element, sharpness):
    """Sharp scores have maxima that grow by more than what the kernel lets pass, and by less."""
    random = np.random.default_rng(2)
    tensors, (lists, counts, order) = drawn(random, sharpness), chosen(random)
    units = {"q": np.float32(sharpness / 64), "k": np.float32(1 / 64), "v": np.float32(1 / 32)}
    eighths = {name: (x / units[name[0]]).astype(ml_dtypes.float8_e4m3fn) for name, x in tensors.items()}
    exact = {name: x.astype(np.float64) * units[name[0]] for name, x in eighths.items()}
    arrays = {name: turned(x) if name[0] == "v" else x for name, x in eighths.items()}
    scales = np.array(list(units.values()), np.float32)
    out = run(attention, f"run_attention8_{element}", arrays, lists, counts, order, scales)
    assert (out[0, :, :128] == 0).all()
    assert off(out, expected(exact, lists, counts)) < WEIGHTS8


@pytest.mark.parametrize("element", ["float16", "bfloat16"])
def test_operands_in_float8(tmp_path, element):
    """What NormRotate8 makes; numbers on the edge between two may fall either way."""
    tokens, random = 256, np.random.default_rng(3)
    qkv = stored(random.standard_normal((tokens, 3 * DIM)) * 3, element)
    gains = [random.standard_normal(DIM).astype(np.float32) for _ in "qk"]
    angles = random.uniform(-3, 3, (tokens, 64))
    table = np.ascontiguousarray(np.stack([np.cos(angles), np.sin(angles)], axis=-1), np.float32)
    units = np.array([0.01, 0.02, 0.005], np.float32)  # that of v lets some saturate
    results = [np.full(tokens * DIM, 0x7F, np.uint8) for _ in "qkv"]
    kernels = compiled("float8", tmp_path)
    getattr(kernels, f"run_norm_rotate8_{element}")(*pointers(qkv, *gains, table, units, *results), tokens, DIM)
    *both, values = np.split(wide(qkv, element), 3, axis=-1)
    wanted = []
    for part, gain in zip(both, gains, strict=True):
        heads = normalised(part, gain).reshape(tokens, HEADS, 64, 2)
        complexes = (heads[..., 0] + 1j * heads[..., 1]) * np.exp(1j * angles)[:, None]
        wanted.append(np.stack([complexes.real, complexes.imag], axis=-1))
    wanted.append(turned(values.reshape(-1, 128, DIM)))
    for result, exact, unit in zip(results, wanted, units, strict=True):
        eighth = np.clip(exact.reshape(-1) / unit, -448, 448).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
        assert (result != eighth.view(np.uint8)).mean() < 1e-4
