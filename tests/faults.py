"""Runs a job again and again, each time killed (SIGKILL) at another moment, and takes it up each time.

`python faults.py FOLDER SEED KILLS` prints one JSON line for each kill and one with the counts. A process of its own:
it forks for each run, so that a run costs no imports, and is killed the way a crash or a loss of power kills.

A moment is a call, counted over the run, of something that changes what is on the disk or is about to: a frame
encoded, a packet joined, an fsync (before and after), a rename (before and after), a file removed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from media import Clip, picture, write_clip
from stand_in import NoBackend, StandIn, bundle

from flashvsr_trt.runtime import upscaler
from flashvsr_trt.runtime.execution import upscale_file
from flashvsr_trt.runtime.jobs import AlreadyDone, Job
from flashvsr_trt.runtime.upscaler import Options
from flashvsr_trt.runtime.video import output as output_module
from flashvsr_trt.runtime.video.options import OutputOptions

FRAMES = 96
KINDS = ("encode", "fsync", "rename", "join", "remove")


class Remembering(StandIn):
    """Every frame depends on all frames before it: a state that is lost or wrong shows."""

    def reset(self):
        super().reset()
        self.memory, self.shown = np.zeros(1, np.int64), np.zeros(1, np.int64)

    def denoise(self, step, lq):
        self.memory[0] = (self.memory[0] * 31 + int(lq.astype(np.int64).sum())) % 251
        super().denoise(step, lq)
        return self.memory.copy()

    def decode(self, step, latents, lq):
        self.shown[0] = (self.shown[0] * 7 + latents[0]) % 64
        return super().decode(step, latents, lq) + np.uint8(self.shown[0])

    def save_state(self, host):
        super().save_state(host)
        host.arrays |= {"memory": self.memory.copy(), "shown": self.shown.copy()}

    def load_state(self, host):
        super().load_state(host)
        self.memory[:], self.shown[:] = host.arrays["memory"], host.arrays["shown"]


def job(name: str, **changes) -> Job:
    options = {"options": Options(scale=1), "video": OutputOptions(lossless=True), "segment": 0.6, **changes}
    return Job(source="in.mp4", output=name, **options)


def upscale(name: str, **changes) -> None:
    try:
        upscale_file(job(name, **changes), bundle="bundle", backend=NoBackend())
    except AlreadyDone:
        return  # killed between the rename and the end: nothing was left to do


class Moments:
    """Counts the moments of this process, and kills it at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.seen = at, []

    def reach(self, kind: str) -> None:
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(kind)

    def around(self, owner: object, name: str, kind: str, *, after: bool) -> None:
        original: Callable = getattr(owner, name)

        def watched(*args, **settings):
            self.reach(kind)
            result = original(*args, **settings)
            if after:
                self.reach(kind)
            return result

        setattr(owner, name, watched)

    def install(self) -> None:
        self.around(os, "fsync", "fsync", after=True)
        self.around(os, "replace", "rename", after=True)
        self.around(os, "unlink", "remove", after=True)
        self.around(os, "rmdir", "remove", after=True)
        self.around(output_module.OutputFile, "mux", "join", after=False)
        self.around(output_module.Pictures, "__call__", "encode", after=False)


def in_child(name: str, at: int | None) -> tuple[int, list[str]]:
    """Runs the job in a forked process that is killed at a moment; (wait status, moments it has seen)."""
    reader, writer = os.pipe()
    # PyAV 19 leaves the filter graph of an audio resampler in a cycle. Collected in the child, it would wait for its
    # threads for ever, which a fork does not copy.
    gc.collect()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            moments = Moments(at)
            moments.install()
            upscale(name)
            os.write(writer, json.dumps(moments.seen).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    told = b"".join(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    return os.waitpid(child, 0)[1], json.loads(told or b"[]")


def digest(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def chosen(seen: list[str], kills: int, rng: random.Random) -> list[int]:
    """Random moments, of each kind at least two."""
    picked: set[int] = set()
    for kind in KINDS:
        places = [place for place, at in enumerate(seen) if at == kind]
        picked |= set(rng.sample(places, min(2, len(places))))
    others = [place for place in range(len(seen)) if place not in picked]
    picked |= set(rng.sample(others, max(0, kills - len(picked))))
    return sorted(picked)


def main(folder: str, seed: int, kills: int) -> None:
    os.chdir(folder)
    rng = random.Random(seed)
    upscaler.Networks = Remembering  # type: ignore[misc]
    bundle(Path("bundle"))
    scene = [*(picture(i) for i in range(50)), *(255 - picture(i) for i in range(FRAMES - 50))]
    write_clip(Path("in.mp4"), scene, Clip(audio="aac", chapters=True))
    status, seen = in_child("whole.mp4", None)
    assert status == 0, "the uninterrupted run failed"
    expected = digest("whole.mp4")
    counts = dict.fromkeys(KINDS, 0)
    for index, at in enumerate(chosen(seen, kills, rng)):
        name = f"{index}.mp4"
        status, _ = in_child(name, at)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        again, _ = in_child(name, rng.randrange(len(seen)) if rng.random() < 0.3 else None)  # some are killed twice
        if os.WIFSIGNALED(again):
            again, _ = in_child(name, None)
        same = again == 0 and digest(name) == expected
        left = [path.name for path in Path.cwd().glob(f".{name}*")]
        counts[seen[at]] += 1
        print(json.dumps({"at": at, "kind": seen[at], "killed": killed, "same": same, "left": left}), flush=True)
        Path(name).unlink(missing_ok=True)
        shutil.rmtree(f".{name}.flashvsr", ignore_errors=True)
    print(json.dumps({"moments": len(seen), "kills": counts}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
