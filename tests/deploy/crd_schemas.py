"""Schemas of others' kinds, cut down to the fields that kbuild writes; this file writes them anew.

    git clone --depth 1 https://github.com/kserve/kserve …            # and the others of SOURCES
    python tests/deploy/crd_schemas.py FOLDER                          # which holds kserve/, serving/, gateway-api/ …

Each of the files in ``crds/`` is the ``openAPIV3Schema`` of a CustomResourceDefinition, published under Apache-2.0 by
the project that is named in it, without descriptions. It is strict, as ``kubectl --validate=strict`` is: an object that
lists its properties has no others. Left out are properties that kbuild writes nowhere: a new one asks for a new file.
Rules in CEL (``x-kubernetes-validations``) are not looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).parent / "crds"
SOURCES = {
    "InferenceService": (
        "kserve", "kserve/kserve", "v1beta1", "config/crd/full/serving.kserve.io_inferenceservices.yaml"
    ),
    "Service": ("serving", "knative/serving", "v1", "config/core/300-resources/service.yaml"),
    "ServiceMonitor": (
        "prometheus-operator", "prometheus-operator/prometheus-operator", "v1",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    "HTTPRoute": (
        "gateway-api", "kubernetes-sigs/gateway-api", "v1",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
}  # fmt: skip
_META = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
_KEPT = (
    "type", "required", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems",
    "anyOf", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def read_crd(text: str, version: str) -> dict[str, Any]:
    """The schema of a version of a CustomResourceDefinition."""
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    (found,) = (each for each in document["spec"]["versions"] if each["name"] == version)
    schema: dict[str, Any] = found["schema"]["openAPIV3Schema"]
    schema["properties"] = {**schema["properties"], **_META}
    return schema


def cut(schema: dict[str, Any], values: list[Any], path: str = "") -> dict[str, Any]:
    """A JSON schema of what these values hold; raises KeyError for a field that the schema does not know."""
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        kept.pop("type", None)
        kept["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "items" in schema:
        kept["items"] = cut(schema["items"], [each for value in values for each in value], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = cut(
            schema["additionalProperties"], [each for value in values for each in value.values()], f"{path}.*"
        )
    elif "properties" in schema:
        written = sorted({name for value in values for name in value})
        unknown = [name for name in written if name not in schema["properties"]]
        if unknown:
            raise KeyError(f"{path} knows no {unknown}")
        names = {*written, *schema.get("required", ())}
        kept["properties"] = {
            name: cut(schema["properties"][name], [v[name] for v in values if name in v], f"{path}.{name}")
            for name in sorted(names)
        }
        kept["additionalProperties"] = False
    return kept


def main(folder: Path) -> None:
    """Write the files of ``crds/``."""
    sys.path.insert(0, str(Path(__file__).parent))
    from test_manifests import every_document

    for kind, (clone, repository, version, file) in SOURCES.items():
        git = ["git", "-C", str(folder / clone)]
        text, commit = (
            subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout
            for words in (["show", f"HEAD:{file}"], ["rev-parse", "HEAD"])
        )
        schema = cut(read_crd(text, version), [each for each in every_document() if each["kind"] == kind])
        source = f"https://github.com/{repository}/blob/{commit.strip()}/{file}, Apache-2.0; see crd_schemas.py"
        path = CRDS / f"{kind.lower()}.json"
        path.write_text(json.dumps({"$comment": source, **schema}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
