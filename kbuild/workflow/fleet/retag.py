"""A name in a registry for an image that is there: its manifest under one more tag, nothing else is sent."""

from __future__ import annotations

from contextlib import closing

from kbuild.digest import digest_bytes
from kbuild.errors import RegistryError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.client import RegistryClient


def retag(source: ImageReference, target: ImageReference) -> bool:
    """Have ``target``, a tag of the repository of ``source``, name the image of that digest; False where it does.

    Raises RegistryError.
    """
    if source.name != target.name or source.digest is None or target.tag is None:
        raise RegistryError(
            f"{target} cannot name {source}, which is in another repository",
            hint="--push must give all versions of a model one repository, as registry.example/{name}:{version} does",
        )
    with closing(RegistryClient(target)) as client:
        if client.find_digest(target.tag) == str(source.digest):
            return False
        media_type, data = client.read_manifest(str(source.digest))
        if digest_bytes(data) != source.digest:
            raise RegistryError(f"{source.registry} sent another manifest than that of {source}")
        client.push_manifest(target.tag, media_type, data)
    return True
