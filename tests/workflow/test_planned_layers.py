"""What a cache says of its layers counts for nothing: their bytes are read."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import zstandard

from kbuild.digest import Digest, digest_bytes
from kbuild.image.compare.layers import read_members
from kbuild.image.engine import PackedBlob
from kbuild.image.oci.media import LAYERS
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.workflow.audit.planned import _of_cache


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
