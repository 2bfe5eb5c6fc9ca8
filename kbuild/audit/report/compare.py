"""The difference between two models: metrics, parameters, packages, code, artifacts, signature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kbuild.audit.lockview import LockView
from kbuild.audit.subject import read_trained
from kbuild.model.bundle import ModelBundle
from kbuild.offered.change import Change, changes_text, find_changes, short_digests
from kbuild.offered.shown import html_text

PARTS = ("metrics", "parameters", "packages", "code", "artifacts", "signature")


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two: ``parameters`` and ``metrics`` are the run's; ``lock`` the one stored with it, where one is."""

    reference: str
    bundle: ModelBundle
    lock: LockView | None
    parameters: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)


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
        parts = {part: [each.to_json() for each in changes] for part, changes in self.changes}
        return {"before": self.before, "after": self.after, "packages_from": self.packages_from, **parts}

    def to_text(self) -> str:
        """One line a change: ``+`` only in the second, ``-`` only in the first, ``~`` differs."""
        before, after = short_digests(self.before), short_digests(self.after)
        if self.is_empty:
            return f"no differences between {before} and {after}\n"
        lines = [f"--- {before}", f"+++ {after}"]
        for part, changes in self.changes:
            lines += changes_text(f"{part} ({self.packages_from})" if part == "packages" else part, changes)
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
        "metrics": _changes(_numbers(before.metrics), _numbers(after.metrics)),
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
    return tuple(sorted(find_changes(before, after)))


def _numbers(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" if float(f"{value:.6g}") == value else repr(value) for name, value in metrics.items()}


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
