"""The official weights: fetched from the Hugging Face hub, and told apart by their hashes.

What is known of the official files: the SHA-256 of every v1.1 file and of the prompt, as published by several
independent projects that pin them, and agreeing. No source for v1 was found: a v1 file is checked against what the
hub itself says of it at download, and later against the note written then. So a v1.1 file in a v1 folder and any
foreign file in a v1.1 folder are found out; a foreign v1 file that nobody downloaded with this program is not.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from flashvsr_trt.configs.errors import UsageError, WeightsError
from flashvsr_trt.configs.manifest import VERSIONS, sha256_of
from flashvsr_trt.export import weights as files
from flashvsr_trt.export.weights import DIT_FILE, FILES, LQ_FILE, PROMPT_FILE, TC_FILE, VAE_FILES

Report = Callable[[str], None]

REPOSITORIES = {"v1": "JunhaoZhuang/FlashVSR", "v1.1": "JunhaoZhuang/FlashVSR-v1.1"}
REVISIONS = {"v1": "main", "v1.1": "ad1aceeac60dbd288e51acea9096b821a8703bee"}
FOLDERS = {"v1": "FlashVSR", "v1.1": "FlashVSR-v1.1"}  # the official names, which tell the version
VAE_FILE = VAE_FILES[0]
# The prompt is not on the hub but in the official source repository.
PROMPT_URL = (
    "https://raw.githubusercontent.com/OpenImagingLab/FlashVSR/"
    "ccac0ac457243a47c13997682ebbaf987dabbea7/examples/WanVSR/prompt_tensor/posi_prompt.pth"
)
_PROMPT_HASH = "4601107a11e4e11a936a6b79df579e54dbc99872132bf542151f0ffd65b4b1ef"
_VAE_HASH = "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981"
HASHES: dict[str, dict[str, str]] = {
    "v1": {PROMPT_FILE: _PROMPT_HASH, VAE_FILE: _VAE_HASH},
    "v1.1": {
        DIT_FILE: "bd28180edcf3446c028e32fc6b731a80bf7e4da2ab4caac3186b9499964d37be",
        LQ_FILE: "d6d011cdaaba6a52645086caa08fa04124e746f6ca568140a24007591142bfd2",
        TC_FILE: "e224bdcf2f52745cbf4d393ff5374c2ba09e90285d5d19062d2bf63b915b6161",
        PROMPT_FILE: _PROMPT_HASH,
        VAE_FILE: _VAE_HASH,
    },
}
VERSIONED = (DIT_FILE, LQ_FILE)  # files known to differ between v1 and v1.1
_TIMEOUT = 60  # seconds without a byte


def download(
    version: str,
    folder: Path,
    *,
    vae: bool = False,
    offline: bool = False,
    report: Report = lambda line: None,
) -> None:
    """Puts the official files into `folder`, with the note that says their version.

    Files come through the hub's own cache ($HF_HOME; another server by $HF_ENDPOINT), so an interrupted download
    goes on where it stopped, and files that another program fetched are not fetched again.

    Args:
        version: v1 or v1.1.
        folder: made if missing; a right file in it is left alone.
        vae: the Wan VAE too.
        offline: never touch the network: take what the cache has.
        report: gets one line a file.

    Raises:
        WeightsError: a file cannot be had, or is not what it should be.
    """
    _known(version)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, VAE_FILE) if vae else FILES:
        report(f"{name}: {_provide(name, version, folder, offline=offline)}")
    files.write_note(folder, version)


def identify(folder: Path, version: str | None = None, *, official: bool = True) -> tuple[str, list[str]]:
    """Version of the files in a folder, and what is known of each file, one line a file.

    Args:
        folder: what to look at.
        version: v1 or v1.1; None tells it from the files' hashes, the folder's note or name.
        official: whether other weights in the official layout (fine-tuned ones) are an error too.

    Raises:
        WeightsError: a file missing, damaged or of the other version, or the version unknown.
    """
    files._require_files(folder)
    seen = {name: sha256_of(folder / name) for name in (*FILES, VAE_FILE) if (folder / name).is_file()}
    is_official = {name for name in VERSIONED if seen[name] == HASHES["v1.1"][name]}
    version = files.find_version(folder, version or ("v1.1" if is_official else None))
    facts = _Facts(version=version, told=files.read_note(folder).get("files", {}), strict=official or bool(is_official))
    return version, [f"{name}: {_verdict(folder / name, digest, facts)}" for name, digest in seen.items()]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What the files of a folder are measured by."""

    version: str
    told: dict[str, str]  # hashes of the folder's note
    strict: bool  # whether a file must be the official one where its hash is known


def _verdict(path: Path, seen: str, facts: _Facts) -> str:
    """What is known of one file, or the error that it is."""
    version, known, told = facts.version, HASHES[facts.version].get(path.name), facts.told.get(path.name)
    other = next(v for v in VERSIONS if v != version)
    if path.name in VERSIONED and seen == HASHES[other].get(path.name):
        raise WeightsError(
            f"{path} is the file of {other}",
            expected=f"that of {version}, as the folder's other files",
            todo="mixed versions give ghosting: put files of one version together",
        )
    if seen == known:
        return f"the official {version} file"
    if seen == told:
        return f"as recorded in {files.NOTE}"
    expected = told or (known if facts.strict else None)
    if expected:
        raise WeightsError(
            f"{path} has SHA-256 {seen}",
            expected=f"{expected}, {'as recorded' if told else f'the official {version} file'}",
            todo="it is damaged or of another version: delete it and run `flashvsr-trt weights download`",
        )
    return "not the official file" if known else f"SHA-256 {seen}; no official hash of {version} is known"


def _known(version: str) -> None:
    if version not in VERSIONS:
        raise UsageError(f"version {version}", expected=" or ".join(VERSIONS))


def _provide(name: str, version: str, folder: Path, *, offline: bool) -> str:
    """Makes `folder/name` the official file; says how."""
    target, expected = folder / name, HASHES[version].get(name)
    if target.is_file() and expected and sha256_of(target) == expected:
        return "there already"
    if name == PROMPT_FILE:
        return _prompt(target, offline=offline)
    cached = _from_hub(name, version, offline=offline)
    expected = expected or _hub_hash(cached)
    if expected and sha256_of(cached) != expected and not offline:  # a damaged copy in the cache: once more
        cached = _from_hub(name, version, offline=False, again=True)
    if expected and (found := sha256_of(cached)) != expected:
        raise WeightsError(
            f"{cached} has SHA-256 {found}",
            expected=f"{expected}, the official {version} file",
            todo="delete it and download again; with HF_ENDPOINT set, check that server",
        )
    _place(cached.resolve(), target)
    return "complete and right" if expected else "complete; no official hash is known to compare with"


def _hub_hash(cached: Path) -> str | None:
    """The SHA-256 that the hub gave for a large file: the cache names its contents by it."""
    name = cached.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def _from_hub(name: str, version: str, *, offline: bool, again: bool = False) -> Path:
    repository, revision = REPOSITORIES[version], REVISIONS[version]
    try:
        path = hf_hub_download(repository, name, revision=revision, local_files_only=offline, force_download=again)
    except LocalEntryNotFoundError as error:
        if not offline:
            raise _unreachable(name, version, error) from error
        raise WeightsError(
            f"{name} of {repository} is not on this machine, and --offline forbids to fetch it",
            expected=f"it in the hub's cache ({os.environ.get('HF_HOME', '~/.cache/huggingface')}) or in the folder",
            todo="run without --offline once, or copy the file there",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(name, version, error) from error
    return Path(path)


def _unreachable(name: str, version: str, error: Exception) -> WeightsError:
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightsError(
        f"{name} cannot be fetched from {server}/{REPOSITORIES[version]}: {reason}",
        todo="check the connection, set HF_ENDPOINT to a mirror, or fetch the files by hand and run `weights check`; "
        "a download that stopped goes on where it was",
    )


def _prompt(target: Path, *, offline: bool) -> str:
    """The prompt, 4 MB, from the source repository."""
    by_hand = f"fetch {PROMPT_URL} and put it there as {target}"
    if offline:
        raise WeightsError(f"{target} is missing, and --offline forbids to fetch it", todo=by_hand)
    part = target.with_name(f"{target.name}.part")
    try:
        with urllib.request.urlopen(PROMPT_URL, timeout=_TIMEOUT) as source, open(part, "wb") as file:
            shutil.copyfileobj(source, file)
        if (found := sha256_of(part)) != _PROMPT_HASH:
            raise WeightsError(f"{PROMPT_URL} has SHA-256 {found}", expected=_PROMPT_HASH, todo=by_hand)
        os.replace(part, target)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise WeightsError(f"{PROMPT_URL} cannot be fetched: {error}", todo=by_hand) from error
    finally:
        part.unlink(missing_ok=True)
    return "complete and right"


def _place(source: Path, target: Path) -> None:
    """A hard link, or a copy where the cache is on another disk."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    os.replace(part, target)
