"""The checks of ``kbuild doctor``: each looks at one thing that the work needs, and says what to type to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

from kbuild.environment.condalock.channels import answers_as_channel, channel_urls
from kbuild.environment.condalock.solver import find_solver
from kbuild.environment.index.package_indexes import find_releases, package_indexes
from kbuild.environment.uv_settings import other_indexes
from kbuild.errors import (
    ConfigurationError,
    EngineUnavailable,
    KbuildError,
    ModelNotFound,
    RegistryError,
    RuntimeUnavailable,
    TrackingUnavailable,
)
from kbuild.image.base.choice import default_base, parse_base
from kbuild.image.engine import make_engine
from kbuild.image.registry.client import RegistryClient
from kbuild.image.run.docker import DockerDaemon
from kbuild.image.run.runtimes import choose_runtime
from kbuild.image.run.start import RUNTIME_VARIABLE
from kbuild.model.fetch import MlflowStore
from kbuild.model.registry import SERVER_NEEDS, MlflowRegistry
from kbuild.process import Runner, last_line
from kbuild.project.config import ProjectConfig
from kbuild.tracking.preflight import check_server
from kbuild.trigger.fire import Site
from kbuild.trigger.trigger_settings import GithubTrigger, GitlabTrigger, WebhookTrigger
from kbuild.urls.credentials import permitted, without_credentials
from kbuild.workflow import check_name

Status = Literal["ok", "warn", "fail"]
_SUPPORTED = {"kedro": ">=1.0,<2", "mlflow": ">=3.1,<4"}
_PYTHON = SpecifierSet(">=3.11,<3.14")
# An environment and its layers take about 1.5 GB, downloads as much again.
_LITTLE, _TOO_LITTLE = 8e9, 3e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """What was looked at, how it is, and for all but ok what to type."""

    name: str
    status: Status
    detail: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What is examined; ``problem`` is why the configuration could not be read, ``tracking`` MLflow's address."""

    config: ProjectConfig
    tracking: str
    cache: Path
    problem: KbuildError | None
    site: Site
    run: Runner
    environ: Mapping[str, str] = field(repr=False)


def examine(patient: Patient) -> Iterator[Examined]:
    """Every check in its order; none raises, and none waits longer than half a minute."""
    for name, look in _CHECKS.items():
        try:
            yield from look(patient)
        except KbuildError as error:
            yield Examined(name=name, status="fail", detail=error.message, hint=error.hint)
        except (OSError, ValueError) as error:
            yield Examined(name=name, status="fail", detail=f"{type(error).__name__}: {error}")


def _configuration(patient: Patient) -> Iterator[Examined]:
    if patient.problem is not None:
        yield Examined(name="configuration", status="fail", detail=patient.problem.message, hint=patient.problem.hint)
    elif patient.config.root is None:
        yield Examined(
            name="configuration",
            status="warn",
            detail="this folder is in no Kedro project; defaults are used",
            hint="go to the project's folder",
        )
    else:
        yield Examined(name="configuration", status="ok", detail=f"project {patient.config.root}")


def _versions(patient: Patient) -> Iterator[Examined]:
    found = {"python": platform.python_version()}
    wrong = [] if found["python"] in _PYTHON else [f"Python {found['python']} is not {_PYTHON}"]
    for name, wanted in _SUPPORTED.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not SpecifierSet(wanted).contains(found[name], prereleases=True):
            wrong.append(f"{name} {found[name]} is not {wanted}")
    hint = " ".join(["pip install", *(f"'{name}{wanted}'" for name, wanted in _SUPPORTED.items())])
    listed = ", ".join(f"{name} {text}" for name, text in found.items())
    yield Examined(name="versions", status="fail" if wrong else "ok", detail="; ".join(wrong) or listed, hint=hint)


def _tracking(patient: Patient) -> Iterator[Examined]:
    uri, shown = patient.tracking, without_credentials(patient.tracking)
    try:
        MlflowStore(tracking_uri=uri, registry_uri=patient.environ.get("MLFLOW_REGISTRY_URI") or None).ping()
    except ModelNotFound as error:
        hint = "kedro run, or MLFLOW_TRACKING_URI=URL"
        yield Examined(name="tracking", status="warn", detail=error.message, hint=hint)
        return
    try:
        check_server(uri, logs_models=True)
    except TrackingUnavailable as error:
        # Models of an older server can be built, which is what most who ask are about.
        yield Examined(
            name="tracking", status="warn", detail=f"kedro run logs no model: {error.message}", hint=error.hint
        )
    else:
        yield Examined(name="tracking", status="ok", detail=f"{shown} answers")


def _webhooks(patient: Patient) -> Iterator[Examined]:
    if not patient.tracking.startswith(("http://", "https://")):
        return  # nobody sends any
    registry_uri = patient.environ.get("MLFLOW_REGISTRY_URI") or None
    store = MlflowStore(tracking_uri=patient.tracking, registry_uri=registry_uri)
    try:
        reached = MlflowRegistry(store=store).test_webhooks()
    except TrackingUnavailable:
        return  # the check of the server tells it
    if not reached:
        detail = f"none: kbuild watch asks by itself; for kbuild watch --register URL {SERVER_NEEDS}"
        yield Examined(name="webhooks", status="ok", detail=detail)
    for each in reached:
        detail = f"from MLflow's server to {without_credentials(each.url)}: {each.reason or 'delivered'}"
        yield Examined(name="webhooks", status="ok" if each.delivered else "warn", detail=detail, hint=SERVER_NEEDS)


def _index(patient: Patient) -> Iterator[Examined]:
    from kbuild.http import bounded_session

    found = package_indexes(run=patient.run, environ=patient.environ)
    with bounded_session() as session:
        releases = find_releases("mlflow", found, environ={**patient.environ, **found.environment}, session=session)
    hosts = ", ".join(map(without_credentials, (*found.urls, *found.find_links)))
    if releases:
        answer = "answer" if ", " in hosts else "answers"
        yield Examined(name="index", status="ok", detail=f"{hosts} {answer}, newest mlflow {max(releases)}")
    else:
        yield Examined(
            name="index",
            status="fail",
            detail=f"{hosts} has no release of mlflow",
            hint="pip config set global.index-url URL",
        )
    if others := other_indexes(found.urls, patient.environ):
        yield Examined(name="index", status="warn", detail=others)


def _channels(patient: Patient) -> Iterator[Examined]:
    channels = patient.config.channels or ("conda-forge",)
    for name, url in zip(channels, channel_urls(channels, {**patient.environ, **permitted(channels)}), strict=False):
        shown, called = without_credentials(url), without_credentials(name)
        if answers_as_channel(url, environ=patient.environ):
            yield Examined(name="channels", status="ok", detail=f"{shown} answers")
        elif patient.config.interpreter == "conda":
            hint = "CONDA_CHANNEL_ALIAS=URL, or interpreter: captured in kbuild.yml"
            yield Examined(name="channels", status="fail", detail=f"{shown} does not answer", hint=hint)
        else:
            yield Examined(
                name="channels",
                status="warn",
                detail=f"{called} does not answer at {shown}: images get the interpreter that runs here",
                hint="CONDA_CHANNEL_ALIAS=URL for a mirror; nothing, if that is what you want",
            )


def _solver(patient: Patient) -> Iterator[Examined]:
    with tempfile.TemporaryDirectory(prefix="kbuild-doctor-") as folder:
        solver = find_solver(Path(folder))
        done = patient.run([str(solver), "--version"], timeout=60)
    if done.returncode == 0:
        yield Examined(name="solver", status="ok", detail=f"{solver.name} {done.stdout.strip()}".strip())
    else:
        detail = f"{solver.name} fails: {last_line(done.stderr)}"
        yield Examined(name="solver", status="fail", detail=detail, hint="pip install 'kbuild[build]'")


def _engine(patient: Patient) -> Iterator[Examined]:
    yield Examined(name="engine", status="ok", detail=f"native: {make_engine('native', patient.run).probe()}")
    try:
        yield Examined(name="engine", status="ok", detail=f"buildkit: {make_engine('buildkit', patient.run).probe()}")
    except KbuildError as error:
        yield Examined(
            name="engine", status="warn", detail=f"no buildkit: {error.message}", hint=error.hint or "install Docker"
        )


def _runtime(patient: Patient) -> Iterator[Examined]:
    wanted = patient.environ.get(RUNTIME_VARIABLE) or "auto"
    try:
        if wanted in ("auto", "docker"):
            yield Examined(name="runtime", status="ok", detail=f"Docker {DockerDaemon().version} runs images")
            return
    except EngineUnavailable:
        if wanted == "docker":
            raise
    try:
        yield Examined(
            name="runtime", status="ok", detail=f"{choose_runtime(wanted, run=patient.run).name} runs images"
        )
    except RuntimeUnavailable as error:
        yield Examined(name="runtime", status="warn", detail=f"no run and no verify: {error.message}", hint=error.hint)


def _base(patient: Patient) -> Iterator[Examined]:
    choice = default_base() if patient.config.base is None else parse_base(patient.config.base)
    yield Examined(name="base", status="ok", detail=choice.text)


def _registry(patient: Patient) -> Iterator[Examined]:
    if patient.config.push is None:
        yield Examined(
            name="registry",
            status="warn",
            detail="kbuild.yml has no push: nothing is pushed unless --push says where",
            hint="push: registry.example/name:{run_id}",
        )
        return
    reference = check_name(patient.config.push)
    try:
        RegistryClient(reference).check_access()
    except RegistryError as error:
        yield Examined(name="registry", status="fail", detail=error.message, hint=error.hint)
    else:
        yield Examined(name="registry", status="ok", detail=f"{reference.registry} answers and lets us in")


def _disk(patient: Patient) -> Iterator[Examined]:
    cache = patient.cache
    cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        raise ConfigurationError(f"the cache {cache} cannot be written", hint="KBUILD_CACHE_DIR=FOLDER")
    free = shutil.disk_usage(cache).free
    status: Status = "fail" if free < _TOO_LITTLE else "warn" if free < _LITTLE else "ok"
    detail = f"{free / 1e9:.1f} GB free in {cache}"
    yield Examined(name="disk", status=status, detail=detail, hint=f"KBUILD_CACHE_DIR=FOLDER, or rm -r {cache}")


def _trigger(patient: Patient) -> Iterator[Examined]:
    trigger = patient.config.trigger
    if trigger is None:
        yield Examined(name="trigger", status="ok", detail="none: after a training nothing is built by itself")
    else:
        variable = None
        if isinstance(trigger, WebhookTrigger):
            variable = trigger.secret_env
        elif isinstance(trigger, GithubTrigger | GitlabTrigger):
            variable = trigger.token_env
        if variable is not None and not patient.environ.get(variable):
            detail = f"{trigger.kind}: the environment variable {variable} is not set"
            yield Examined(name="trigger", status="fail", detail=detail, hint=f"export {variable}=…")
        else:
            yield Examined(name="trigger", status="ok", detail=trigger.kind)
    waiting = patient.site.outbox.messages()
    if waiting:
        detail = f"{len(waiting)} messages about finished trainings were not taken yet: {patient.site.outbox.folder}"
        yield Examined(name="trigger", status="warn", detail=detail, hint="kbuild trigger --flush")


_CHECKS: Mapping[str, Callable[[Patient], Iterator[Examined]]] = {
    "configuration": _configuration,
    "versions": _versions,
    "tracking": _tracking,
    "webhooks": _webhooks,
    "index": _index,
    "channels": _channels,
    "solver": _solver,
    "engine": _engine,
    "runtime": _runtime,
    "base": _base,
    "registry": _registry,
    "disk": _disk,
    "trigger": _trigger,
}
