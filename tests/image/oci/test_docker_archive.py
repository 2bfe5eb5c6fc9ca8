from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.digest import digest_bytes
from kbuild.image.engine import EngineOutput, RawLayer
from kbuild.image.oci.docker_archive import docker_archive
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.media import Compression
from kbuild.image.store.pack import pack
from kbuild.progress import Silent


class Text:
    def __init__(self, text: bytes) -> None:
        self.text = text

    def chunks(self) -> Iterator[bytes]:
        yield self.text


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_layers_are_plain_and_have_their_diff_ids(tmp_path: Path, compression: Compression) -> None:
    texts = [b"one" * 300, b"another"]
    output = EngineOutput(layers=tuple(RawLayer(content=Text(text), created_by="") for text in texts), config={})
    image = pack(output, EMPTY, tmp_path / "image", engine="native", progress=Silent(), compression=compression)
    data = b"".join(docker_archive(image.layout, image.digest, ImageReference.parse("churn:1")))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        read = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (top,) = json.loads(read["manifest.json"])
    assert top["RepoTags"] == ["churn:1"]
    assert [read[name] for name in top["Layers"]] == texts
    assert digest_bytes(read[top["Config"]]) == image.config_digest
    assert json.loads(read[top["Config"]])["rootfs"]["diff_ids"] == [str(digest_bytes(text)) for text in texts]
