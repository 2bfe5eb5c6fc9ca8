"""Image layouts with one thing changed: config and layers taken apart, edited, and put together so that every digest
fits again."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard

from kbuild.image.engine import BuiltImage
from kbuild.image.store.pack import image_in


@dataclass
class Opened:
    """An image: ``config`` is the whole image config, ``layers`` the members of each with their content."""

    config: dict[str, Any]
    manifest: dict[str, Any]
    layers: list[list[tuple[tarfile.TarInfo, bytes]]]
    touched: set[int] = field(default_factory=set)

    def layer_with(self, path: str) -> int:
        return next(n for n, each in enumerate(self.layers) if any(info.name == path for info, _ in each))

    def named(self, text: str) -> int:
        steps = [step["created_by"] for step in self.config["history"]]
        return next(number for number, step in enumerate(steps) if text in step)

    def add(self, number: int, name: str, data: bytes = b"", **changes: Any) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        for key, value in changes.items():
            setattr(info, key, value)
        self.layers[number].append((info, data))
        self.touched.add(number)

    def change(self, path: str, data: bytes | None = None, **changes: Any) -> None:
        number = self.layer_with(path)
        for place, (info, before) in enumerate(self.layers[number]):
            if info.name == path:
                content = before if data is None else data
                info.size = len(content) if info.isfile() else 0
                for key, value in changes.items():
                    setattr(info, key, value)
                self.layers[number][place] = (info, content)
        self.touched.add(number)

    def remove(self, path: str) -> None:
        number = self.layer_with(path)
        self.layers[number] = [each for each in self.layers[number] if each[0].name != path]
        self.touched.add(number)

    def new_layer(self, created_by: str = "RUN something", at: int | None = None) -> int:
        number = len(self.layers) if at is None else at
        self.layers.insert(number, [])
        self.touched = {each + (each >= number) for each in self.touched} | {number}
        self.config["history"].insert(number, {"created": self.config["created"], "created_by": created_by})
        self.config["rootfs"]["diff_ids"].insert(number, "")
        self.manifest["layers"].insert(number, {})
        return number


def tamper(image: BuiltImage, into: Path, edit: Callable[[Opened], object]) -> BuiltImage:
    """A copy of the image in a layout of its own, edited; what was not touched keeps its bytes."""
    shutil.copytree(image.layout, into, ignore=shutil.ignore_patterns("blobs"))
    # Linked, for each is taken away before another is written in its place.
    shutil.copytree(image.layout / "blobs", into / "blobs", copy_function=os.link)
    blobs = into / "blobs" / "sha256"

    def load(descriptor: dict[str, Any]) -> bytes:
        return (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()

    def put(data: bytes) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).unlink(missing_ok=True)
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    index = json.loads((into / "index.json").read_text("utf-8"))
    manifest = json.loads(load(index["manifests"][0]))
    opened = Opened(
        config=json.loads(load(manifest["config"])),
        manifest=manifest,
        layers=[_members(load(layer), layer["mediaType"]) for layer in manifest["layers"]],
    )
    edit(opened)
    for number in opened.touched:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, data in opened.layers[number]:
                archive.addfile(info, io.BytesIO(data))
        packed = put(gzip.compress(file.getvalue(), 1, mtime=0))
        manifest["layers"][number] = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **packed}
        digest = hashlib.sha256(file.getvalue()).hexdigest()
        opened.config["rootfs"]["diff_ids"][number] = f"sha256:{digest}"
    manifest["config"] |= put(json.dumps(opened.config).encode())
    index["manifests"][0] |= put(json.dumps(manifest).encode())
    (into / "index.json").write_text(json.dumps(index), "utf-8")
    docker = json.loads((into / "manifest.json").read_text("utf-8"))
    inside = [f"blobs/{each['digest'].replace(':', '/')}" for each in (manifest["config"], *manifest["layers"])]
    docker[0] |= {"Config": inside[0], "Layers": inside[1:]}
    (into / "manifest.json").write_text(json.dumps(docker), "utf-8")
    return image_in(into, engine="unknown")


def _members(data: bytes, media_type: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(copy.copy(info), content) for info, content in _read(data, media_type)]


@lru_cache(maxsize=32)
def _read(data: bytes, media_type: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    raw = gzip.decompress(data) if media_type.endswith("gzip") else data
    if media_type.endswith("zstd"):
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    found = []
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isfile() else None
            found.append((info, b"" if file is None else file.read()))
    return found
