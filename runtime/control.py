"""A batch under the user's hands: signals, keys, and the command that goes on with what was stopped."""

from __future__ import annotations

import shlex
import sys
import threading

from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.batch import Batch, frames_kept
from flashvsr_trt.runtime.inputs import Inputs
from flashvsr_trt.runtime.interrupt import Keys, run_stoppable
from flashvsr_trt.runtime.jobs import Job

PROGRAM = "flashvsr-trt"


def run_batch(batch: Batch, jobs: list[Job], inputs: Inputs, output: str | None, command: list[str]) -> None:
    """Runs a batch until it is done or stopped; whatever stops it, the user is told how to go on.

    Args:
        batch: what runs them.
        jobs, inputs, output: see Batch.run.
        command: the arguments as typed.
    """

    def work(cancel: threading.Event) -> None:
        batch.pause = lambda: keys.wait_while_paused(cancel)
        keys.stop = cancel.set
        batch.run(jobs, inputs, output, cancel)

    def on_stop() -> None:
        console.LOG.warning("stopping after this step; once more stops at once")

    def at_once() -> None:
        keys.restore()
        batch.clear_up()
        console.show_cursor()
        say_how_to_go_on(batch, command)

    with Keys(console.LOG.warning) as keys:
        try:
            run_stoppable(work, on_stop=on_stop, at_once=at_once)
        except BaseException:
            say_how_to_go_on(batch, command)
            raise


def say_how_to_go_on(batch: Batch, command: list[str]) -> None:
    """Tells what is kept, if anything, and the command that goes on with it."""
    kept = [(work, frames) for work in batch.works if (frames := frames_kept(work))]
    for place, (work, frames) in enumerate(kept):
        last = "; this goes on with them:" if place == len(kept) - 1 else ""
        console.LOG.warning("%d frames are kept in %s%s", frames, work.path, last)
    if kept:
        again = [part for part in command if part not in ("--resume", "--restart")]
        print(f"  {shlex.join([PROGRAM, *again, '--resume'])}", file=sys.stderr, flush=True)
