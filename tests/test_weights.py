"""Loading of the official files: what is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden import ROOT
from safetensors.torch import load_file, save_file

from flashvsr_trt.configs.errors import WeightsError
from flashvsr_trt.export import seeded, weights

GOLDEN = ROOT / "weights"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable folder of seeded weights with its note."""
    seeded.write(seeded.random_weights(seeded.SMALL, 0), tmp_path / "model")
    return tmp_path / "model"


def _change(path: Path, change) -> None:
    """Rewrites a file with its content changed; the note goes, as its hash would tell first."""
    (path.parent / weights.NOTE).unlink(missing_ok=True)
    whole = path.suffix != ".safetensors"
    old = torch.load(path, weights_only=True) if whole else load_file(path)
    new = change(old)
    new = old if new is None else new  # changed in place
    torch.save(new, path) if whole else save_file(new, path)


def _refused(folder: Path, *, match: str, **options) -> WeightsError:
    with pytest.raises(WeightsError, match=match) as caught:
        weights.load(folder, **{"version": "v1.1", **options})
    return caught.value


def test_golden_files_load_and_tell_their_sizes():
    loaded = weights.load(GOLDEN, version="v1")
    assert not loaded.causal
    sizes = loaded.sizes
    assert (sizes.dim, sizes.layers, sizes.heads, sizes.lq_hidden) == (256, 2, 2, (32, 48))
    assert sizes.tc_memory == ((32, 8),) * 3 + ((16, 4),) * 3 + ((16, 2),) * 3
    assert len(sizes.vae_caches) == 32
    assert loaded.prompt.shape == (1, 32, 64)


def test_seeded_weights_come_back_as_written(folder):
    loaded, drawn = weights.load(folder), seeded.random_weights(seeded.SMALL, 0)
    assert loaded.version == "v1.1"
    for part in ("dit", "lq_proj", "tc_decoder", "vae"):
        old, new = getattr(drawn, part), getattr(loaded, part)
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_seeded_weights_have_the_golden_files_layout():
    drawn, real = seeded.random_weights(seeded.SMALL, 0), weights.load(GOLDEN, version="v1")
    for part in ("dit", "lq_proj", "tc_decoder", "vae"):
        shapes = [{name: t.shape for name, t in getattr(w, part).items()} for w in (drawn, real)]
        assert shapes[0] == shapes[1]


def test_seed_decides():
    one, same, other = (seeded.random_weights(seeded.SMALL, seed).lq_proj["conv1.bias"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_real_sizes_are_the_published_ones():
    """The public 1.3 B model: parameters counted from the layout."""
    count = sum(torch.Size(shape).numel() for shape in seeded.REAL.dit.shapes().values())
    assert round(count / 1e9, 2) == 1.42
    assert round(sum(torch.Size(s).numel() for s in seeded.REAL.lq.shapes().values()) / 1e9, 2) == 0.29


# --- the version


@pytest.mark.parametrize(
    ("name", "version"),
    [("FlashVSR", "v1"), ("FlashVSR-v1.1", "v1.1"), ("flashvsr_v1", "v1"), ("FlashVSR-v1.0", "v1")],
)
def test_version_from_an_official_folder_name(tmp_path, name, version):
    assert weights.find_version(tmp_path / name) == version


def test_unknown_version_is_asked_for(folder):
    (folder / weights.NOTE).unlink()
    error = _refused(folder, version=None, match="version of .* is unknown")
    assert "v1 or v1.1" in error.todo


def test_version_against_the_note(folder):
    _refused(folder, version="v1", match="holds v1.1")


def test_file_of_the_other_version_is_named(folder):
    note = json.loads((folder / weights.NOTE).read_text())
    seeded.write(seeded.random_weights(seeded.SMALL, 7, version="v1"), folder / "v1")
    (folder / weights.LQ_FILE).write_bytes((folder / "v1" / weights.LQ_FILE).read_bytes())
    error = _refused(folder, match="LQ_proj_in.ckpt has SHA-256")
    assert note["files"][weights.LQ_FILE] in error.expected
    weights.load(folder, verify=False)


def test_damaged_note(folder):
    (folder / weights.NOTE).write_text("{")
    _refused(folder, match="flashvsr.json cannot be read")
    (folder / weights.NOTE).write_text("[]")
    _refused(folder, match="not a note")


# --- files


def test_missing_folder_and_files(tmp_path, folder):
    _refused(tmp_path / "nowhere", match="not a folder")
    (folder / weights.TC_FILE).unlink()
    (folder / weights.PROMPT_FILE).unlink()
    _refused(folder, match="has no TCDecoder.ckpt, posi_prompt.pth")


@pytest.mark.parametrize("name", weights.FILES)
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_unreadable_file(folder, name, content):
    path = folder / name
    (folder / weights.NOTE).unlink()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    assert "download it again" in _refused(folder, match=f"{name} cannot be read").todo


def test_git_lfs_pointer(folder):
    (folder / weights.NOTE).unlink()
    (folder / weights.DIT_FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    _refused(folder, match="Git LFS pointer")


def test_code_in_a_pickle_is_not_run(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (folder / weights.NOTE).unlink()
    torch.save(Attack(), folder / weights.LQ_FILE)
    _refused(folder, match="LQ_proj_in.ckpt cannot be read")
    assert not (tmp_path / "ran").exists()


# --- layout


def test_missing_unexpected_and_wrong_tensors_are_named(folder):
    def change(state):
        del state["blocks.1.ffn.2.bias"]
        state["blocks.1.extra"] = torch.zeros(1)
        state["head.head.bias"] = torch.zeros(3)

    _change(folder / weights.DIT_FILE, change)
    error = _refused(folder, match="not in the official layout")
    for part in (
        weights.DIT_FILE,
        "blocks.1.ffn.2.bias",
        "blocks.1.extra",
        "head.head.bias is (3,), not (64,)",
    ):
        assert part in error.came


def test_missing_size_tensor(folder):
    _change(folder / weights.LQ_FILE, lambda state: {k: v for k, v in state.items() if k != "conv1.weight"})
    _refused(folder, match="LQ_proj_in.ckpt: LQ projector: no tensor conv1.weight")


def test_parts_of_other_models(folder):
    _change(folder / weights.PROMPT_FILE, lambda prompt: torch.zeros(1, 32, 4096))
    _refused(folder, match="posi_prompt.pth is 4096 wide")
    _change(folder / weights.PROMPT_FILE, lambda prompt: {"a": prompt})
    _refused(folder, match="holds a dict")


@pytest.mark.parametrize("wrapper", weights.WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_trainers_wrapper_is_opened(folder, wrapper, prefix):
    _change(
        folder / weights.LQ_FILE,
        lambda state: {wrapper: {prefix + k: v for k, v in state.items()}, "epoch": 3},
    )
    assert weights.load(folder, version="v1.1").lq_proj.keys() == seeded.SMALL.lq.shapes().keys()


def test_an_encoder_beside_the_decoder_is_left_out(folder):
    def change(state):
        state["encoder.0.weight"] = torch.zeros(1)

    _change(folder / weights.TC_FILE, change)
    _change(folder / weights.VAE_FILES[0], change)
    loaded = weights.load(folder, version="v1.1")
    assert not [name for name in (*loaded.tc_decoder, *loaded.vae) if name.startswith("encoder")]


# --- the VAE in another place


def test_vae_is_found_by_argument_and_variable(folder, tmp_path, monkeypatch):
    other = tmp_path / "program" / "models" / "vae"
    other.mkdir(parents=True)
    (folder / weights.VAE_FILES[0]).rename(other / "renamed.pth")
    assert weights.load(folder).vae is None
    assert weights.load(folder, vae=other / "renamed.pth").vae
    save_file(torch.load(other / "renamed.pth", weights_only=True), other / "wan_2.1_vae.safetensors")
    monkeypatch.setenv(weights.VAE_VARIABLE, str(tmp_path / "program"))
    assert weights.load(folder).vae
    monkeypatch.setenv(weights.VAE_VARIABLE, str(tmp_path / "elsewhere"))
    assert "FLASHVSR_TRT_VAE" in _refused(folder, match="no Wan 2.1 VAE").todo
