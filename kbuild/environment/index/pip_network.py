"""How pip is told to reach its indexes, where kbuild asks them itself: ``proxy``, ``client-cert`` and ``trusted-host``.

Formats: pip's docs, "pip" (General Options) and "Using a proxy server". The settings travel as pip's own variables,
which override nothing of the environment's, and count for the indexes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from kbuild.bounded.answers import BoundedAdapter
from kbuild.environment.index.pip_settings import CERTIFICATE, PROXY, TRUSTED


class _Trusting(BoundedAdapter):
    """Takes any certificate, as pip does of a host that it is told to trust."""

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        super().cert_verify(conn, url, False, cert)  # type: ignore[no-untyped-call]

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        return super().build_connection_pool_key_attributes(request, False, cert)


def configure(session: requests.Session, environ: Mapping[str, str], **adapter: Any) -> None:
    """Have a session reach servers as pip's settings say; ``adapter`` are options of adapters for trusted hosts."""
    proxy = environ.get(PROXY)
    if proxy:
        # As for pip, it counts for more than HTTPS_PROXY; a session's own would count for less.
        _send_by(session, proxy if "://" in proxy else f"http://{proxy}")
    certificate = environ.get(CERTIFICATE)
    if certificate:
        session.cert = certificate
    trusted = environ.get(TRUSTED, "").split()
    if trusted:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    for host in trusted:
        parts = urlsplit(host if "://" in host else f"https://{host}")
        netloc = parts.netloc.rpartition("@")[2]
        for start in [f"https://{netloc}/"] if parts.port is not None else [f"https://{netloc}/", f"https://{netloc}:"]:
            session.mount(start, _Trusting(**adapter))


def _send_by(session: requests.Session, proxy: str) -> None:
    merge = session.merge_environment_settings

    def with_proxy(url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        merged = merge(url, proxies, stream, verify, cert)
        merged["proxies"] = {"http": proxy, "https": proxy}
        return merged

    session.merge_environment_settings = with_proxy  # type: ignore[method-assign]
