"""A canary: a second image that gets a part of the requests, to be seen before it gets all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import count

from kbuild.deploy.deployment import Deployment, check_name, make_label
from kbuild.errors import ConfigurationError
from kbuild.progress import how_many

DEFAULT_PERCENT = 10
_SUFFIX = "-canary"
_FAR = 5  # percent of the requests by which a share that replicas make may be another one than was asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """The deployment that gets ``percent`` of the requests, 1 to 99; the name is that of the stable one."""

    deployment: Deployment
    percent: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """The Gateway (Gateway API) that requests come in by, in ``namespace`` or its own; for ``hostname`` or any."""

    name: str
    namespace: str | None = None
    hostname: str | None = None

    @classmethod
    def parse(cls, text: str, hostname: str | None) -> Gateway:
        """Read ``NAME`` or ``NAMESPACE/NAME``; raises ConfigurationError."""
        namespace, _, name = text.rpartition("/")
        check_name("--gateway", name)
        check_name("--namespace", namespace or None, option="--gateway")
        # Its first label may be a wildcard.
        check_name("--hostname", hostname.removeprefix("*.") if hostname else hostname)
        return cls(name=name, namespace=namespace or None, hostname=hostname)


def parse_canary(text: str) -> tuple[str, int]:
    """Read ``MODEL|IMAGE`` or ``MODEL|IMAGE=PERCENT``; raises ConfigurationError."""
    subject, found, percent = text.rpartition("=")
    if not found:
        return text, DEFAULT_PERCENT
    if not re.fullmatch("[1-9][0-9]?", percent, re.ASCII) or not subject:
        raise ConfigurationError(
            f"{percent!r} is not a share of the requests in percent", hint=f"such as --canary {subject or 'MODEL'}=10"
        )
    return subject, int(percent)


def separate(canary: Canary) -> Deployment:
    """As a deployment beside the stable one, by another name."""
    return replace(canary.deployment, name=make_label(f"{canary.deployment.name}{_SUFFIX}"))


def by_replicas(made: Deployment, canary: Canary) -> Deployment:
    """The canary with as many replicas as give it its share where each replica of both gets as many requests.

    Raises ConfigurationError where the least number of replicas makes it another share by more than five percent.
    """
    least, most = (_replicas(canary.percent, each) for each in (made.size.least, made.size.most))
    share = _share(canary.percent, made.size.least)
    if not _is_near(canary.percent, made.size.least):
        # As many as one canary has its share of, or the next more that can: of 40 % one and two cannot.
        first = max(1, round((100 - canary.percent) / canary.percent))
        needed = next(each for each in count(first) if _is_near(canary.percent, each))
        raise ConfigurationError(
            f"{how_many(made.size.least, 'replica')} and {least} canary give it {share:.0f} % of the requests, not "
            f"{canary.percent} %",
            hint=f"--replicas {needed}..{max(needed, made.size.most)}, or --gateway NAME, which counts requests",
        )
    separated = separate(canary)
    return replace(separated, size=replace(separated.size, least=least, most=max(least, most)))


def _replicas(percent: int, stable: int) -> int:
    return max(1, round(percent / (100 - percent) * stable))


def _share(percent: int, stable: int) -> float:
    canaries = _replicas(percent, stable)
    return 100 * canaries / (canaries + stable)


def _is_near(percent: int, stable: int) -> bool:
    return abs(_share(percent, stable) - percent) <= _FAR
