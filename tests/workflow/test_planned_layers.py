"""What a cache says of its layers counts for nothing: their bytes are read."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zstandard

from kbuild.digest import Digest, digest_bytes
from kbuild.image.compare.layers import read_members
from kbuild.image.engine import PackedBlob
from kbuild.image.oci.media import LAYERS
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.workflow.audit.planned import _of_cache, _of_image
from kbuild.workflow.audit.replanning import claimed_base


def test_the_diff_id_of_a_layer_in_the_cache_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("opt/a.py"))
    data = zstandard.compress(file.getvalue())
    path = tmp_path / "blob"
    path.write_bytes(data)
    told = digest_bytes(b"what the image's layer unpacks to")
    blob = PackedBlob(media_type=LAYERS["zstd"], digest=digest_bytes(data), size=len(data), diff_id=told, path=path)
    layer = SimpleNamespace(name="one", source="one", content="c", over=())
    plan = cast(Any, SimpleNamespace(layers=(layer,), base="b"))
    cache = LayerCache(root=tmp_path / "layers", compression="zstd")
    cache.put(layer_keys(plan)["one"], blob)
    image = SimpleNamespace(digest=digest_bytes(b"another blob"), diff_id=told)
    (planned,) = _of_cache(plan, cache, cast(Any, (image,)), lambda *blob: read_members(*blob, lambda _: False))
    assert planned.diff_id == Digest(hashlib.sha256(file.getvalue()).hexdigest())
    assert [member.path for member in planned.members or ()] == ["opt/a.py"]


@pytest.mark.parametrize("damaged", [True, False])
def test_what_lies_here_is_told_where_its_bytes_are_those_that_were_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: bool
) -> None:
    diff_id, members = digest_bytes(b"content"), ("a member",)
    built: Any = SimpleNamespace(
        layout=tmp_path, digest=None, layers=(SimpleNamespace(diff_id=diff_id, created_by="COPY model/ /"),)
    )
    manifest = SimpleNamespace(layers=(SimpleNamespace(digest=digest_bytes(b"packed"), media_type="m"),))
    monkeypatch.setattr("kbuild.workflow.audit.planned.layouts.read_manifest", lambda *_: manifest)
    read: Any = lambda *_: (digest_bytes(b"damaged") if damaged else diff_id, members)  # noqa: E731
    (planned,) = _of_image(built, (), read)
    assert (planned.name, planned.diff_id, planned.members) == ("model", diff_id, None if damaged else members)


def test_what_the_cache_lacks_is_not_known_and_what_the_image_has_is_not_read_again(tmp_path: Path) -> None:
    data = b"a layer"
    (tmp_path / "blob").write_bytes(data)
    of_image = digest_bytes(b"what was read of the image")
    one, two = (SimpleNamespace(name=name, source=name, content=name, over=()) for name in ("one", "two"))
    plan = cast(Any, SimpleNamespace(layers=(one, two), base="b"))
    cache = LayerCache(root=tmp_path / "layers", compression="zstd")
    told = digest_bytes(b"what the cache says")
    kept = PackedBlob(
        media_type=LAYERS["zstd"], digest=digest_bytes(data), size=7, diff_id=told, path=tmp_path / "blob"
    )
    cache.put(layer_keys(plan)["one"], kept)
    image = SimpleNamespace(digest=digest_bytes(data), diff_id=of_image)
    read: list[Any] = []
    found = list(_of_cache(plan, cache, cast(Any, (image,)), lambda *blob: cast(Any, read.append(blob))))
    assert [(each.name, each.diff_id, each.members) for each in found] == [("one", of_image, None), ("two", None, None)]
    assert not read


@pytest.mark.parametrize("said", ["true", "false", None])
def test_a_base_that_no_record_tells_of_is_what_the_image_says_of_it(said: str | None) -> None:
    digest = f"sha256:{'1' * 64}"
    labels = {} if said is None else {"io.kbuild.base.unsigned": said}
    debs = claimed_base("debian:12", digest, labels)
    assert (debs.kind, debs.unsigned, debs.reference) == ("debs", said == "true", None)
    labels["org.opencontainers.image.base.digest"] = digest
    pulled = claimed_base(f"docker.io/library/debian@sha256:{'2' * 64}", digest, labels)
    assert (pulled.kind, pulled.unsigned) == ("registry", said == "true")
    assert pulled.reference == f"docker.io/library/debian@{digest}"
    assert claimed_base("oci:/layout", digest, labels).kind == "layout"
