"""What people type instead of a whole reference, in MLflow's own store."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click
import mlflow
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from store_questions import Alone, chosen_by

from kbuild.cli import app
from kbuild.errors import AmbiguousModel, ImageNotFound, KbuildError, ModelNotFound, RunWithoutModel
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import Choice, count_back

pytestmark = pytest.mark.filterwarnings("ignore")


class Trained:
    """A store with runs; each starts a second after the one before."""

    def __init__(self, client: mlflow.MlflowClient) -> None:
        self.client, self.store, self._time = client, MlflowStore(tracking_uri=client.tracking_uri), 1_700_000_000_000

    def add(self, name: str, *, project: str = "churn", model: bool = True, experiment: str = "0", **more: str) -> str:
        self._time += 1000
        tags = {"mlflow.source.name": project, **{f"mlflow.{key}": value for key, value in more.items()}}
        run = self.client.create_run(experiment, run_name=name, tags=tags, start_time=self._time)
        run_id = str(run.info.run_id)
        if model:
            logged = self.client.create_logged_model(experiment, name="model", source_run_id=run_id)
            self.client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model_id=logged.model_id, step=0)])
            self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.set_terminated(run_id)
        return run_id

    def choose(self, text: str, project: str | None = "churn") -> Choice:
        if count_back(text) is not None:  # found without MLflow, and as by its client
            chosen_by(Alone(tracking_uri=self.client.tracking_uri), self.store, text, project=project)
        return self.store.choose(text, project=project)


@pytest.fixture
def trained(client: mlflow.MlflowClient) -> Trained:
    return Trained(client)


@pytest.mark.slow
def test_the_newest_runs_with_models_of_the_project_are_counted(trained: Trained) -> None:
    old = trained.add("old")
    elsewhere = trained.add("mid", experiment=trained.client.create_experiment("another"))
    trained.add("failed", model=False)
    gone = trained.add("gone")
    trained.client.delete_run(gone)
    theirs = trained.add("theirs", project="somebody")
    assert [trained.choose(text).reference for text in ("@latest", "@latest~1")] == [elsewhere, old]
    assert trained.choose("@latest", project=None).reference == theirs
    assert "(mid), started 2023-11-1" in trained.choose("@latest~0").told
    with pytest.raises(RunWithoutModel, match="only 2 runs of churn have logged a model") as caught:
        trained.choose("@latest~2")
    assert caught.value.hint == "@latest~1"
    with pytest.raises(RunWithoutModel, match=r"^only 1 run of somebody has logged a model$") as caught:
        trained.choose("@latest~1", project="somebody")
    assert caught.value.hint == "kedro run makes another one; @latest is the one there is"


@pytest.mark.slow
def test_a_model_that_mlflow_2_kept_counts_and_names_are_as_they_are(trained: Trained) -> None:
    project = """it's "odd" ü%_"""
    named = trained.add("", project=project, runName="of old")
    old = trained.add("  a\n name  ", project="it's", model=False)
    folder = Path(url2pathname(urlsplit(trained.client.get_run(old).info.artifact_uri).path))
    (folder / "empty").mkdir(parents=True)
    with pytest.raises(RunWithoutModel):
        trained.choose("@latest", project="it's")
    (folder / "model").mkdir()
    (folder / "model/MLmodel").write_text("flavors: {}\n")
    assert trained.choose("@latest", project="it's").reference == old
    assert "(a name)" in trained.choose("@latest", project="it's").told
    # MLflow's search has no words for a text with both quotation marks: then those of all projects count.
    assert trained.choose("@latest", project=project).reference == old
    assert trained.choose("@latest~1", project=project).reference == named
    trained.client.delete_experiment(trained.client.create_experiment("deleted"))
    assert trained.choose("@latest", project=None).reference == old


@pytest.mark.slow
def test_of_a_shared_server_ones_own_runs_are_counted(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    theirs = trained.add("older", user="bob")
    first = trained.choose("@latest")
    assert (first.reference, first.foreign) == (theirs, True)
    assert first.told.endswith(", by bob")
    mine = trained.add("mine", user="ann")
    trained.add("newer", user="bob")
    assert trained.choose("@latest") == trained.choose(mine[:12])
    assert trained.choose("@latest").reference == mine and not trained.choose("@latest").foreign
    before = trained.choose("@latest~1")
    assert (before.reference, before.foreign) == (theirs, True), "the one before it, whoever trained it"
    with pytest.raises(RunWithoutModel, match="only 2 runs of churn have"):
        trained.choose("@latest~2")


def test_no_more_runs_are_asked_than_anybody_waits_for(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.model.shorthand.RECENT", 3)
    trained.add("old")
    for number in range(3):
        trained.add(f"failed {number}", model=False)
    with pytest.raises(RunWithoutModel, match="none of the newest 3 runs of churn has logged a model"):
        trained.choose("@latest")


def test_a_run_named_like_the_beginning_of_an_id_is_ambiguous(trained: Trained) -> None:
    one = trained.add("owl")
    other = trained.add(one[:8])
    with pytest.raises(AmbiguousModel, match="means 2 runs") as caught:
        trained.choose(one[:8])
    assert one in caught.value.message and other in caught.value.message


def test_a_project_that_has_not_trained_is_told_what_does(trained: Trained) -> None:
    trained.add("theirs", project="somebody")
    with pytest.raises(RunWithoutModel, match="no run of churn has logged a model yet") as caught:
        trained.choose("@latest")
    assert str(caught.value.hint).startswith("kedro run")


@pytest.mark.slow
def test_a_run_is_known_by_its_name_and_by_the_beginning_of_its_id(trained: Trained) -> None:
    one, other = trained.add("brave owl"), trained.add("it's odd %_")
    assert trained.choose("brave owl").reference == one
    assert trained.choose(one[:12]).reference == one
    assert trained.choose("it's odd %_").reference == other
    assert trained.choose(other[:31], project=None).reference == other


def test_a_run_is_known_by_every_name_that_it_may_have(trained: Trained) -> None:
    both, blanks = trained.add("""it's "odd" %"""), trained.add("  between ")
    trained.add("""it_s "odd" %"""), trained.add("""it's "odd" too""")
    assert trained.choose("""it's "odd" %""").reference == both
    assert trained.choose("  between ").reference == blanks
    assert trained.choose(f" {both[:12]} ").reference == both
    one = trained.add("between")
    assert trained.choose(" between").reference == one, "what was typed with a blank too many"
    assert trained.choose("  between ").reference == blanks


def test_several_runs_of_one_name_are_named(trained: Trained) -> None:
    first, second = trained.add("same"), trained.add("same")
    with pytest.raises(AmbiguousModel, match="'same' means 2 runs") as caught:
        trained.choose("same")
    assert first in caught.value.message and second in caught.value.message
    trained.add("once")
    once = trained.add("once", model=False)
    assert trained.choose("once").reference != once  # the other one is the only one that can be built


@pytest.mark.parametrize("text", ["brave owll", "chrun", "churn"])
def test_a_typing_error_is_answered(trained: Trained, text: str) -> None:
    trained.add("brave owl")
    trained.client.create_registered_model("churn")
    with pytest.raises(ModelNotFound, match="names no model and no run") as caught:
        trained.choose(text)
    assert caught.value.hint == f"did you mean {'brave owl' if ' ' in text else 'models:/churn'}?"


def test_how_an_alias_is_given_is_said_where_there_is_none(trained: Trained, tmp_path: Path) -> None:
    run = trained.add("owl")
    trained.client.create_registered_model("churn")
    trained.client.create_model_version("churn", f"file://{tmp_path}", run)
    with pytest.raises(ModelNotFound) as caught:
        trained.store.fetch(trained.store.pin(ModelReference.parse("models:/churn@champion")), tmp_path / "into")
    code = str(caught.value.hint).partition(" gives")[0]
    mlflow.set_tracking_uri(trained.client.tracking_uri)
    try:
        exec(code, {"mlflow": mlflow})  # noqa: S102  it is what a reader types
    finally:
        mlflow.set_tracking_uri(None)
    assert int(trained.client.get_model_version_by_alias("churn", "champion").version) == 1


@pytest.mark.parametrize("before", ["model:/", "model/", "modles:/", "models:", "models//"])
@pytest.mark.parametrize("after", ["", "/1", "@champion"])
def test_another_way_to_write_a_registered_model_is_answered(trained: Trained, before: str, after: str) -> None:
    trained.client.create_registered_model("churn")
    with pytest.raises(ModelNotFound) as caught:
        trained.choose(f"{before}churn{after}")
    assert caught.value.hint == f"did you mean models:/churn{after}?"


def test_an_id_with_a_wrong_figure_is_answered(trained: Trained) -> None:
    run = trained.add("owl")
    wrong = run[:5] + ("0" if run[5] != "0" else "1") + run[6:8]
    with pytest.raises(ModelNotFound) as caught:
        trained.choose(wrong)
    assert caught.value.hint == f"did you mean {run[:8]}?"


@pytest.mark.parametrize("text", ["'", '"; DROP', "%", "_" * 8, "~", "@latest~x", "deadbeef", "ä\x00", "x" * 300])
def test_any_other_text_is_no_model(trained: Trained, text: str) -> None:
    trained.add("brave owl")
    with pytest.raises(KbuildError) as caught:
        trained.choose(text)
    assert isinstance(caught.value, ModelNotFound)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("models:/chrun/1", "did you mean models:/churn?"),
        ("models:/churn@chmapion", "there is models:/churn@champion, models:/churn"),
        ("models:/churn/9", "the newest version is models:/churn/1"),
    ],
)
def test_what_is_registered_is_said(trained: Trained, tmp_path: Path, text: str, hint: str) -> None:
    run = trained.add("owl")
    trained.client.create_registered_model("churn")
    trained.client.create_model_version("churn", f"file://{tmp_path}", run)
    trained.client.set_registered_model_alias("churn", "champion", "1")
    reference = ModelReference.parse(text)
    with pytest.raises(ModelNotFound) as caught:
        trained.store.fetch(trained.store.pin(reference), tmp_path / "into")
    assert caught.value.hint == hint


def test_the_newest_version_needs_no_number(trained: Trained, tmp_path: Path) -> None:
    run = trained.add("owl")
    trained.client.create_registered_model("churn")
    for _ in range(2):
        trained.client.create_model_version("churn", f"file://{tmp_path}", run)
    assert trained.store.pin(ModelReference.parse("models:/churn")).version == "2"


def test_the_newest_version_of_what_has_none_is_told(trained: Trained) -> None:
    trained.client.create_registered_model("churn")
    with pytest.raises(ModelNotFound, match="the registered model 'churn' has no version"):
        trained.store.pin(ModelReference.parse("models:/churn"))
    with pytest.raises(ModelNotFound, match="owl not found"):
        trained.store.pin(ModelReference.parse("models:/owl"))


def test_a_command_without_a_model_says_which_it_takes(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "churn"\n')
    trained.add("theirs", project="somebody")
    run = trained.add("owl")
    with pytest.raises((KbuildError, click.ClickException, SystemExit)):
        app.cli.main(["lock"], standalone_mode=False)
    assert f"taking run {run[:12]} (owl), started " in capsys.readouterr().err


@pytest.mark.slow
def test_somebody_elses_run_is_told_of_also_with_quiet(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "churn"\n')
    run = trained.add("owl", user="nobody-here")
    with pytest.raises((KbuildError, click.ClickException, SystemExit)):
        app.cli.main(["lock", "-q"], standalone_mode=False)
    assert f"taking run {run[:12]} (owl), started " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["lock", "diff"])
def test_a_mistyped_image_is_no_fault_of_the_tracking_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageNotFound, match="'demmo:latest' is not an image built here; whether it names a run"):
        app.cli.main([command, "demmo:latest"], standalone_mode=False)


def test_outside_of_a_project_nobodys_newest_run_is_taken_unasked(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained.add("theirs", project="somebody")
    with pytest.raises(ModelNotFound, match="in no Kedro project"):
        app.cli.main(["lock"], standalone_mode=False)
    with pytest.raises((KbuildError, click.ClickException, SystemExit)):
        app.cli.main(["lock", "@latest"], standalone_mode=False)
    assert f"taking run {run[:12]} (" in capsys.readouterr().err
