"""The model's own code: what is loaded of it without anybody being able to read it, or under another's name.

Its sources are whoever's model it is; they run where it is loaded, and no scan judges them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from kbuild.audit.finding import CheckResult, Finding, Severity, Unchecked
from kbuild.audit.hidden.code import NATIVE, PROGRAMS, native, read_code_inside
from kbuild.audit.hidden.travelling import compare_travelling
from kbuild.audit.pickled.libraries import LIBRARY_NAMES
from kbuild.audit.subject import Subject
from kbuild.model.bundle import ModelBundle

_LOADERS = frozenset({"mlflow", "kbuild"})
_BYTECODE = frozenset({".pyc", ".pyo"})
_UNCHECKED_HASH = 0x01  # PEP 552: taken whatever the source is; Python writes none of these by itself
_HEADER = 8
_GGUF, _TEMPLATE = b"GGUF", b"tokenizer.chat_template"
_BEGIN = 64 << 20  # bytes; what GGUF says of itself stands before its numbers
_SOURCES = "remove it: the sources are enough; look for what it does before the model is loaded"


class CodeCheck:
    """A ``Check`` of the files of its own modules and of the module that loads the model.

    ``allowed`` are names that the policy adds, ``package.module.Class`` or ``package.*``.
    """

    id = "code"

    def __init__(self, *, allowed: tuple[str, ...] = ()) -> None:
        self._allowed = allowed

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        if subject.bundle is None:
            return CheckResult(check=self.id)
        # MLflow looks for modules there before it looks anywhere else.
        folder = PurePosixPath(subject.bundle.facts.code)
        paths = [PurePosixPath(file.path) for file in subject.bundle.files]
        own = [path.relative_to(folder) for path in paths if path.is_relative_to(folder)]
        findings = [*_bytecode(folder, own), *_names(folder, own), *self._loader(subject.bundle, own)]
        if subject.kind != "image":  # of an image it is compared with what was built
            findings += _kept_bytecode(subject.bundle.root, folder)
        natives = [folder / path for path in own if path.suffix in NATIVE or ".so." in path.name]
        unread = [native(str(path)) for path in natives]
        unread += _by_content(subject.bundle.root, (path for path in paths if path not in natives))
        unread += read_code_inside(subject.bundle.root, paths, (folder / path for path in own))
        for each in compare_travelling(subject.bundle, own):
            findings += [each] if isinstance(each, Finding) else []
            unread += [each] if isinstance(each, Unchecked) else []
        return CheckResult(
            check=self.id,
            findings=tuple(findings),
            unchecked=tuple(unread),
            looked_at=len(own) + 1,
        )

    def _loader(self, bundle: ModelBundle, own: list[PurePosixPath]) -> Iterator[Finding]:
        loader = bundle.facts.loader_module
        roots = {path.parts[0].removesuffix(".py") for path in own}
        root = loader.partition(".")[0]
        if root in (roots - sys.stdlib_module_names) | _LOADERS or any(
            loader == each or (each.endswith(".*") and f"{loader}.".startswith(each[:-1])) for each in self._allowed
        ):
            return
        evidence = f"MLmodel has {loader or 'nothing'} load the model, which is neither MLflow's nor in its own code"
        remedy = "see what it does; log the model with that module in code_paths, or add it to allowed-pickles"
        yield _finding("model-loader", "medium", "MLmodel", evidence, f"{remedy} of kbuild.yml's audit with a reason")


def _bytecode(folder: PurePosixPath, own: list[PurePosixPath]) -> Iterator[Finding]:
    for path in own:
        if path.suffix in _BYTECODE:
            evidence = "it is bytecode, which is loaded where no source of that name is, and which nobody reads"
            yield _finding("code-bytecode", "high", str(folder / path), evidence, _SOURCES)


def _kept_bytecode(root: Path, folder: PurePosixPath) -> Iterator[Finding]:
    """What Python keeps beside sources is no content of a model, and is taken for them where the folder is loaded."""
    for kept in sorted((root / folder).rglob("__pycache__/*.pyc")):
        if _is_taken_unseen(kept):
            evidence = "it is bytecode that is loaded in the place of its source, whatever that says"
            yield _finding("code-bytecode", "high", kept.relative_to(root).as_posix(), evidence, _SOURCES)


def _is_taken_unseen(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_HEADER)
    return int.from_bytes(header[4:8], "little") == _UNCHECKED_HASH


def _names(folder: PurePosixPath, own: list[PurePosixPath]) -> Iterator[Finding]:
    taken = sys.stdlib_module_names | LIBRARY_NAMES
    for name in sorted({path.parts[0] for path in own if path.suffix in {".py", *NATIVE, *_BYTECODE}}):
        module = name.partition(".")[0]
        if module in taken:
            evidence = f"its code has a module {module}, which is loaded where that of the same name is meant"
            remedy = "give it another name, and log the model again"
            yield _finding("code-name", "medium", str(folder / name), evidence, remedy)


def _finding(id: str, severity: Severity, where: str, evidence: str, remedy: str) -> Finding:
    return Finding(id=id, check="code", severity=severity, where=where, evidence=evidence, remedy=remedy)


def _by_content(root: Path, paths: Iterable[PurePosixPath]) -> Iterator[Unchecked]:
    for path in paths:
        with (root / path).open("rb") as file:
            begin = file.read(_HEADER)
            has_template = begin.startswith(_GGUF) and _TEMPLATE in file.read(_BEGIN)
        if begin.startswith(PROGRAMS):
            yield native(str(path))
        elif has_template:
            reason = "it has a template of chats, which is a program that some readers run without bounds"
            remedy = "read its tokenizer.chat_template; have it rendered in Jinja's sandbox"
            yield Unchecked(check="code", where=str(path), reason=reason, remedy=remedy)
