"""A private Docker engine and a private registry for integration tests, on Debian and as root.

The engine has its own data root, exec root, socket and bridge; both listen on 127.0.0.1 or a unix socket only and are
stopped by process id. Where they cannot be had a test is skipped with the reason, except in CI: there it fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SUITE = "trixie"
PINNED = "docker.io docker-cli docker-buildx docker-compose containerd docker-registry"
INSTALLED = (
    "docker.io", "docker-cli", "docker-buildx", "docker-compose", "docker-registry", "iptables", "runc", "iproute2",
)  # fmt: skip
PINS = f"""\
Package: *
Pin: release n={SUITE}
Pin-Priority: -10

Package: {PINNED}
Pin: release n={SUITE}
Pin-Priority: 600
"""
_APT = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def require(condition: object, reason: str) -> None:
    """Skip the test when ``condition`` does not hold; fail it instead where ``CI=true``."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"not to be skipped in CI: {reason}", pytrace=False)
    pytest.skip(reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class DockerEngine:
    """A running private ``dockerd``. ``host`` is for ``DOCKER_HOST``; ``containerd_store`` says how it keeps images."""

    host: str
    containerd_store: bool

    @property
    def env(self) -> dict[str, str]:
        """The environment in which ``docker`` talks to this engine."""
        return {**os.environ, "DOCKER_HOST": self.host}


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """A running private registry; ``address`` is ``127.0.0.1:port``."""

    address: str


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """One process of the test run at a time: apt has one lock, and two workers may need it at once."""
    with (Path(tempfile.gettempdir()) / "kbuild-integration-apt.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install_engine() -> None:
    """Install Docker with its plugins and a registry from Debian, unless they are there; skips where that cannot be."""
    with only_one():
        programs = all(map(shutil.which, ("dockerd", "docker-registry")))
        if not (programs and _docker_has("buildx") and _docker_has("compose")):
            _install_engine()


def _install_engine() -> None:
    require(os.geteuid() == 0, "installing Docker takes root")
    require(shutil.which("apt-get") and KEYRING.is_file(), "Docker is installed from Debian, and this is no Debian")
    (_APT / "sources.list.d" / f"kbuild-{SUITE}.sources").write_text(
        f"Types: deb\nURIs: {debian_mirror()}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    (_APT / "preferences.d" / f"kbuild-{SUITE}").write_text(PINS)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # policy-rc.d: the packages must not start the system's own daemon.
    with no_services():
        for command in (["update"], ["install", "-y", "--no-install-recommends", *INSTALLED]):
            done = subprocess.run(["apt-get", "-q", *command], env=env, capture_output=True, text=True)
            require(done.returncode == 0, f"apt-get {command[0]} failed: {done.stderr.strip()[-400:]}")


@contextlib.contextmanager
def start_engine(
    folder: Path, *, containerd_store: bool = True, socket_path: Path | None = None, programs: Path | None = None
) -> Iterator[DockerEngine]:
    """A private ``dockerd`` that keeps everything below ``folder``; stopped by its process id on leaving.

    ``programs`` is a folder with another version of it, as ``unpack_engine`` makes them.
    """
    install_engine()
    require(os.geteuid() == 0, "dockerd takes root")
    folder.mkdir(parents=True, exist_ok=True)
    # unix socket paths hold 107 bytes at most: the exec root (containerd's socket) goes to a short place
    exec_root = Path(tempfile.mkdtemp(prefix="kbd-", dir="/run" if Path("/run").is_dir() else None))
    address = socket_path or exec_root / "docker.sock"
    config = folder / "daemon.json"
    config.write_text(json.dumps({"features": {"containerd-snapshotter": containerd_store}}))
    own = [] if programs is None else [str(programs / "usr/sbin"), str(programs / "usr/bin")]
    env = {**os.environ, "PATH": os.pathsep.join([*own, os.environ["PATH"]])}
    with _bridge() as bridge, (folder / "dockerd.log").open("ab") as log:
        process = subprocess.Popen(
            [
                shutil.which("dockerd", path=env["PATH"]) or "dockerd", f"--config-file={config}",
                f"--data-root={folder / 'data'}", f"--exec-root={exec_root}",
                f"--pidfile={folder / 'dockerd.pid'}", f"--host=unix://{address}", *bridge,
            ],
            env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            _wait(lambda: _answers(address, process), f"dockerd did not start; see {folder / 'dockerd.log'}", process)
            yield DockerEngine(host=f"unix://{address}", containerd_store=containerd_store)
        finally:
            _stop(process)
            shutil.rmtree(exec_root, ignore_errors=True)


@contextlib.contextmanager
def start_registry(folder: Path, *, port: int = 0) -> Iterator[Registry]:
    """A private registry on 127.0.0.1 that stores below ``folder``; stopped by its process id on leaving."""
    install_engine()
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: warn, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {json.dumps(str(folder / 'data'))}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: {address}}}\n"
    )
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait(lambda: _http_answers(address), f"the registry did not start; see {folder}", process)
            yield Registry(address=address)
        finally:
            _stop(process)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def debian_mirror() -> str:
    """The mirror that apt itself uses for this Debian release."""
    for attempt in ("as it is", "after an update"):
        if attempt == "after an update":
            subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=False)
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(COMPONENT) $(REPO_URI)", "Identifier: Packages"],
            capture_output=True, text=True, check=False,
        ).stdout.split("\n")  # fmt: skip
        mirrors = [line.removeprefix("main ") for line in listed if line.startswith("main ") and "security" not in line]
        if mirrors:
            return mirrors[0]
    require(False, "apt has no Debian source configured")
    raise AssertionError("unreachable")


def _docker_has(plugin: str) -> bool:
    command = ["docker", plugin, "version"]
    return shutil.which("docker") is not None and subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def no_services() -> Iterator[None]:
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


@contextlib.contextmanager
def _bridge() -> Iterator[list[str]]:
    """The daemon's network options: a bridge of its own where the kernel lets us make one, else no network."""
    name = f"kbd{os.getpid() % 100000}x{free_port() % 1000}"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True).returncode == 0
    if not made:
        yield ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        return
    try:
        # One at a time: with two bridges of one subnet the containers of either may be out of reach.
        with only_one():
            listed = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
            subnet = next(f"172.29.{n}" for n in range(1, 250) if f" 172.29.{n}." not in listed)
            subprocess.run(["ip", "addr", "add", f"{subnet}.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        # Ports are published by the userland proxy, so the machine's firewall tables stay as they are.
        yield [f"--bridge={name}", "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"]
    finally:
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def _wait(ready: object, message: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            require(False, message)
        time.sleep(0.1)


def _answers(address: Path, process: subprocess.Popen[bytes]) -> bool:
    if not address.exists() or process.poll() is not None:
        return False
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(address))
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.recv(100)
        except OSError:
            return False


def _http_answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
