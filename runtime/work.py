"""The folder in which an output grows, and what is needed to go on after a stop, a crash or a loss of power.

    .<output>.flashvsr/
        000000.nut, 000000.json ...   closed segments and their times
        stream-<frames>.npz           the networks' state after the last closed segment
        state.json                    which of these count
        part-<frame>/                 a part of the video that a device of several works on: a folder like this one
        output.<suffix>               the joined file, or the folder of PNG files, until it gets its name

Every file is on the disk before state.json names it, and state.json is replaced in one step. What it does not name is
left from a run that was cut off, and is removed.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from flashvsr_trt.configs.errors import InputError, WriteError
from flashvsr_trt.configs.files import sync_file
from flashvsr_trt.runtime.video.output import lock
from flashvsr_trt.runtime.video.segments import Segment, damaged

VERSION = 1
_STATE, _LOCK, _PART = "state.json", "lock", "part-"


@dataclass(kw_only=True)
class Kept:
    """What is on the disk and counts.

    Attributes:
        settings: all that decides the output's bits, by name.
        segments: closed segments; the names of those that another device has made begin with its part's folder.
        frames: in them.
        first: index of the first of these frames.
        scene: index of the first frame of the stream that the networks are in.
        stream: file with their state; None where the stream begins with the next frame.
        timeline: of the writer.
        plan: how it is run now, where running out of memory changed what was asked for.
        changes: what was changed, in words.
        elapsed: seconds that earlier runs took.
        finished: no frame is missing; `size`: bytes of the joined file once it is complete.
    """

    settings: dict[str, Any]
    segments: list[Segment] = field(default_factory=list)
    frames: int = 0
    first: int = 0
    scene: int = 0
    stream: str | None = None
    timeline: list[Any] | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    elapsed: float = 0.0
    finished: bool = False
    size: int | None = None

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on with: a part may have a state before its first segment."""
        return bool(self.segments or self.stream)

    @property
    def next(self) -> int:
        """Index of the first frame that is missing."""
        return self.first + self.frames


class Work:
    """The work folder of one output, or of one part of it.

    Args:
        output: the output's path.
        start: of the part: index of its first frame; None: the whole.
    """

    def __init__(self, output: str | Path, start: int | None = None) -> None:
        self._output = Path(output)
        self.path = self._output.with_name(f".{self._output.name}.flashvsr")
        if start is not None:
            self.path /= f"{_PART}{start:08d}"
        self._done = self.path.with_name(f"{self.path.name}.done")  # renamed to when nothing of it is needed any more
        self.joined = self.path / f"output{self._output.suffix}"
        self._lock: IO[bytes] | None = None

    def load(self) -> Kept | None:
        """What an earlier run left; None where that is nothing to go on with.

        Raises:
            InputError: it was kept by another version, or is damaged.
        """
        path = self.path / _STATE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._useless(f"{path} cannot be read: {error}") from error
        if data.pop("version", None) != VERSION:
            raise self._useless(f"{path} was written by another version of this program")
        kept = Kept(**{**data, "segments": [Segment(**segment) for segment in data["segments"]]})
        broken = damaged(self.path, kept.segments)
        if broken and not self._renamed(kept):
            raise self._useless(f"{self.path}: {', '.join(broken[:3])} is not as it was closed")
        return kept

    def _useless(self, what: str) -> InputError:
        return InputError(what, expected="the work of an earlier run", todo="--restart throws it away and begins again")

    def _renamed(self, kept: Kept) -> bool:
        there = self._output.is_dir() or (self._output.is_file() and self._output.stat().st_size == kept.size)
        return kept.size is not None and there and not self.joined.exists()

    def tidy_up(self) -> bool:
        """Whether a run was cut off after the output had got its name; removes what it left."""
        if self._done.is_dir():
            shutil.rmtree(self._done)
            return True
        kept = self.load()
        if kept is None or not self._renamed(kept):
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """The output has its name: removes the folder, so that a run that is cut off meanwhile is known as finished."""
        os.replace(self.path, self._done)
        shutil.rmtree(self._done)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def enter(self) -> None:
        """Makes the folder and locks it.

        Raises:
            UsageError: another run works in it.
            WriteError: it cannot be made.
        """
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise WriteError(f"{self.path} cannot be made: {error.strerror}", todo="choose another -o") from error
        self._lock = lock(self.path / _LOCK, str(self._output))
        if self._done.is_dir():  # of an output that is made anew
            shutil.rmtree(self._done)

    def leave(self, *, keep: bool) -> None:
        """Unlocks the folder, and removes it where nothing is to be kept; does nothing after `finish`."""
        if self._lock is None:
            return
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
        self._lock = None

    def part(self, start: int) -> Work:
        """The folder of the part that begins with that frame."""
        return Work(self._output, start)

    def parts(self) -> list[Work]:
        """Folders of parts."""
        return [self.part(int(path.name.removeprefix(_PART))) for path in sorted(self.path.glob(f"{_PART}*"))]

    @property
    def begun(self) -> bool:
        """Whether anything is kept."""
        return (self.path / _STATE).is_file()

    def frames(self) -> int:
        """Frames that are kept, here and in parts that are not yet counted in."""
        kept = self.load()
        if kept is None:
            return 0
        ahead = [part.load() for part in self.parts()]
        return kept.frames + sum(part.frames for part in ahead if part is not None and part.first >= kept.next)

    def clear(self, kept: Kept | None, *, parts: bool = False) -> None:
        """Removes everything that `kept` does not name; None: everything. With `parts` all parts stay."""
        named = {_LOCK}
        if kept is not None:
            names = [Path(segment.name) for segment in kept.segments]
            named |= {_STATE, kept.stream or "", *(name.parts[0] for name in names)}
            named |= {str(name.with_suffix(".json")) for name in names}
        for path in self.path.iterdir():
            if path.name in named or (parts and path.name.startswith(_PART)):
                continue
            if kept is not None and path == self.joined and path.is_dir():
                continue  # the segments list files in it; what they do not list is written again
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def save(self, kept: Kept, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Makes `kept` what counts; `arrays` is the networks' state, where that changed.

        Raises:
            WriteError: the disk is full or gone; what counted before still does.
        """
        before = kept.stream
        try:
            if arrays is not None:
                kept.stream = self._save_arrays(kept.frames, arrays) if arrays else None
            part = self.path / f"{_STATE}.part"
            part.write_text(json.dumps({"version": VERSION, **asdict(kept)}, indent=1), encoding="utf-8")
            sync_file(part)
            os.replace(part, self.path / _STATE)
            sync_file(self.path)
            if before is not None and before != kept.stream:
                (self.path / before).unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(
                f"keeping the state in {self.path} failed: {error.strerror or error}",
                todo="free space, then run the same command again",
            ) from error

    def _save_arrays(self, frames: int, arrays: Mapping[str, np.ndarray]) -> str:
        path = self.path / f"stream-{frames}.npz"
        with open(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        sync_file(path)
        return path.name

    def arrays(self, kept: Kept) -> dict[str, np.ndarray]:
        """The networks' state; empty where the stream begins with the next frame.

        Raises:
            InputError: it is damaged.
        """
        if kept.stream is None:
            return {}
        try:
            with np.load(self.path / kept.stream) as stored:
                return dict(stored)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise self._useless(f"{self.path / kept.stream} cannot be read: {error}") from error
