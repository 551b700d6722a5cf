"""`weights download` and `weights check` against a hub on this machine."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bundles
import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from flashvsr_trt.configs.errors import UsageError, WeightsError
from flashvsr_trt.export import download as hub
from flashvsr_trt.export.seeded import random_weights, write
from flashvsr_trt.export.weights import DIT_FILE, FILES, LQ_FILE, NOTE, PROMPT_FILE, TC_FILE
from flashvsr_trt.runtime.commands import weights as command

COMMIT = "0" * 40


@dataclass
class Hub:
    """A server that speaks as much of the hub's protocol as a download needs."""

    files: dict[str, Path]  # "repository/file" and "/prompt" -> file
    requests: list[str] = field(default_factory=list)
    cut_after: int | None = None  # bytes after which the next answer breaks off
    url: str = ""


def handler(server: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            name = "/prompt" if parts == ["prompt"] else "/".join((*parts[:2], *parts[4:]))
            path = server.files.get(name)
            begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            server.requests.append(f"{self.command} {name} {begin}")
            if path is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            data = path.read_bytes()
            self.send_response(206 if begin else 200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", parts[3] if len("".join(parts[3:4])) == 40 else COMMIT)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", str(len(data) - begin))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body:
                cut, server.cut_after = server.cut_after, None
                self.wfile.write(data[begin:][:cut])
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> dict[str, Path]:
    """Folders that play the official files, by version."""
    out = {}
    for seed, version in enumerate(("v1", "v1.1")):
        out[version] = tmp_path_factory.mktemp("official") / version
        write(random_weights(bundles.TINY, seed, version=version), out[version])
        (out[version] / PROMPT_FILE).write_bytes((out["v1"] / PROMPT_FILE).read_bytes())
        (out[version] / NOTE).unlink()
    return out


@pytest.fixture
def server(official, tmp_path, monkeypatch) -> Iterator[Hub]:
    files = {f"{hub.REPOSITORIES[v]}/{name}": official[v] / name for v in official for name in FILES}
    server = Hub(files | {"/prompt": official["v1"] / PROMPT_FILE})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "PROMPT_URL", f"{server.url}/prompt")
    known(monkeypatch, official)
    yield server
    http.shutdown()
    http.server_close()


def known(monkeypatch, official: dict[str, Path]) -> None:
    """The hashes that the program knows become those of the files that play the official ones."""

    def digest(name: str) -> str:
        return hashlib.sha256((official["v1.1"] / name).read_bytes()).hexdigest()

    monkeypatch.setattr(
        hub,
        "HASHES",
        {"v1": {PROMPT_FILE: digest(PROMPT_FILE)}, "v1.1": {name: digest(name) for name in FILES}},
    )
    monkeypatch.setattr(hub, "_PROMPT_HASH", digest(PROMPT_FILE))


@pytest.mark.parametrize("version", ["v1", "v1.1"])
def test_download_then_check(server, official, tmp_path, version):
    folder = tmp_path / "weights"
    hub.download(version, folder)
    for name in FILES:
        assert (folder / name).read_bytes() == (official[version] / name).read_bytes()
    assert hub.identify(folder)[0] == version
    result = CliRunner().invoke(command.weights, ["check", str(folder)])
    assert result.exit_code == 0, result.output


def test_second_download_fetches_nothing(server, tmp_path):
    hub.download("v1.1", tmp_path / "weights")
    server.requests.clear()
    hub.download("v1.1", tmp_path / "weights")
    assert not server.requests


def test_offline_takes_the_cache_and_never_the_network(server, tmp_path):
    hub.download("v1.1", tmp_path / "one")
    server.requests.clear()
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / PROMPT_FILE, tmp_path / "two")
    hub.download("v1.1", tmp_path / "two", offline=True)
    assert not server.requests
    assert hub.identify(tmp_path / "two")[0] == "v1.1"


def test_offline_without_a_cache_says_which_file(server, tmp_path):
    with pytest.raises(WeightsError, match=f"{DIT_FILE}.*not on this machine"):
        hub.download("v1.1", tmp_path / "weights", offline=True)
    assert not server.requests


def test_broken_download_goes_on_where_it_stopped(server, tmp_path, monkeypatch):
    server.files = {name: path for name, path in server.files.items() if name.endswith((DIT_FILE, "prompt"))}
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is lost is the last, unfinished chunk
    server.cut_after = 5000
    with pytest.raises(WeightsError, match="cannot be fetched"):  # the LQ projector is not there
        hub.download("v1.1", tmp_path / "weights")
    gets = [line for line in server.requests if line.startswith("GET") and DIT_FILE in line]
    assert gets[0].endswith(" 0")
    assert gets[1].endswith(" 5000")  # the second request of the same file
    assert (tmp_path / "weights" / DIT_FILE).is_file()


def test_wrong_content_is_told(server, official, tmp_path):
    server.files[f"{hub.REPOSITORIES['v1.1']}/{LQ_FILE}"] = official["v1"] / LQ_FILE
    with pytest.raises(WeightsError, match=f"(?s)SHA-256.*{hub.HASHES['v1.1'][LQ_FILE]}"):
        hub.download("v1.1", tmp_path / "weights")
    assert not (tmp_path / "weights" / LQ_FILE).exists()


def test_damaged_cache_is_fetched_again(server, tmp_path):
    hub.download("v1.1", tmp_path / "one")
    blob = next(path.resolve() for path in (tmp_path / "cache").rglob(LQ_FILE))
    data = bytearray(blob.read_bytes())
    data[500] ^= 1
    blob.unlink()
    blob.write_bytes(data)
    hub.download("v1.1", tmp_path / "two")
    assert hub.identify(tmp_path / "two")[0] == "v1.1"


@pytest.mark.parametrize(("into", "name"), [("v1.1", LQ_FILE), ("v1.1", DIT_FILE), ("v1", LQ_FILE), ("v1", DIT_FILE)])
def test_mixed_versions_name_the_file(official, tmp_path, monkeypatch, into, name):
    known(monkeypatch, official)
    other = "v1" if into == "v1.1" else "v1.1"
    folder = tmp_path / hub.FOLDERS[into]
    shutil.copytree(official[into], folder)
    shutil.copy(official[other] / name, folder / name)
    for version in (None, into):
        for strict in (True, False):
            with pytest.raises(WeightsError) as caught:
                hub.identify(folder, version, official=strict)
            assert "v1.1" in f"{caught.value}"
    assert name in f"{caught.value}"


def test_damaged_file_is_named_with_what_was_expected(official, tmp_path, monkeypatch):
    known(monkeypatch, official)
    folder = tmp_path / "FlashVSR-v1.1"
    shutil.copytree(official["v1.1"], folder)
    (folder / TC_FILE).write_bytes((folder / TC_FILE).read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"(?s){TC_FILE}.*{hub.HASHES['v1.1'][TC_FILE]}"):
        hub.identify(folder)


def test_own_weights_can_be_exported_but_are_not_official(official, tmp_path, monkeypatch):
    known(monkeypatch, official)
    folder = tmp_path / "FlashVSR-v1.1"
    write(random_weights(bundles.TINY, 7), folder)
    assert hub.identify(folder, official=False)[0] == "v1.1"
    (folder / NOTE).unlink()
    assert hub.identify(folder, official=False)[0] == "v1.1"
    with pytest.raises(WeightsError, match=r"the official v1\.1 file"):
        hub.identify(folder)


def test_unreachable_hub(server, tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:  # the library itself tries for twenty seconds
        raise ConnectionError("connection refused")

    monkeypatch.setattr(hub, "hf_hub_download", refused)
    with pytest.raises(WeightsError, match=r"(?s)cannot be fetched.*connection refused.*HF_ENDPOINT"):
        hub.download("v1.1", tmp_path / "weights")


def test_prompt_that_is_not_the_prompt(server, official, tmp_path):
    server.files["/prompt"] = official["v1"] / TC_FILE
    with pytest.raises(WeightsError, match=r"(?s)prompt has SHA-256.*put it there"):
        hub.download("v1.1", tmp_path / "weights")
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {DIT_FILE, LQ_FILE, TC_FILE}


def test_unknown_version(tmp_path):
    with pytest.raises(UsageError, match="v2"):
        hub.download("v2", tmp_path)


def test_environment_is_honoured(server, tmp_path):
    """HF_ENDPOINT and HF_HOME, as a fresh process reads them."""
    code = (
        "from pathlib import Path; from flashvsr_trt.export import download as hub;"
        f"print(hub._from_hub('{TC_FILE}', 'v1', offline=False))"
    )
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "home" / "hub"))
