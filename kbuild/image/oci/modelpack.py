"""CNCF ModelPack's names: a model as an OCI artifact of its own kind, which is no image and runs nothing.

github.com/modelpack/model-spec: docs/spec.md (manifest, media types of layers), docs/config.md with
schema/config-schema.json (config), docs/annotations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from kbuild.digest import Digest
from kbuild.image.oci.media import Compression

ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
FILEPATH = "org.cncf.model.filepath"
"""Of a layer: the file, or the folder, that is in it."""
UNTESTED = "org.cncf.model.file.mediatype.untested"
"""Of a layer: ``true`` where its kind was inferred from names."""
Kind = Literal["weight", "weight.config", "doc", "code"]
_ENDINGS: dict[Compression, str] = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


def layer_type(kind: Kind, compression: Compression) -> str:
    """The media type of a layer that is a tar."""
    return f"application/vnd.cncf.model.{kind}.v1.tar{_ENDINGS[compression]}"


def make_config(descriptor: dict[str, Any], *, model_format: str, diff_ids: Sequence[Digest]) -> dict[str, Any]:
    """The config's JSON object; of ``descriptor`` what is None or empty is left out."""
    return {
        "descriptor": {name: value for name, value in descriptor.items() if value},
        "modelfs": {"type": "layers", "diffIds": [str(each) for each in diff_ids]},
        "config": {"format": model_format},
    }
