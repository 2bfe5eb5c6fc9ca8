"""How conda is told to reach its channels, where kbuild asks them itself: ``ssl_verify``, ``client_ssl_cert`` and
``proxy_servers``.

Formats: conda's docs, "Settings"; the proxies are those of requests, which conda hands them to.
"""

from __future__ import annotations

from collections.abc import Mapping

import requests
import urllib3

from kbuild.environment.conda_settings import CondaSettings


def reach_as_conda(session: requests.Session, settings: CondaSettings, environ: Mapping[str, str]) -> None:
    """Have a session reach channels as conda does. What variables say of proxies and certificates counts for more."""
    if settings.verify is not None and not environ.get("REQUESTS_CA_BUNDLE"):
        session.verify = settings.verify
        if settings.verify is False:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    if settings.certificate:
        certificate, *key = settings.certificate
        session.cert = (certificate, key[0]) if key else certificate
    if settings.proxies:
        session.proxies = dict(settings.proxies)
