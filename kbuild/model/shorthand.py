"""What people type instead of a model's whole name: nothing, ``@latest~1``, the beginning of an id, a run's name."""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from kbuild.errors import AmbiguousModel, ModelNotFound, RunWithoutModel
from kbuild.model.find import has_model
from kbuild.model.model_reference import FORMS, ModelReference
from kbuild.model.sweep import name_of, short_name
from kbuild.model.tracking import NEWEST_FIRST, RunQuery, Tracking, TrainedRun, quoted
from kbuild.model.tracking import Run as ReadRun
from kbuild.progress import at_most
from kbuild.tracking.mlflow_client import is_absent
from kbuild.tracking.registry import PROMPT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LATEST = "@latest"
_LATEST = re.compile(r"@latest(?:~(\d{1,4}))?")
_BEGINNING = re.compile(r"[0-9a-f]{4,31}")
_UNLIKE_URI = re.compile(r"^\w+[:/]+")
_VERSION = re.compile(r"(?:/\d+|@[\w-]+)?$")
_ONE_OFF = 0.7  # of four figures three
_SHOWN = 5
SHORT_ID = 12
"""Figures of a run's id that a person is told: with so many it is found again."""
RECENT = 200
"""How many runs are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The model that was meant, as a reference, and which it is in words; ``foreign`` if somebody else trained it."""

    reference: str
    told: str
    foreign: bool = False


def choose(client: MlflowClient, text: str, *, project: str | None) -> Choice:
    """The model that ``text`` stands for; ``@latest`` and ``@latest~N`` count the runs with models of ``project``.

    Without a project those of the whole store; where this user has trained any, theirs alone. Raises RunWithoutModel
    where too few runs have models, AmbiguousModel where several are meant, ModelNotFound with the names that come
    nearest.
    """
    back = count_back(text)
    if back is not None:
        return latest(_OfClient(client), back, project)
    experiments = _experiments(client)
    typed = text.strip()
    wanted = [f"attributes.run_id LIKE '{typed}%'"] if _BEGINNING.fullmatch(typed) else []
    # A run may be named like the beginning of another one's id: then either may be meant.
    runs = [run for each in wanted for run in islice(_search(client, experiments, each), RECENT)]
    # A name may begin and end with blanks; whoever typed one too many meant the name without.
    runs += _of_name(client, experiments, text) or (_of_name(client, experiments, typed) if typed != text else [])
    found = list({run.info.run_id: run for run in runs}.values())
    if len(found) > 1:
        found = [run for run in found if has_model(client, run, None)] or found
    if len(found) == 1:
        return _choice(_trained(found[0]))
    if found:
        names = at_most([f"{run.info.run_id} ({name_of(run)})" for run in found], _SHOWN)
        raise AmbiguousModel(f"{text!r} means {len(found)} runs: {names}", hint="name one of them by its id")
    raise ModelNotFound(f"{text!r} names no model and no run", hint=_suggestion(client, experiments, text) or FORMS)


@contextmanager
def suggesting(client: MlflowClient, reference: ModelReference) -> Iterator[None]:
    """Turns MLflow's "not found" of a registered model, version or alias into one that says which there are."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if reference.kind != "registered" or not is_absent(error):
            raise
        hint = _registered_hint(client, str(reference.name), str(reference.alias or reference.version))
        if hint is None:
            raise
        raise ModelNotFound(f"{reference}: {' '.join(error.message.split())}", hint=hint) from error


def _registered_hint(client: MlflowClient, name: str, wanted: str) -> str | None:
    models = [model for model in client.search_registered_models(max_results=1000) if PROMPT_TAG not in model.tags]
    aliases = next((sorted(model.aliases or {}) for model in models if model.name == name), None)
    if aliases is None:
        return _asked([f"models:/{each}" for each in get_close_matches(name, [str(model.name) for model in models])])
    versions = [int(each.version) for model in models if model.name == name for each in model.latest_versions]
    if versions and wanted.isdecimal():
        return f"the newest version is models:/{name}/{max(versions)}"
    if versions and not aliases:
        return f'mlflow.MlflowClient().set_registered_model_alias("{name}", "{wanted}", {max(versions)}) gives it one'
    nearest = get_close_matches(wanted, aliases, n=1) or aliases[:_SHOWN]
    return f"there is {', '.join([*(f'models:/{name}@{alias}' for alias in nearest), f'models:/{name}'])}"


class Runs(Protocol):
    """A store's runs, of which the newest are looked for."""

    def newest(self, wanted: RunQuery) -> Iterator[TrainedRun]:
        """The runs that are wanted, newest first."""

    def has_model(self, run: TrainedRun) -> bool:
        """Whether one of these has logged a model."""


def latest(runs: Runs, back: int, project: str | None) -> Choice:
    """The newest run with a model, or the one that is ``back`` before it; raises RunWithoutModel."""
    wanted = RunQuery(project=None if project is None or quoted(project) is None else project)
    user = _user()
    found: list[TrainedRun] = []
    # On a server that is shared, one's own: of the newest of all, somebody else's may be any time. Before the oldest of
    # these come anybody's.
    for by in (user, None) if user and quoted(user) else (None,):
        asked = replace(wanted, user=by, before=found[-1].started if found else None)
        # A server may hold any number of runs without one, and each has to be asked.
        of_these = (run for run in islice(runs.newest(asked), RECENT) if runs.has_model(run))
        found += islice(of_these, back + 1 - len(found))
    of = f" of {project}" if project is not None else ""
    if not found:
        looked = len(list(islice(runs.newest(wanted), RECENT)))
        many = f"none of the newest {looked} runs{of} has logged a model"
        raise RunWithoutModel(
            f"no run{of} has logged a model yet" if looked < RECENT else many,
            hint=f"kedro run, in a project with a PipelineML; or {FORMS}",
        )
    if len(found) <= back:
        many = f"1 run{of} has" if len(found) == 1 else f"{len(found)} runs{of} have"
        raise RunWithoutModel(f"only {many} logged a model", hint=_further_back(len(found)))
    return _choice(found[back])


def count_back(text: str) -> int | None:
    """How many runs before the newest ``@latest`` or ``@latest~N`` means; None for any other text."""
    found = _LATEST.fullmatch(text.strip())
    return None if found is None else int(found[1] or 0)


class _OfClient:
    """As MLflow's client finds them."""

    def __init__(self, client: MlflowClient) -> None:
        self._client, self._seen = client, dict[str, "Run"]()
        self._experiments = _experiments(client)

    def newest(self, wanted: RunQuery) -> Iterator[TrainedRun]:
        for run in _search(self._client, self._experiments, wanted.filter()):
            self._seen[run.info.run_id] = run
            yield _trained(run)

    def has_model(self, run: TrainedRun) -> bool:
        return has_model(self._client, self._seen[run.run_id], None)


@dataclass(frozen=True, kw_only=True, slots=True)
class OfTracking:
    """As a store that is read without MLflow finds them; ``run`` asks it for a run."""

    store: Tracking
    run: Callable[[Tracking, str], ReadRun]

    def newest(self, wanted: RunQuery) -> Iterator[TrainedRun]:
        yield from self.store.newest(wanted, RECENT)

    def has_model(self, run: TrainedRun) -> bool:
        whole = self.run(self.store, run.run_id)
        logged = (self.store.logged_model(model_id) for model_id in whole.models)
        ready = any(model is not None and model.ready for model in logged)
        return ready or self.store.folder(whole.artifact_uri).has_model()


def _trained(run: Run) -> TrainedRun:
    return TrainedRun.told(dict(run.info), run.data.tags)


def _choice(run: TrainedRun) -> Choice:
    foreign = run.user is not None and run.user != _user()
    by = f", by {' '.join(run.user.split())[:40]}" if run.user is not None and foreign else ""
    # As much of the id as names it: the whole one makes a line longer than most terminals are wide.
    told = f"run {run.run_id[:SHORT_ID]} ({short_name(run.name)}), {_when(run)}{by}"
    return Choice(reference=run.run_id, told=told, foreign=foreign)


def _user() -> str:
    """Who trains here, as MLflow's runs say it; empty where this machine has no name for them."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return ""


def _when(run: TrainedRun) -> str:
    from datetime import UTC, datetime

    started = datetime.fromtimestamp(run.started / 1000, UTC).astimezone()
    return f"started {started:%Y-%m-%d %H:%M}"


def _experiments(client: MlflowClient) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = client.search_experiments(max_results=1000, page_token=token)
        found += [str(experiment.experiment_id) for experiment in page]
        token = page.token
        if not token:
            return found


def _search(client: MlflowClient, experiments: Sequence[str], wanted: str) -> Iterator[Run]:
    """The runs that were not deleted, newest first; a page at a time, for the first is mostly enough."""
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments),
            filter_string=wanted,
            order_by=list(NEWEST_FIRST),
            max_results=100,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _of_name(client: MlflowClient, experiments: Sequence[str], name: str) -> list[Run]:
    text = quoted(name)
    # What has both quotation marks can be asked for with a wildcard alone.
    wanted = "attributes.run_name " + (f"= {text}" if text else f"LIKE '{name.replace(chr(39), '_')}'")
    return [run for run in islice(_search(client, experiments, wanted), RECENT) if run.info.run_name == name]


def _suggestion(client: MlflowClient, experiments: Sequence[str], text: str) -> str | None:
    runs = list(islice(_search(client, experiments, ""), RECENT))
    names = [str(run.info.run_name) for run in runs if run.info.run_name]
    registered = [f"models:/{model.name}" for model in client.search_registered_models(max_results=1000)]
    bare = {name.removeprefix("models:/"): name for name in registered}
    # As it would be named with one letter more or less before it: models:churn, model/churn@champion.
    asked = _UNLIKE_URI.sub("", text)
    if (rest := _VERSION.search(asked)) and asked[: rest.start()] in bare:
        return f"did you mean models:/{asked}?"
    if _BEGINNING.fullmatch(text):
        ids = get_close_matches(text, {str(run.info.run_id)[: len(text)] for run in runs}, n=3, cutoff=_ONE_OFF)
        if ids:
            return _asked(ids)
    nearest = get_close_matches(text, [*names, *bare, "@latest"], n=3)
    return _asked([bare.get(name, name) for name in nearest])


def _asked(nearest: Sequence[str]) -> str | None:
    return f"did you mean {' or '.join(nearest)}?" if nearest else None


def _further_back(count: int) -> str:
    """What to type where there are fewer runs than were asked for."""
    return "kedro run makes another one; @latest is the one there is" if count == 1 else f"@latest~{count - 1}"
