"""The page of kinds (``kbuild help inputs``) holds: each is posted over HTTP, or refused before the first node runs.

What is served is compared with Kedro's own run of the inference pipeline from the same catalog. The page is made of
what is seen here: ``KBUILD_WRITE_PAGE=1 pytest integration/test_input_kinds.py`` writes it.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engines import free_port
from tool import running

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "training"))
from input_kinds import HEAD, PAGE, make_kept, make_polars, make_refused, make_served
from kinds_nodes import fit, tell

pytestmark = pytest.mark.filterwarnings("ignore")
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A model, and what Kedro itself answers to the example."""

    name: str
    folder: Path
    own: list[str]
    signature: str

    @property
    def request(self) -> str:
        """The example as MLflow writes it, but for NaN, which is no JSON; the server itself begins with that."""
        text = (self.folder / "serving_input_example.json").read_text("utf-8")
        return json.dumps(json.loads(text, parse_constant=lambda _: None))


class Project:
    """Trains as ``kedro run`` does, in one process: a session a kind would take seconds."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        (folder / "conf/base").mkdir(parents=True)
        (folder / "pyproject.toml").write_text(
            '[tool.kedro]\npackage_name = "kinds"\nproject_name = "kinds"\nkedro_init_version = "1.0.0"\n'
        )
        (folder / "conf/base/kbuild.yml").write_text("training: {check: false, example_rows: 2}\n")
        self.folder = folder
        self.ran: list[str] = []
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")

    def train(self, name: str, training: Any, inference: Any, catalog: Any) -> Logged:
        """Raises what the hook raises; ``ran`` are the nodes that ran."""
        import mlflow
        from kedro.framework.hooks.manager import _create_hook_manager
        from kedro.runner import SequentialRunner

        from kbuild import pipeline_ml_factory
        from kbuild.hooks.kedro_hook import MlflowPipelineHook

        self.ran = []
        bound = pipeline_ml_factory(training, inference, "x", log_model_kwargs={"name": "kinds"})
        manager = _create_hook_manager()
        manager.register(MlflowPipelineHook())
        manager.register(_Counter(self.ran))
        params = {"project_path": str(self.folder), "env": None, "pipeline_name": "kinds", "runtime_params": None}
        manager.hook.before_pipeline_run(run_params=params, pipeline=bound, catalog=catalog)
        result = SequentialRunner().run(bound, catalog, manager)
        told = {"run_params": params, "run_result": result, "pipeline": bound, "catalog": catalog}
        manager.hook.after_pipeline_run(**told)
        client = mlflow.MlflowClient()
        everywhere = [each.experiment_id for each in client.search_experiments()]
        newest = [{"field_name": "creation_time", "ascending": False}]
        model = client.search_logged_models(everywhere, order_by=newest, max_results=1)[0]
        folder = Path(mlflow.artifacts.download_artifacts(model.model_uri))
        signature = str(mlflow.models.get_model_info(str(folder)).signature.inputs)
        return Logged(name=name, folder=folder, own=self._ask(inference, catalog), signature=signature)

    def _ask(self, inference: Any, catalog: Any) -> list[str]:
        """Kedro's own run, by the rows that the example has."""
        from kedro.io import MemoryDataset
        from kedro.runner import SequentialRunner

        from kbuild.recording.example import take_rows

        catalog["x"] = MemoryDataset(take_rows(catalog.load("x"), 2))
        answer: list[str] = SequentialRunner().run(inference, catalog)["y"].load()
        return answer


class _Counter:
    def __init__(self, ran: list[str]) -> None:
        self._ran = ran

    from kedro.framework.hooks import hook_impl

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        self._ran.append(node.name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    import mlflow

    folder = tmp_path_factory.mktemp("kinds")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setenv("DO_NOT_TRACK", "1")
        yield Project(folder)
    mlflow.set_tracking_uri(before)


def input_pipelines() -> tuple[Any, Any]:
    from kedro.pipeline import Pipeline, node

    return Pipeline([node(fit, "x", "factor")]), Pipeline([node(tell, ["x", "factor"], "y")])


def train_input(project: Project, name: str, value: Any) -> Logged:
    """The value is the inference input, as the catalog has it in memory."""
    from kedro.io import DataCatalog, MemoryDataset

    catalog = DataCatalog({"x": MemoryDataset(value), "factor": MemoryDataset(copy_mode="assign")})
    return project.train(name, *input_pipelines(), catalog)


def train_kept(project: Project, name: str, value: Any, entries: dict[str, Any]) -> Logged:
    """The value is made by training, and kept as ``entries`` of the catalog say; inference reads the last of them."""
    from kedro.io import DataCatalog, MemoryDataset
    from kedro.pipeline import Pipeline, node

    catalog = DataCatalog.from_config(entries, credentials={"of_mine": {"con": f"sqlite:///{project.folder}/own.db"}},
        save_version="2026-11-29T00.00.00.000Z")  # fmt: skip
    catalog["x"] = MemoryDataset(3)
    first, *_, last = [*entries] * 2
    if "{" in first:
        first = last = "made_by_factory"
    training = Pipeline([node(lambda _: value, "x", first, name="make")])
    return project.train(name, training, Pipeline([node(tell, [last, "x"], "y")]), catalog)


def test_every_kind_is_served_as_the_pipeline_answers_or_refused_before_training(
    project: Project, tmp_path: Path, record_property: Any
) -> None:
    logged = [train_input(project, name, value) for name, value in {**make_served(), **make_polars()}.items()]
    kept = [train_kept(project, name, value, entries) for name, (value, entries) in make_kept().items()]
    refused = [(name, told(project, name, value)) for name, value in make_refused().items()]
    port = free_port()
    folders = [str(each.folder) for each in (*logged, *kept)]
    with running([sys.executable, HERE / "kinds_server.py", str(port), *folders], tmp_path / "log", cwd=tmp_path):
        answers = ask_all(port, [*logged, *kept], tmp_path / "log")
    for each, answer in zip((*logged, *kept), answers, strict=True):
        assert answer == {"predictions": each.own}, each.name
    page = make_page(logged, kept, refused)
    if os.environ.get("KBUILD_WRITE_PAGE"):
        PAGE.write_text(page, encoding="utf-8")
    # Of pandas' and MLflow's versions, signatures and texts are the newest's.
    assert [line.split(" | ")[0] for line in page.splitlines()] == [
        line.split(" | ")[0] for line in PAGE.read_text("utf-8").splitlines()
    ]
    rows = [(each.name, "served, equal") for each in (*logged, *kept)]
    rows += [(name, f"refused before training: {error.hint}") for name, error in refused]
    assert len(rows) >= 30
    for name, outcome in rows:
        record_property("table:Kinds of inputs", {"kind": name, "outcome": outcome[:100]})


def told(project: Project, name: str, value: Any) -> Any:
    """What a run with such an input says before its first node."""
    from kbuild.errors import KbuildError

    with pytest.raises(KbuildError) as caught:
        train_input(project, name, value)
    assert project.ran == [], name
    assert caught.value.hint, name
    return caught.value


def ask_all(port: int, models: list[Logged], log: Path) -> list[Any]:
    deadline = time.monotonic() + 120
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
            break
        except OSError:
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.1)
    answers = []
    for number, model in enumerate(models):
        connection.request("POST", f"/{number}/invocations", model.request, {"Content-Type": "application/json"})
        answers.append(json.loads(connection.getresponse().read()))
    connection.close()
    return answers


def make_page(logged: list[Logged], kept: list[Logged], refused: list[tuple[str, Any]]) -> str:
    rows = [f"| {each.name} | `{each.request}` | `{shorten(each.signature)}` |" for each in logged]
    text = HEAD + "\n".join(rows) + "\n\n| refused before training | told |\n|---|---|\n"
    text += "".join(f"| {name} | {error.message} |\n" for name, error in refused)
    text += "\nServed and equal, too, is what training makes and the catalog keeps for inference as:\n\n"
    return text + "".join(f"- {each.name}\n" for each in kept)


def shorten(signature: str) -> str:
    return signature.replace(" (required)", "").replace("(optional)", "or null")
