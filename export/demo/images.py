"""Fetches the pinned archives and packs their images, and procedural ones, into one file for training.

`python -m flashvsr_trt.export.demo.images --out build/demo/images.zip` with network; needs pip, and apt and dpkg
for the Debian archives (`--no-debian` leaves those out). The result is a zip of WebP files named
`<split>/<source>/<image>.webp`, small enough to travel to a training machine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from flashvsr_trt.configs.errors import InputError
from flashvsr_trt.export.demo import procedural
from flashvsr_trt.export.demo.sources import SOURCES, Source, split_of

LONG_SIDE = 2560  # larger photographs are reduced: sharper per pixel, and the pack stays small
QUALITY = 90
PROCEDURAL = 48
PLATFORMS = (
    "manylinux1_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux_2_28_x86_64",
    "any",
)
# Trusted: the pinned hashes are checked.
DEBIAN = "".join(f"deb [trusted=yes] http://deb.debian.org/debian {suite} main\n" for suite in ("trixie", "bookworm"))


def fetch(source: Source, folder: Path) -> Path:
    """The source's archive, from `folder` or downloaded into it. InputError if its hash is not the pinned one."""
    folder.mkdir(parents=True, exist_ok=True)
    present = _pinned(source, folder)
    if present is None:
        (_pip if source.kind == "wheel" else _apt)(source, folder)
        present = _pinned(source, folder)
    if present is None:
        raise InputError(
            f"{source.package} {source.version}: the archive differs from the pinned one",
            expected=f"sha256 {source.sha256}",
        )
    return present


def _pinned(source: Source, folder: Path) -> Path | None:
    files = (path for path in folder.iterdir() if path.is_file())
    return next((f for f in files if hashlib.sha256(f.read_bytes()).hexdigest() == source.sha256), None)


def _pip(source: Source, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder),
    ]
    command += ["--python-version", source.python, "--implementation", "cp", "--abi", _abi(source.python)]
    command += ["--abi", "abi3", "--abi", "none"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, f"{source.package}=={source.version}"], check=True)


def _abi(python: str) -> str:
    tag = "cp" + python.replace(".", "")
    return tag + "m" if python == "3.7" else tag


def _apt(source: Source, folder: Path) -> None:
    """apt with lists and sources of its own, so that the machine's are neither needed nor changed."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "lists" / "partial").mkdir(parents=True)
        (Path(root) / "sources.list").write_text(DEBIAN)
        options = {
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": f"{root}/lists",
            "Dir::Cache": f"{root}/cache",
        }
        apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", f"{source.package}={source.version}"], check=True, cwd=folder)


def images_of(source: Source, archive: Path) -> Iterator[tuple[str, Image.Image]]:
    """(name, RGB image) of each image that is taken from the archive, at most LONG_SIDE pixels long."""
    with tempfile.TemporaryDirectory() as root:
        if source.kind == "wheel":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(root, [f"{source.folder}/{name}" for name in source.images])
        else:
            subprocess.run(["dpkg-deb", "-x", str(archive), root], check=True)
        for name in source.images:
            image = Image.open(Path(root) / source.folder / name).convert("RGBA").convert("RGB")
            image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
            yield f"{source.name}/{Path(name).stem}", image


def fonts_of(archive: Path) -> list[bytes]:
    """The TrueType files in matplotlib's wheel, by name."""
    with zipfile.ZipFile(archive) as wheel:
        names = [n for n in wheel.namelist() if n.endswith(".ttf") and "DejaVu" in n and "Display" not in n]
        return [wheel.read(name) for name in sorted(names)]


def pack(out: Path, cache: Path, *, debian: bool = True, procedural_images: int = PROCEDURAL) -> None:
    """Writes the pack; archives stay in `cache` for the next call."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    fonts: list[bytes] = []
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as packed:
        for source in SOURCES:
            if source.kind == "deb" and not debian:
                continue
            archive = fetch(source, cache / source.name)
            if source.name == "matplotlib":
                fonts = fonts_of(archive)
            for name, image in images_of(source, archive):
                _add(packed, f"{split_of(name)}/{name}", image)
        for index in range(procedural_images):
            image = procedural.image(np.random.default_rng(index), index, fonts)
            _add(packed, f"train/procedural/{index:02d}", image)
    part.replace(out)


def _add(packed: zipfile.ZipFile, name: str, image: Image.Image) -> None:
    data = io.BytesIO()
    image.save(data, "WEBP", quality=QUALITY, method=5)
    # A fixed date: the same images give the same file.
    packed.writestr(zipfile.ZipInfo(f"{name}.webp", (2020, 1, 1, 0, 0, 0)), data.getvalue())


def load(pack_path: Path, split: str) -> dict[str, np.ndarray]:
    """The images of one split, name to uint8 [H, W, 3]. InputError where there are none."""
    if not pack_path.is_file():
        raise InputError(
            f"no file {pack_path}", todo="python -m flashvsr_trt.export.demo.images --out " + str(pack_path)
        )
    with zipfile.ZipFile(pack_path) as packed:
        names = sorted(n for n in packed.namelist() if n.startswith(f"{split}/"))
        if not names:
            raise InputError(f"{pack_path} has no images of the split {split}")
        return {
            name.removeprefix(f"{split}/").removesuffix(".webp"): np.asarray(
                Image.open(io.BytesIO(packed.read(name))).convert("RGB")
            )
            for name in names
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/demo/images.zip"))
    parser.add_argument("--cache", type=Path, default=Path("build/demo/archives"))
    parser.add_argument("--no-debian", action="store_true", help="only what Python packages carry")
    args = parser.parse_args()
    pack(args.out, args.cache, debian=not args.no_debian)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
