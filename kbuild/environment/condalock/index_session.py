"""How an index is spoken to while a lock is made, by conda-lock's vendored poetry and ahead of it."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

THREADS = 8
"""As many as keep connections to one server."""


class HostCredentials(AuthBase):
    """Those of a url are for its own host, where they stand above those of ~/.netrc, as for pip."""

    def __init__(self, netloc: str, credentials: tuple[str, str]) -> None:
        self._netloc, self._credentials = netloc, credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        found = self._credentials if urlsplit(url).netloc == self._netloc else get_netrc_auth(url)
        return request if found is None else HTTPBasicAuth(*found)(request)
