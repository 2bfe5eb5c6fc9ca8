"""What is deployed and how much of it: the values that every kind of manifest is made from."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from kbuild.errors import ConfigurationError
from kbuild.image.oci.image_reference import ImageReference

LONGEST = 50
"""Signs of a name: a label has 63 (RFC 1123), and Knative and ReplicaSets add to it."""
GRACE = 30
"""Seconds the server drains for, ``KBUILD_GRACE``."""
MAX_BODY = "KBUILD_MAX_BODY_BYTES"
"""The server's variable for what it takes of a request."""
COMPONENT = {"app.kubernetes.io/component": "model-server"}
"""A label of all pods."""
_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"  # RFC 1123, as apimachinery's util/validation has it


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    longest: int
    kind: str
    hint: str


_NAMES = {
    "--name": _Rule(
        pattern=re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?"),
        longest=LONGEST,
        kind="DNS label",
        hint="small letters, digits and -, a letter first, at most {}; such as {}",
    ),
    # These are only named here, and may begin with a digit.
    "--namespace": _Rule(
        pattern=re.compile(_LABEL),
        longest=63,
        kind="DNS label",
        hint="small letters, digits and - between them, at most {}; such as {}",
    ),
    **dict.fromkeys(
        ("--pull-secret", "--gateway", "--hostname"),
        _Rule(
            pattern=re.compile(rf"{_LABEL}(?:\.{_LABEL})*"),
            longest=253,
            kind="DNS subdomain",
            hint="small letters, digits, and - or single dots between them, at most {}; such as {}",
        ),
    ),
}
# apimachinery's resource.Quantity, as far as people write it.
_CPU = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?|[0-9]{1,9}m)")
_MEMORY = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?(?:[KMGT]i|[kMGT])?")
_AMOUNTS = "such as --memory 512Mi or 2Gi"
_LEAST_MEMORY = 6
"""MiB, with less of which Docker starts no container (its "Minimum memory limit allowed is 6MB")."""
_MOST_MEMORY = 2**63  # the bytes that Kubernetes counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """``cpu`` and ``memory`` as Kubernetes writes quantities; ``least`` to ``most`` replicas.

    It is asked whether it has started every ``start_period`` seconds, ``start_times`` times; at ``busy`` percent of its
    processors there are more replicas. ``max_body`` bytes are what its memory has room for in a request, None where
    that is as much as the server takes by itself, or not known.
    """

    cpu: str = "1"
    memory: str = "1Gi"
    least: int = 2
    most: int = 10
    # A large model is read for minutes.
    start_period: int = 5
    start_times: int = 120
    busy: int = 70
    max_body: int | None = None

    def __post_init__(self) -> None:
        if not _CPU.fullmatch(self.cpu) or self.cpus == 0:
            raise ConfigurationError(f"{self.cpu!r} is not an amount of processors", hint="such as --cpu 2 or 500m")
        written = _MEMORY.fullmatch(self.memory) and self.memory.strip("0.kKMGTi")
        if not written or self.memory_bytes >= _MOST_MEMORY:
            raise ConfigurationError(f"{self.memory!r} is not an amount of memory", hint=_AMOUNTS)
        if self.memory_bytes < _LEAST_MEMORY << 20:
            raise ConfigurationError(
                f"{self.memory} bytes of memory hold no container: it takes {_LEAST_MEMORY}Mi at least",
                hint=f"{_AMOUNTS}; without a unit they are bytes",
            )
        if not 0 <= self.least <= self.most or self.most == 0:
            raise ConfigurationError(
                f"{self.least}..{self.most} are not replicas", hint="such as --replicas 2..10, or 3 for always three"
            )

    def check_awake(self) -> None:
        """Raises ConfigurationError where nothing may run: an autoscaler of Kubernetes' own wakes nobody up."""
        if self.least == 0:
            raise ConfigurationError(
                f"{self.least}..{self.most} are not replicas that Kubernetes itself can scale to",
                hint=f"--replicas 1..{self.most}, or --to knative, or --to kserve --serverless",
            )

    @property
    def cpus(self) -> Decimal:
        """Processors."""
        return Decimal(self.cpu[:-1]) / 1000 if self.cpu.endswith("m") else Decimal(self.cpu)

    @property
    def memory_bytes(self) -> int:
        """What the quantity is."""
        number = self.memory.rstrip("kKMGTi")
        unit = self.memory[len(number) :]
        power = " KMGT".index(unit[:1].upper() or " ")
        return int(float(number) * (1024 if unit.endswith("i") else 1000) ** power)

    @property
    def workers(self) -> int:
        """Worker processes that have a processor each."""
        return max(1, math.floor(self.cpus))

    @property
    def resources(self) -> dict[str, dict[str, str]]:
        """Requests and limits: one amount, so that what was tried is what runs (quality of service "Guaranteed")."""
        amounts = {"cpu": self.cpu, "memory": self.memory}
        return {"requests": amounts, "limits": dict(amounts)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """``image`` by digest; ``user`` is its numeric uid, None where the image names none; ``facts`` are annotations."""

    name: str
    image: ImageReference
    port: int = 8080
    user: int | None = None
    size: Size = field(default_factory=Size)
    namespace: str | None = None
    pull_secret: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.digest is None:
            raise ConfigurationError(f"{self.image} is not named by its digest")
        for what, text in (("--name", self.name), ("--namespace", self.namespace), ("--pull-secret", self.pull_secret)):
            check_name(what, text)

    @property
    def labels(self) -> dict[str, str]:
        """What selects its pods; it never changes with the image."""
        return {"app.kubernetes.io/name": self.name, **COMPONENT}

    @property
    def variables(self) -> dict[str, str]:
        """Of the server: a cgroup's quota is not told everywhere."""
        bound = {} if self.size.max_body is None else {MAX_BODY: str(self.size.max_body)}
        return {"KBUILD_WORKERS": str(self.size.workers), "KBUILD_GRACE": str(GRACE), **bound}


def check_name(what: str, text: str | None, *, option: str | None = None) -> None:
    """Raises ConfigurationError for a name that no cluster takes; ``what`` is the option it came by, or is part of."""
    rule = _NAMES[what]
    if text is not None and not (len(text) <= rule.longest and rule.pattern.fullmatch(text)):
        example = make_label(text) if text else "models"
        raise ConfigurationError(
            f"{option or what} {text!r} is not a {rule.kind}", hint=rule.hint.format(rule.longest, example)
        )


def make_label(text: str) -> str:
    """A DNS label (RFC 1035: it begins with a letter) for any name: as it is read, and where signs are lost or there
    are too many of them, a hash that tells it from others."""
    folded = unicodedata.normalize("NFKD", text)
    plain = "".join(sign for sign in folded if not unicodedata.combining(sign)).lower()
    label = re.sub("[^a-z0-9]+", "-", plain, flags=re.ASCII).strip("-")
    if label and not label[0].isalpha():
        label = f"model-{label}"
    lost = re.search(r"[^a-z0-9\s._/-]", plain, re.ASCII) is not None
    if label and not lost and len(label) <= LONGEST:
        return label
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{(label or 'model')[: LONGEST - 9].rstrip('-')}-{mark}"


def parse_replicas(text: str) -> tuple[int, int]:
    """Read ``3`` or ``2..10``; raises ConfigurationError."""
    found = re.fullmatch(r"([0-9]{1,6})(?:\.\.([0-9]{1,6}))?", text.strip(), re.ASCII)
    if found is None:
        raise ConfigurationError(f"{text!r} are not replicas", hint="such as --replicas 2..10, or 3 for always three")
    return int(found[1]), int(found[2] or found[1])
