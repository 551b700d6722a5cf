"""Engine sets on disk: a folder per bundle, tier, decoder, TensorRT and target, whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from flashvsr_trt.configs.cache import cache_root
from flashvsr_trt.configs.errors import BundleError, WriteError
from flashvsr_trt.configs.files import replace_folder
from flashvsr_trt.configs.manifest import sha256_of
from flashvsr_trt.engines.key import EngineKey

if TYPE_CHECKING:
    from flashvsr_trt.engines.build import Plan

Plans = Callable[[Path], Iterable["Plan"]]
SCHEMA = 1
FILE_NAME = "engines.json"
PART = ".part"  # end of the name of a set that is being built


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One plan of a set. `weights` and `activations` are device memory in bytes, as TensorRT told at the build."""

    file: str
    sha256: str
    bytes: int
    weights: int
    activations: int
    layers: int
    plugins: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EngineSet:
    """A set that is on disk."""

    folder: Path
    key: EngineKey
    engines: dict[str, Engine]
    bundle: str  # what the bundle says of itself, for people
    source: str  # the bundle's folder at the time
    refused: str = ""  # what `engines verify` has found wrong

    def path(self, graph: str) -> Path:
        return self.folder / self.engines[graph].file

    @property
    def bytes(self) -> int:
        return sum(engine.bytes for engine in self.engines.values())

    @property
    def embedded(self) -> bool:
        """Whether the plans carry the plug-in in C++."""
        return bool(self.key.flags.get("plugin_library"))

    @property
    def digest(self) -> str:
        """SHA-256 over the plans: the identity of what is run."""
        plans = sorted(f"{name} {engine.sha256}" for name, engine in self.engines.items())
        return hashlib.sha256("\n".join(plans).encode()).hexdigest()

    def diff(self, key: EngineKey) -> list[str]:
        """Why the set does not serve `key`; empty if it does."""
        return [*self.key.diff(key), *([f"verify has refused it: {self.refused}"] if self.refused else [])]


@dataclass(frozen=True)
class Stale:
    """Sets that would have served, had nothing changed: the folder and each reason."""

    sets: tuple[tuple[Path, tuple[str, ...]], ...]

    def lines(self) -> list[str]:
        return [f"{folder.name}: {'; '.join(reasons)}" for folder, reasons in self.sets]


def root() -> Path:
    return cache_root() / "engines"


def folder_of(key: EngineKey) -> Path:
    """Where the set of this key goes."""
    target = "+".join(key.targets)
    short = {"tensorrt_rtx": "rtx", "tensorrt": "trt"}[key.flavour]
    embedded = "-embedded" if key.flags.get("plugin_library") else ""
    return root() / f"{key.bundle[:12]}-{key.tier}-{key.decoder}-{short}{key.version}-{target}{embedded}"


def find(key: EngineKey, source: Path) -> EngineSet | Stale:
    """The set of that key; or the sets of the same bundle (by content or by folder) and tier that it is not."""
    stale = []
    for found in all_sets():
        reasons = found.diff(key)
        if not reasons:
            return found
        same_bundle = found.key.bundle == key.bundle or found.source == str(source)
        if same_bundle and (found.key.tier, found.key.decoder) == (key.tier, key.decoder):
            stale.append((found.folder, tuple(reasons)))
    return Stale(tuple(stale))


def all_sets() -> list[EngineSet]:
    """Every finished set. What cannot be read is not one: it is rebuilt or cleaned."""
    if not root().is_dir():
        return []
    found = []
    for folder in sorted(root().iterdir()):
        if folder.name.startswith(".") or not (folder / FILE_NAME).is_file():
            continue
        try:
            found.append(open_set(folder))
        except BundleError:
            continue
    return found


def open_set(folder: Path, *, hashed: bool = False) -> EngineSet:
    """The set in a folder.

    Raises:
        BundleError: none, unreadable, or a plan is missing or changed (`hashed` reads every byte).
    """
    redo = "build the engines again, or remove the folder with `flashvsr-trt engines clean`"
    path = folder / FILE_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise BundleError(f"{path} has schema {data['schema']}", expected=str(SCHEMA), todo=redo)
        engines = {name: Engine(**engine) for name, engine in data["engines"].items()}
        found = EngineSet(
            folder=folder,
            key=EngineKey.parse(data["key"]),
            engines=engines,
            bundle=data["bundle"],
            source=data["source"],
            refused=data.get("refused", ""),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read: {error}", expected="an engine set", todo=redo) from error
    for name, engine in engines.items():
        plan = found.path(name)
        size = plan.stat().st_size if plan.is_file() else None
        if size != engine.bytes:
            raise BundleError(f"{plan} has {size} bytes", expected=str(engine.bytes), todo=redo)
        if hashed and (seen := sha256_of(plan)) != engine.sha256:
            raise BundleError(f"{plan} has SHA-256 {seen}", expected=engine.sha256, todo=redo)
    return found


def create(
    key: EngineKey,
    plans: Plans,
    about: dict[str, str],
    *,
    on_wait: Callable[[], None] = lambda: None,
    rebuild: bool = False,
) -> EngineSet:
    """Makes a set, plan by plan; its folder appears when all are there.

    Two processes with the same key: the second waits, then takes what the first has made.

    Args:
        key: what the plans are valid for.
        plans: builds the plans into the folder that it is given.
        about: "bundle", a line for people, and "source", the bundle's folder.
        on_wait: called when another process is building the same set.
        rebuild: build even if the set is there; the old one stays until the new one is whole.

    Raises:
        WriteError: the disk is full or refuses.
    """
    target = folder_of(key)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, on_wait):
            found = None if rebuild else _valid(target, key)
            if found is not None:
                return found
            part = target.with_name(f".{target.name}{PART}")
            shutil.rmtree(part, ignore_errors=True)  # of a build that was killed
            part.mkdir()
            try:
                _write_set(part, key, plans, about)
                replace_folder(part, target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise WriteError(
            f"{target} cannot be written: {error}", todo="free disk space, or name another folder in FLASHVSR_TRT_CACHE"
        ) from error
    return open_set(target)


def _valid(folder: Path, key: EngineKey) -> EngineSet | None:
    """The set there, if it is whole and of that key."""
    try:
        found = open_set(folder)
    except BundleError:
        return None
    return None if found.diff(key) else found


@contextmanager
def _locked(target: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    # The lock file stays: whoever removed it would lock others out of a lock that somebody waits for.
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_set(part: Path, key: EngineKey, plans: Plans, about: dict[str, str]) -> None:
    engines = {}
    for plan in plans(part):
        values = asdict(plan)
        del values["graph"]
        engines[plan.graph] = asdict(Engine(**values | {"seconds": round(plan.seconds, 2)}))
    data = {"schema": SCHEMA, **about, "key": key.as_dict(), "engines": engines}
    _write(part / FILE_NAME, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def refuse(found: EngineSet, reason: str) -> None:
    """Marks a set as bad: nothing takes it from now on, and `ensure` builds it again.

    Raises:
        WriteError: the mark cannot be written.
    """
    path = found.folder / FILE_NAME
    part = path.with_name(f".{FILE_NAME}{PART}")
    try:
        data = json.loads(path.read_text(encoding="utf-8")) | {"refused": reason}
        _write(part, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())
        os.replace(part, path)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error}") from error


def clean(*, keep: Callable[[EngineSet], bool] = lambda found: False) -> list[Path]:
    """Removes the sets that `keep` refuses, unreadable ones, and what killed builds left. Nothing else.

    A set that another process is building is left alone. Gives what was removed.
    """
    if not root().is_dir():
        return []
    kept = {found.folder for found in all_sets() if keep(found)}
    removed = []
    for folder in sorted(path for path in root().iterdir() if path.is_dir() and path not in kept):
        name = folder.name.removeprefix(".").removesuffix(PART).removesuffix(".old")
        lock = FileLock(root() / f".{name}.lock", timeout=0)
        if not _ours(folder):
            continue
        try:
            with lock:
                shutil.rmtree(folder)
                removed.append(folder)
        except Timeout:
            continue
        except OSError as error:
            raise WriteError(f"{folder} cannot be removed: {error}") from error
    return removed


def _ours(folder: Path) -> bool:
    """Nothing that a user put beside the sets is ever removed."""
    return all(path.name == FILE_NAME or path.name.endswith((".plan", PART)) for path in folder.iterdir())
