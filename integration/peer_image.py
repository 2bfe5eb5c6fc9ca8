"""The image that ``mlflow models build-docker`` makes of a model, built where Docker Hub is not reachable.

MLflow's Dockerfile is used as ``mlflow models generate-dockerfile`` writes it. What it takes from elsewhere is made
here: a stand-in of the python slim image it names (a minimal Debian and this interpreter, the way the official image
puts it together: no documentation, no tests, no bytecode), and a folder of wheels so that nothing is downloaded while
the clock runs. Its apt step is built before, so that the time of a Debian mirror does not count either.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml
from debian import install_tools
from engines import DockerEngine, require

BIN = Path(sys.executable).parent
# What Docker's own python slim image has besides Debian's essential packages, on Debian 12.
LIBRARIES = (
    "ca-certificates netbase tzdata libbz2-1.0 libffi8 liblzma5 libreadline8 libsqlite3-0 libssl3 libuuid1 zlib1g "
    "libncursesw6 libexpat1"
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_NO_TESTS = shutil.ignore_patterns("__pycache__", "test", "tests", "idle_test", "*.a", "*.pyc", "site-packages")


@dataclass(frozen=True, kw_only=True)
class PeerImage:
    """MLflow's Dockerfile in two parts: what is built before the clock runs, and the rest."""

    folder: Path
    tag: str
    engine: DockerEngine

    def prepare(self) -> None:
        """Everything up to and with the apt step."""
        self._build("Dockerfile.before", f"{self.tag}-before")

    def build(self) -> None:
        """The rest, as MLflow's Dockerfile has it, without the build cache."""
        self._build("Dockerfile.rest", self.tag)

    def _build(self, dockerfile: str, tag: str) -> None:
        # host network: the wheels and the Debian mirror are asked from the steps of the build
        argv = ["docker", "build", "--no-cache", "--network", "host", "-t", tag, "-f", dockerfile, "."]
        done = subprocess.run(argv, cwd=self.folder, env=self.engine.env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"docker build of {tag} failed: {done.stderr[-2000:]}")


def write_dockerfile(model: Path, folder: Path, engine: DockerEngine, index: str, tag: str = "peer:1") -> PeerImage:
    """Let MLflow write its Dockerfile, make the base image it names, and split the file after its apt step."""
    argv = [BIN / "mlflow", "models", "generate-dockerfile", "-m", model, "-d", folder, "--env-manager", "local"]
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)
    lines = (folder / "Dockerfile").read_text().splitlines()
    named = next(line.split()[1] for line in lines if line.startswith("FROM "))
    cut = next(number for number, line in enumerate(lines) if line.startswith("# Install MLflow"))
    (folder / "Dockerfile.before").write_text("\n".join(lines[:cut]) + "\n")
    rest = [f"FROM {tag}-before", *lines[cut:]]
    (folder / "Dockerfile.rest").write_text("\n".join(rest) + "\n")
    make_base(folder / "base", named, engine, index)
    return PeerImage(folder=folder, tag=tag, engine=engine)


def make_base(folder: Path, name: str, engine: DockerEngine, index: str) -> None:
    """A minimal Debian of this machine's release with this interpreter in /usr/local, imported as ``name``.

    Its files stay in ``folder``: what is timed afterwards would suffer from their removal, see bench_docker.
    """
    require(os.geteuid() == 0, "mmdebstrap takes root here")
    install_tools("mmdebstrap")
    folder.mkdir()
    root = folder / "root"
    suite = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    assert suite is not None
    options = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
    mirror = debian_source(suite[1])
    argv = ["mmdebstrap", "--variant=minbase", f"--include={LIBRARIES.replace(' ', ',')}", *options, suite[1]]
    subprocess.run([*argv, str(root), mirror], check=True, capture_output=True)
    prefix, python = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    local = root / "usr/local"
    shutil.copytree(prefix / "lib" / python, local / "lib" / python, symlinks=True, ignore=_NO_TESTS)
    (local / "lib" / python / "site-packages").mkdir()
    for library in prefix.glob("lib/libpython*.so*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    shutil.copy2(prefix / "bin" / python, local / "bin" / python)
    for alias in ("python", "python3"):
        (local / "bin" / alias).symlink_to(python)
    chroot = ["chroot", str(root), "/usr/local/bin/python"]
    subprocess.run(["chroot", str(root), "/sbin/ldconfig"], check=True)
    subprocess.run([*chroot, "-m", "ensurepip"], check=True, capture_output=True)
    for alias in ("pip", "pip3"):
        (local / "bin" / alias).write_text('#!/bin/sh\nexec /usr/local/bin/python -m pip "$@"\n')
        (local / "bin" / alias).chmod(0o755)
    for cache in (local / "lib").rglob("__pycache__"):
        shutil.rmtree(cache)
    variables = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": index, "PIP_NO_CACHE_DIR": "1"}
    changes = [word for item in {**variables, **wheels}.items() for word in ("-c", f"ENV {item[0]}={item[1]}")]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        command = ["docker", "import", *changes, "-", name]
        subprocess.run(command, stdin=tar.stdout, env=engine.env, check=True, capture_output=True)


def debian_source(suite: str) -> str:
    """The sources.list line of this machine's own mirror for its own release."""
    form = "$(COMPONENT) $(CODENAME) $(REPO_URI)"
    argv = ["apt-get", "indextargets", "--format", form, "Identifier: Packages"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    uri = next(line.split()[2] for line in listed if line.startswith(f"main {suite} "))
    return f"deb {uri} {suite} main"


def download_wheels(model: Path, folder: Path) -> None:
    """Everything that the Dockerfile's pip steps ask for: mlflow, gunicorn and the model's own requirements."""
    folder.mkdir()
    wanted = [f"mlflow=={version('mlflow')}", "gunicorn[gevent]"]
    build = yaml.safe_load((model / "python_env.yaml").read_text())["build_dependencies"]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    for asked in ([*wanted], [*build], ["-r", str(model / "requirements.txt")]):
        subprocess.run([*argv, *asked], check=True, capture_output=True)


@contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    """A page of links to the folder's files on 127.0.0.1; yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
