"""What the model registry's fields mean: of which model a version is, and which names there can be.

A version keeps no model id in the open-source registry, but a source: ``models:/m-…``, the model's folder, or
``models:/NAME/VERSION`` of the version that MLflow's ``copy_model_version`` copied. A copy's download uri is the folder
of the model at the chain's end (``create_model_version`` in ``mlflow/store/model_registry/sqlalchemy_store.py``).
"""

from __future__ import annotations

import posixpath
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

PROMPT_TAG = "mlflow.prompt.is_prompt"
_MODELS = "models:/"
_FOLDER_OF_MODEL = re.compile(r"(?:^|/)(m-[0-9a-f]{32})(?:/artifacts)?/?$")
_MODEL_URI = re.compile(r"models:/+(m-[0-9a-f]{32})/?")
_LONGEST_CHAIN = 32


def version_in(uri: str) -> tuple[str, str] | None:
    """NAME and VERSION of ``models:/NAME/VERSION``, None for any other uri."""
    if not uri.startswith(_MODELS):
        return None
    name, slash, version = uri.removeprefix(_MODELS).strip("/").rpartition("/")
    return (name, version) if slash and name and version.isdecimal() else None


def is_of_model(model_uri: str, name: str, version: str, source: str, locate: Callable[[str, str], str]) -> bool:
    """Whether a registered version is of the model ``models:/m-…`` or ``runs:/RUN/PATH``, copies followed.

    ``locate`` tells the download uri of a version; it is asked about copies alone.
    """
    for _ in range(_LONGEST_CHAIN):
        if version_in(source) is None:
            break
        source = locate(name, version)
        name, version = version_in(source) or (name, version)
    model_id = _MODEL_URI.fullmatch(model_uri)
    if model_id is not None:
        found = _MODEL_URI.fullmatch(source) or (
            None if source.startswith(_MODELS) else _FOLDER_OF_MODEL.search(source)
        )
        return found is not None and found[1] == model_id[1]
    # MLflow 2: a folder of the run's artifacts.
    run_id, _, path = model_uri.removeprefix("runs:/").partition("/")
    source = unquote(source).rstrip("/")
    path = unquote(path).strip("/")
    return bool(run_id and path) and (source == f"runs:/{run_id}/{path}" or source.endswith(f"/artifacts/{path}"))


def find_model_id(location: str) -> str | None:
    """The id of the logged model whose folder of artifacts this is, None for any other location."""
    found = _FOLDER_OF_MODEL.search(location)
    return None if found is None else found[1]


def names_in_file(path: Path) -> list[str]:
    """``NAME`` of each registered model with a version, and ``NAME@ALIAS``, of a store in sqlite; else nothing.

    The tables are those of MLflow's ``store/model_registry/dbmodels/models.py``.
    """
    no_prompt = "name NOT IN (SELECT name FROM registered_model_tags WHERE key = ?)"
    asked = (
        f"SELECT DISTINCT name FROM model_versions WHERE {no_prompt} UNION "  # noqa: S608
        f"SELECT name || '@' || alias FROM registered_model_aliases WHERE {no_prompt} ORDER BY 1"
    )
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            return [str(row[0]) for row in connection.execute(asked, (PROMPT_TAG, PROMPT_TAG))]
    except sqlite3.Error:
        return []


def is_name(name: str) -> bool:
    """Whether MLflow takes this name for a registered model (``_validate_model_name`` in ``utils/validation.py``)."""
    if not name.strip() or any(sign in name for sign in "/:"):
        return False
    return posixpath.normpath(name) == name and name != "." and not name.startswith("..")


def make_filter(name: str) -> str:
    """A search filter that finds at least the versions of this name: the caller drops those of other names.

    MLflow's filters have no escapes, so a sign that could end the text, or means something in LIKE, stands for any.
    """
    pattern = re.sub(r"""['"`\\%_\n\r]""", "_", name)
    plain = re.fullmatch(r"""[^'"`\\\n\r]*""", name)
    return f"name = '{name}'" if plain else f"name LIKE '{pattern}'"
