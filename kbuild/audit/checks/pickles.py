"""What the pickles of a model would import and call when they are loaded.

By an allow-list: what is not known to make data, from the standard library, numpy, pandas (``ordinary``), the
libraries that models are made with (``libraries``), the model's own code or the policy, is a finding. picklescan, whose
list of what is known to be bad is the longest, tells which of those are sure to be dangerous.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from kbuild.audit.checks.flavors import code_of_flavors, fetched_by_flavors, find_references, names_of_flavors
from kbuild.audit.checks.judged import Judge
from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.pickled.effort import read_whole
from kbuild.audit.pickled.libraries import LIBRARY_NAMES, Libraries
from kbuild.audit.pickled.unwrap import Unreadable, pickle_streams
from kbuild.audit.subject import Subject
from kbuild.digest import digest_file

_EXTENSIONS = frozenset(
    {".bin", ".cloudpickle", ".ckpt", ".dat", ".data", ".dill", ".joblib", ".npy", ".npz", ".p", ".pickle", ".pkl"}
    | {".pt", ".pth", ".7z", ".lz4"}
)
_SURE = frozenset({".cloudpickle", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
_CODE = "code"  # the folder of a model that its own source travels in


class PickleCheck:
    """A ``Check`` of every file of the model that holds a pickle.

    ``downloads`` is the cache of locked packages; ``allowed`` are names that the policy adds, ``package.module.Class``
    or ``package.*``.
    """

    id = "pickles"

    def __init__(self, *, downloads: Path | None = None, allowed: tuple[str, ...] = ()) -> None:
        self._downloads, self._allowed = downloads, allowed

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        if subject.bundle is None:
            return CheckResult(check=self.id)
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        looked_at, imports = 0, set[str]()
        named = subject.bundle.facts.pickled
        libraries = self._libraries(subject)
        judge = Judge(libraries=libraries, allowed=self._allowed)

        def keep(judged: Iterable[Finding | Unchecked]) -> None:
            for each in judged:
                if isinstance(each, Finding):
                    findings.append(each)
                else:
                    unchecked.append(each)

        for file in subject.bundle.files:
            expected = PurePosixPath(file.path).suffix in _SURE or file.path in named
            seen = False
            try:
                data = read_whole(subject.bundle.root / file.path)
                for stream in pickle_streams(data, expected=expected):
                    if stream.code:
                        findings.append(_lambda(file.path))
                        continue
                    seen = True
                    imports |= {module.partition(".")[0] for module, _ in stream.named if not stream.other}
                    keep(judge.of_stream(file.path, stream))
                    if stream.fault is not None and (expected or stream.named or stream.closed or _is_named(file.path)):
                        unchecked.append(_unchecked(file.path + stream.place, f"it has no proper end: {stream.fault}"))
            except Unreadable as error:
                unchecked.append(_unchecked(file.path, str(error)))
            looked_at += seen
        references, unread = find_references(subject.bundle)
        for path, stream in names_of_flavors(subject.bundle, libraries.own_roots, references):
            imports |= {module.partition(".")[0] for module, _ in stream.named}
            keep(judge.of_stream(path, stream))
        findings += code_of_flavors(references)
        unchecked += [*unread, *fetched_by_flavors(subject.bundle)]
        return CheckResult(
            check=self.id,
            findings=tuple(dict.fromkeys(findings)),
            unchecked=tuple(dict.fromkeys(unchecked)),
            looked_at=looked_at,
            imports=tuple(sorted(imports)),
        )

    def _libraries(self, subject: Subject) -> Libraries:
        assert subject.bundle is not None  # noqa: S101  for the type checker
        downloads = self._downloads
        locked = () if subject.lock is None else subject.lock.entries
        wheels = [each for each in locked if each.manager == "pip" and each.sha256]

        def find(name: str) -> Path | None:
            for entry in wheels:  # one a platform, and not all of them were fetched
                if downloads is None:
                    return None
                path = downloads / str(entry.sha256) / entry.filename
                if entry.canonical == name and path.is_file() and digest_file(path).hex == entry.sha256:
                    return path
            return None

        code = f"{_CODE}/"
        own = {file.path for file in subject.bundle.files if file.path.startswith(code)}
        roots = {path.removeprefix(code).partition("/")[0].removesuffix(".py") for path in own}
        root = subject.bundle.root

        def read(place: str) -> bytes | None:
            return (root / code / place).read_bytes() if code + place in own else None

        return Libraries(wheels=find, own=read, own_roots=_own_only(roots, subject))


def _own_only(roots: set[str], subject: Subject) -> frozenset[str]:
    """The model's own packages, without those that only have the name of another's: which one is loaded depends."""
    locked = {entry.name.replace("-", "_") for entry in subject.lock.entries} if subject.lock is not None else set()
    taken = sys.stdlib_module_names | locked | LIBRARY_NAMES
    return frozenset(roots - taken - {""})


def _is_named(path: str) -> bool:
    return PurePosixPath(path).suffix in _EXTENSIONS


def _lambda(path: str) -> Finding:
    return Finding(
        id="model-code",
        check="pickles",
        severity="critical",
        where=path,
        evidence=f"{path} has a Keras layer that holds code or loads some (Lambda, TorchModuleWrapper, TFSMLayer)",
        remedy="make the layer a class of the project's package, and train it again",
    )


def _unchecked(where: str, reason: str) -> Unchecked:
    return Unchecked(
        check="pickles", where=where, reason=reason, remedy="log the model again; do not load it before you know why"
    )
