"""Pulling from and pushing to registries: the OCI distribution-spec over ``requests``.

Why no library for the protocol: oras-py 0.2.43 assigns its anonymous token to a header in a form that is never sent and
turns failing credential helpers into a log line; python-dxf 12.1 reads no Docker configuration and hashes every blob
once more before it asks whether the registry has it. What is needed is six requests; the credentials, where the
difficulty lies, are the Docker SDK's part (registry_auth).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from kbuild.digest import Digest, digest_bytes
from kbuild.errors import HashMismatch, InvalidImage, RegistryError
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, Manifest, index_from_json, parse_json
from kbuild.image.oci.reference import DEFAULT_REGISTRY, ImageReference
from kbuild.image.pack import writing
from kbuild.image.registry_auth import RegistryAuth
from kbuild.platform import Platform
from kbuild.progress import Progress

# Docker Hub's registry does not live under the name its images carry.
_HOSTS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_ACCEPT = ", ".join(sorted(media.INDEXES | media.MANIFESTS))
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 120.0
_CHUNK = 1 << 20
_MAX_MANIFEST = 4 << 20  # what the distribution-spec asks registries to take at most


class RegistryClient:
    """One repository of one registry. Every method raises RegistryError saying what the registry said."""

    def __init__(self, reference: ImageReference) -> None:
        self._reference = reference
        self._session = requests.Session()
        retry = Retry(
            total=3,
            connect=1,
            backoff_factor=0.5,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=("GET", "HEAD"),
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))
        host = _HOSTS.get(reference.registry, reference.registry)
        self._root = f"{'http' if _is_loopback(host) else 'https'}://{host}/v2/{reference.repository}/"
        self._auth = RegistryAuth(reference.registry, self._root, self._session)

    def check_access(self) -> None:
        """Ask whether the registry is there and takes our credentials (distribution-spec "end-1", GET /v2/)."""
        self._expect(self._request("GET", urljoin(self._root, "/v2/")), 200)

    def read_manifest(self, version: str) -> tuple[str, bytes]:
        """Media type and exact bytes of the manifest or index of a tag or digest."""
        response = self._request("GET", f"manifests/{version}", headers={"Accept": _ACCEPT}, stream=True)
        with response:
            self._expect(response, 200)
            data = response.raw.read(_MAX_MANIFEST + 1, decode_content=True)
        if len(data) > _MAX_MANIFEST:
            raise RegistryError(f"{self._reference.registry} sent a manifest of more than {_MAX_MANIFEST} bytes")
        document = parse_json(data, f"the manifest of {self._reference}")
        media_type = document.get("mediaType") if isinstance(document, dict) else None
        # Before OCI 1.1 the media type stood in the header alone.
        return str(media_type or response.headers.get("Content-Type", "").partition(";")[0]), data

    def fetch_blob(self, blob: Descriptor, target: Path, progress: Progress) -> None:
        """Download a blob into a file; raises HashMismatch when its digest or size is another, and OSError."""
        state, size = hashlib.sha256(), 0
        response = self._request("GET", f"blobs/{blob.digest}", stream=True)
        with response, target.open("wb") as file:
            self._expect(response, 200)
            for chunk in self._chunks(response):
                state.update(chunk)
                size += len(chunk)
                file.write(chunk)
                progress.count(size, blob.size)
        if state.hexdigest() != blob.digest.hex or size != blob.size:
            raise HashMismatch(f"{self._reference.registry} sent {size} bytes for blob {blob.digest} that are not it")

    def has_blob(self, digest: Digest) -> bool:
        """Whether the repository holds a blob."""
        response = self._request("HEAD", f"blobs/{digest}")
        self._expect(response, 200, 404)
        return response.status_code == 200

    def push_blob(self, blob: Descriptor, path: Path, progress: Progress) -> None:
        """Upload a blob from a file; raises OSError when it cannot be read."""
        started = self._request("POST", "blobs/uploads/")
        self._expect(started, 202)
        target = urljoin(started.url, started.headers.get("Location", ""))
        with path.open("rb") as file:
            done = self._request(
                "PUT",
                target,
                params={"digest": str(blob.digest)},
                data=_Upload(file, blob.size, progress),
                headers={"Content-Type": "application/octet-stream"},
            )
        self._expect(done, 201)

    def push_manifest(self, version: str, media_type: str, data: bytes) -> None:
        """Store a manifest under a tag or its digest."""
        response = self._request("PUT", f"manifests/{version}", data=data, headers={"Content-Type": media_type})
        self._expect(response, 201)
        stored = response.headers.get("Docker-Content-Digest")
        if stored is not None and stored != str(digest_bytes(data)):
            raise RegistryError(f"{self._reference.registry} stored {stored} instead of {digest_bytes(data)}")

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        url = urljoin(self._root, path)
        with self._explained():
            response = self._send(method, url, options)
            challenge = response.headers.get("WWW-Authenticate", "")
            # Another host's challenge could name any place for the credentials to go to.
            if response.status_code == 401 and self._auth.is_own(response.url) and self._auth.answer(challenge):
                response.close()
                response = self._send(method, url, options)
        return response

    def _send(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        if isinstance(data := options.get("data"), _Upload):
            data.rewind()
        timeout = (_CONNECT_SECONDS, _READ_SECONDS)
        return self._session.request(method, url, auth=self._auth, timeout=timeout, **options)

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        with self._explained():
            yield from response.iter_content(_CHUNK)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            raise RegistryError(
                f"registry {self._reference.registry} does not answer: {_cause(error)}",
                hint="check the name, the network and the proxy settings (HTTPS_PROXY, NO_PROXY)",
            ) from error

    def _expect(self, response: requests.Response, *wanted: int) -> None:
        if response.status_code in wanted:
            return
        registry, name = self._reference.registry, str(self._reference)
        match response.status_code:
            case 401 | 403:
                raise RegistryError(
                    f"registry {registry} refuses access to {name}: {_registry_words(response)}",
                    hint=f"docker login {registry}",
                )
            case 404:
                raise RegistryError(f"registry {registry} has no {name}", hint="check the name and the tag")
            case code:
                raise RegistryError(f"registry {registry} answered {code} for {name}: {_registry_words(response)}")


def pull_image(
    reference: ImageReference, platform: Platform, *, cache: Path, progress: Progress
) -> tuple[ImageReference, Path]:
    """Resolve a tag or digest to one platform's image and bring it into a layout below ``cache``.

    Returns the reference by the image manifest's digest, and the layout. What is in the cache by digest is not asked
    for again. Raises RegistryError, HashMismatch, InvalidImage, or OutputError when the cache cannot be written.
    """
    if reference.digest is not None and layouts.is_layout(cache / reference.digest.hex):
        kept = cache / reference.digest.hex
        _check_platform(kept, layouts.read_manifest(kept, reference.digest), platform, reference)
        return reference.with_digest(reference.digest), kept
    client = RegistryClient(reference)
    media_type, data = client.read_manifest(str(reference.digest or reference.tag or "latest"))
    _check(reference, reference.digest, data)
    if media_type in media.INDEXES:
        entry = _for_platform(index_from_json(parse_json(data, str(reference))), platform, reference)
        media_type, data = client.read_manifest(str(entry.digest))
        _check(reference, entry.digest, data)
    if media_type not in media.MANIFESTS:
        raise InvalidImage(f"{reference} is no image: its media type is {media_type}")
    digest = digest_bytes(data)
    target = cache / digest.hex
    manifest = Manifest.from_json(parse_json(data, str(reference)), str(reference))
    if layouts.is_layout(target):
        _check_platform(target, manifest, platform, reference)
    else:
        with writing(target) as folder:
            (folder / "blobs" / "sha256").mkdir(parents=True)
            for blob in dict.fromkeys((manifest.config, *manifest.layers)):
                progress.note(f"pulling {blob.digest} of {reference.familiar}")
                client.fetch_blob(blob, layouts.blob_path(folder, blob.digest), progress)
            _check_platform(folder, manifest, platform, reference)
            layouts.blob_path(folder, digest).write_bytes(data)
            image = Descriptor(media_type=media_type, digest=digest, size=len(data))
            for name, content in layouts.make_entrance(image, manifest, reference.with_tag(reference.tag)).items():
                (folder / name).write_bytes(content)
    return reference.with_digest(digest), target


def push_image(layout: Path, digest: Digest, reference: ImageReference, *, progress: Progress) -> ImageReference:
    """Push an image of a layout; blobs that the repository has are not sent again.

    Returns the reference by digest. Raises RegistryError, and InvalidImage when the layout lacks a blob.
    """
    client = RegistryClient(reference)
    image = layouts.find_manifest(layout, digest=digest)
    manifest = layouts.read_manifest(layout, digest)
    for blob in dict.fromkeys((*manifest.layers, manifest.config)):
        path = layouts.blob_path(layout, blob.digest)
        if not path.is_file():
            raise InvalidImage(f"not a whole image layout: {path} is missing")
        if client.has_blob(blob.digest):
            progress.note(f"{blob.digest} is already there")
            continue
        progress.note(f"pushing {blob.digest}")
        client.push_blob(blob, path, progress)
    data = layouts.blob_path(layout, digest).read_bytes()
    client.push_manifest(reference.tag or str(digest), image.media_type, data)
    return reference.with_digest(digest)


class _Upload:
    """A file as a request's body: its length is told, each piece read is counted, and it can be sent again."""

    def __init__(self, file: Any, size: int, progress: Progress) -> None:
        self._file = file
        self._size = size
        self._progress = progress

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(_CHUNK if size < 0 else max(size, _CHUNK))
        self._progress.count(self._file.tell(), self._size)
        return data

    def rewind(self) -> None:
        """Start again from the first byte."""
        self._file.seek(0)


def _is_loopback(host: str) -> bool:
    """Registries on this machine are spoken to in plain http, as Docker does with 127.0.0.0/8."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _for_platform(entries: tuple[Descriptor, ...], platform: Platform, reference: ImageReference) -> Descriptor:
    for entry in entries:
        if entry.platform == (platform.os, platform.architecture):
            return entry
    known = sorted(
        {"/".join(entry.platform) for entry in entries if entry.platform and "unknown" not in entry.platform}
    )
    raise RegistryError(f"{reference} is not there for {platform}", hint=f"it is for {', '.join(known)}")


def _check_platform(layout: Path, manifest: Manifest, platform: Platform, reference: ImageReference) -> None:
    found = layouts.read_platform(layout, manifest)
    if found != str(platform):
        raise RegistryError(f"{reference} is not there for {platform}", hint=f"it is for {found}")


def _check(reference: ImageReference, expected: Digest | None, data: bytes) -> None:
    if expected is not None and digest_bytes(data) != expected:
        raise HashMismatch(f"{reference.registry} sent another manifest for {reference.name}@{expected}")


def _registry_words(response: requests.Response) -> str:
    """The registry's own message (distribution-spec "Error Codes"), or the status line's."""
    try:
        errors = json.loads(response.content)["errors"]
        return "; ".join(str(error.get("message") or error.get("code")) for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):
        return response.reason or str(response.status_code)


def _cause(error: requests.RequestException) -> str:
    """The innermost reason, without urllib3's wrapping."""
    inner: BaseException = error
    while True:
        reason = getattr(inner, "reason", None)
        following = reason if isinstance(reason, BaseException) else inner.__cause__ or inner.__context__
        if following is None or following is inner:
            return " ".join(str(inner).split()) or type(inner).__name__
        inner = following
