"""What instructions of a Dockerfile say of an image's config, as the native engine reads it.

Formats: the Dockerfile reference; the config of OCI image-spec config.md and, for the health check, of Docker's
moby/docker-image-spec.
"""

from __future__ import annotations

import re
from typing import Any

from kbuild.image.engines.copying import Ownership
from kbuild.image.engines.dockerfile import Instruction, read_exec_form, take_flags

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def healthcheck(instruction: Instruction) -> dict[str, Any]:
    """The config's ``Healthcheck``, times in nanoseconds. Raises BuildFailed and UnsupportedInstruction."""
    flags, rest = take_flags(instruction)
    kind, _, text = rest.partition(" ")
    if kind.upper() == "NONE":
        return {"Test": ["NONE"]}
    if kind.upper() != "CMD" or not text.strip():
        instruction.fail("is followed by CMD and a command, or by NONE")
    words = read_exec_form(text.strip())
    check: dict[str, Any] = {"Test": ["CMD-SHELL", text.strip()] if words is None else ["CMD", *words]}
    for flag, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start-period", "StartPeriod")):
        if flag in flags:
            check[key] = _nanoseconds(instruction, flags.pop(flag))
    if "retries" in flags:
        retries = flags.pop("retries")
        if not retries.isdecimal():
            instruction.fail(f"--retries={retries} is not a number")
        check["Retries"] = int(retries)
    if flags:
        instruction.unsupported(f"--{next(iter(flags))} is not known to the native engine")
    return {key: value for key, value in check.items() if value}


def command(text: str) -> list[str]:
    """ENTRYPOINT's or CMD's words; those of a shell where it is one text."""
    words = read_exec_form(text)
    return ["/bin/sh", "-c", text] if words is None else words


def ownership(instruction: Instruction, flags: dict[str, str]) -> Ownership:
    """COPY's ``--chown`` and ``--chmod``. Raises UnsupportedInstruction."""
    unknown = set(flags) - {"chown", "chmod"}
    if unknown:
        instruction.unsupported(f"--{min(unknown)} is not known to the native engine")
    user, colon, group = flags.get("chown", "0:0").partition(":")
    group = group if colon else user
    mode = flags.get("chmod")
    if not (user.isdecimal() and group.isdecimal()):
        instruction.unsupported("--chown takes numbers in the native engine: names need the image's /etc/passwd")
    if mode is not None and not re.fullmatch("[0-7]{3,4}", mode):
        instruction.unsupported("--chmod takes an octal number in the native engine")
    return Ownership(uid=int(user), gid=int(group), mode=None if mode is None else int(mode, 8))


def _nanoseconds(instruction: Instruction, text: str) -> int:
    """Go's durations, such as ``1m30s`` (``time.ParseDuration``)."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        instruction.fail(f"{text!r} is not a duration such as 30s or 1m30s")
    return sum(round(float(number) * _UNITS[unit]) for number, unit in parts)
