"""pip's settings of how its indexes are reached, as variables; what they do is done by ``pip_network``."""

from __future__ import annotations

from collections.abc import Mapping

SETTINGS = ("proxy", "client-cert", "trusted-host")
"""As pip's configuration names them."""

PROXY, CERTIFICATE, TRUSTED = (f"PIP_{name.upper().replace('-', '_')}" for name in SETTINGS)


def network_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """The variables for processes and sessions that talk to the indexes, of pip's settings by name."""
    pairs = zip((PROXY, CERTIFICATE, TRUSTED), SETTINGS, strict=True)
    return {variable: " ".join(settings[name].split()) for variable, name in pairs if settings.get(name)}
