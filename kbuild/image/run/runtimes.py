"""Runtimes: the ways to run a program in a root file system of its own, without Docker."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kbuild.errors import RuntimeUnavailable
from kbuild.process import Runner, last_line

_WORKER = Path(__file__).with_name("namespaces_worker.py")
_HINT = (
    "install bubblewrap (the program bwrap) or Docker, or let this user make user namespaces "
    "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
)
# Laid over the image, which says nothing of names: the network is this machine's.
_NAMES = ("etc/resolv.conf", "etc/hosts")


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxOrder:
    """One program to run: ``argv`` and ``cwd`` are inside, ``root`` is outside."""

    root: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    uid: int
    gid: int


class Runtime(Protocol):
    """A way to make a sandbox."""

    name: str

    def probe(self, run: Runner) -> str | None:
        """None if it works here, else why not, in one line."""

    def command(self, order: SandboxOrder, orders: int, info: int) -> tuple[list[str], bytes]:
        """The command line, and what it has to find in the file descriptor ``orders``.

        It writes ``{"child-pid": …}`` to ``info``. Neither arguments nor environment tell other users anything.
        """


class Bubblewrap:
    """bubblewrap's ``bwrap``, see bwrap(1)."""

    name = "bubblewrap"

    def probe(self, run: Runner) -> str | None:
        """See ``Runtime``."""
        if shutil.which("bwrap") is None:
            return "bwrap is not installed"
        inside = [sys.executable, "-I", "-S", "-c", ""]
        done = run(["bwrap", "--ro-bind", "/", "/", "--unshare-user", "--unshare-pid", "--proc", "/proc", *inside])
        return None if done.returncode == 0 else last_line(done.stderr, "bwrap fails")

    def command(self, order: SandboxOrder, orders: int, info: int) -> tuple[list[str], bytes]:
        """See ``Runtime``."""
        args = ["--ro-bind", str(order.root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
        for name in _NAMES:
            inside = order.root / name
            if Path("/", name).is_file() and inside.is_file() and not inside.is_symlink():
                args += ["--ro-bind", f"/{name}", f"/{name}"]
        args += ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--uid", str(order.uid), "--gid", str(order.gid)]
        args += ["--cap-drop", "ALL", "--as-pid-1", "--die-with-parent", "--new-session", "--chdir", order.cwd]
        args += ["--clearenv", *(word for name, value in order.env.items() for word in ("--setenv", name, value))]
        program = shutil.which("bwrap") or "bwrap"
        argv = [program, "--args", str(orders), "--info-fd", str(info), "--", *order.argv]
        return argv, b"".join(word.encode() + b"\0" for word in args)


class Namespaces:
    """The kernel's namespaces without any program's help, as root or with a user namespace."""

    name = "Linux namespaces"

    def probe(self, run: Runner) -> str | None:
        """See ``Runtime``."""
        if not sys.platform.startswith("linux"):
            return "this is not Linux"
        done = run([*self._python(), "probe"])
        return None if done.returncode == 0 else last_line(done.stderr, "unshare fails")

    def command(self, order: SandboxOrder, orders: int, info: int) -> tuple[list[str], bytes]:
        """See ``Runtime``."""
        fields = {
            "root": str(order.root),
            "argv": list(order.argv),
            "env": dict(order.env),
            "cwd": order.cwd,
            "uid": order.uid,
            "gid": order.gid,
        }
        return [*self._python(), str(orders), str(info)], json.dumps(fields).encode()

    def _python(self) -> list[str]:
        return [sys.executable, "-S", "-s", "-E", "-B", str(_WORKER)]


RUNTIMES: Mapping[str, type[Bubblewrap | Namespaces]] = {"bwrap": Bubblewrap, "unshare": Namespaces}
"""By the name that ``KBUILD_RUNTIME`` has for them, the preferred one first."""


def choose_runtime(wanted: str, *, run: Runner) -> Runtime:
    """The runtime called ``wanted``, or for ``auto`` the first that works here; raises RuntimeUnavailable."""
    if wanted != "auto" and wanted not in RUNTIMES:
        raise RuntimeUnavailable(f"no runtime is called {wanted!r}", hint=f"known are auto, {', '.join(RUNTIMES)}")
    reasons = []
    for name, kind in RUNTIMES.items():
        if wanted in ("auto", name):
            runtime: Runtime = kind()
            reason = runtime.probe(run)
            if reason is None:
                return runtime
            reasons.append(f"{runtime.name}: {reason}")
    raise RuntimeUnavailable(f"nothing here can run an image ({'; '.join(reasons)})", hint=_HINT)
