"""A tracking store in a sqlite file, read and tagged by its tables.

The tables are those of MLflow's ``store/tracking/dbmodels/models.py`` and ``store/model_registry/dbmodels/models.py``.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kbuild.model.folders import open_local
from kbuild.model.tracking import (
    NAME,
    PROJECT,
    USER,
    Folder,
    LoggedModel,
    Run,
    RunQuery,
    Tracking,
    TrainedRun,
    Unfamiliar,
    Version,
)

# The alembic revisions of MLflow's releases, each tested against the client of the release that makes it.
WITHOUT_WORKSPACES = frozenset(
    {
        *("6953534de441", "bda7b8c39065"),  # MLflow 3.1.0, later 3.1
        "770bee3ae1dd",  # 3.2
        "1a0cddfcaa16",  # 3.3
        "71994744cf8e",  # 3.4
        "bf29a5ff90ea",  # 3.5, 3.6, 3.7
        "1bd49d398cd23",  # 3.8
        "d3e4f5a6b7c8",  # 3.9
    }
)
WITH_WORKSPACES = frozenset(
    {
        "1b5f0d9ad7c1",  # 3.10
        "c3d6457b6d8a",  # 3.11
        "7d34483879f0",  # 3.12
        "da6fb0208061",  # 3.13
        "b7e4c1a90f23",  # 3.14
        "6f8d9c3b2a1e",  # 3.15
        "b7e2c1a4d9f3",  # 3.16
        "dc11669786a5",  # 3.17
    }
)

_READY = 2  # mlflow.entities.LoggedModelStatus
_DEFAULT_WORKSPACE = "default"
_DELETED_VERSION = "Deleted_Internal"
_LONGEST_TAG = 250, 5000
_BUSY = 20.0  # seconds to wait for another writer, as MLflow does


@contextmanager
def open_sqlite(uri: str) -> Iterator[Tracking]:
    """The store at a ``sqlite:///`` uri; raises Unfamiliar for a file that is not there or has another schema."""
    name = uri.removeprefix("sqlite:///")
    path = Path(name).absolute()
    if any(sign in name for sign in "?#%") or not path.is_file():
        raise Unfamiliar("a database of another form")
    try:
        # Only reading, whatever the statements: a writer of its own is opened for tags.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY)) as connection:
            if not _has_workspaces(connection):
                _pretend_workspaces(connection)
            yield _Sqlite(path=path, connection=connection)
    except (sqlite3.Error, OverflowError) as error:  # the latter for a number that sqlite cannot hold
        raise Unfamiliar(f"sqlite: {error}") from error


def _has_workspaces(connection: sqlite3.Connection) -> bool:
    found = {str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")}
    if len(found) != 1 or not found <= WITH_WORKSPACES | WITHOUT_WORKSPACES:
        raise Unfamiliar(f"a schema of revision {', '.join(sorted(found)) or 'none'}")
    return found <= WITH_WORKSPACES


def _pretend_workspaces(connection: sqlite3.Connection) -> None:
    """Lay views over the older tables, for this connection alone, so that one set of questions fits both."""
    for table in ("experiments", "registered_model_aliases", "model_versions", "model_version_tags"):
        connection.execute(f"CREATE TEMP VIEW {table} AS SELECT *, 'default' AS workspace FROM main.{table}")  # noqa: S608


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sqlite:
    """A ``Tracking``; sqlite's own errors are turned into Unfamiliar by ``open_sqlite``."""

    path: Path
    connection: sqlite3.Connection

    def run(self, run_id: str) -> Run:
        rows = self.connection.execute(
            "SELECT artifact_uri, runs.lifecycle_stage FROM runs JOIN experiments USING (experiment_id)"
            " WHERE run_uuid = ? AND workspace = ?",
            (run_id, _DEFAULT_WORKSPACE),
        ).fetchall()
        if len(rows) != 1 or not rows[0][0]:
            raise Unfamiliar("no such run")
        outputs = self.connection.execute(
            "SELECT destination_id FROM inputs"
            " WHERE source_type = 'RUN_OUTPUT' AND source_id = ? AND destination_type = 'MODEL_OUTPUT'",
            (run_id,),
        )
        return Run(
            run_id=run_id,
            artifact_uri=rows[0][0],
            active=rows[0][1] == "active",
            tags=self._texts("SELECT key, value FROM tags WHERE run_uuid = ?", run_id),
            parameters=self._texts("SELECT key, value FROM params WHERE run_uuid = ?", run_id),
            metrics={
                key: math.nan if is_nan else value
                for key, value, is_nan in self.connection.execute(
                    "SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", (run_id,)
                )
            },
            models=tuple(dict.fromkeys(row[0] for row in outputs)),
        )

    def newest(self, wanted: RunQuery, many: int) -> Sequence[TrainedRun]:
        tag, clauses, values = "SELECT value FROM tags WHERE run_uuid = runs.run_uuid AND key = ?", [""], list[object]()
        for key, value in ((PROJECT, wanted.project), (USER, wanted.user)):
            if value is not None:
                clauses.append(f" AND ({tag}) = ?")
                values += [key, value]
        if wanted.before is not None:
            clauses.append(" AND start_time < ?")
            values.append(wanted.before)
        rows = self.connection.execute(
            f"SELECT run_uuid, COALESCE(NULLIF(runs.name, ''), ({tag}), ''), start_time, ({tag})"  # noqa: S608
            " FROM runs JOIN experiments USING (experiment_id)"
            f" WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active' AND workspace = ?"
            f"{''.join(clauses)} ORDER BY start_time DESC, run_uuid LIMIT ?",
            (NAME, USER, _DEFAULT_WORKSPACE, *values, many),
        ).fetchall()
        return [TrainedRun(run_id=run_id, name=name, started=when, user=user) for run_id, name, when, user in rows]

    def logged_model(self, model_id: str) -> LoggedModel | None:
        rows = self.connection.execute(
            "SELECT logged_models.name, logged_models.artifact_location, status, logged_models.lifecycle_stage"
            " FROM logged_models JOIN experiments USING (experiment_id) WHERE model_id = ? AND workspace = ?",
            (model_id, _DEFAULT_WORKSPACE),
        ).fetchall()
        if len(rows) != 1:
            raise Unfamiliar("no such model")
        name, location, status, stage = rows[0]
        if stage == "deleted":
            return None
        return LoggedModel(model_id=model_id, name=name, location=location, ready=status == _READY)

    def version_with_alias(self, name: str, alias: str) -> str:
        if alias.lower() == "latest":
            raise Unfamiliar("an alias with a meaning of its own")
        return str(
            self._one(
                "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ? AND workspace = ?",
                (name, alias, _DEFAULT_WORKSPACE),
            )
        )

    def version_location(self, name: str, version: str) -> str:
        return str(
            self._one(
                "SELECT COALESCE(NULLIF(storage_location, ''), source) FROM model_versions"
                " WHERE name = ? AND version = ? AND workspace = ? AND current_stage != ?",
                (name, int(version), _DEFAULT_WORKSPACE, _DELETED_VERSION),
            )
        )

    def versions_of(self, run_id: str) -> Sequence[Version]:
        rows = self.connection.execute(
            "SELECT name, version, source, description FROM model_versions"
            " WHERE run_id = ? AND workspace = ? AND current_stage != ?"
            # Prompts are kept as versions too, and no search finds them.
            " AND name NOT IN (SELECT name FROM model_version_tags WHERE workspace = ?"
            " AND key = 'mlflow.prompt.is_prompt' AND value = 'true')",
            (run_id, _DEFAULT_WORKSPACE, _DELETED_VERSION, _DEFAULT_WORKSPACE),
        ).fetchall()
        return [
            Version(
                name=name,
                version=str(version),
                source=source or "",
                tags=self._texts(
                    "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ? AND workspace = ?",
                    name,
                    version,
                    _DEFAULT_WORKSPACE,
                ),
                description=description,
            )
            for name, version, source, description in rows
        ]

    def set_run_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write rows of ``tags`` as MLflow's store does; see ``_write`` for why that is safe."""
        active = "SELECT COUNT(*) FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
        self._write(
            tags,
            (active, (run_id,)),
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)"
            " ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
            (run_id,),
        )

    def set_version_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Write rows of ``model_version_tags`` as MLflow's store does."""
        key = (version.name, int(version.version))
        there = "SELECT COUNT(*) FROM model_versions WHERE name = ? AND version = ? AND current_stage != ?"
        if _has_workspaces(self.connection):
            statement = (
                "INSERT INTO model_version_tags (key, value, name, version, workspace) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (workspace, key, name, version) DO UPDATE SET value = excluded.value"
            )
            self._write(
                tags,
                (f"{there} AND workspace = ?", (*key, _DELETED_VERSION, _DEFAULT_WORKSPACE)),
                statement,
                (*key, _DEFAULT_WORKSPACE),
            )
        else:
            statement = (
                "INSERT INTO model_version_tags (key, value, name, version) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (key, name, version) DO UPDATE SET value = excluded.value"
            )
            self._write(tags, (there, (*key, _DELETED_VERSION)), statement, key)

    def describe_version(self, version: Version, text: str) -> None:
        """No tag, so MLflow's to write."""
        raise Unfamiliar("a version's description")

    def model_tags(self, model_id: str) -> Mapping[str, str]:
        return self._texts("SELECT tag_key, tag_value FROM logged_model_tags WHERE model_id = ?", model_id)

    def set_model_tags(self, model_id: str, tags: Mapping[str, str]) -> None:
        """Write rows of ``logged_model_tags`` as MLflow's store does."""
        found = self.connection.execute("SELECT experiment_id FROM logged_models WHERE model_id = ?", (model_id,))
        rows = found.fetchall()
        if len(rows) != 1:
            raise Unfamiliar("no such model")
        there = "SELECT COUNT(*) FROM logged_models WHERE model_id = ? AND experiment_id = ?"
        key = (model_id, rows[0][0])
        self._write(
            tags,
            (there, key),
            "INSERT INTO logged_model_tags (tag_key, tag_value, model_id, experiment_id) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (model_id, tag_key) DO UPDATE SET tag_value = excluded.tag_value",
            key,
        )

    def folder(self, location: str) -> Folder:
        return open_local(location)

    def _write(
        self,
        tags: Mapping[str, str],
        check: tuple[str, tuple[object, ...]],
        statement: str,
        key: tuple[object, ...],
    ) -> None:
        """Tags alone are written here, and nothing else ever is.

        A tag is one row that no other row and no trigger depends on, put there by the same library under the same file
        locks as MLflow's. One transaction that holds the write lock from its start checks the schema and the tagged
        thing again and writes all tags or none. Importing MLflow for it would double the time of a small build.
        """
        if any(len(name) > _LONGEST_TAG[0] or len(value) > _LONGEST_TAG[1] for name, value in tags.items()):
            raise Unfamiliar("a long tag")
        with closing(
            sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=_BUSY, isolation_level=None)
        ) as writer:
            writer.execute("PRAGMA foreign_keys = ON")
            writer.execute("BEGIN IMMEDIATE")
            try:
                if _has_workspaces(writer) != _has_workspaces(self.connection):
                    raise Unfamiliar("the schema changed")
                if writer.execute(*check).fetchone()[0] != 1:
                    raise Unfamiliar("what is to be tagged is not there")
                for name, value in tags.items():
                    writer.execute(statement, (name, value, *key))
            except BaseException:
                writer.execute("ROLLBACK")
                raise
            writer.execute("COMMIT")

    def _one(self, statement: str, values: tuple[object, ...]) -> object:
        rows = self.connection.execute(statement, values).fetchall()
        if len(rows) != 1 or rows[0][0] is None:
            raise Unfamiliar("no such version")
        return rows[0][0]

    def _texts(self, statement: str, *values: object) -> dict[str, str]:
        return dict(self.connection.execute(statement, values).fetchall())
