"""What an image holds, read by nothing of kbuild: the layers of an OCI layout as files, by tarfile and zstandard."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard


@dataclass(frozen=True)
class Image:
    manifest: dict[str, Any]
    config: dict[str, Any]
    files: dict[str, tuple[tarfile.TarInfo, bytes]]

    def data(self, path: str) -> bytes:
        return self.files[path.lstrip("/")][1]

    def below(self, folder: str) -> dict[str, bytes]:
        """Files below a folder of the image, by their path in it."""
        start = folder.strip("/") + "/"
        return {name[len(start) :]: data for name, (_, data) in self.files.items() if name.startswith(start)}


def read_image(layout: Path) -> Image:
    """The only image of a layout; every blob is compared with its digest on the way."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(layout, entry))
    config = json.loads(blob(layout, manifest["config"]))
    files: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    diff_ids = config["rootfs"]["diff_ids"]
    assert len(diff_ids) == len(manifest["layers"])
    for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
        data = blob(layout, layer)
        if layer["mediaType"].endswith("+zstd"):
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        elif layer["mediaType"].endswith("+gzip"):
            data = gzip.decompress(data)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == diff_id
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if not member.isdir():
                    files[member.name] = (member, b"" if content is None else content.read())
    return Image(manifest, config, files)


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    algorithm, value = descriptor["digest"].split(":")
    data = (layout / "blobs" / algorithm / value).read_bytes()
    assert hashlib.sha256(data).hexdigest() == value
    assert len(data) == descriptor["size"]
    return data
