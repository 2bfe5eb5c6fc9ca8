"""The table of tracking set-ups: in each a model is trained, built, tagged, audited and loaded as Kedro's datasets do.

Two set-ups are tried at a time, as CI has two processors; the table is shown at the end of the session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tool import BIN, Done, Tool, copy_project
from tracking_setups import NEWEST, PROJECT, READER, SETUPS, Setup, credentials

ABOVE = [-1.0, -0.5, 1.5]  # 1.5, 2 and 4 from their mean
NAMED = ("--tag", "table:1", "--json")  # else each reference gives the image another name, and the run a new tag
NAME, COPY = "o'brien & co", "prod copy"
# As MLflow takes them; those of copies are read from ``models:/NAME/VERSION`` by its server.
ODD_NAMES = ("a@b", "what?", "100%25", '"quoted" `name`', "größe 模型", "back\\slash #1", "%_", "m-" + "0" * 32)
ODD_ALIAS = "prod-1_x"
DATASETS = """
import json, sys
from kbuild.io.models import MlflowModelLoggerDataSet, MlflowModelRegistryDataset
flavor = {"flavor": "mlflow.pyfunc", "pyfunc_workflow": "python_model"}
answers = []
for entry in json.loads(sys.argv[1]):
    kind = MlflowModelLoggerDataSet if "run_id" in entry else MlflowModelRegistryDataset
    model = kind(**flavor, **entry).load()
    answers.append(model.predict(model.input_example)["above"].tolist())
print("answers", json.dumps(answers))
"""


@dataclass(kw_only=True)
class Row:
    """What was seen of a set-up."""

    setup: str
    server: str = ""
    train: str = ""
    image: str = ""
    tags: str = ""
    repeats: str = ""
    audit: str = ""
    datasets: str = ""
    besides: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A set-up, with a project of its own to train there."""

    setup: Setup
    tool: Tool
    project: Path
    row: Row

    def train(self, **environment: str) -> tuple[str, str]:
        """``kedro run``: the ids of the run and of the model."""
        done = self.tool.run([BIN / "kedro", "run"], cwd=self.project, PYTHONWARNINGS="ignore", **environment)
        assert done.code == 0, done.err[-3000:] + done.out[-1000:]
        logged = re.search(r"Logged model models:/(m-[0-9a-f]{32}) in run ([0-9a-f]{32})", done.out + done.err)
        assert logged is not None, done.out + done.err
        self.row.train = "logged"
        return logged[2], logged[1]

    def image(self, *argv: str, code: int = 0, tool: Tool | None = None) -> Done:
        return (tool or self.tool)("image", *argv, *NAMED, cwd=self.project, code=code)

    def repeat(self, *references: str, digest: str) -> None:
        """Builds without anything to do: each asks six times at most."""
        counts = []
        for reference in references:
            self.setup.asked.clear()
            again = self.image(reference)
            assert again.json["digest"] == digest and "nothing has changed" in again.err
            assert again.json["tagged"], again.err
            counts.append(len(self.setup.asked))
            assert counts[-1] <= 6, "\n".join([reference, *self.setup.asked])
        self.row.repeats = " ".join(map(str, counts))

    def audit(self, reference: str, *tagged: dict[str, str] | Callable[[], dict[str, str]]) -> None:
        self.tool("audit", reference, "--offline", cwd=self.project, code=None)
        verdicts = {each()["kbuild.audit"] for each in tagged if callable(each)}
        assert len(verdicts) == 1 and verdicts <= {"clean", "findings", "incomplete"}
        self.row.audit = verdicts.pop()

    def load(self, *entries: dict[str, Any]) -> None:
        """The model by these entries of a catalog, in a process of its own: all answer as trained."""
        argv: list[str | Path] = [BIN / "python", "-W", "ignore", "-c", DATASETS, json.dumps(entries)]
        done = self.tool.run(argv, cwd=self.project)
        assert done.code == 0, done.err[-3000:]
        assert json.loads(done.out.rpartition("answers ")[2]) == [ABOVE] * len(entries)
        self.row.datasets = f"{len(entries)} of {len(entries)}"


def go_the_whole_way(site: Site) -> None:
    """Every set-up: a run, a version with an odd name and an alias, and a copy of it."""
    setup = site.setup
    run_id, model_id = site.train()
    setup.register(NAME, f"models:/{model_id}", run_id, model_id=model_id)
    setup.ask("POST", "registered-models/alias", name=NAME, alias=ODD_ALIAS, version="1")
    setup.register(COPY, f"models:/{NAME}/1", run_id)
    setup.asked.clear()
    built = site.image(run_id).json
    site.row.image = f"built, {len(setup.asked)} requests"
    assert built["tagged"]
    for tags in (setup.tags(run_id), setup.version_tags(NAME), setup.version_tags(COPY)):
        assert tags["kbuild.image_digest"] == built["digest"] and tags["kbuild.image"].startswith("table@")
    site.row.tags = "run, version, copy"
    references = (run_id, f"models:/{NAME}/1", f"models:/{NAME}@{ODD_ALIAS}", f"models:/{COPY}/1")
    site.repeat(*references, digest=built["digest"])
    places = (lambda: setup.tags(run_id), lambda: setup.version_tags(NAME), lambda: setup.version_tags(COPY))
    site.audit(run_id, *places)
    name = setup.ask("GET", f"logged-models/{model_id}")["model"]["info"]["name"]
    run_entry = {"run_id": run_id, "artifact_path": name}
    site.load(run_entry, {"model_name": NAME, "alias": ODD_ALIAS}, {"model_name": COPY, "stage_or_version": 1})
    if setup.user is not None:
        _try_other_users(site, run_id, built["digest"])
    if setup.authority is not True:
        untrusting = setup.tool(site.tool, MLFLOW_TRACKING_SERVER_CERT_PATH="")
        refused = site.image(run_id, code=14, tool=untrusting)
        assert "certificate" in refused.error_lines[0] and "CERT_PATH" in refused.error_lines[1]
        site.row.besides.append("untrusted: 14")


def _try_other_users(site: Site, run_id: str, digest: str) -> None:
    """Who may only read gets the image; who is nobody gets one line."""
    reader = site.setup.tool(site.tool, **credentials(READER))
    done = reader("image", run_id, "--tag", "readers:1", "--json", cwd=site.project)
    assert done.json["digest"] == digest
    assert not done.json["tagged"] and "permissions of reader are missing" in " ".join(done.err.split())
    assert site.setup.tags(run_id)["kbuild.image"].startswith("table@")
    nobody = dict.fromkeys(credentials(READER), "")
    for user, message in ((nobody, "asks for credentials"), (credentials(("eve", "x")), "does not take")):
        refused = site.image(run_id, code=19, tool=site.setup.tool(site.tool, **user))
        assert message in refused.error_lines[0] and len(refused.error_lines) == 2
    site.row.besides.append("reader: image, no tags; nobody: 19")


def try_odd_names(site: Site) -> None:
    """Versions of one model under names with every sign that MLflow takes."""
    setup = site.setup
    run_id, model_id = site.train()
    for name in ODD_NAMES:
        setup.register(name, f"models:/{model_id}", run_id, model_id=model_id)
        setup.ask("POST", "registered-models/alias", name=name, alias=ODD_ALIAS, version="1")
    built = site.image(f"models:/{ODD_NAMES[0]}@{ODD_ALIAS}").json
    site.row.image = "built"
    for name in ODD_NAMES:
        assert setup.version_tags(name)["kbuild.image_digest"] == built["digest"], name
    site.row.tags = f"{len(ODD_NAMES)} versions"
    site.repeat(f"models:/{ODD_NAMES[3]}@{ODD_ALIAS}", f"models:/{ODD_NAMES[-1]}/1", digest=built["digest"])
    everything = site.tool("image", "--all-registered", cwd=site.project)
    shown = {line.partition("\t")[0] for line in everything.out.splitlines()}
    assert shown == {f"models:/{name}/1" for name in ODD_NAMES}
    site.row.besides.append(f"all registered: {len(shown)}")
    site.audit(f"models:/{ODD_NAMES[0]}/1", *(lambda name=name: setup.version_tags(name) for name in ODD_NAMES))
    site.load(*({"model_name": name, "alias": ODD_ALIAS} for name in ODD_NAMES))


def try_a_sweep_and_a_deleted_run(site: Site) -> None:
    setup = site.setup
    experiment = setup.ask("POST", "experiments/create", name="sweep")["experiment_id"]
    parent = setup.ask("POST", "runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    children = {}
    for rmse in (3.0, 1.0):
        tags = [{"key": "mlflow.parentRunId", "value": parent}]
        run_id = setup.ask("POST", "runs/create", experiment_id=experiment, tags=tags)["run"]["info"]["run_id"]
        children[rmse] = site.train(MLFLOW_RUN_ID=run_id)
        assert children[rmse][0] == run_id
        setup.ask("POST", "runs/log-metric", run_id=run_id, key="rmse", value=rmse, timestamp=1, step=0)
        setup.ask("POST", "runs/update", run_id=run_id, status="FINISHED")
    (run_id, model_id), (other, _) = children[1.0], children[3.0]
    named = site.image(parent, code=12)
    assert run_id in named.error_lines[0] and other in named.error_lines[0] and "--best" in named.error_lines[1]
    setup.register("swept", f"models:/{model_id}", run_id, model_id=model_id)
    best = site.image(parent, "--best", "rmse:min")
    assert f"taking run {run_id[:12]} " in best.err and setup.tags(run_id)["kbuild.image_digest"] == best.json["digest"]
    assert "kbuild.image" not in setup.tags(other)
    site.row.image = "of the best child"
    setup.ask("POST", "runs/delete", run_id=run_id)
    again = site.tool("image", "models:/swept/1", "--tag", "swept:2", "--json", cwd=site.project).json
    assert again["tagged"] and setup.version_tags("swept")["kbuild.image"].startswith("swept@")
    assert setup.tags(run_id)["kbuild.image"].startswith("table@")
    site.row.tags = "child, then its version alone"
    setup.register("copied", "models:/swept/1", run_id)
    missing = f"{setup.ask('GET', 'runs/get', run_id=other)['run']['info']['artifact_uri']}/none"
    setup.register("astray", missing, other)
    some = site.tool("image", "--all-registered", cwd=site.project, code=70)
    assert {line.partition("\t")[0] for line in some.out.splitlines()} == {"models:/swept/1", "models:/copied/1"}
    assert "models:/astray/1" in some.err and some.error_lines[0] == "error: 1 of 3 models have no image"
    site.audit("models:/swept/1", lambda: setup.version_tags("swept"), lambda: setup.version_tags("copied"))
    site.load({"model_name": "swept"}, {"model_name": "copied", "stage_or_version": 1})


TRIED: dict[str, tuple[str, Callable[[Site], None]]] = {
    **{name: (name, go_the_whole_way) for name in SETUPS},
    "odd-names": (NEWEST, try_odd_names),
    "sweep-deleted": (NEWEST, try_a_sweep_and_a_deleted_run),
}


@pytest.fixture(scope="module")
def rows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tool: Tool
) -> Iterator[dict[str, Future[Row]]]:
    """Those that were asked for, two at a time; an environment is built by the first and found by the others."""
    folder = tmp_path_factory.mktemp("table")

    def attempt(title: str) -> Row:
        name, way = TRIED[title]
        row = Row(setup=title)
        project = copy_project(folder / title / "project", PROJECT)
        with SETUPS[name](folder / title / "server") as setup:
            row.server = f"MLflow {setup.version()}"
            way(Site(setup=setup, tool=setup.tool(tool), project=project, row=row))
        return row

    chosen = {item.callspec.params.get("title") for item in request.session.items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(2) as pool:
        try:
            yield {title: pool.submit(attempt, title) for title in TRIED if title in chosen}
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("title", TRIED)
def test_the_whole_way(
    title: str, rows: dict[str, Future[Row]], record_property: Callable[[str, object], None]
) -> None:
    row = rows[title].result()
    record_property("table:tracking", {**asdict(row), "besides": "; ".join(row.besides)})
    assert row.train and row.image and row.tags and row.audit and row.datasets
