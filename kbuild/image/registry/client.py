"""One repository of one registry: the OCI distribution-spec over ``requests``.

Why no library for the protocol: oras-py 0.2.43 assigns its anonymous token to a header in a form that is never sent and
turns failing credential helpers into a log line; python-dxf 12.1 reads no Docker configuration and hashes every blob
once more before it asks whether the registry has it. What is needed is a handful of requests; the credentials, where
the difficulty lies, are the Docker SDK's part (registry_auth).
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

import requests

from kbuild.bounded.answers import BoundedAdapter, whole
from kbuild.bounded.in_time import steady
from kbuild.digest import Digest, digest_bytes
from kbuild.errors import HashMismatch, RegistryError
from kbuild.http import Tries, reason_of
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, parse_json
from kbuild.image.oci.image_reference import DEFAULT_REGISTRY, ImageReference
from kbuild.image.registry.auth import TIMEOUT, RegistryAuth
from kbuild.image.registry.refusal import NO_REGISTRY, refusal
from kbuild.progress import Progress

# Docker Hub's registry does not live under the name its images carry.
_HOSTS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_ACCEPT = ", ".join(sorted(media.INDEXES | media.MANIFESTS))
_CHUNK = 1 << 20
_BACKOFF_SECONDS = 0.5
_BUSY = (429, 500, 502, 503, 504)
_BREAKS = 5
_BROKE_OFF = "try again; if it stays, look at the registry's log and at what lies between"
_REASON = 200  # bytes of an answer in which a server says that it speaks TLS
_MAX_MANIFEST = 4 << 20  # what the distribution-spec asks registries to take at most


class RegistryClient:
    """One repository of one registry. Every method raises RegistryError saying what the registry said."""

    def __init__(self, reference: ImageReference) -> None:
        self._reference = reference
        self._session = requests.Session()
        # POST begins an upload, and may begin another one. Blobs are sent again by upload, which can wind them back.
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _again("GET", "HEAD", "POST"))
        host = _HOSTS.get(reference.registry, reference.registry)
        self._use_root(f"{'http' if _is_loopback(host) else 'https'}://{host}/v2/{reference.repository}/")

    def _use_root(self, root: str) -> None:
        self._root = root
        self._session.mount(urljoin(root, "manifests/"), _again("GET", "HEAD", "PUT"))
        self._auth = RegistryAuth(self._reference.registry, root, self._session)

    def close(self) -> None:
        """Close its connections; a later request opens new ones."""
        self._session.close()

    def check_access(self) -> None:
        """Ask whether the registry is there and takes our credentials (distribution-spec "end-1", GET /v2/)."""
        self.expect(self.request("GET", urljoin(self._root, "/v2/")), 200)

    def read_manifest(self, version: str) -> tuple[str, bytes]:
        """Media type and exact bytes of the manifest or index of a tag or digest."""
        response = self.request("GET", f"manifests/{version}", headers={"Accept": _ACCEPT}, stream=True)
        with response:
            self.expect(response, 200)
            return self._manifest_in(response)

    def find_manifest(self, version: str) -> tuple[str, bytes] | None:
        """As ``read_manifest``; None where the registry has none of this tag or digest."""
        response = self.request("GET", f"manifests/{version}", headers={"Accept": _ACCEPT}, stream=True)
        with response:
            self.expect(response, 200, 404)
            return self._manifest_in(response) if response.status_code == 200 else None

    def _manifest_in(self, response: requests.Response) -> tuple[str, bytes]:
        try:
            data = b"".join(whole(response, _MAX_MANIFEST))
        except requests.RequestException as error:
            raise RegistryError(
                f"{self._reference.registry} broke off while it sent the manifest of {self._reference}: "
                f"{reason_of(error)}",
                hint=_BROKE_OFF,
            ) from error
        document = parse_json(data, f"the manifest of {self._reference}")
        media_type = document.get("mediaType") if isinstance(document, dict) else None
        # Before OCI 1.1 the media type stood in the header alone.
        return str(media_type or response.headers.get("Content-Type", "").partition(";")[0]), data

    def find_digest(self, tag: str) -> str | None:
        """What a tag names now; None where it names nothing, or the registry does not say."""
        response = self.request("HEAD", f"manifests/{tag}", headers={"Accept": _ACCEPT})
        self.expect(response, 200, 404)
        return response.headers.get("Docker-Content-Digest") if response.status_code == 200 else None

    def fetch_blob(self, blob: Descriptor, target: Path, progress: Progress) -> None:
        """Download a blob into a file; raises HashMismatch when its digest or size is another, and OSError.

        What is longer than the descriptor says is cut off there: a registry could fill the disk. A download that breaks
        off goes on where it did, or from the start where the registry knows no ranges.
        """
        registry, reached = self._reference.registry, 0
        retry = whole = Tries(total=_BREAKS, backoff_factor=_BACKOFF_SECONDS)
        with target.open("wb") as file, self.explained():
            got = _Received(file, blob, registry)
            while not self._fetch_rest(got, progress):
                if got.size > reached:  # by a whole chunk: it gets on
                    retry, reached = whole, got.size
                if not retry.total:
                    raise RegistryError(
                        f"{registry} broke off after {got.size} of {blob.size} bytes of blob {blob.digest}, "
                        f"{_BREAKS + 1} times without getting on",
                        hint=_BROKE_OFF,
                    )
                retry = retry.increment("GET")
                retry.sleep()
        if got.state.hexdigest() != blob.digest.hex or got.size != blob.size:
            raise HashMismatch(f"{registry} sent {got.size} bytes for blob {blob.digest} that are not it")

    def _fetch_rest(self, got: _Received, progress: Progress) -> bool:
        """What is lacking of a blob; whether it came to its end."""
        rest = {"Range": f"bytes={got.size}-"} if got.size else {}
        response = self.request("GET", f"blobs/{got.blob.digest}", headers=rest, stream=True)
        with response:
            self.expect(response, 200, *([206] if rest else []))
            if response.status_code == 200:
                got.begin()
            try:
                for chunk in steady(response, response.iter_content(_CHUNK)):
                    got.take(chunk)
                    progress.count(got.size, got.blob.size)
            except requests.exceptions.ChunkedEncodingError:
                return got.size == got.blob.size
        return True

    def has_blob(self, digest: Digest) -> bool:
        """Whether the repository holds a blob."""
        response = self.request("HEAD", f"blobs/{digest}")
        self.expect(response, 200, 404)
        return response.status_code == 200

    def push_manifest(self, version: str, media_type: str, data: bytes) -> None:
        """Store a manifest under a tag or its digest."""
        response = self.request("PUT", f"manifests/{version}", data=data, headers={"Content-Type": media_type})
        self.expect(response, 201)
        stored = response.headers.get("Docker-Content-Digest")
        if stored is not None and stored != str(digest_bytes(data)):
            raise RegistryError(f"{self._reference.registry} stored {stored} instead of {digest_bytes(data)}")

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request and return the answer whatever it is.

        ``path`` is below the repository, or a url that the registry gave. A body with ``rewind`` may be sent again.
        """
        with self.explained():
            return self.ask(method, path, **options)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """As ``request``, but raises the errors of ``requests``, for who goes on after some of them."""
        url = urljoin(self._root, path)
        response = self._send(method, url, options)
        reads = method in ("GET", "HEAD") and url.startswith("http:")
        if reads and response.status_code == 400 and self._wants_tls():
            # A registry on this machine that has TLS; Docker asks those by both, too.
            self._use_root(self._root.replace("http:", "https:", 1))
            url = urljoin(self._root, path)
            response = self._send(method, url, options)
        challenge = response.headers.get("WWW-Authenticate", "")
        # Another host's challenge could name any place for the credentials to go to.
        try:
            again = response.status_code == 401 and self._auth.is_own(response.url) and self._auth.answer(challenge)
        except BaseException:
            response.close()
            raise
        if again:
            response.close()
            response = self._send(method, url, options)
        return response

    def _wants_tls(self) -> bool:
        """Whether a server that was asked in plain http says so, as Go's does; an answer to HEAD has no words."""
        response = self._send("GET", urljoin(self._root, "/v2/"), {})
        return response.status_code == 400 and b"HTTPS server" in response.content[:_REASON]

    def _send(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        data = options.get("data")
        if data is not None and hasattr(data, "rewind"):
            data.rewind()
        return self._session.request(method, url, auth=self._auth, timeout=TIMEOUT, **options)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the errors of ``requests`` into a RegistryError with the innermost reason."""
        try:
            yield
        except requests.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise RegistryError(
                    f"the certificate of registry {self._reference.registry} is not trusted: {reason_of(error)}",
                    hint="name a file with its authority's certificate and those of others: REQUESTS_CA_BUNDLE=FILE",
                ) from error
            if isinstance(error, requests.TooManyRedirects):
                raise RegistryError(
                    f"registry {self._reference.registry} sends in circles: {reason_of(error)}", hint=NO_REGISTRY
                ) from error
            raise RegistryError(
                f"registry {self._reference.registry} does not answer: {reason_of(error)}",
                hint="check the name, the network and the proxy settings (HTTPS_PROXY, NO_PROXY)",
            ) from error

    def expect(self, response: requests.Response, *wanted: int) -> None:
        """Raise RegistryError with the registry's own words unless it answered one of these."""
        if response.status_code in wanted:
            return
        raise refusal(self._reference, response)


class _Received:
    """The bytes of a blob that came so far, in a file."""

    def __init__(self, file: BinaryIO, blob: Descriptor, sender: str) -> None:
        self._file, self.blob, self._sender = file, blob, sender
        self.begin()

    def begin(self) -> None:
        """From the first byte."""
        self.state, self.size = hashlib.sha256(), 0
        self._file.seek(0)
        self._file.truncate()

    def take(self, chunk: bytes) -> None:
        """Write and count; raises HashMismatch for more than there are."""
        self.state.update(chunk)
        self.size += len(chunk)
        if self.size > self.blob.size:
            raise HashMismatch(f"{self._sender} sends more than the {self.blob.size} bytes of blob {self.blob.digest}")
        self._file.write(chunk)


def _again(*methods: str) -> BoundedAdapter:
    """Asks again who is busy, where a request of these methods may be made twice."""
    retry = Tries(
        total=3,
        connect=1,
        backoff_factor=_BACKOFF_SECONDS,
        status_forcelist=_BUSY,
        allowed_methods=methods,
        raise_on_status=False,
    )
    return BoundedAdapter(max_retries=retry)


def _is_loopback(host: str) -> bool:
    """Registries on this machine are spoken to in plain http, as Docker does with 127.0.0.0/8."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
