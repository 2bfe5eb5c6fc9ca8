"""What is asked: the model, the input and the options, with a digest of all of it. It is written down beside the
answers, and whoever starts again goes on with exactly it, or is told what is different."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kbuild.scoring.errors import InputRefused, OtherAnswers, RowsFailed
from kbuild.scoring.parts import InputTable, Part
from kbuild.scoring.places import Place

HOME, DONE, REJECTED = "_kbuild", "_kbuild/done", "_kbuild/rejected"
FAILED = f"{HOME}/failed.json"
MANIFEST = "_manifest.json"
FILE = f"{HOME}/job.json"
_FORMAT = 3
"""Changes whenever the same rows would be written as other files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """``facts`` are what the archive says of itself; ``keep`` the columns to keep, None for all; ``kind`` is parquet or
    csv; ``content`` has of each table its path and what tells its content."""

    facts: dict[str, Any]
    content: list[list[str]]
    on_error: str
    keep: list[str] | None
    kind: str
    params: dict[str, Any]
    part_rows: int
    batch_rows: int

    @property
    def digest(self) -> str:
        """The sha256 of everything that decides the answers' files."""
        value = [_FORMAT, asdict(self)]
        return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

    def kept(self, names: Sequence[str]) -> list[str]:
        """Which of a table's columns are kept; raises InputRefused for one that it has not."""
        if self.keep is None:
            return list(names)
        missing = [name for name in self.keep if name not in names]
        if missing:
            raise InputRefused(f"--keep names {', '.join(missing)}", hint=f"the columns are {', '.join(names)}")
        return list(self.keep)

    @staticmethod
    def answer_names(answers: Sequence[str], kept: Sequence[str]) -> list[str]:
        """What the answer's columns are called: prefixed until no other column has the name."""
        names: list[str] = []
        for name in answers:
            new = name
            while new in kept or new in names or (new != name and new in answers):
                new = f"prediction_{new}"
            names.append(new)
        return names

    def to_json(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The job and its parts as JSON values."""
        return {"digest": self.digest, "job": asdict(self), "parts": [part.to_json() for part in parts]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> tuple[Job, list[Part]]:
        """The inverse."""
        return cls(**value["job"]), [Part.from_json(each) for each in value["parts"]]


def content_of(sources: Sequence[InputTable]) -> list[list[str]]:
    """What of the input decides the answers."""
    return [[source.shown, source.content] for source in sources]


def begin(job: Job, parts: Sequence[Part], out: Place) -> None:
    """Make ``out`` this job's; raises OtherAnswers where it is another's, or holds what is none of kbuild's."""
    found = _load(out)
    if found is None:
        strange = [name for name in out.names() if name != HOME]
        if strange:
            raise OtherAnswers(
                f"{out.text} holds {', '.join(strange[:3])}, which kbuild did not write", hint="name another folder"
            )
        # Without what urls are signed with: whoever goes on is given IN anew.
        kept = [replace(part, source=replace(part.source, path=part.source.shown)) for part in parts]
        out.write(FILE, json.dumps(job.to_json(kept)).encode())
        return
    if found["digest"] != job.digest:
        mine = asdict(job)
        names = [
            _WORDS.get(name, f"--{name.replace('_', '-')}") for name in mine if found["job"].get(name) != mine[name]
        ]
        raise OtherAnswers(
            f"{out.text} holds answers to something else: other {', '.join(names) or 'code'}",
            hint="name another place, or --overwrite them",
        )


def read(out: Place) -> tuple[Job, list[Part]]:
    """The job that ``out`` is of; raises OtherAnswers where it is of none."""
    found = _load(out)
    if found is None:
        raise OtherAnswers(f"no batch was begun in {out.text}")
    return Job.from_json(found)


def _load(out: Place) -> dict[str, Any] | None:
    there = out.read(FILE)
    if there is None:
        return None
    try:
        found: dict[str, Any] = json.loads(there)
        Job.from_json(found)
        if not isinstance(found["digest"], str):
            raise TypeError(found["digest"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OtherAnswers(
            f"{out.text}/{FILE} is not what this kbuild writes there", hint="name another place, or remove that one"
        ) from error
    return found


def unfinished(job: Job, parts: Sequence[Part], out: Place) -> list[Part]:
    """The parts that nobody has finished."""
    done, there = set(out.names(DONE)), set(out.names())
    names = {part.number: part.name(job.digest) for part in parts}
    return [
        part
        for part in parts
        if f"{names[part.number]}.json" not in done or f"{names[part.number]}.{job.kind}" not in there
    ]


def finish(job: Job, parts: Sequence[Part], out: Place, rows_alone: str | None) -> dict[str, Any]:
    """Write the manifest and return it; raises OtherAnswers where a part lacks, RowsFailed without any answer."""
    records = []
    for part in parts:
        name = part.name(job.digest)
        done = out.read(f"{DONE}/{name}.json")
        if done is None or not out.exists(f"{name}.{job.kind}"):
            raise OtherAnswers(
                f"{out.text} lacks {name}",
                hint=_LACKS,
            )
        records.append(json.loads(done))
    failed = sum(record["failed"] for record in records)
    reasons: dict[str, int] = {}
    for record in records:
        for reason, count in record["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    rows = sum(record["rows"] for record in records)
    if failed == rows:
        said = f": {max(reasons, key=lambda each: reasons[each])}" if reasons else ""
        raise RowsFailed(f"the model answers none of {rows:,} row{'' if rows == 1 else 's'}{said}")
    manifest = {
        "job": job.digest,
        **job.facts,
        "input": [{"path": path, "content": content} for path, content in job.content],
        "options": {name: value for name, value in asdict(job).items() if name not in ("facts", "content")},
        "rows": rows,
        "answered": rows - failed,
        "failed": failed,
        "reasons": dict(sorted(reasons.items(), key=lambda each: (-each[1], each[0]))[:100]),
        "rejected": REJECTED if failed else None,
        "rows_alone": "seen" if rows_alone is None else f"not seen: {rows_alone}",
        "parts": [{name: record[name] for name in ("file", "rows", "failed")} for record in records],
    }
    out.write(MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    return manifest


_LACKS = "score again: what is finished is kept; whoever scores elsewhere must see this very place"
_WORDS = {"facts": "model", "content": "input"}
