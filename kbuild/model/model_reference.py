"""ModelReference: what a person types to name a model, parsed.

MLflow's uri forms: https://mlflow.org/docs/latest/concepts.html#artifact-locations ("runs:/" and "models:/").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from kbuild.errors import InvalidReference

Kind = Literal["run", "logged", "registered", "path"]
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_LOGGED_ID = re.compile(r"m-[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReference:
    """A parsed reference.

    run: ``run_id`` and, when given, ``name`` (the model's name or artifact path in the run);
    logged: ``model_id``; registered: ``name`` with ``version`` or ``alias``; path: ``path``.
    """

    kind: Kind
    text: str
    run_id: str | None = None
    model_id: str | None = None
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    path: Path | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def short(self) -> str:
        """As progress names it: the whole id of a run was typed, or told when it was chosen."""
        return self.text if self.run_id is None else self.text.replace(self.run_id, self.run_id[:8])

    def at(self, version: str) -> ModelReference:
        """The registered model of this name at that version, whatever alias led there."""
        return ModelReference(kind="registered", text=f"models:/{self.name}/{version}", name=self.name, version=version)

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Read a run id, ``runs:/…``, ``models:/…`` or a folder; raises InvalidReference.

        A folder that exists and holds ``MLmodel`` wins over a run id of the same spelling.
        """
        stripped = text.strip()
        if stripped.startswith("runs:/"):
            return cls._parse_run(stripped)
        if stripped.startswith("models:/"):
            return cls._parse_models(stripped)
        if stripped.startswith("file:"):
            stripped = stripped.removeprefix("file://").removeprefix("file:")
        try:
            folder = Path(stripped).expanduser()
        except RuntimeError as error:  # ~ of nobody
            raise InvalidReference(f"{text!r} names no folder: {error}", hint=FORMS) from error
        if stripped and folder.name == "MLmodel" and folder.is_file():
            folder = folder.parent
        if stripped and (folder / "MLmodel").is_file():
            return cls(kind="path", text=text, path=folder)
        if _RUN_ID.fullmatch(stripped):
            return cls(kind="run", text=text, run_id=stripped)
        if _LOGGED_ID.fullmatch(stripped):
            return cls(kind="logged", text=text, model_id=stripped)
        if stripped and folder.is_dir():
            raise InvalidReference(f"{text} is a folder without an MLmodel file", hint=FORMS)
        raise InvalidReference(f"{text!r} names no model", hint=_meant(stripped) or FORMS)

    @classmethod
    def _parse_run(cls, text: str) -> ModelReference:
        run_id, _, name = text.removeprefix("runs:/").strip("/").partition("/")
        if not re.fullmatch(r"[\w-]+", run_id):
            raise InvalidReference(f"{text!r} has no run id after runs:/", hint=FORMS)
        return cls(kind="run", text=text, run_id=run_id, name=name or None)

    @classmethod
    def _parse_models(cls, text: str) -> ModelReference:
        rest = text.removeprefix("models:/").strip("/")
        if _LOGGED_ID.fullmatch(rest):
            return cls(kind="logged", text=text, model_id=rest)
        name, slash, version = rest.rpartition("/")
        if slash and name and re.fullmatch(r"\d+", version):
            return cls(kind="registered", text=text, name=name, version=version)
        # Names may hold an @, aliases may not.
        name, at, alias = rest.rpartition("@")
        if at and name and re.fullmatch(r"[\w-]+", alias):
            return cls(kind="registered", text=text, name=name, alias=alias)
        if slash and version == "latest":
            rest = rest.removesuffix("/latest")
        if rest and not at and "/" not in rest:
            # MLflow's own alias for the newest version, whatever aliases the model has (docs: "Model Registry").
            return cls(kind="registered", text=text, name=rest, alias="latest")
        raise InvalidReference(f"{text!r} names no registered model with a version or an alias", hint=FORMS)


def _meant(text: str) -> str | None:
    """What begins nearly as one of MLflow's uris, with the right beginning."""
    scheme, colon, rest = text.partition(":/")
    nearest = get_close_matches(scheme.lower(), ("models", "runs"), n=1) if colon and rest.strip("/") else []
    return f"did you mean {nearest[0]}:/{rest.lstrip('/')}?" if nearest else None


FORMS = "give a run id, runs:/RUN_ID/MODEL_NAME, models:/NAME[/VERSION], models:/NAME@ALIAS or a model folder"
"""What names a model, as a hint."""
