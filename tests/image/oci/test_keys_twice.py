"""JSON whose keys are there twice: Go's readers take the last of those that differ in the kind of their letters alone
(its encoding/json, "Unmarshal"), Python's take them for two."""

from __future__ import annotations

import json

import pytest

from kbuild.errors import InvalidImage
from kbuild.image.oci.descriptor import parse_json

DESCRIPTOR = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": 1}


@pytest.mark.parametrize(
    "text",
    [
        '{"schemaVersion": 2, "manifests": [], "Manifests": []}',
        json.dumps({"manifests": [DESCRIPTOR | {"Digest": "sha256:" + "1" * 64}]}),
        '{"config": {"size": 1}, "layers": [], "config": {"size": 2}}',
        '{"config": {"Entrypoint": ["a"], "ENTRYPOINT": ["b"]}}',
        '{"config": {"Labels": {"a": "1", "a": "2"}}}',
        '{"rootfs": {}, "root\\u017fs": {}, "rootfs": {}}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str) -> None:
    with pytest.raises(InvalidImage, match=r"index\.json is not JSON: it has the key "):
        parse_json(text.encode(), "index.json")


def test_labels_whose_names_differ_in_their_letters_are_two() -> None:
    document = {"config": {"Labels": {"Team": "a", "team": "b"}}, "manifests": [DESCRIPTOR]}
    assert parse_json(json.dumps(document).encode(), "index.json") == document
