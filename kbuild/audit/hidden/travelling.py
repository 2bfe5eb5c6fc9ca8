"""kbuild's own part that travels in a model, compared with what this kbuild ships: it is loaded in kbuild's place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from kbuild._version import __version__
from kbuild.audit.finding import Finding, Unchecked
from kbuild.digest import digest_file
from kbuild.model.bundle import ModelBundle
from kbuild.progress import at_most
from kbuild.shipped import model_files, model_part

_NAME = "kbuild"
_SHOWN = 5


def compare_travelling(bundle: ModelBundle, own: Sequence[PurePosixPath]) -> Iterator[Finding | Unchecked]:
    """Files of kbuild's name among ``own``, the paths of the model's code below its folder, that this kbuild has
    otherwise, or not at all, and those that lack. Of a model that another kbuild recorded nothing here tells:
    Unchecked."""
    there = {str(path) for path in own if path.parts[0].partition(".")[0] == _NAME}
    found = list(_find_changes(bundle, there)) if there else []
    record = bundle.facts.record
    if found and record and (record.get("version"), record.get("part")) != (__version__, model_part()):
        yield Unchecked(
            check="code",
            where=str(PurePosixPath(bundle.facts.code, _NAME)),
            reason=f"this part of kbuild is of another one than this, {__version__}: the model says of "
            f"{record.get('version')!s:.40}",
            remedy="audit it with the kbuild that recorded the model, or train it again with this one",
        )
        return
    yield from found


def _find_changes(bundle: ModelBundle, there: set[str]) -> Iterator[Finding]:
    folder, expected = PurePosixPath(bundle.facts.code), model_files()
    digests = {file.path: file.digest for file in bundle.files}
    for path in sorted(there & expected.keys()):
        if digests[str(folder / path)] != digest_file(expected[path]):
            yield _differs(str(folder / path), f"it is not what kbuild {__version__} has there")
    for path in sorted(there - expected.keys()):
        yield _differs(str(folder / path), f"kbuild {__version__} has no such file")
    if lacking := sorted(expected.keys() - there):
        yield _differs(str(folder / _NAME), f"of kbuild {__version__} it lacks {at_most(lacking, _SHOWN)}")


def _differs(where: str, evidence: str) -> Finding:
    return Finding(
        id="code-kbuild",
        check="code",
        severity="high",
        where=where,
        evidence=f"{evidence}: the model has it loaded in the place of kbuild's own",
        remedy="do not load this model before you know who changed it; train it again, or put kbuild's own file there",
    )
