"""Members of a layer: what is asked of them is read while the layer streams by, and nothing else is held."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from kbuild.audit.secrets import may_hold_secrets
from kbuild.digest import Digest, digest_bytes
from kbuild.image.compare import layers
from kbuild.image.compare.layers import read_members
from kbuild.image.oci.media import LAYERS

TOKEN = ("ghp_" + "a1B2c3D4e5F6" * 3).encode()


def test_secrets_are_found_in_a_file_of_any_size_and_its_content_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_LARGEST", 2 << 20)
    large = b"x" * (3 << 20) + b"\n" + TOKEN + b"\n"
    files = {
        "app/dump.sql": large,
        "usr/src/app/.env": b"A=1\nDB_PASSWORD=hunter22\n",
        "etc/hosts": TOKEN,
        "kept": b"k",
    }
    blob = tmp_path / "layer.tar"
    with tarfile.open(blob, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    raw = blob.read_bytes()
    diff_id, members = read_members(
        blob, digest_bytes(raw), LAYERS["none"], lambda path: path == "kept", may_hold_secrets
    )
    assert diff_id == Digest(hashlib.sha256(raw).hexdigest())
    assert {each.path: each.secrets for each in members} == {
        "app/dump.sql": (("GitHub Token", 2),),
        "usr/src/app/.env": (("value of DB_PASSWORD", 2),),
        "etc/hosts": None,
        "kept": None,
    }
    assert {each.path: each.data for each in members if each.data is not None} == {"kept": b"k"}
    assert [each.digest for each in members] == [digest_bytes(data) for data in files.values()]
