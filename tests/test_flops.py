"""Operations of a step against the table that the design was made by."""

from types import SimpleNamespace

import pytest

from flashvsr_trt.configs.contract import Sizes
from flashvsr_trt.configs.manifest import File
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime.flops import ATTENTION, LINEAR, kept_blocks, step_flops

DIM, LAYERS, FFN, PROMPT = 1536, 30, 8960, 512
MEMORY = tuple((channels, cell) for channels, cell in ((512, 8), (256, 4), (128, 2)) for _ in range(3))
REAL = Sizes(dim=DIM, layers=LAYERS, lq_hidden=(2048, 3072), tc_memory=MEMORY)
WEIGHTS = LAYERS * (6 * DIM * DIM + 2 * DIM * FFN + 2 * PROMPT * DIM)  # linear layers, prompt's keys and values


def flops(height, width, precision="fp16"):
    files = {"dit.bin": File(sha256="", bytes=2 * WEIGHTS)}
    return step_flops(SimpleNamespace(sizes=REAL, precision=precision, files=files), height, width, Parameters())


# TFLOP a step: GEMM + cross attention, sparse attention, LQ projector. The decoder's column there counts TGrow behind
# the upsampling, which is 0.4 of 14.7 more than before it.
TABLE = [
    (768, 1408, 21.1 + 0.8, 23.9, 5.8, 14.3),
    (1024, 1920, 38.4 + 1.4, 43.5, 10.6, 26.0),
    (2048, 3840, 153.7 + 5.8, 173.9, 42.3, 103.9),
]


@pytest.mark.parametrize(("height", "width", "linear", "attention", "projector", "decoder"), TABLE)
def test_table(height, width, linear, attention, projector, decoder):
    found = {name: value / 1e12 for name, value in flops(height, width).items()}
    assert found[LINEAR] == pytest.approx(linear, rel=0.005)
    assert found[ATTENTION] == pytest.approx(attention, rel=0.005)
    assert found["lq_proj"] == pytest.approx(projector, rel=0.01)
    assert found["tc_decoder"] == pytest.approx(decoder, rel=0.005)
    assert found["dit"] == pytest.approx(found[LINEAR] + found[ATTENTION])


def test_density_at_the_measured_size():
    kept, pairs = kept_blocks(768, 1408, Parameters())
    assert pairs == 66 * 264
    assert kept / pairs == pytest.approx(0.4545, abs=1e-4)


def test_small_canvas_keeps_all_but_one():
    assert kept_blocks(128, 128, Parameters()) == (3, 4)
    assert kept_blocks(128, 128, Parameters(kv_ratio=1)) == (2, 3)


def test_float32_bundles_do_not_tell_their_number_of_weights():
    assert LINEAR not in flops(768, 1408, "fp32")
