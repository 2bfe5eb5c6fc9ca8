"""Where answers go: a folder of parts, or one file, whose parts lie in a hidden folder beside it until it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import ConfigurationError
from kbuild.scoring import job as jobs
from kbuild.scoring.errors import InputRefused, OtherAnswers
from kbuild.scoring.parts import ENDINGS, InputTable, Part
from kbuild.scoring.places import Place
from kbuild.scoring.snapshots import ICEBERG

# Endings of files of tables that a person may expect, and that a folder would not have.
_OTHERS = {".xlsx", ".xls", ".json", ".jsonl", ".tsv", ".feather", ".arrow", ".txt", ".pq", ".gz", ".zip"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOutput:
    """``out`` is the folder of the parts, ``single`` the file that they become, if they do."""

    out: Place
    single: Path | None

    @classmethod
    def of(cls, text: str) -> ScoreOutput:
        """What ``text`` names. Raises InputRefused for a url that cannot be used."""
        if text == "-":
            raise InputRefused(
                "answers are files, which - is none of", hint="name a folder or a file, ./- for this one"
            )
        if text.partition("://")[0] == "memory" or "::memory://" in text:
            raise InputRefused(
                f"{text} is memory of this process: the answers would be gone with it", hint="name a folder or a file"
            )
        path = Path(text.removeprefix("file://"))
        if "://" in text.removeprefix("file://") or not text.endswith((".parquet", ".csv")) or path.is_dir():
            return cls(out=Place(text), single=None)
        return cls(out=Place(str(path.with_name(f".{path.name}.kbuild"))), single=path)

    def check_name(self) -> None:
        """Raises ConfigurationError for a name that a person would not give a folder, and OtherAnswers where a file has
        the name of a folder that answers are to lie in."""
        local = self.out.text.removeprefix("file://")
        found = next((each for each in (Path(local), *Path(local).parents) if os.path.lexists(each)), None)
        if "://" not in local and found is not None and not found.is_dir():
            raise OtherAnswers(
                f"{found} is not a folder, and answers in {self.single or self.out.text} need one of that name",
                hint="name another OUT: a folder, or a file that ends with .parquet or .csv",
            )
        if self.single is None and (ending := Path(self.out.text).suffix.lower()) in _OTHERS:
            raise ConfigurationError(
                f"answers are not written as {ending[1:]}: {self.out.text}",
                hint="name a file that ends with .parquet or .csv, or a folder",
            )

    def kind(self, asked: str | None, sources: Sequence[InputTable]) -> str:
        """parquet or csv; raises ConfigurationError where the file's name says other than what was asked."""
        self.check_name()
        if self.single is None:
            return asked or ("csv" if sources[0].kind == "csv" else "parquet")
        named = self.single.suffix[1:]
        if asked not in (None, named):
            raise ConfigurationError(
                f"{self.single.name} is not a name for --format {asked}", hint=f"name a file that ends with .{asked}"
            )
        return named

    def refuse_input(self, text: str, sources: Sequence[InputTable], kind: str) -> None:
        """Raises InputRefused where what is written would replace a table that is read, or be read as one."""
        if self.single is not None:
            mine = os.path.realpath(self.single)
            for source in sources:
                if os.path.realpath(source.path) == mine:
                    raise InputRefused(f"{self.single} is the input: answers would replace it", hint="name another OUT")
        if text.startswith(ICEBERG):
            return  # its catalog says where its files are, and they are of no folder's
        given = Place(text)
        made = [f"{self.out.text}/part-00000-{0:012x}.{kind}", *([] if self.single is None else [str(self.single)])]
        if any(given.finds(Place(each), tuple(ENDINGS)) for each in made):
            raise InputRefused(
                f"answers in {self.single or self.out.text} would be input of {text}", hint="name an OUT outside of IN"
            )

    def unfinished_input(self) -> dict[str, str]:
        """What a batch that was begun there and is not finished reads: content by path. Raises OtherAnswers."""
        if not self.out.exists(jobs.FILE):
            return {}
        job, _ = jobs.read(self.out)
        return {} if self.manifest(job.digest) is not None else dict(job.content)

    def manifest(self, digest: str) -> dict[str, Any] | None:
        """The manifest of the job of this digest, None where its answers are not all there. Raises OSError."""
        folder, name = self._manifest()
        try:
            text = folder.read(name)
        except Exception as error:
            if "://" not in folder.text:
                raise
            # A url's driver raises what it likes, and seldom names the url.
            raise OSError(f"{folder.text} cannot be read: {' '.join(str(error).split())[:300]}") from error
        try:
            found = json.loads(text or b"null")
            if found["job"] != digest:
                return None
            files = {part["file"] for part in found["parts"]}
        except (ValueError, KeyError, TypeError):  # somebody else's
            return None
        whole = self.single.is_file() if self.single is not None else files <= {*self.out.names()}
        return found if whole else None

    def clear(self, digest: str, *, overwrite: bool) -> None:
        """Remove what an earlier job wrote there, and nothing else, if that is asked for.

        Raises OtherAnswers where there is a file that must not be replaced.
        """
        begun = jobs.read(self.out) if self.out.exists(jobs.FILE) else None
        there = self.single is not None and self.single.exists()
        if not overwrite:
            # Of this very job it is one whose manifest was not written any more.
            if there and (begun is None or begun[0].digest != digest):
                raise OtherAnswers(f"{self.single} is there already", hint="name another file, or --overwrite it")
            return
        folder, name = self._manifest()
        if there and begun is None and not folder.exists(name):
            raise OtherAnswers(
                f"{self.single} is there already, and kbuild did not write it", hint="name another file, or remove it"
            )
        if there:
            # Those of the answers that are replaced.
            self._rejected().remove()
        if begun is not None:
            job, parts = begun
            self.out.remove(jobs.MANIFEST)
            for part in parts:
                self.out.remove(f"{part.name(job.digest)}.{job.kind}")
            self.out.remove(jobs.HOME)

    def complete(self, job: jobs.Job, parts: Sequence[Part], manifest: dict[str, Any]) -> dict[str, Any]:
        """Make one file of the parts where that is asked for; returns the manifest, which says where what lies."""
        if self.single is None:
            return manifest
        from kbuild.scoring.local import join

        join(job, parts, self.out, self.single)
        if manifest["failed"]:
            rejected = self._rejected()
            manifest = manifest | {"rejected": rejected.name}
            with rejected.writing("") as new, new.open("wb") as target:
                for name in self.out.names(jobs.REJECTED):
                    with Place(f"{self.out.text}/{jobs.REJECTED}/{name}").reading() as source:
                        shutil.copyfileobj(source, target)
        folder, name = self._manifest()
        Place(f"{folder.text}/{name}").write("", json.dumps(manifest, indent=2).encode() + b"\n")
        self.tidy()
        return manifest

    def tidy(self) -> None:
        """Remove the hidden folder of parts that became one file."""
        if self.single is not None and self.out.exists(jobs.FILE):
            self.out.remove()

    def _rejected(self) -> Place:
        """The rows without an answer, beside the one file."""
        return Place(f"{self.single}.rejected.jsonl")

    def _manifest(self) -> tuple[Place, str]:
        """The folder and the name of what is told of the answers."""
        if self.single is None:
            return self.out, jobs.MANIFEST
        return Place(str(self.single.parent)), f"{self.single.name}.manifest.json"
