"""The difference between two models: packages, code, parameters, artifacts, signature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kbuild.audit.lockview import LockView
from kbuild.audit.subject import read_trained
from kbuild.model.bundle import ModelBundle
from kbuild.offered.shown import html_text

PARTS = ("packages", "code", "parameters", "artifacts", "signature")


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two: ``parameters`` are the run's; ``lock`` the one stored with it, where there is one."""

    reference: str
    bundle: ModelBundle
    lock: LockView | None
    parameters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Change:
    """``before`` None: only in the second; ``after`` None: only in the first."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDiff:
    """Changes by part, in the order of ``PARTS``; ``packages_from`` tells what the packages were read from."""

    before: str
    after: str
    packages_from: str
    changes: tuple[tuple[str, tuple[Change, ...]], ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not any(changes for _, changes in self.changes)

    def to_json(self) -> dict[str, Any]:
        """The JSON form: every part is there, with a list of changes."""
        parts = {
            part: [{"name": each.name, "before": each.before, "after": each.after} for each in changes]
            for part, changes in self.changes
        }
        return {"before": self.before, "after": self.after, "packages_from": self.packages_from, **parts}

    def to_text(self) -> str:
        """One line a change: ``+`` only in the second, ``-`` only in the first, ``~`` differs."""
        if self.is_empty:
            return f"no differences between {self.before} and {self.after}\n"
        lines = [f"--- {self.before}", f"+++ {self.after}"]
        for part, changes in self.changes:
            if changes:
                lines += [f"{part} ({self.packages_from})" if part == "packages" else part, *map(_line, changes)]
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        return html_text(self.to_text())


def compare(before: Side, after: Side) -> ModelDiff:
    """Packages are compared by the locks when both have one, else by the versions recorded in training."""
    if before.lock is not None and after.lock is not None:
        packages_from = "locks"
        packages = _changes(_locked(before.lock), _locked(after.lock))
    else:
        packages_from = "training"
        packages = _changes(_trained(before.bundle), _trained(after.bundle))
    found = {
        "packages": packages,
        "code": _changes(_files(before.bundle, code=True), _files(after.bundle, code=True)),
        "parameters": _changes(before.parameters, after.parameters),
        "artifacts": _changes(_files(before.bundle, code=False), _files(after.bundle, code=False)),
        "signature": _changes(_signature(before.bundle), _signature(after.bundle)),
    }
    return ModelDiff(
        before=before.reference,
        after=after.reference,
        packages_from=packages_from,
        changes=tuple((part, found[part]) for part in PARTS),
    )


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return tuple(Change(name=name, before=before.get(name), after=after.get(name)) for name in names)


def _locked(lock: LockView) -> dict[str, str]:
    """Versions; where one version has two builds, the file tells them apart."""
    return {
        f"{entry.where} ({entry.subdir})": f"{entry.version} sha256:{(entry.sha256 or 'none')[:12]}"
        for entry in lock.entries
    }


def _trained(bundle: ModelBundle) -> dict[str, str]:
    trained = read_trained(bundle)
    return {"python": trained.python, **{f"pip:{name}": version for name, version in trained.versions.items()}}


def _files(bundle: ModelBundle, *, code: bool) -> dict[str, str]:
    """Digests by path; MLmodel holds ids and times of its own and is compared by its signature."""
    return {
        file.path: f"sha256:{file.digest.hex[:12]}, {file.size} bytes"
        for file in bundle.files
        if file.path.startswith("code/") == code and file.path != "MLmodel"
    }


def _signature(bundle: ModelBundle) -> dict[str, str]:
    """``inputs.age`` by column; what has no columns by its position."""
    columns: dict[str, str] = {}
    for part, entries in (bundle.facts.signature or {}).items():
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            name = entry.get("name") if isinstance(entry, dict) else None
            rest = {key: value for key, value in entry.items() if key != "name"} if isinstance(entry, dict) else entry
            columns[f"{part}.{name or number}"] = json.dumps(rest, sort_keys=True)
    return columns


def _line(change: Change) -> str:
    if change.before is None:
        return f"  + {change.name}: {change.after}"
    if change.after is None:
        return f"  - {change.name}: {change.before}"
    return f"  ~ {change.name}: {change.before} -> {change.after}"
