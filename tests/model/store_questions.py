"""The same questions for every way to a tracking store: what a build asks, and what the answers must have in common.

Used by the tests of sqlite stores here and by the integration tests on a real tracking server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow

from kbuild.errors import KbuildError
from kbuild.model.fetch import MlflowStore, ModelStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import DirectStore


class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[str], params=None):
        return model_input


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What was logged: run ids by what is in the run, and the model id of the run with one model."""

    uri: str
    one: str
    two: str
    none: str
    deleted: str
    removed: str
    unfinished: str
    model_id: str
    gone_id: str
    first_id: str

    @property
    def familiar(self) -> list[str]:
        """References that need no client of MLflow's."""
        return [
            self.one,
            f"runs:/{self.one}/model",
            f"models:/{self.model_id}",
            f"runs:/{self.two}/second",
            "models:/churn/1",
            "models:/churn/2",
            "models:/churn@champion",
            self.removed,
        ]

    @property
    def others(self) -> list[str]:
        """References that name nothing, or more than one model."""
        return [
            self.two,
            self.none,
            self.deleted,
            self.unfinished,
            f"runs:/{self.one}/nope",
            f"models:/{self.gone_id}",
            "models:/m-" + "f" * 32,
            "f" * 32,
            "models:/churn/3",
            "models:/churn/9",
            "models:/churn@nobody",
            "models:/nothing/1",
        ]


def log_everything(uri: str, artifacts: str | None) -> Logged:
    """Fill an empty store with one of each case."""
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", artifacts)

    def log(*names: str) -> tuple[str, list[str]]:
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_param("alpha", 0.5)
            for step, loss in enumerate((0.5, 0.125)):
                mlflow.log_metric("loss", loss, step=step)
            mlflow.log_metric("ratio", float("inf"))
            models = [
                mlflow.pyfunc.log_model(name=name, python_model=Echo(), pip_requirements=["mlflow"]).model_id
                for name in names
            ]
        return run.info.run_id, [str(model) for model in models]

    try:
        one, models = log("model")
        two, both = log("first", "second")
        none, _ = log()
        deleted, gone = log("model")
        client.delete_logged_model(gone[0])
        removed, _ = log("model")
        client.delete_run(removed)
        unfinished, _ = log()
        model = client.create_logged_model(experiment, name="model", source_run_id=unfinished)
        client.log_outputs(unfinished, [mlflow.entities.LoggedModelOutput(model_id=model.model_id, step=0)])
        version = mlflow.register_model(f"models:/{models[0]}", "churn")
        client.set_registered_model_alias("churn", "champion", version.version)
        mlflow.register_model(f"models:/{both[0]}", "churn")
        client.delete_model_version("churn", mlflow.register_model(f"models:/{both[1]}", "churn").version)
    finally:
        mlflow.set_tracking_uri(None)
    return Logged(
        uri=uri,
        one=one,
        two=two,
        none=none,
        deleted=deleted,
        removed=removed,
        unfinished=unfinished,
        model_id=models[0],
        gone_id=gone[0],
        first_id=both[0],
    )


@dataclass(frozen=True, kw_only=True)
class Alone(DirectStore):
    """A lean store that has nobody to ask."""

    def _mlflow(self, *, reached: bool = False) -> MlflowStore:
        raise AssertionError("MLflow's client was asked")


def check_answers(logged: Logged, scratch: Path) -> None:
    """Lean answers equal those of MLflow's client, errors and their words included."""
    alone, lean, mlflow_store = (kind(tracking_uri=logged.uri) for kind in (Alone, DirectStore, MlflowStore))
    for text in logged.familiar:
        assert _fetched(alone, text, scratch / "lean") == _fetched(mlflow_store, text, scratch / "mlflow"), text
    for text in logged.others:
        answers = [_fetched(store, text, scratch / "either") for store in (lean, mlflow_store)]
        assert answers[0] == answers[1], text
        assert isinstance(answers[0], tuple), text
    for run_id in (logged.one, logged.none, logged.removed):
        assert alone.read_run(run_id) == mlflow_store.read_run(run_id)
    missing = [_failure(store.read_run, "f" * 32) for store in (lean, mlflow_store)]
    assert missing[0] == missing[1]
    chosen = [chosen_by(alone, mlflow_store, f"@latest~{back}", project=None) for back in range(4)]
    # The first of them have no model, or it was deleted or never finished; of one time any may be the first.
    assert {choice.reference for choice in chosen[:2]} == {logged.one, logged.two}
    assert isinstance(chosen[3], tuple) and chosen_by(alone, mlflow_store, "@latest", project="nobody")[2] is not None


def chosen_by(alone: ModelStore, mlflow_store: ModelStore, text: str, *, project: str | None) -> Any:
    """What both choose, as one, or how both fail."""
    answers = []
    for store in (alone, mlflow_store):
        try:
            answers.append(store.choose(text, project=project))
        except KbuildError as error:
            answers.append((type(error), error.message, error.hint))
    assert answers[0] == answers[1], text
    return answers[0]


def check_files(logged: Logged, scratch: Path) -> None:
    """What one writes the other reads, and what is not there is None for both."""
    alone, mlflow_store = Alone(tracking_uri=logged.uri), MlflowStore(tracking_uri=logged.uri)
    writers: list[tuple[ModelStore, ModelStore]] = [(alone, mlflow_store), (mlflow_store, alone)]
    for number, (writer, reader) in enumerate(writers):
        file = scratch / f"notes {number}.txt".replace(" ", "-")
        for content in (b"first", b"second, in its place"):
            file.write_bytes(content)
            writer.upload(logged.one, [file], "kbuild/deep")
            found = reader.download(logged.one, f"kbuild/deep/{file.name}", scratch / "down" / str(number))
            assert found is not None and found.read_bytes() == content
    for store in (alone, mlflow_store):
        assert store.download(logged.one, "kbuild/nothing.txt", scratch / "none") is None
        assert store.download(logged.none, "nowhere/nothing.txt", scratch / "none") is None


def check_tags(logged: Logged) -> None:
    """Tags that the lean store writes are those that MLflow's client would have written, to the same things."""
    alone, mlflow_store = Alone(tracking_uri=logged.uri), MlflowStore(tracking_uri=logged.uri)
    client = mlflow.MlflowClient(logged.uri)

    def present() -> list[dict[str, str]]:
        versions = sorted(client.search_model_versions("name = 'churn'"), key=lambda version: int(version.version))
        runs = [client.get_run(run_id).data.tags for run_id in (logged.one, logged.two)]
        return [
            {k: v for k, v in tags.items() if k.startswith("kbuild.")} for tags in (*runs, *(v.tags for v in versions))
        ]

    assert present() == [{}, {}, {}, {}]
    alone.set_tags(logged.one, {"kbuild.a": "1", "kbuild.b": "é 'quoted'"}, model_uri=f"models:/{logged.model_id}")
    after = present()
    assert after == [{"kbuild.a": "1", "kbuild.b": "é 'quoted'"}, {}, {"kbuild.a": "1", "kbuild.b": "é 'quoted'"}, {}]
    mlflow_store.set_tags(
        logged.one, {"kbuild.a": "1", "kbuild.b": "é 'quoted'"}, model_uri=f"models:/{logged.model_id}"
    )
    assert present() == after
    alone.set_tags(logged.one, {"kbuild.a": "2"}, model_uri="models:/m-" + "0" * 32)
    assert present() == [{"kbuild.a": "2", "kbuild.b": "é 'quoted'"}, {}, after[2], {}]
    alone.set_tags(logged.two, {"kbuild.a": "3"}, model_uri=f"models:/{logged.first_id}")
    assert present()[1] == present()[3] == {"kbuild.a": "3"}
    lean = DirectStore(tracking_uri=logged.uri)
    own = {f"{each.name}/{each.version}" for each in client.search_model_versions(f"run_id = '{logged.one}'")}
    for store in (lean, mlflow_store):
        found = store.versions(logged.one, f"models:/{logged.model_id}")
        assert found and set(found) <= own and store.versions(logged.one, "models:/m-" + "0" * 32) == []
    image = {"kbuild.image": "a@sha256:1", "kbuild.image_digest": "sha256:1"}
    notes = []
    for store in (lean, mlflow_store):
        store.set_tags(logged.one, image, model_uri=f"models:/{logged.model_id}")
        described = [each.description for each in client.search_model_versions("name = 'churn'") if each.description]
        tagged = (client.get_run(logged.one).data.tags, client.get_logged_model(logged.model_id).tags)
        notes.append([*(tags["mlflow.note.content"] for tags in tagged), *described])
    assert notes[0] == notes[1] and len(notes[0]) == 3
    assert all("kbuild run --port 8080 sha256:1" in each for each in notes[0])
    for run_id in (logged.removed, "f" * 32):
        failures = [_failure(store.set_tags, run_id, {"kbuild.a": "1"}) for store in (lean, mlflow_store)]
        assert failures[0] == failures[1]


def _fetched(store: ModelStore, text: str, into: Path) -> Any:
    try:
        bundle = store.fetch(ModelReference.parse(text), into)
    except KbuildError as error:
        return type(error), error.message, error.hint
    return replace(bundle, root=Path())


def _failure(ask: Any, *values: Any) -> Any:
    try:
        ask(*values)
    except KbuildError as error:
        return type(error), error.message, error.hint
    raise AssertionError("nothing was refused")
