"""From bare to a pushed image with what ``kbuild init`` writes and no policy but that: and what stops it.

Advisories come from a server of this machine that speaks OSV's protocol and a package index's: real ones of Python
packages where a snapshot lies beside the checkout, and planted ones in the shapes of the databases they would be in.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import platform
import re
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import requests
import yaml
from advisory_server import AdvisoryServer, serving
from conda_forge import find_interpreter, make_channel
from engines import Registry
from servers import tracking_server
from tool import BIN, Done, Tool, copy_project

BESIDE = Path(__file__).parents[2] / "shared" / "data" / "pypa-advisories-2024-10-10.tar.gz"
SNAPSHOT = Path(os.environ.get("KBUILD_ADVISORIES", BESIDE))
FINDINGS, INCOMPLETE = 51, 52


def record(id: str, ecosystem: str, name: str, events: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    """An advisory in the shape that the databases of these ecosystems have at OSV."""
    kind = "SEMVER" if ecosystem == "Bitnami" else "ECOSYSTEM"
    affected = {"package": {"ecosystem": ecosystem, "name": name}, "ranges": [{"type": kind, "events": events}]}
    return {"id": id, "modified": "2026-11-01T00:00:00Z", "details": "planted", "affected": [affected], **more}


ALWAYS = [{"introduced": "0"}]
# OSV's converter of Debian's tracker writes no fix while there is none, and the CVE into "upstream".
DEBIAN = [
    record(f"DEBIAN-CVE-2026-{release}", f"Debian:{release}", "glibc", ALWAYS, upstream=[f"CVE-2026-{release}"])
    for release in ("12", "13")
]
PLANTED: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "wheel": ([record("PYSEC-2026-1", "PyPI", "scikit-learn", ALWAYS)], "PYSEC-2026-1", "pip:scikit-learn"),
    "interpreter": (
        [record("BIT-python-2026-1", "Bitnami", "python", [*ALWAYS, {"fixed": "3.99.0"}])],
        "BIT-python-2026-1",
        "conda:python",
    ),
    "base": (DEBIAN, "DEBIAN-CVE-2026-", "deb:glibc"),
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """A Kedro project after ``kbuild init``, with the servers that its jobs ask."""

    project: Path
    tool: Tool
    registry: Registry
    advisories: AdvisoryServer

    def train(self) -> tuple[str, str]:
        """``kedro run``: the run's id, and what it said."""
        done = self.tool.run([BIN / "kedro", "run"], cwd=self.project)
        assert done.code == 0, done.err[-3000:] + done.out[-1000:]
        logged = re.search(r"Logged model models:/\S+ in run ([0-9a-f]{32})", done.out)
        assert logged is not None, done.out
        return logged[1], done.out

    def job(self, model: str, push: str, **environment: str) -> Done:
        """The generated shell job, pushing to the repository ``push``."""
        own = {"PATH": f"{BIN}:{os.environ['PATH']}", "KBUILD_PUSH": f"{self.registry.address}/{push}:{{run_id}}"}
        return self.tool.run(["sh", "ci/kbuild.sh", model], cwd=self.project, **own, **environment)

    def pushed(self, repository: str) -> list[str]:
        """The tags that the registry has."""
        url = f"http://{self.registry.address}/v2/{repository}/tags/list"
        return list(requests.get(url, timeout=30).json().get("tags") or [])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tool: Tool, registry: Registry) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clean")
    project = copy_project(folder / "project")
    (folder / "mlflow").mkdir()
    with tracking_server(folder / "mlflow", tool) as tracking, serving(AdvisoryServer()) as advisories:
        environment = {"MLFLOW_TRACKING_URI": tracking, "PYTHONWARNINGS": "ignore"}
        own = Tool(cache=tool.cache, environment={**tool.environment, **environment})
        own("init", "--push", f"{registry.address}/local:{{run_id}}", cwd=project)
        with (project / "pyproject.toml").open("a") as file:
            file.write(f'[tool.kbuild.audit]\nosv-url = "{advisories.url}"\npypi-url = "{advisories.url}"\n')
        yield Site(project=project, tool=own, registry=registry, advisories=advisories)


@pytest.fixture(scope="module")
def run_id(site: Site) -> str:
    return site.train()[0]


@pytest.fixture(autouse=True)
def known(site: Site) -> None:
    """What nothing here is affected by is known to begin with."""
    site.advisories.records.clear()
    site.advisories.asked.clear()
    site.advisories.seen.clear()
    site.advisories.osv_status = 200
    site.advisories.add(record("PYSEC-2026-0", "PyPI", "scikit-learn", [*ALWAYS, {"fixed": "0.1"}]), *real_records())


@contextlib.contextmanager
def files(folder: Path) -> Iterator[str]:
    """A server of a folder: its url."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def real_records() -> list[Mapping[str, Any]]:
    """PyPA's records of what is in nearly every model's environment."""
    if not SNAPSHOT.is_file():
        return []
    names = ("certifi", "jinja2", "numpy", "pandas", "pyyaml", "requests", "scikit-learn", "urllib3", "werkzeug")
    found = []
    with tarfile.open(SNAPSHOT) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.match("vulns/*/*.yaml") and path.parent.name in names:
                # Times are JSON's texts at OSV.
                found.append(json.loads(json.dumps(yaml.safe_load(archive.extractfile(member)), default=str)))
    return found


def test_a_clean_model_ends_in_the_registry(site: Site, run_id: str) -> None:
    done = site.job(run_id, "clean")
    assert done.code == 0, done.err[-3000:]
    assert site.pushed("clean") == [run_id]
    assert done.out.strip().startswith(f"{site.registry.address}/clean@sha256:")
    # Everybody was asked about everything that is theirs.
    asked = {(each["package"]["ecosystem"], each["package"]["name"]) for each in site.advisories.asked}
    assert {("Bitnami", "python"), ("PyPI", "scikit-learn")} <= asked
    assert {name for ecosystem, name in asked if ecosystem.startswith("Debian:")} >= {"glibc", "openssl"}
    assert any(path.startswith("/pypi/scikit-learn/") for _, path in site.advisories.seen)
    report = site.tool("audit", run_id, "--format", "json", "--no-record", cwd=site.project).json
    assert (report["verdict"], report["findings"], report["unchecked"]) == ("clean", [], [])
    assert {"image", "lock", "model"} == set(report["digests"])


@pytest.mark.parametrize("where", PLANTED)
def test_an_advisory_stops_the_job_before_the_push(site: Site, run_id: str, where: str) -> None:
    records, id, package = PLANTED[where]
    site.advisories.add(*records)
    done = site.job(run_id, f"stopped-{where}", COLUMNS="250")
    assert done.code == FINDINGS, done.err[-3000:]
    assert id in done.err and package in done.err
    assert site.pushed(f"stopped-{where}") == [] and done.out == ""


def test_a_service_that_fails_stops_the_job_and_is_named(site: Site, run_id: str) -> None:
    site.advisories.osv_status = 500
    done = site.job(run_id, "unknown", COLUMNS="250")
    assert done.code == INCOMPLETE, done.err[-3000:]
    assert "conda:python" in done.err and "status 500" in done.err
    assert site.pushed("unknown") == []


def test_a_model_on_condas_python_is_clean_by_the_policy_that_was_written(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Real records of conda-forge: what its CPython needs, most of it in no database of advisories."""
    minor = ".".join(platform.python_version_tuple()[:2])
    layout = find_interpreter(minor)
    assert layout is not None
    folder = tmp_path_factory.mktemp("conda-forge")
    make_channel(folder / "channel", {minor: layout}, folder / "scratch")
    local = site.project / "conf" / "local" / "kbuild.yml"
    with files(folder / "channel") as channel:
        local.write_text(yaml.safe_dump({"channels": [channel], "interpreter": "conda"}))
        run_id, _ = site.train()
        done = site.job(run_id, "conda", COLUMNS="250")
        assert done.code == 0, done.err[-4000:]
        assert site.pushed("conda") == [run_id]
        asked = {(each["package"]["ecosystem"], each["package"]["name"]) for each in site.advisories.asked}
        assert {("GIT", "https://github.com/openssl/openssl"), ("Bitnami", "python")} <= asked
        report = site.tool("audit", run_id, "--format", "json", "--no-record", cwd=site.project).json
        assert report["verdict"] == "clean"
        accepted = {each["where"] for each in report["accepted"]}
        assert {"conda:libffi", "conda:tzdata"} <= accepted and "conda:openssl" not in accepted
        expires = datetime.date.fromisoformat(report["accepted"][0]["expires"])
        late = (expires + datetime.timedelta(days=1)).isoformat()
        expired = site.tool("audit", run_id, "--today", late, "--no-record", cwd=site.project, code=INCOMPLETE)
        assert f"expired on {expires}" in expired.err and "conf/base/kbuild.yml" in expired.err
    local.unlink()


def background(site: Site) -> tuple[str, str]:
    """Train with ``trigger: local``: the run's id, and the log of the job once that has ended."""
    (site.project / "conf" / "local" / "kbuild.yml").write_text("trigger: local\n")
    run_id, out = site.train()
    said = re.search(r"Trigger local: .*, log (\S+)", out)
    assert said is not None, out
    deadline = time.monotonic() + 300
    while not re.search(
        r" finished\n$|error: \w+ failed with exit code \d+\n$", Path(said[1]).read_text(encoding="utf-8")
    ):
        assert time.monotonic() < deadline, Path(said[1]).read_text(encoding="utf-8")[-3000:]
        time.sleep(0.2)
    return run_id, Path(said[1]).read_text(encoding="utf-8")


def test_the_local_trigger_pushes_a_clean_model(site: Site) -> None:
    run_id, log = background(site)
    assert "finished" in log, log[-3000:]
    assert run_id in site.pushed("local")


@pytest.mark.parametrize("where", PLANTED)
def test_an_advisory_stops_the_local_trigger_before_the_push(site: Site, where: str) -> None:
    records, id, _ = PLANTED[where]
    site.advisories.add(*records)
    run_id, log = background(site)
    assert re.search(rf"error: audit failed with exit code {FINDINGS}\n", log), log[-3000:]
    assert id in log
    assert run_id not in site.pushed("local")
