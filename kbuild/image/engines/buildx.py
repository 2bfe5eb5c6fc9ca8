"""The builder that ``docker buildx`` builds with: whether it is there, and how it is called.

Source: docs.docker.com/reference/cli/docker/buildx/inspect, whose output is lines of ``Name: value``.
"""

from __future__ import annotations

import re

from kbuild.errors import EngineUnavailable, ProgramNotFound
from kbuild.process import Runner, last_line

HINT = "build with --engine native, or start Docker 25 or newer with its containerd image store"
# docker's own words, of 27 and older and of 28 and newer.
_UNANSWERED = re.compile(
    r"(?:Cannot connect to the Docker daemon|failed to connect to the docker API) at (\S+?)[.;,]?(?:\s|$)"
)
_BUILDX_TIMEOUT = 30.0
_BUILDER_TIMEOUT = 120.0  # one in a cluster may have to be started


class Buildx:
    """The builder of that name, or the one that ``docker``'s own settings choose. It is asked for once."""

    def __init__(self, runner: Runner, builder: str | None) -> None:
        self._runner = runner
        self._builder = builder
        self._facts: str | None = None

    def probe(self) -> str:
        """Versions of the daemon and of buildx.

        Raises EngineUnavailable saying what is missing: ``docker``, a daemon, buildx, the builder, or the daemon's
        containerd image store, without which it cannot export OCI images.
        """
        if self._builder is not None:
            return self._probe_builder(self._builder)
        server = self._ask(["docker", "version", "--format", "{{.Server.Version}}"], "no Docker daemon answers")
        buildx = self._version()
        driver = self._ask(["docker", "buildx", "inspect"], "docker buildx has no builder")
        if _fact(driver, "Driver") == "docker":
            self._require_store(["docker"], server)
        return f"Docker {server}, {buildx}"

    def _probe_builder(self, builder: str) -> str:
        buildx = self._version()
        facts = self._facts_of(builder)
        driver, endpoint = _fact(facts, "Driver"), _fact(facts, "Endpoint")
        if driver == "docker":
            docker = ["docker", "--context", endpoint]
            server = self._ask([*docker, "version", "--format", "{{.Server.Version}}"], "no Docker daemon answers")
            self._require_store(docker, server)
        return f"builder {builder} ({driver}, {endpoint}), {buildx}"

    def _version(self) -> str:
        words = self._ask(["docker", "buildx", "version"], "docker has no buildx").split()
        return f"buildx {words[1] if len(words) > 1 else 'unknown'}"

    def _require_store(self, docker: list[str], server: str) -> None:
        store = self._ask([*docker, "info", "--format", "{{json .DriverStatus}}"], "no Docker daemon answers")
        if "io.containerd.snapshotter" not in store:
            raise EngineUnavailable(
                f"Docker {server} keeps images in its old store, which cannot export OCI images",
                hint='set {"features": {"containerd-snapshotter": true}} in daemon.json and restart Docker, '
                "or build with --engine native",
            )

    def _facts_of(self, builder: str) -> str:
        if self._facts is None:
            self._facts = self._inspect(builder)
        return self._facts

    def _inspect(self, builder: str) -> str:
        """What buildx tells of the builder, once it runs: one that is there but stopped is started."""
        try:
            done = self._runner(["docker", "buildx", "inspect", "--bootstrap", builder], timeout=_BUILDER_TIMEOUT)
        except ProgramNotFound as error:
            raise EngineUnavailable("docker is not installed or not on the PATH", hint=HINT) from error
        except TimeoutError as error:
            raise EngineUnavailable(f"builder {builder} does not answer within {_BUILDER_TIMEOUT:g} s") from error
        why = _fact(done.stdout, "Error")
        if done.returncode != 0:
            why = why or last_line(done.stderr).removeprefix("ERROR: ")
        elif _fact(done.stdout, "Status") != "running":
            why = why or "it does not run"
        if why:
            names = ", ".join(self._builders()) or "none"
            raise EngineUnavailable(
                f"builder {builder} cannot be used: {why}", hint=f"docker buildx knows the builders {names}"
            )
        return done.stdout

    def _builders(self) -> list[str]:
        """The names in ``docker buildx ls``, a table whose nodes are indented below their builder."""
        listed = self._ask(["docker", "buildx", "ls"], "docker buildx lists no builders")
        lines = [line for line in listed.splitlines()[1:] if line.strip() and not line.startswith((" ", "\\"))]
        return [line.split()[0].rstrip("*") for line in lines]

    def _ask(self, argv: list[str], failure: str) -> str:
        try:
            done = self._runner(argv, timeout=_BUILDX_TIMEOUT)
        except ProgramNotFound as error:
            raise EngineUnavailable("docker is not installed or not on the PATH", hint=HINT) from error
        except TimeoutError as error:
            raise EngineUnavailable(f"{failure} within {_BUILDX_TIMEOUT:g} s", hint=HINT) from error
        if done.returncode != 0:
            said = last_line(done.stderr)
            if unanswered := _UNANSWERED.match(said):
                raise EngineUnavailable(f"no Docker daemon answers at {unanswered[1]}", hint=HINT)
            raise EngineUnavailable(f"{failure}: {said}" if said else failure, hint=HINT)
        return done.stdout.strip()

    def command(self) -> list[str]:
        """How buildx is called: the builder that a context of Docker has by itself is reached by that context."""
        builder = self._builder
        if builder is None:
            return ["docker", "buildx"]
        facts = self._facts_of(builder)
        if _fact(facts, "Driver") == "docker":
            return ["docker", "--context", _fact(facts, "Endpoint"), "buildx"]
        return ["docker", "buildx", "--builder", builder]


def _fact(text: str, name: str) -> str:
    """A value of buildx's ``Name: value`` lines, the first of that name; empty where there is none."""
    match = re.search(rf"^{name}:[ \t]*(.*)$", text, re.M)
    return match[1].strip() if match else ""
