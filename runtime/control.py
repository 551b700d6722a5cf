"""A batch under the user's hands: signals, keys, and the command that goes on with what was stopped."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading

from flashvsr_trt.configs.errors import FlashVSRError
from flashvsr_trt.runtime import console
from flashvsr_trt.runtime.batch import Batch, Inputs
from flashvsr_trt.runtime.interrupt import Keys, run_stoppable
from flashvsr_trt.runtime.jobs import Job
from flashvsr_trt.runtime.work import Kept

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
        clear_up(batch)
        console.show_cursor()
        say_how_to_go_on(batch, command)

    with Keys(console.LOG.warning) as keys:
        try:
            run_stoppable(work, on_stop=on_stop, at_once=at_once)
        except BaseException:
            say_how_to_go_on(batch, command)
            raise


def clear_up(batch: Batch) -> None:
    """Removes what is half-written and of no use, where the process ends without asking the work."""
    if batch.temporary is not None:
        if batch.temporary.is_dir():
            shutil.rmtree(batch.temporary, ignore_errors=True)
        else:
            batch.temporary.unlink(missing_ok=True)
    if batch.work is not None and _kept(batch) is None:
        shutil.rmtree(batch.work.path, ignore_errors=True)


def say_how_to_go_on(batch: Batch, command: list[str]) -> None:
    """Tells what is kept, if anything, and the command that goes on with it."""
    kept = _kept(batch)
    if kept is None or batch.work is None:
        return
    again = [part for part in command if part not in ("--resume", "--restart")]
    console.LOG.warning("%d frames are kept in %s; this goes on with them:", kept.frames, batch.work.path)
    print(f"  {shlex.join([PROGRAM, *again, '--resume'])}", file=sys.stderr, flush=True)


def _kept(batch: Batch) -> Kept | None:
    try:
        return None if batch.work is None else batch.work.load()
    except FlashVSRError:
        return None
