from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kbuild.recording import _clean_process as process
from kbuild.recording import clean_check
from kbuild.recording.judged import tell_open
from kbuild.recording.surroundings import find_surroundings, make_variables


def test_what_is_around_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTOR", "2")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    around = find_surroundings(["PyYAML", "packaging"])
    every = {name for names in around.covered.values() for name in names}
    assert {"yaml", "packaging"} <= every
    assert not {"pytest", "pandas"} & every
    assert "pytest" in around.hidden
    assert not {"pyyaml", "packaging"} & around.hidden
    assert not {"/", "/usr", "/home", "/tmp", "/etc", str(Path.home())} & set(around.binds)
    variables = make_variables()
    assert not {"FACTOR", "OPENBLAS_CORETYPE"} & set(variables)
    assert variables["HOME"] == "/tmp"


def test_the_hook_hides_what_is_out_of_reach(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "site-packages"
    (site / "there").mkdir(parents=True)
    covered = {str(tmp_path / "lib"): ["os.py", "site-packages"], str(site): ["there"]}
    readable = {"binds": [str(tmp_path / "lib")], "covered": covered}
    reach = process.Reach(readable, [str(tmp_path / "model")])
    for allowed in (
        site / "there" / "x.py",
        tmp_path / "lib" / "os.py",
        tmp_path / "model" / "MLmodel",
        Path("/dev/null"),
    ):
        reach("open", (str(allowed), "r", 0))
    for refused in (
        site / "gone" / "x.py",
        tmp_path / "lib" / "nltk_data",
        tmp_path / "conf.txt",
        tmp_path / "model2",
        tmp_path / "lib" / ".." / "a",
    ):
        with pytest.raises(FileNotFoundError):
            reach("open", (str(refused), "r", 0))
    with pytest.raises(FileNotFoundError):
        reach("os.listdir", (str(tmp_path),))
    reach("open", (3, "r", 0))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no memory that programs share")
def test_the_hook_hides_what_other_programs_left_in_shared_memory() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as left:
        reach = process.Reach({"binds": [], "covered": {}}, [])
        with pytest.raises(FileNotFoundError):
            reach("open", (left.name, "r", 0))
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as own:
            reach("open", (own.name, "r", 0))


class Finder:
    """As importlib's: it knows one distribution here and one in the model's code."""

    def __init__(self, *dists: Any) -> None:
        self.dists = dists

    def find_distributions(self, *_: Any) -> Any:
        return iter(self.dists)


class Found:
    def __init__(self, name: str, path: str) -> None:
        self.name, self._path = name, path


def test_metadata_of_what_the_image_lacks_is_hidden() -> None:
    dists = [Found("Some_Package", "/site/x"), Found("kept", "/site/y"), Found("some-package", "/model/code/z")]
    finder = process.HiddenImports(Finder(*dists), set(), {"some-package"}, Path("/model/code"))
    assert list(finder.find_distributions()) == dists[1:]


SCRIPT = """
import json, os, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
def see(path):
    try:
        return Path(path).read_text()
    except OSError as error:
        return type(error).__name__
found = {path: see(path) for path in %r}
found |= {"home": os.environ["HOME"], "names": sorted(os.environ), "root": sorted(os.listdir("/"))}
Path(job["answer"]).write_text(json.dumps({"response": json.dumps(found)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_files_of_this_machine_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("mine")
    (tmp_path / "outside.txt").write_text("2")
    script = tmp_path / "_clean_process.py"
    paths = [str(model / "MLmodel"), str(tmp_path / "outside.txt"), __file__, "/etc/hostname", "/etc/passwd"]
    script.write_text(SCRIPT % paths)
    monkeypatch.setattr(clean_check, "_SCRIPT", script)
    monkeypatch.setenv("FACTOR", "2")
    answer = clean_check.ask_in_clean_process(model, blocked=[], shipped=[], closure=["pyyaml"], timeout=60)
    if answer.shut_off is not None:
        pytest.skip(f"this kernel allows no namespaces: {answer.shut_off}")
    seen = json.loads(answer.response or "")
    assert seen[str(model / "MLmodel")] == "mine"
    assert [seen[path] for path in paths[1:4]] == ["FileNotFoundError"] * 3
    assert "root:x:0:0" in seen["/etc/passwd"]
    assert str(Path.home()) not in seen["/etc/passwd"].replace("/root:/sbin/nologin", "")
    assert "FACTOR" not in seen["names"]
    assert seen["home"] == "/tmp"


MACHINE = """
import getpass, json, os, socket, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
with Path(job["answer"]).parent.joinpath("runs").open("a") as file:
    file.write("x")
def ask(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect(address)
        return client.recv(10).decode()
def see(question):
    try:
        return question()
    except OSError as error:
        return type(error).__name__
own = socket.create_server(("127.0.0.1", 0))
found = {"uid": os.getuid(), "gid": os.getgid(), "user": getpass.getuser(), "host": socket.gethostname(),
    "own": see(lambda: socket.create_connection(own.getsockname(), 5) and "reached"),
    "port": see(lambda: ask(("127.0.0.1", %d))), "abstract": see(lambda: ask("\\0" + %r)),
    "writes": os.access(job["model"], os.W_OK), "reads": (Path(job["model"]) / "MLmodel").read_text()}
Path(job["answer"]).write_text(json.dumps({"response": json.dumps(found)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_user_name_and_services_of_this_machine_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text("mine")
    script = tmp_path / "_clean_process.py"
    name = f"kbuild-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        script.write_text(MACHINE % (port.getsockname()[1], name))
        monkeypatch.setattr(clean_check, "_SCRIPT", script)
        answer = clean_check.ask_in_clean_process(model, blocked=[], shipped=[], closure=["pyyaml"], timeout=60)
    if answer.shut_off is not None:
        pytest.skip(f"this kernel allows no namespaces: {answer.shut_off}")
    seen = json.loads(answer.response or "")
    assert (seen["uid"], seen["gid"], seen["user"]) == (65532, 65532, "nonroot")
    assert seen["host"] != socket.gethostname()
    assert (seen["own"], seen["port"], seen["abstract"]) == (
        "reached",
        "ConnectionRefusedError",
        "ConnectionRefusedError",
    )
    assert (seen["reads"], seen["writes"]) == ("mine", False)
    assert answer.network == ()


ASKING = """
import json, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
if not job["network"]:
    said = {"error": "OSError: Network is unreachable", "missing": None}
else:
    said = {"response": "1", "asked": %r}
Path(job["answer"]).write_text(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize(("asked", "told"), [(["db.example:5432"], ("db.example:5432",)), ([], ("(unknown)",))])
def test_what_needs_other_machines_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], told: tuple[str, ...]
) -> None:
    script = tmp_path / "_clean_process.py"
    script.write_text(ASKING % asked)
    monkeypatch.setattr(clean_check, "_SCRIPT", script)
    answer = clean_check.ask_in_clean_process(tmp_path, blocked=[], shipped=[], closure=["pyyaml"], timeout=60)
    assert (answer.response, answer.error) == ("1", None)
    if answer.shut_off is None:
        assert answer.network == told
        assert f"asks {told[0]}" in "".join(tell_open(answer))


def test_services_of_this_machine_are_refused_where_its_network_is_reached() -> None:
    others = process.OtherMachines(lambda: {22})
    for address in (
        ("127.0.0.1", 5000),
        ("localhost", 80),
        ("::1", 80, 0, 0),
        ("::ffff:127.0.0.1", 1),
        "\0name",
        b"\0x",
    ):
        with pytest.raises(ConnectionRefusedError):
            others("socket.connect", (None, address))
    assert not others.asked
    others("socket.bind", (None, ("127.0.0.1", 5000)))
    others("socket.bind", (None, ("127.0.0.1", 8080)))
    others("socket.bind", (None, ("127.0.0.1", 22)))  # which fails, since another has it
    for taken in (80, 22):
        with pytest.raises(ConnectionRefusedError):
            others("socket.connect", (None, ("127.0.0.1", taken)))
    others("socket.connect", (None, ("127.0.0.1", 5000)))
    others("socket.connect", (None, "/tmp/own.sock"))
    others("socket.connect", (None, ("db.example", 5432)))
    others("socket.connect", (None, ("2001:db8::1", 443, 0, 0)))
    assert list(others.asked) == ["db.example:5432", "2001:db8::1:443"]


CHILD = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the tables of ports are Linux's")
def test_services_that_the_model_starts_are_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as machines:
        others = process.OtherMachines()
        with socket.create_server(("127.0.0.1", 0)) as own:
            others("socket.connect", (None, own.getsockname()))
        with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin and child.stdout
            others("socket.connect", (None, ("127.0.0.1", int(child.stdout.readline()))))
            child.stdin.close()
        with pytest.raises(ConnectionRefusedError):
            others("socket.connect", (None, machines.getsockname()))


def test_without_namespaces_the_answer_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    script, root = tmp_path / "_clean_process.py", tmp_path / "_clean_root.py"
    script.write_text(SCRIPT % [])
    root.write_text("import sys\nprint('no namespaces: not permitted', file=sys.stderr)\nsys.exit(71)\n")
    monkeypatch.setattr(clean_check, "_SCRIPT", script)
    monkeypatch.setattr(clean_check, "_ROOT_SCRIPT", root)
    answer = clean_check.ask_in_clean_process(model, blocked=[], shipped=[], closure=["pyyaml"], timeout=60)
    assert answer.shut_off == "no namespaces: not permitted"
    assert answer.response is not None


def test_hidden_files_and_metadata_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kbuild.recording.shipment import shipping

    home = tmp_path / "src" / "travels"
    home.mkdir(parents=True)
    for name in ("__init__.py", ".rules.json", ".env", "x.pyc"):
        (home / name).write_text("")
    info = tmp_path / "site" / "travels-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: travels\nVersion: 1.0\n")
    (info / "direct_url.json").write_text('{"url": "file:///somewhere"}')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    shipping.stage_code({"travels": home}, tmp_path / "code")
    assert sorted(each.name for each in (tmp_path / "code" / "travels").iterdir()) == [".rules.json", "__init__.py"]
    assert [each.name for each in (tmp_path / "code" / "travels-1.0.dist-info").iterdir()] == ["METADATA"]


def test_advice_names_the_file() -> None:
    from kbuild.recording.judged import advise

    assert "conf.txt" in advise(clean_check.CleanAnswer(error="x", kind="FileNotFoundError", file="/a/conf.txt"))
    assert "training: {ship" in advise(
        clean_check.CleanAnswer(error="x", kind="FileNotFoundError", file="/m/code/p/a.txt")
    )
    assert "params:" in advise(clean_check.CleanAnswer(error="x", kind="KeyError"))
    assert "imports" in advise(clean_check.CleanAnswer(error="x", kind="ValueError"))


def test_module_is_named(package: ModuleType) -> None:
    error = ModuleNotFoundError("No module named 'a'", name="a.b")
    assert process.find_missing(error) == "a"


def test_a_package_that_a_library_asked_for_and_names_in_its_error_is_missing() -> None:
    asked: set[str] = set()
    finder = process.HiddenImports(Finder(), {"lxml", "numba", "pkg"}, set(), Path("/model/code"), asked)
    assert (finder.find_spec("lxml"), finder.find_spec("numba")) == (None, None)
    assert asked == {"lxml", "numba"}
    # As pandas' read_xml says it.
    error = ImportError("lxml not found, please install or use the etree parser.")
    assert process.find_missing(error, asked) == "lxml"
    assert process.find_missing(ImportError("pkg is broken"), asked) is None  # nobody asked for it
    assert process.find_missing(ValueError("lxml not found"), asked) is None
    assert process.find_cause(FileNotFoundError(2, "gone", "/x"))["file"] == "/x"


def test_cause_is_the_last_that_a_traceback_shows() -> None:
    with pytest.raises(KeyError) as hidden:
        os.environ["NO_SUCH_VARIABLE"]  # the standard library raises it `from None`, of one with bytes
    assert process.find_cause(hidden.value)["error"] == "KeyError: 'NO_SUCH_VARIABLE'"
    with pytest.raises(ValueError) as wrapped:
        try:
            raise FileNotFoundError(2, "gone", "/x")
        except OSError:
            raise ValueError("no such model")  # noqa: B904 - implied, as most are
    assert process.find_cause(wrapped.value)["file"] == "/x"


def test_a_missing_module_is_found_behind_an_error_that_hides_it() -> None:
    with pytest.raises(RuntimeError) as hidden:
        try:
            raise ModuleNotFoundError("No module named 'lxml'", name="lxml.etree")
        except ImportError:
            raise RuntimeError("install the extra") from None
    assert process.find_missing(hidden.value) == "lxml"
    assert process.find_cause(hidden.value)["error"] == "RuntimeError: install the extra"


def test_causes_that_go_round_end() -> None:
    error, other = ValueError("outer"), OSError("inner")
    error.__cause__, other.__cause__ = other, error
    assert process.find_cause(error)["error"] == "OSError: inner"
    assert process.find_missing(error) is None
