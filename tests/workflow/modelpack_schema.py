"""CNCF ModelPack 1 as JSON Schema, written down from its text, section by section.

github.com/modelpack/model-spec at d78bf323: docs/spec.md, docs/config.md, docs/annotations.md. As strict as its own
schema/config-schema.json: a property that it does not name is refused.
"""

from __future__ import annotations

from typing import Any

DIGEST = {"type": "string", "pattern": "^sha256:[a-f0-9]{64}$"}
SIZE = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


# docs/spec.md "layers"
_KINDS = r"(weight|weight\.config|doc|code|dataset)"
# docs/annotations.md "Layer Annotation Keys"
_LAYER_ANNOTATIONS = _object(
    [],
    **{
        "org.cncf.model.filepath": {"type": "string", "minLength": 1},
        "org.cncf.model.file.metadata+json": TEXT,
        "org.cncf.model.file.mediatype.untested": {"enum": ["true", "false"]},
    },
)
MANIFEST = _object(
    ["mediaType", "artifactType", "config", "schemaVersion", "layers"],
    schemaVersion={"const": 2},
    mediaType={"const": "application/vnd.oci.image.manifest.v1+json"},
    artifactType={"const": "application/vnd.cncf.model.manifest.v1+json"},
    config=_object(
        ["mediaType", "digest", "size"],
        mediaType={"const": "application/vnd.cncf.model.config.v1+json"},
        digest=DIGEST,
        size=SIZE,
    ),
    layers={
        "type": "array",
        "minItems": 1,
        "items": _object(
            ["mediaType", "digest", "size"],
            mediaType={"pattern": rf"^application/vnd\.cncf\.model\.{_KINDS}\.v1\.(raw|tar|tar\+gzip|tar\+zstd)$"},
            digest=DIGEST,
            size=SIZE,
            annotations=_LAYER_ANNOTATIONS,
        ),
    },
    annotations={"type": "object", "additionalProperties": TEXT},
)
_TEXTS = {"type": "array", "items": TEXT}
# docs/config.md "Properties"
CONFIG = _object(
    ["descriptor", "config", "modelfs"],
    descriptor=_object(
        [],
        createdAt={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        authors=_TEXTS,
        name={"type": "string", "minLength": 1},
        licenses=_TEXTS,
        datasetsURL=_TEXTS,
        **dict.fromkeys(
            ("family", "docURL", "sourceURL", "version", "revision", "vendor", "title", "description"), TEXT
        ),
    ),
    modelfs=_object(
        ["type", "diffIds"], type={"const": "layers"}, diffIds={"type": "array", "minItems": 1, "items": DIGEST}
    ),
    config=_object(
        [], capabilities={"type": "object"},
        **dict.fromkeys(("architecture", "format", "paramSize", "precision", "quantization"), TEXT),
    ),
)  # fmt: skip
