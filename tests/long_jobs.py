"""Jobs that are stopped and taken up, in this process, with networks whose every frame depends on all before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from faults import Remembering
from media import Clip, frames_of, picture, write_clip

from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime.cli import cli

FLAGS = ["-s", "1", "--segment", "0.8"]  # 20 frames, so segments of 21, 24, 24 ...


def clip(count=90, name="in.mkv", **settings):
    settings = {"codec": "ffv1", "pix_fmt": "bgr0", "options": {}} | settings
    return write_clip(Path(name), [picture(i) for i in range(count)], Clip(**settings))


def call(*args):
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert "Traceback" not in result.stderr
    return result


def upscale(out, *flags):
    return call("run", "in.mkv", "-o", out, "--lossless", *FLAGS, *flags)


def pixels(path):
    return [frame.to_ndarray(format="rgb24") for frame in frames_of(Path(path))]


def same(one, other):
    """Same pictures, same times, same packets in the copied streams."""
    a, b = frames_of(Path(one)), frames_of(Path(other))
    assert [f.pts * f.time_base for f in a] == [f.pts * f.time_base for f in b]
    assert all(np.array_equal(x, y) for x, y in zip(pixels(one), pixels(other), strict=True))


def left():
    return sorted(path.name for path in Path.cwd().iterdir())


def failing(monkeypatch, step, error, times=1):
    """The networks raise at the decode of a step, so many times."""
    original, tries = Remembering.decode, []

    def decode(self, index, latents, lq):
        if index == step and len(tries) < times:
            tries.append(index)
            raise error
        return original(self, index, latents, lq)

    monkeypatch.setattr(Remembering, "decode", decode)
    return tries


def interrupted(monkeypatch, out="out.mkv", *flags, step=4):
    """A run that dies in step 4, after two segments of 21 and 24 frames."""
    with monkeypatch.context() as patch:
        failing(patch, step, FlashVSRError("the device is lost"))
        result = upscale(out, *flags)
    assert (result.exit_code, "the device is lost" in result.stderr) == (1, True), result.stderr
    return result
