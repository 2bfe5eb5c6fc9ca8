"""What the top of an image layout says beside its image: notes that no program writes there, and another image for
those who read ``manifest.json`` (moby's image/spec/v1.2.md) where others read ``index.json``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kbuild.digest import Digest
from kbuild.image.oci import layout as layouts

_OF_INDEX = frozenset({"schemaVersion", "mediaType", "manifests"})
_OF_ENTRY = frozenset({"mediaType", "digest", "size", "annotations", "platform"})
_OF_PLATFORM = frozenset({"architecture", "os", "variant"})
# What kbuild, docker, buildx, containerd and skopeo write: names, when it was made, and where it was pulled from.
_NOTES = re.compile(
    r"org\.opencontainers\.image\.(ref\.name|created)|io\.containerd\.image\.name"
    r"|containerd\.io/distribution\.source\.[\w.:-]+"
)
_NAME = re.compile(r"[\w.:/@+,-]{1,400}")


def beside_image(layout: Path, digest: Digest) -> tuple[str, ...]:
    """The places of what leads to the image with this digest and says more than that, and of what leads to another.

    Raises InvalidImage.
    """
    index = layouts.read_top(layout, layouts.INDEX)

    @cache  # asks for the whole layout, and an index may list the same one a thousand times
    def leads(below: Digest) -> bool:
        return digest in layouts.find_images(layout, below)

    return (*_of_index(layout, index, digest, layouts.INDEX, set(), leads), *_of_docker(layout))


def _of_index(
    layout: Path, index: Any, digest: Digest, where: str, seen: set[Digest], leads: Callable[[Digest], bool]
) -> Iterator[str]:
    """An index that stands in many places is looked into once."""
    yield from (f"{where} {key}" for key in _more(index, _OF_INDEX))
    for number, entry in enumerate(index["manifests"]):
        below = Digest.parse(str(entry["digest"]))
        if digest != below and not leads(below):
            continue  # another image, or what is said about one
        place = f"{where} manifests[{number}]"
        yield from (f"{place}.{key}" for key in _more(entry, _OF_ENTRY))
        yield from (f"{place}.platform.{key}" for key in _more(entry.get("platform") or {}, _OF_PLATFORM))
        for name, value in (entry.get("annotations") or {}).items():
            if not (_NOTES.fullmatch(name) and _NAME.fullmatch(value)):
                yield f"{place}.annotations.{name:.100}"
        if digest != below and below not in seen:
            seen.add(below)
            yield from _of_index(layout, layouts.read_json_blob(layout, below), digest, str(below), seen, leads)


def _more(value: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    yield from (f"{key:.100}" for key in value if key not in known and value[key] not in (None, {}))


def _of_docker(layout: Path) -> Iterator[str]:
    """Each image there has to be one of those that ``index.json`` lists."""
    name = layouts.DOCKER_MANIFEST
    if not (layout / name).exists():
        return
    said = layouts.read_top(layout, name)
    there = [layouts.docker_image(layouts.read_manifest(layout, each)) for each in _present(layout)]
    for number, entry in enumerate(said if isinstance(said, list) else [said]):
        pointed = {key: entry.get(key) for key in ("Config", "Layers")} if isinstance(entry, dict) else None
        if pointed not in there:
            yield f"{name} [{number}], which is another image than {layouts.INDEX} has"


def _present(layout: Path) -> Iterator[Digest]:
    for digest in layouts.find_images(layout):
        if layouts.blob_path(layout, digest).is_file():
            yield digest


def other_images(layout: Path, digest: Digest, below: Digest | None) -> tuple[str, ...]:
    """The platforms of the other images that have the same name (``below`` is the index's digest, None all of the
    layout's), or their digests. Raises InvalidImage."""
    others = (entry for entry in layouts.find_images(layout, below).values() if entry.digest != digest)
    return tuple(sorted("/".join(entry.platform) if entry.platform else str(entry.digest) for entry in others))
