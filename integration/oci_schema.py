"""The OCI image-spec 1.1 as JSON Schema (draft 2020-12), written down from its text, section by section.

Strict where the specification says MUST, and about what is there: a property that the specification does not name is
refused, although implementations may add some. So a slip in our own output is found.
"""

from __future__ import annotations

from typing import Any

# descriptor.md "Digests": algorithm ":" encoded; sha256 has 64 lower-case hexadecimal characters.
DIGEST = {"type": "string", "pattern": "^sha256:[a-f0-9]{64}$"}
# descriptor.md "Properties": RFC 6838 media types; annotations.md "Rules": strings by non-empty keys.
MEDIA_TYPE = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$",
}
ANNOTATIONS = {"type": "object", "propertyNames": {"minLength": 1}, "additionalProperties": {"type": "string"}}
SIZE = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
STRINGS = {"type": "array", "items": {"type": "string"}}
# RFC 3339, section 5.6
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"}

# image-index.md "platform"
PLATFORM = {
    "type": "object",
    "required": ["architecture", "os"],
    "additionalProperties": False,
    "properties": {
        "architecture": {"type": "string", "minLength": 1},
        "os": {"type": "string", "minLength": 1},
        "os.version": {"type": "string"},
        "os.features": STRINGS,
        "variant": {"type": "string"},
    },
}


def descriptor(**more: Any) -> dict[str, Any]:
    """descriptor.md "Properties"."""
    return {
        "type": "object",
        "required": ["mediaType", "digest", "size"],
        "additionalProperties": False,
        "properties": {
            "mediaType": MEDIA_TYPE,
            "digest": DIGEST,
            "size": SIZE,
            "urls": STRINGS,
            "annotations": ANNOTATIONS,
            "data": {"type": "string"},
            "artifactType": MEDIA_TYPE,
            **more,
        },
    }


# image-layout.md "oci-layout file"
LAYOUT = {
    "type": "object",
    "required": ["imageLayoutVersion"],
    "additionalProperties": False,
    "properties": {"imageLayoutVersion": {"const": "1.0.0"}},
}
# image-index.md "Image Index Property Descriptions"
INDEX = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "additionalProperties": False,
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.index.v1+json"},
        "artifactType": MEDIA_TYPE,
        "manifests": {"type": "array", "items": descriptor(platform=PLATFORM)},
        "subject": descriptor(),
        "annotations": ANNOTATIONS,
    },
}
# manifest.md "Image Manifest Property Descriptions"
MANIFEST = {
    "type": "object",
    "required": ["schemaVersion", "config", "layers"],
    "additionalProperties": False,
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": "application/vnd.oci.image.manifest.v1+json"},
        "artifactType": MEDIA_TYPE,
        "config": descriptor(mediaType={"const": "application/vnd.oci.image.config.v1+json"}),
        "layers": {
            "type": "array",
            "minItems": 1,
            "items": descriptor(
                mediaType={"pattern": r"^application/vnd\.oci\.image\.layer\.v1\.tar(\+gzip|\+zstd)?$"}
            ),
        },
        "subject": descriptor(),
        "annotations": ANNOTATIONS,
    },
}
# config.md "Properties"; Healthcheck, OnBuild and Shell are Docker's, which config.md reserves.
_SET = {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}}
CONFIG = {
    "type": "object",
    "required": ["architecture", "os", "rootfs"],
    "additionalProperties": False,
    "properties": {
        "created": TIME,
        "author": {"type": "string"},
        "architecture": {"type": "string", "minLength": 1},
        "os": {"type": "string", "minLength": 1},
        "os.version": {"type": "string"},
        "os.features": STRINGS,
        "variant": {"type": "string"},
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "User": {"type": "string"},
                "ExposedPorts": {**_SET, "propertyNames": {"pattern": r"^\d+(/(tcp|udp))?$"}},
                "Env": {"type": "array", "items": {"type": "string", "pattern": "^[^=]+="}},
                "Entrypoint": STRINGS,
                "Cmd": STRINGS,
                "Volumes": _SET,
                "WorkingDir": {"type": "string"},
                "Labels": ANNOTATIONS,
                "StopSignal": {"type": "string", "pattern": r"^(SIG[A-Z0-9+-]+|\d+)$"},
                "ArgsEscaped": {"type": "boolean"},
                "Healthcheck": {
                    "type": "object",
                    "required": ["Test"],
                    "additionalProperties": False,
                    "properties": {
                        "Test": STRINGS,
                        **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), SIZE),
                    },
                },
                "OnBuild": STRINGS,
                "Shell": STRINGS,
            },
        },
        "rootfs": {
            "type": "object",
            "required": ["type", "diff_ids"],
            "additionalProperties": False,
            "properties": {"type": {"const": "layers"}, "diff_ids": {"type": "array", "minItems": 1, "items": DIGEST}},
        },
        "history": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "created": TIME,
                    "created_by": {"type": "string"},
                    "author": {"type": "string"},
                    "comment": {"type": "string"},
                    "empty_layer": {"type": "boolean"},
                },
            },
        },
    },
}
