"""What a bundle's manifest.json says, and what is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
import stand_in

from flashvsr_trt.configs import manifest as manifests
from flashvsr_trt.configs.errors import BundleError, UsageError
from flashvsr_trt.export.bundle import Options


@pytest.mark.parametrize("fix", ["adain", "wavelet", "none"])
def test_comes_back_and_its_digest_is_the_files(tmp_path, fix):
    """libflashvsr takes the digest of the file, engines are found by it."""
    manifest = stand_in.manifest(colour_fix=fix)
    manifests.save(manifest, tmp_path)
    loaded = manifests.load(tmp_path)
    assert loaded == manifest
    assert loaded.digest() == hashlib.sha256((tmp_path / manifests.FILE_NAME).read_bytes()).hexdigest()


def test_a_file_of_before_there_was_a_colour_fix_keeps_its_digest(tmp_path):
    manifests.save(stand_in.manifest(), tmp_path)
    path = tmp_path / manifests.FILE_NAME
    assert "colour_fix" not in json.loads(path.read_text())
    assert manifests.load(tmp_path).colour_fix == "adain"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour_fix": "sepia"}, "sepia"),
        ({"precision": "int4"}, "int4"),
        ({"model_version": "v9"}, "v9"),
        ({"schema": 99}, "schema version 99"),
        ({"invented": 1}, "invented"),
        ({"files": {"../outside": {"bytes": 1, "sha256": ""}}}, "outside"),
    ],
)
def test_what_it_cannot_mean_is_refused(tmp_path, change, said):
    path = tmp_path / manifests.FILE_NAME
    manifests.save(stand_in.manifest(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=said):
        manifests.load(tmp_path)


def test_an_export_with_a_colour_fix_that_there_is_none_of_is_refused():
    with pytest.raises(UsageError, match="sepia"):
        Options(colour_fix="sepia")
