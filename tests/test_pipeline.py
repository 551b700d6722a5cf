"""Three threads, two queues: order, bounds, and one error out whichever side fails."""

import contextlib
import gc
import threading
import time
import weakref
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from stand_in import StandIn, manifest

from flashvsr_trt.configs.errors import Cancelled, InputError, WriteError
from flashvsr_trt.runtime import pipeline
from flashvsr_trt.runtime import upscaler as upscaler_module
from flashvsr_trt.runtime.backends.onnxruntime import OrtCpu
from flashvsr_trt.runtime.bundle import Bundle
from flashvsr_trt.runtime.execution import upscale_file
from flashvsr_trt.runtime.jobs import Job
from flashvsr_trt.runtime.pipeline import QUEUED_FRAMES
from flashvsr_trt.runtime.sizes import parse_size
from flashvsr_trt.runtime.tiles import Tiling
from flashvsr_trt.runtime.upscaler import Options, Upscaler
from flashvsr_trt.runtime.video.frames import Frame, FrameTiming

# Source frames inside the runtime at any time: both queues, the 25 LQ frames of step 0 with the 8 that the next step
# collects, the step being cut up (24 with the dropped ones), and one in the hands of each thread.
LIVE_FRAMES = 2 * QUEUED_FRAMES + 25 + 8 + 24 + 3


@pytest.fixture(autouse=True)
def _all_threads_end():
    before = set(threading.enumerate())
    yield
    assert not [t for t in threading.enumerate() if t not in before and t.is_alive()]


def make(monkeypatch, networks=StandIn, **options):
    monkeypatch.setattr(upscaler_module, "Networks", networks)
    return Upscaler(Bundle(None, manifest()), None, 2, 3, Options(**options))


def frame(index):
    return Frame(
        np.full((2, 3, 3), index % 251, np.uint8), FrameTiming(index, 3 * index + 1, 3, Fraction(1, 75), f"{index}")
    )


def frames(count):
    return (frame(index) for index in range(count))


def ignore(pixels, timing):
    pass


@pytest.mark.parametrize("variant", ["tiny", "long"])
@pytest.mark.parametrize("count", [1, 20, 21, 22, 60, 150])
def test_every_frame_leaves_once_with_its_own_timing(monkeypatch, variant, count):
    written = []
    progress = pipeline.run(
        frames(count), make(monkeypatch, variant=variant), lambda pixels, timing: written.append((pixels, timing))
    )
    assert [timing for _, timing in written] == [frame(i).timing for i in range(count)]
    assert [int(pixels[0, 0, 0]) for pixels, _ in written] == [i % 251 for i in range(count)]
    assert (progress.frames_in, progress.frames_upscaled, progress.frames_out) == (count, count, count)


def test_no_frames_give_no_frames(monkeypatch):
    assert pipeline.run(frames(0), make(monkeypatch), ignore).frames_out == 0


def test_a_reader_that_fails_ends_everything(monkeypatch):
    def broken():
        yield from frames(40)
        raise InputError("the picture size changes at frame 40")

    with pytest.raises(InputError, match="frame 40"):
        pipeline.run(broken(), make(monkeypatch), ignore)


def test_frames_of_another_size_are_the_readers_error(monkeypatch):
    odd = Frame(np.zeros((5, 5, 3), np.uint8), frame(0).timing)
    with pytest.raises(Exception, match=r"uint8 \[5, 5, 3\]"):
        pipeline.run(iter([frame(0), odd]), make(monkeypatch), ignore)


@pytest.mark.parametrize("at", [0, 20, 50])
def test_a_writer_that_fails_ends_everything_and_is_asked_once(monkeypatch, at):
    asked = []

    def broken(pixels, timing):
        asked.append(timing.index)
        if timing.index == at:
            raise WriteError("no space left on device")

    with pytest.raises(WriteError, match="no space"):
        pipeline.run(frames(500), make(monkeypatch), broken)
    assert asked == list(range(at + 1))


@pytest.mark.parametrize("at", [0, 3])
def test_networks_that_fail_end_everything(monkeypatch, at):
    class Broken(StandIn):
        fail_at = at

    with pytest.raises(RuntimeError, match="the networks broke"):
        pipeline.run(frames(500), make(monkeypatch, Broken), ignore)


def test_a_keyboard_interrupt_in_the_networks_ends_everything(monkeypatch):
    class Interrupted(StandIn):
        fail_at, error = 1, KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(frames(500), make(monkeypatch, Interrupted), ignore)


def test_a_callback_that_fails_ends_everything(monkeypatch):
    def broken(progress):
        raise OSError("the terminal went away")

    with pytest.raises(OSError, match="terminal"):
        pipeline.run(frames(500), make(monkeypatch), ignore, on_progress=broken)


def test_cancel_stops_within_a_step(monkeypatch):
    cancel, written = threading.Event(), []

    class Slow(StandIn):
        pause = 0.02

    def write(pixels, timing):
        written.append(timing.index)
        if timing.index == 30:
            cancel.set()

    with pytest.raises(Cancelled, match="stopped after"):
        pipeline.run(frames(10**9), make(monkeypatch, Slow), write, cancel=cancel)
    assert written[-1] == 30


def test_cancel_does_not_wait_for_the_end_of_a_segment(monkeypatch):
    cancel, decoded = threading.Event(), []

    class Counting(StandIn):
        def decode(self, step, latents, lq):
            decoded.append(step)
            cancel.set()
            return super().decode(step, latents, lq)

    with pytest.raises(Cancelled):
        pipeline.run(frames(500), make(monkeypatch, Counting, variant="tiny", segment_steps=16), ignore, cancel=cancel)
    assert decoded == [0]


def test_a_silent_input_does_not_hold_up_a_stop(monkeypatch):
    cancel, never = threading.Event(), threading.Event()
    monkeypatch.setattr(pipeline, "_READER_S", 0.2)

    def silent():
        yield from frames(30)
        cancel.set()
        never.wait(20)

    began = time.monotonic()
    with pytest.raises(Cancelled):
        pipeline.run(silent(), make(monkeypatch), ignore, cancel=cancel)
    assert time.monotonic() - began < 5
    never.set()  # lets the thread go
    for thread in threading.enumerate():
        if thread.name == "reader":
            thread.join()


def test_the_source_is_closed_on_the_thread_that_read_it(monkeypatch):
    closed = []

    def source():
        try:
            yield from frames(10**9)
        finally:
            closed.append(threading.current_thread().name)

    def broken(pixels, timing):
        raise WriteError("full")

    with pytest.raises(WriteError):
        pipeline.run(source(), make(monkeypatch), broken)
    assert closed == ["reader"]


@pytest.mark.parametrize("variant", ["tiny", "long"])
def test_a_slow_writer_holds_the_reader_back(monkeypatch, variant):
    read, ahead = [0], []

    def source():
        for index in range(400):
            read[0] = index
            yield frame(index)

    def slow(pixels, timing):
        time.sleep(0.001)
        ahead.append(read[0] - timing.index)

    pipeline.run(source(), make(monkeypatch, variant=variant, segment_steps=4), slow)
    extra = 8 * 4 if variant == "tiny" else 0  # the LQ frames of a segment wait for their decode
    assert max(ahead) <= LIVE_FRAMES + extra


def test_live_frames_do_not_grow_with_the_video(monkeypatch):
    alive, most = weakref.WeakSet(), [0]

    class Tracked(np.ndarray):
        __hash__ = object.__hash__

    class Tracking(StandIn):
        def decode(self, step, latents, lq):
            pixels = super().decode(step, latents, lq)
            return [self.track(p) for p in pixels]

        def track(self, pixels):
            tracked = pixels.copy().view(Tracked)
            alive.add(tracked)
            return tracked

    def write(pixels, timing):
        if timing.index % 50 == 49:
            gc.collect()
        most[0] = max(most[0], len(alive))

    pipeline.run(frames(1000), make(monkeypatch, Tracking), write)
    assert 8 <= most[0] <= QUEUED_FRAMES + 24 + 2  # the queue, one step of the networks, one on each side


def test_progress_never_runs_backwards_and_counts_the_stages(monkeypatch):
    class Slow(StandIn):
        pause = 0.01

    seen = []

    def note(progress):
        seen.append((progress.frames_in, progress.frames_upscaled, progress.frames_out))

    progress = pipeline.run(frames(100), make(monkeypatch, Slow), ignore, on_progress=note)
    assert seen == sorted(seen)
    assert seen[-1] == (100, 100, 100)
    steps = 11  # 105 padded frames
    assert progress.seconds["upscale"] >= steps * Slow.pause
    assert set(progress.seconds) == {"decode", "resize", "upscale", "encode", "wait_input", "wait_output"}
    assert progress.fps > 0


@pytest.mark.parametrize(
    "options",
    [Options(), Options(variant="tiny", segment_steps=1), Options(tiling=Tiling(dit=(256, 256), decoder=(256, 256)))],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_run_leaves_no_networks_to_the_garbage_collection(tmp_path, monkeypatch, options, fails):
    """Until it came, the next file's networks would not fit into a GPU's memory beside the last one's."""
    made, begin, give = [], Upscaler.__init__, Upscaler.feed

    def noted(self, *arguments):
        begin(self, *arguments)
        made.append(weakref.ref(self))

    def feed(self, lq):
        if fails and self._pushed == 5:
            raise WriteError("no")
        return give(self, lq)

    monkeypatch.setattr(Upscaler, "__init__", noted)
    monkeypatch.setattr(Upscaler, "feed", feed)
    gc.collect()
    gc.disable()
    try:
        job = Job(
            source="tests/data/clip.mp4", output=str(tmp_path / "o.mkv"), frames=22, size=parse_size(None, "96x54")
        )
        with pytest.raises(WriteError) if fails else contextlib.nullcontext():
            upscale_file(replace(job, options=options), backend=OrtCpu(1))
        assert [one() for one in made] == [None]
    finally:
        gc.enable()
