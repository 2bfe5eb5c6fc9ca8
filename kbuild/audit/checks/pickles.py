"""What the pickles of a model would import and call when they are loaded.

Scanner: picklescan, of the three that are kept up. It alone of them grades every import (its own list of dangerous
ones is the longest), takes a stream by itself and has no dependencies; modelscan skips what its file name does not
announce and pins old packages; fickling judges by a decompiled program and takes each unknown import for suspicious,
so that a clean model never passes. What all three miss (compressed pickles, those beside joblib's arrays or inside
bytes) is unwrapped before picklescan sees it. picklescan's list is of what is known to be bad: a finding is certain,
none is no proof.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

from picklescan.scanner import Global, SafetyLevel, scan_pickle_bytes

from kbuild.audit.checks.unwrap import PickleStream, Unreadable, pickle_streams
from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.subject import Subject

_EXTENSIONS = frozenset(
    {".bin", ".cloudpickle", ".ckpt", ".dat", ".data", ".dill", ".joblib", ".npy", ".npz", ".p", ".pickle", ".pkl"}
    | {".pt", ".pth"}
)
_SURE = frozenset({".cloudpickle", ".dill", ".joblib", ".pickle", ".pkl"})
# Of the standard library, what data is made of. All the rest has no business in a model.
_ORDINARY = frozenset(
    {"_codecs", "array", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "numbers"}
    | {"pathlib", "random", "re", "time", "types", "typing", "uuid", "weakref", "zoneinfo", "ipaddress", "string"}
    | {"builtins", "__builtin__", "copy_reg", "abc", "dataclasses", "itertools", "math", "_operator", "operator"}
    | {"statistics", "_random", "_collections", "_functools", "threading", "_thread", "logging"}
)
# Their functions make functions and classes of bytecode in the pickle: those of notebooks, and lambdas.
_CODE_MAKERS = frozenset({"cloudpickle", "dill"})


class PickleCheck:
    """A ``Check`` of every file of the model that holds a pickle."""

    id = "pickles"

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        if subject.bundle is None:
            return CheckResult(check=self.id)
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        looked_at = 0
        named = subject.bundle.facts.pickled
        for file in subject.bundle.files:
            expected = PurePosixPath(file.path).suffix in _SURE or file.path in named
            data = (subject.bundle.root / file.path).read_bytes()
            try:
                streams = list(pickle_streams(data, expected=expected))
            except Unreadable as error:
                if expected or PurePosixPath(file.path).suffix in _EXTENSIONS:
                    unchecked.append(_unchecked(file.path, str(error)))
                continue
            looked_at += bool(streams)
            for stream in streams:
                findings += _judge(file.path, stream)
                if stream.fault is not None:
                    unchecked.append(_unchecked(file.path + stream.place, f"it has no proper end: {stream.fault}"))
        return CheckResult(
            check=self.id,
            findings=tuple(dict.fromkeys(findings)),
            unchecked=tuple(unchecked),
            looked_at=looked_at,
        )


def _judge(path: str, stream: PickleStream) -> Iterator[Finding]:
    place = path + stream.place
    imported = sorted(_globals(stream, place), key=lambda each: (each.module, each.name))
    makers = [each.name for each in imported if each.module.partition(".")[0] in _CODE_MAKERS]
    if makers:
        yield Finding(
            id="pickle-code",
            check="pickles",
            severity="medium",
            where=path,
            evidence=f"{place} carries code of its own ({', '.join(makers)}), which no scan can judge",
            remedy="put these functions and classes into the project's package, which travels as source",
        )
    for found in imported:
        name = f"{found.module}.{found.name}"
        if found.module.partition(".")[0] in _CODE_MAKERS:
            continue
        if found.safety is SafetyLevel.Dangerous:
            yield Finding(
                id="pickle-dangerous",
                check="pickles",
                severity="critical",
                where=path,
                evidence=f"loading {place} would call {name}",
                remedy="do not load this model; find out who wrote it, and train it again",
            )
        elif found.safety is SafetyLevel.Suspicious and _is_odd(found.module):
            yield Finding(
                id="pickle-unusual",
                check="pickles",
                severity="medium",
                where=path,
                evidence=f"loading {place} would import {name}, which no data is made of",
                remedy="see what the model keeps it for, and keep it out of the pickled objects",
            )


def _globals(stream: PickleStream, place: str) -> list[Global]:
    log = logging.getLogger("picklescan")
    level = log.level
    log.setLevel(logging.CRITICAL)  # its findings are told here, once
    try:
        return list(scan_pickle_bytes(io.BytesIO(stream.data), place).globals)
    finally:
        log.setLevel(level)


def _is_odd(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names and root not in _ORDINARY


def _unchecked(where: str, reason: str) -> Unchecked:
    return Unchecked(
        check="pickles", where=where, reason=reason, remedy="log the model again; do not load it before you know why"
    )
