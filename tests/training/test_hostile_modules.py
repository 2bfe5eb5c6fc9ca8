"""Modules that work where training ran and not in an image: the clean process has to see every one of them.

Each probe answers 2.0 on this machine, by something that only this machine has. All are asked of one model, in the one
clean process that recording starts; what the image has too is asked beside them.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from kbuild.recording.clean_check import ask_in_clean_process
from kbuild.recording.shipment.closure import find_closure

HEAD = """
import builtins, ctypes, getpass, importlib, locale, os, pkgutil, platform, resource, signal, site, socket, subprocess
import sys, sysconfig, tempfile, time
from importlib import metadata
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from mlflow.pyfunc import PythonModel

def ask(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(3)
        client.connect(address)
        return client.recv(10)

def own_server():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 3):
        return 2.0

HOME = Path.home()

def sure(truth):
    if not truth:
        raise LookupError("not here")
    return 2.0
"""
MODEL = """

class Probing(PythonModel):
    def predict(self, context, model_input, params=None):
        found = {}
        for name, probe in PROBES.items():
            try:
                found[name] = probe()
            except BaseException as error:
                found[name] = type(error).__name__
        return [found]
"""
# What this machine has: {} is the folder of the project, home and the rest.
HOSTILE = {
    "a variable": 'float(os.environ["FACTOR"])',
    "a variable by its default": 'float(os.environ.get("FACTOR", "1"))',
    "an own variable expanded": 'float(os.path.expandvars("$FACTOR"))',
    "a variable of Python's own": 'sure("FACTOR_PATH" in os.environ["PYTHONPATH"])',
    "a file below the home": 'float(Path("~/conf.txt").expanduser().read_text())',
    "the home's name": 'sure(os.environ["HOME"] == "{}/home")',
    "an absolute path": 'float(open("{}/outside.txt").read())',
    "a path from where training began": 'float(open("outside.txt").read())',
    "the project, above the package": 'float((Path(__file__).parents[2] / "data.txt").read_text())',
    "a folder listed": 'sure("outside.txt" in os.listdir("{}"))',
    "a link": 'float(open("{}/link.txt").read())',
    "a file for temporary files": f'float(open("{{}}/../kbuild-{os.getpid()}.txt").read())',
    "a program": 'float(subprocess.run(["answer"], capture_output=True, check=True).stdout)',
    "a shell": 'float(subprocess.run("echo 2.0", shell=True, capture_output=True, check=True).stdout)',
    "a program of the system": 'float(subprocess.run(["/usr/bin/expr", "2"], capture_output=True, check=True).stdout)',
    "a port of this machine": "float(ask(('127.0.0.1', PORT)))",
    "a port by name": "float(ask(('localhost', PORT)))",
    "an abstract socket": "float(ask('\\0' + SOCKET))",
    "a socket that is a file": "float(ask('{}/own.sock'))",
    "shared memory": "float(bytes(open('/dev/shm/' + SHARED, 'rb').read(3)))",
    "a name put into builtins": "float(builtins.HOSTILE)",
    "a module set up by training": "float(importlib.import_module('hostile_state').VALUE)",
    "a module beside the project": "float(importlib.import_module('hostile_side').VALUE)",
    "an installed package that is not locked": "sure(importlib.import_module('pytest'))",
    "metadata of such a package": "sure(metadata.version('pytest'))",
    "its entry points": "sure(metadata.entry_points(group='console_scripts', name='pytest'))",
    "its files": "sure((Path(sysconfig.get_path('purelib')) / 'pytest' / '__init__.py').stat())",
    "the command line": "sure('kedro' in sys.argv[0])",
    "the user": "sure(os.getuid() == {uid})",
    "the user's name": "sure(getpass.getuser() == {user!r})",
    "the machine's name": "sure(socket.gethostname() == {host!r})",
    "the time zone": "sure(time.tzname[0] == 'KBT')",
    "another process": "sure('python' in open('/proc/{pid}/cmdline').read())",
    "the system's documents": "sure(os.listdir('/usr/share/doc'))",
    "the system's package lists": "sure(Path('/var/lib/dpkg/status').stat())",
    "the home that an import found": 'float((HOME / "conf.txt").read_text())',
    "data of a module beside the project": "sure(pkgutil.get_data('hostile_side', 'hostile_side.py'))",
    "the machine's name by platform": "sure(platform.node() == {host!r})",
    "the interpreter's folder": "sure(sys.prefix == {prefix!r})",
    "the folder of the interpreter below it": "sure(sys.base_exec_prefix == {base!r})",
    "the interpreter itself": "sure(sys.executable == {executable!r})",
    "the folder of packages": "sure(site.getsitepackages()[0] == {packages!r})",
    "the folder of packages by the system's configuration": "sure(sysconfig.get_path('purelib') == {packages!r})",
    "who may read what is written": "sure(os.umask(0o077) == 0o077)",
    "the language": "sure(os.environ['LANG'] == 'de_DE.UTF-8')",
    "a limit of this machine's shells": "sure(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == {files})",
    "how many processors": "sure(os.cpu_count() == {processors})",
    "how much memory": "sure({memory!r} in open('/proc/meminfo').read())",
    "when this machine began": "sure(open('/proc/sys/kernel/random/boot_id').read() == {boot!r})",
    "which machines it knows": "sure(open('/etc/hosts').read() == {hosts!r})",
    "the system's alternatives": "sure(os.listdir('/etc/alternatives'))",
    "memory by sysconf": "sure(os.sysconf('SC_PHYS_PAGES') == {pages})",
    "memory by sysconf's number": "sure(os.sysconf(os.sysconf_names['SC_PHYS_PAGES']) == {pages})",
    "processors by sysconf": "sure(os.sysconf('SC_NPROCESSORS_CONF') == {processors})",
    "processors to run on": "sure(len(os.sched_getaffinity(0)) == {processors})",
    "the kernel's release": "sure(platform.release() == {release!r})",
    "the kernel's release by uname": "sure(os.uname().release == {release!r})",
    "the kernel's build": "sure(platform.version() == {build!r})",
    "the platform in one line": "sure({release!r} in platform.platform())",
    "the kernel's release by its files": "sure(open('/proc/sys/kernel/osrelease').read().strip() == {release!r})",
    "the kernel's version by its files": "sure({release!r} in open('/proc/version').read())",
    "how many threads its memory allows": "sure(open('/proc/sys/kernel/threads-max').read() == {threads!r})",
    "how many files its memory allows": "sure(open('/proc/sys/fs/file-max').read() == {open!r})",
    "a limit that nobody may raise": "sure(resource.getrlimit(resource.RLIMIT_NOFILE)[1] == {most})",
    "a limit of locked memory": "sure(resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == {locked})",
    "a signal that a shell ignores": "sure(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)",
    "a signal that a shell holds back": "sure(signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ()))",
    "a network card": "sure(len(socket.if_nameindex()) == {cards})",
    "the program that started it": "sure(os.getppid() == {parent})",
    "the system's name": "sure(open('/etc/os-release').read())",
    "what belongs to whom": "sure(open('/proc/self/status').read().split('CapEff:')[1].split()[0] == {able!r})",
    "tests of the standard library": "sure((Path(sysconfig.get_path('stdlib')) / 'test').stat())",
    "writing where training began": "sure(open('written.txt', 'w'))",
    "writing beside the code": "sure((Path(__file__).parent / 'written.txt').write_text('x'))",
}
# Where nltk.download and the like write to; what lies in another kind of environment only its package manager knows.
UNIQUE = f"kbuild-test-{os.getpid()}"
EXTRA = {
    "a file beside an installed package's": Path(sysconfig.get_path("purelib"), "pandas", f"{UNIQUE}.txt"),
    "a folder within an installed package": Path(sysconfig.get_path("purelib"), "pandas", "io", UNIQUE, "x.txt"),
    "a file beside the standard library": Path(sysconfig.get_path("stdlib"), f"{UNIQUE}.txt"),
    "a file named as a module of it": Path(sysconfig.get_path("stdlib"), f"json.{UNIQUE}.txt"),
    "a module put into it": Path(sysconfig.get_path("stdlib"), "json", f"{UNIQUE}.py"),
    "a zone put into it": Path(sysconfig.get_path("stdlib"), "zoneinfo", UNIQUE),
    "a library put into it": Path(sysconfig.get_path("platstdlib"), "lib-dynload", f"{UNIQUE}.so"),
    "a file beside its bytecode": Path(sysconfig.get_path("stdlib"), "json", "__pycache__", UNIQUE),
    "a file beside a package's bytecode": Path(sysconfig.get_path("purelib"), "pandas", "__pycache__", UNIQUE),
    "a path of the interpreter's": Path(sysconfig.get_path("purelib"), f"{UNIQUE}.pth"),
    "a program beside the interpreter": Path(sysconfig.get_path("scripts"), UNIQUE),
    "a program beside the interpreter of it": Path(sys.base_prefix, "bin", UNIQUE),
}
if Path("/var/lib/dpkg/info/tzdata.list").exists():
    EXTRA["a zone put beside the system's"] = Path("/usr/share/zoneinfo", UNIQUE)
    EXTRA["a zone put among the system's"] = Path("/usr/share/zoneinfo/Europe", UNIQUE)
# The system's interpreter is not everybody's to write to.
EXTRA = {name: path for name, path in EXTRA.items() if os.access(path.parent.parent, os.W_OK)}
HOSTILE |= {name: f"float(Path({str(path)!r}).read_text())" for name, path in EXTRA.items()}
FOREIGN = next(
    (each.name for name in ("libperl", "libgmp", "libgnutls", "libpcre2-8", "libacl", "libmount")
     for each in sorted(Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "").glob(f"{name}.so.*"))), None
)  # fmt: skip
if FOREIGN is not None:
    HOSTILE["a library of the system that bases lack"] = f"sure(ctypes.CDLL({FOREIGN!r}))"
DOWNLOADS = [Path(sys.prefix, name) for name in ("", "share", "lib")] if sys.prefix != sys.base_prefix else []
HOSTILE |= {f"a download into {each}": f"float(Path({str(each)!r}, SHARED).read_text())" for each in DOWNLOADS}
THE_SAME = {
    "a computation": "1.0 + 1.0",
    "a file of the package": 'float((Path(__file__).parent / "inside.txt").read_text())',
    "a hidden file of the package": 'float((Path(__file__).parent / ".hidden").read_text())',
    "a locked package": "sure(importlib.import_module('pandas'))",
    "its metadata": "sure(metadata.version('pandas'))",
    "a temporary file": "sure(tempfile.NamedTemporaryFile().write(b'x'))",
    "an own server": "own_server()",
    "certificates and time zones": "sure(importlib.import_module('zoneinfo').ZoneInfo('Europe/Berlin'))",
    "packages in the interpreter's folder": "sure((Path(sysconfig.get_path('purelib')) / 'pandas').is_dir())",
    "the standard library": "sure((Path(sysconfig.get_path('stdlib')) / 'os.py').is_file())",
    "another interpreter": "sure(subprocess.run([sys.executable, '-c', 'import pandas'], check=True))",
    "names of services": "sure(socket.getservbyname('http') == 80)",
    "its compressing library": "sure(ctypes.CDLL('libz.so.1'))",
    "an engine of the standard library": "sure(importlib.import_module('sqlite3').connect(':memory:'))",
    "the C library": "sure(ctypes.CDLL(None).getpid())",
}  # fmt: skip


def serve(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client:
            client.sendall(b"2.0")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """All that the probes ask for; yields what their texts are filled in with, and names of theirs."""
    with ExitStack() as stack:
        for name, text in (("outside.txt", "2.0"), ("home/conf.txt", "2.0"), ("project/data.txt", "2.0")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "link.txt").symlink_to(tmp_path / "outside.txt")
        beside = tmp_path.parent / f"kbuild-{os.getpid()}.txt"
        beside.write_text("2.0")
        program = tmp_path / "bin" / "answer"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho 2.0\n")
        program.chmod(0o755)
        (tmp_path / "hostile_side.py").write_text("VALUE = 2.0\n")
        state: Any = type(sys)("hostile_state")
        state.VALUE = 2.0
        monkeypatch.setitem(sys.modules, "hostile_state", state)
        monkeypatch.setattr("builtins.HOSTILE", 2.0, raising=False)
        monkeypatch.setattr(sys, "argv", ["kedro", "run"])
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "project" / "src")
        for name, text in (("FACTOR", "2.0"), ("HOME", f"{tmp_path}/home"), ("TZ", "KBT-3"), ("LANG", "de_DE.UTF-8")):
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("PYTHONPATH", f"FACTOR_PATH{os.pathsep}{tmp_path}")
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        time.tzset()
        unique = f"kbuild-{os.getpid()}-{time.monotonic_ns()}"
        shared = Path("/dev/shm", unique)
        shared.write_bytes(b"2.0")
        stack.callback(shared.unlink)
        for folder in DOWNLOADS:
            if not folder.exists():
                folder.mkdir()
                stack.callback(folder.rmdir)
            (folder / unique).write_text("2.0")
            stack.callback((folder / unique).unlink)
        for path in EXTRA.values():
            if not path.parent.exists():
                path.parent.mkdir()
                stack.callback(path.parent.rmdir)
            path.write_text("2.0")
            stack.callback(path.unlink)
        stack.callback(os.umask, os.umask(0o077))
        stack.callback(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN))
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        servers = [port]
        for address in (f"\0{unique}", f"{tmp_path}/own.sock"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen()
            servers.append(server)
        for server in servers:
            threading.Thread(target=serve, args=(server,), daemon=True).start()
        import getpass

        yield {
            "values": {
                "uid": os.getuid(),
                "user": getpass.getuser(),
                "host": socket.gethostname(),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                "most": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
                "locked": resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],
                "processors": os.cpu_count(),
                "pages": os.sysconf("SC_PHYS_PAGES"),
                "release": os.uname().release,
                "build": os.uname().version,
                "threads": Path("/proc/sys/kernel/threads-max").read_text(encoding="utf-8"),
                "open": Path("/proc/sys/fs/file-max").read_text(encoding="utf-8"),
                "cards": len(socket.if_nameindex()),
                "parent": os.getppid(),
                "able": Path("/proc/self/status").read_text(encoding="utf-8").split("CapEff:")[1].split()[0],
                "memory": Path("/proc/meminfo").read_text(encoding="utf-8").split("\n")[0],
                "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8"),
                "hosts": Path("/etc/hosts").read_text(encoding="utf-8"),
                "pid": os.getpid(),
                "prefix": sys.prefix,
                "base": sys.base_exec_prefix,
                "executable": sys.executable,
                "packages": sysconfig.get_path("purelib"),
            },
            "names": {"PORT": port.getsockname()[1], "SOCKET": unique, "SHARED": unique},
        }
    monkeypatch.undo()
    time.tzset()
    beside.unlink()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Add type hints:UserWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # probes leave files open
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_what_only_this_machine_has_is_seen_before_an_image_is_built(machine: dict[str, Any], tmp_path: Path) -> None:
    import mlflow.pyfunc

    package = tmp_path / "project" / "src" / "hostile"
    package.mkdir(parents=True)
    (package / "inside.txt").write_text("2.0")
    (package / ".hidden").write_text("2.0")

    def fill(text: str) -> str:
        for name, value in machine["values"].items():
            text = text.replace(f"{{{name}}}", str(value)).replace(f"{{{name}!r}}", repr(value))
        return text.replace("{}", str(tmp_path))

    names = "".join(f"{name} = {value!r}\n" for name, value in machine["names"].items())
    probes = ",\n".join(f"    {name!r}: lambda: {fill(text)}" for name, text in {**HOSTILE, **THE_SAME}.items())
    (package / "__init__.py").write_text(f"{HEAD}\n{names}\nPROBES = {{\n{probes}\n}}\n{MODEL}")
    hostile = importlib.import_module("hostile")
    [here] = hostile.Probing().predict(None, None)
    assert {name: value for name, value in here.items() if value != 2.0} == {}, "each works where training ran"
    model = tmp_path / "model"
    mlflow.pyfunc.save_model(
        str(model), python_model=hostile.Probing(), code_paths=[str(package)], pip_requirements=["mlflow", "pandas"]
    )
    (model / "serving_input_example.json").write_text('{"dataframe_split": {"columns": ["a"], "data": [[1]]}}')
    for name in ("written.txt", "hostile/written.txt"):
        for found in (tmp_path / name, package.parent / name):
            found.unlink(missing_ok=True)
    closure = find_closure(map(Requirement, ["mlflow", "pandas"])).versions
    answer = ask_in_clean_process(model, blocked=["pytest"], shipped=["hostile"], closure=closure, timeout=120)
    assert answer.error is None, answer
    if answer.shut_off is not None:
        pytest.skip(f"this kernel allows no namespaces: {answer.shut_off}")
    [there] = json.loads(answer.response or "")["predictions"]
    assert {name: there[name] for name in THE_SAME if there[name] != 2.0} == {}, "the image has these too"
    assert [name for name in HOSTILE if there[name] == 2.0] == []
    assert len(HOSTILE) >= 25
