"""Bringing a blob into a repository: mounted from another one of the same registry, or uploaded, and resumed.

OCI distribution-spec, "Pushing blobs" and "Mounting a blob from another repository". A blob is sent whole at first,
which every registry takes. When the connection is lost, or a proxy refuses so large a request, the registry is asked
how much it has and the rest is sent in parts; a registry that kept nothing (distribution 2.8 forgets an upload that was
cut within a part) gets it from the start again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

import requests

from kbuild.errors import RegistryError
from kbuild.http import Tries
from kbuild.image.oci.descriptor import Descriptor
from kbuild.image.registry.client import RegistryClient
from kbuild.progress import Progress

_READ = 1 << 20
_PART = 16 << 20
_RETRIES = 5  # one after the other, without getting on
_PROGRESS = 1 << 20  # bytes more that the registry has: then it gets on
_BACKOFF_SECONDS = 0.5
# Too large a request, a part that does not follow the last one, too many requests, and what passes by itself.
_PASSING = frozenset({413, 416, 429, 500, 502, 503, 504})
_LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_BINARY = {"Content-Type": "application/octet-stream"}


def push_blob(
    client: RegistryClient, blob: Descriptor, path: Path, *, sources: Sequence[str] = (), progress: Progress
) -> bool:
    """Bring a blob into the client's repository from a file, or from one of the repositories in ``sources``.

    Returns whether it was mounted, so that no byte was sent. Raises RegistryError, and OSError when the file cannot be
    read.
    """
    place = _start(client, blob, sources)
    if place is None:
        return True
    with path.open("rb") as file, client.explained():
        _upload(client, blob, file, place, progress)
    return False


def _start(client: RegistryClient, blob: Descriptor, sources: Sequence[str]) -> str | None:
    """The url of a new upload, None where the blob was mounted instead."""
    for source in sources:
        try:
            response = client.request("POST", "blobs/uploads/", params={"mount": str(blob.digest), "from": source})
        except RegistryError:
            continue  # a token server may refuse us the other repository: then the blob is sent
        if response.status_code == 201:
            return None
        if response.status_code == 202:
            return _location(response)
    response = client.request("POST", "blobs/uploads/")
    client.expect(response, 202)
    return _location(response)


def _upload(client: RegistryClient, blob: Descriptor, file: BinaryIO, place: str, progress: Progress) -> None:
    retry, reached = _retries(), 0
    whole, offset = True, 0
    while True:
        if offset - reached >= _PROGRESS:
            retry, reached = _retries(), offset
        end = blob.size if whole else min(offset + _PART, blob.size)
        last = whole or offset == blob.size
        lost: requests.RequestException | None = None
        response: requests.Response | None = None
        try:
            if last:
                body = _Body(file, offset, end, blob.size, progress)
                response = client.ask("PUT", place, params={"digest": str(blob.digest)}, data=body, headers=_BINARY)
            else:
                headers = {**_BINARY, "Content-Range": f"{offset}-{end - 1}"}
                response = client.ask(
                    "PATCH", place, data=_Body(file, offset, end, blob.size, progress), headers=headers
                )
        except _LOST as error:
            lost = error
        if response is not None:
            if response.status_code == (201 if last else 202):
                if last:
                    return
                place, offset = _location(response), end
                continue
            if response.status_code not in _PASSING:
                client.expect(response, 201 if last else 202)
        found: tuple[str, int] | None = None
        while found is None:
            retry = _pause(retry, client, response, lost)
            try:
                if client.has_blob(blob.digest):
                    return  # only the answer was lost
                progress.note(f"sending the rest of {blob.digest}")
                found = _resume(client, place, response)
            except RegistryError as error:
                if not isinstance(error.__cause__, _LOST):
                    raise
                lost = error.__cause__  # it is still away
        whole = False
        place, offset = found


def _retries() -> Tries:
    return Tries(total=_RETRIES, backoff_factor=_BACKOFF_SECONDS)


def _pause(
    retry: Tries, client: RegistryClient, response: requests.Response | None, lost: requests.RequestException | None
) -> Tries:
    """Wait as long as the registry asks, else longer each time; raises what went wrong when it did so too often."""
    if retry.total == 0 and lost is not None:
        raise lost
    if retry.total == 0 and response is not None:
        client.expect(response, 201)
    following = retry.increment("PUT", "blobs/uploads/", error=lost)
    following.sleep(None if response is None else response.raw)
    return following


def _resume(client: RegistryClient, place: str, response: requests.Response | None) -> tuple[str, int]:
    """Where the upload goes on: its url and how many bytes are there; a new upload where the old one is gone."""
    if response is None or response.status_code != 416:
        told = client.request("GET", place)
        match = re.fullmatch(r"(?:bytes=)?0-(\d+)", told.headers.get("Range", ""))
        if told.status_code == 204 and match is not None:
            # "0-0" is also how an empty upload is told.
            return _location(told, place), int(match[1]) + 1 if int(match[1]) else 0
    started = client.request("POST", "blobs/uploads/")
    client.expect(started, 202)
    return _location(started), 0


def _location(response: requests.Response, default: str = "") -> str:
    return urljoin(response.url, response.headers.get("Location", default))


class _Body:
    """A part of a file as a request's body: its length is told, each piece read is counted, it can be sent again."""

    def __init__(self, file: BinaryIO, start: int, end: int, size: int, progress: Progress) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._size = size
        self._progress = progress

    def __len__(self) -> int:
        return self._end - self._start

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, or a megabyte."""
        here = self._file.tell()
        wanted = _READ if size < 0 else max(size, _READ)
        data = self._file.read(min(wanted, self._end - here))
        self._progress.count(here + len(data), self._size)
        return data

    def rewind(self) -> None:
        """Start again from the first byte of the part."""
        self._file.seek(self._start)
