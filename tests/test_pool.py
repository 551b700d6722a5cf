"""The GPU memory that ONNX Runtime's graphs share, on a driver whose device memory is the host's (tests/fake_cuda)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashvsr_trt.plugins_trt.kernels import library

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    not (library.compiler() and library.cuda_headers()), reason="needs g++ and cuda.h (CUDA_INCLUDE_DIR)"
)
MIB = 1 << 20
PROGRAM = """
import ctypes, sys
from hypothesis import given, settings, strategies as st
from itertools import pairwise

MIB, GRAIN, ALIGNED = 1 << 20, 2 << 20, 512
c = ctypes.CDLL(sys.argv[1])
for name in ("open", "take", "keep"):
    getattr(c, "pool_" + name).restype = ctypes.c_void_p
c.pool_shortage.restype = c.pool_mapped.restype = ctypes.c_size_t

class Pool:
    def __init__(self): self.at = ctypes.c_void_p(c.pool_open(0)); assert self.at
    def __del__(self): c.pool_close(self.at)
    def take(self, size): return c.pool_take(self.at, ctypes.c_size_t(size))
    def keep(self, size): return c.pool_keep(self.at, ctypes.c_size_t(size))
    def give(self, memory): return c.pool_give(self.at, ctypes.c_void_p(memory))
    def __getattr__(self, name): return lambda: getattr(c, "pool_" + name)(self.at)

def ends(memory, size):
    return ctypes.string_at(memory, 1) + ctypes.string_at(memory + size - 1, 1)
{body}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Python with the pool and the fake driver; gives what it prints."""
    folder = tmp_path_factory.mktemp("pool")
    driver = ["gcc", "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", HERE / "fake_cuda/libcuda.c"]
    subprocess.run(driver, check=True)
    sources = [HERE / "fake_cuda/pool.cpp", *(library.SOURCES / name for name in ("pool.cpp", "driver.cpp"))]
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    includes = [f"-I{place}" for place in (library.SOURCES, library.cuda_headers())]
    subprocess.run([library.compiler(), *options, *includes, "-o", folder / "pool.so", *sources, "-ldl"], check=True)

    def run(body: str, **environment: str) -> str:
        command = [sys.executable, "-c", PROGRAM.format(body=body), str(folder / "pool.so")]
        environment = os.environ | {"LD_LIBRARY_PATH": str(folder)} | environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_memory_is_nobody_elses_and_comes_back(run):
    """Any order of taking and giving: extents apart and whole, what was written stays, and all of it returns."""
    body = """
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 6 * MIB), st.integers(-8, -1), st.just("trim")), max_size=40))
def test(steps):
    pool, held, most, number = Pool(), [], 0, 0
    for step in steps:
        if step == "trim":
            pool.trim()
        elif step > 0:
            number = (number + 1) % 256
            memory = pool.take(step)
            assert memory % ALIGNED == 0
            ctypes.memset(memory, number, step)
            held.append((memory, step, bytes([number])))
        elif held:
            memory, size, mark = held.pop(step % len(held))
            assert ends(memory, size) == 2 * mark
            assert pool.give(memory) == 0
        places = sorted((memory, memory + size) for memory, size, _ in held)
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        assert pool.mapped() % GRAIN == 0 and pool.mapped() >= sum(size for _, size, _ in held)
    for memory, size, mark in held:
        assert ends(memory, size) == 2 * mark
        assert pool.give(memory) == 0
    whole = pool.mapped()
    if whole:  # all of it is one piece again
        memory = pool.take(whole)
        assert pool.mapped() == whole
        assert pool.give(memory) == 0 and pool.give(memory) == 1  # once
    pool.trim()
    assert pool.mapped() == 0 and pool.shortage() == 0

test()
print("held")
"""
    assert run(body) == "held\n"


def test_what_was_freed_serves_a_larger_tensor(run):
    """The sizes of a network that grows level by level, each level's tensors given back before the next one's."""
    body = """
pool = Pool()
for level in (1, 2, 4, 8, 16, 32):
    tensors = [pool.take(level * MIB) for _ in range(3)]
    for tensor in tensors:
        pool.give(tensor)
print(pool.mapped() // MIB)
"""
    assert run(body) == "96\n"  # what the last level needs, not the sum of all


def test_what_stays_lies_elsewhere(run):
    body = """
pool = Pool()
kept = pool.keep(5 * MIB)
ctypes.memset(kept, 1, 5 * MIB)
print(pool.mapped(), pool.give(kept), pool.give(None), pool.take(0), pool.keep(0))
"""
    assert run(body) == "0 0 0 None None\n"


def test_a_shortage_is_served_by_the_host_and_told(run):
    body = """
pool = Pool()
small, large = pool.take(4 * MIB), pool.take(20 * MIB)
ctypes.memset(large, 7, 20 * MIB)  # it can be used
print(pool.mapped() // MIB, pool.shortage() // MIB, pool.shortage())
assert pool.give(large) == 0 and pool.give(small) == 0
again = pool.take(16 * MIB)
print(pool.mapped() // MIB, pool.shortage())
"""
    assert run(body, FAKE_CUDA_MEMORY=str(16 * MIB)) == "4 20 0\n16 0\n"


def test_memory_that_cannot_be_mapped_is_the_hosts(run):
    body = """
import os
pool = Pool()
first = pool.take(4 * MIB)
ctypes.memset(first, 1, 4 * MIB)
print(pool.mapped(), pool.shortage() // MIB)
"""
    assert run(body, FAKE_CUDA_NO_ACCESS="1") == "0 4\n"


def test_nothing_left_anywhere(run):
    body = "pool = Pool(); print(pool.take(4 * MIB), pool.shortage(), pool.take(MIB) is not None)"
    assert run(body, FAKE_CUDA_MEMORY=str(2 * MIB), FAKE_CUDA_NO_HOST="1") == "None 0 True\n"


def test_no_such_device(run):
    assert run("print(c.pool_open(1))") == "None\n"
